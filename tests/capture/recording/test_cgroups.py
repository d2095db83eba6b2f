"""Threads carry the number of their control group, and of a container a hash of its id."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from scratch import control_group

from hindsight.capture import cgroups
from hindsight.capture.cgroups import Hierarchy, Memberships, container_id
from hindsight.capture.conversion.convert import convert
from hindsight.capture.options import RecordOptions
from hindsight.capture.recording.record import record

ID = "3f" * 32
PROGRAM = """
import os, subprocess, sys, threading, time
time.sleep(0.5)
open(sys.argv[1], "w").write(str(os.getpid()))
threads = [threading.Thread(target=time.sleep, args=(2.5,)) for _ in range(3)]
for thread in threads: thread.start()
child = subprocess.Popen(["sleep", "2.5"])
time.sleep(0.2)
print(*os.listdir("/proc/self/task"), child.pid, file=open(sys.argv[2], "w"), flush=True)
child.wait()
"""


def tasks(tmp_path: Path, group: Path, **options: Any) -> tuple[list[dict[str, Any]], set[int]]:
    """Rows of ``tasks`` of a program that joins the group while it is recorded, and its threads."""
    command = (sys.executable, "-c", PROGRAM, str(group / "cgroup.procs"), str(tmp_path / "threads"))
    record(RecordOptions(tmp_path / "raw", command, comm=True, **options), say=lambda text: None)
    convert([tmp_path / "raw"], tmp_path / "data", comm=True)
    (path,) = (tmp_path / "data").glob("host=*/date=*/tasks/*.parquet")
    return pq.read_table(path).to_pylist(), set(map(int, (tmp_path / "threads").read_text().split()))


@pytest.mark.parametrize("paths", [False, True])
def test_threads_created_while_recording_have_their_group(live: Path, tmp_path: Path, paths: bool) -> None:
    number = secrets.token_hex(32)
    with control_group(cgroups.UNIFIED, f"docker-{number}.scope") as group:
        inode = os.stat(group).st_ino
        rows, threads = tasks(tmp_path, group, paths=paths)
        text = "".join(p.read_text() for p in (tmp_path / "raw").glob("*/facts.json"))
    assert len(threads) == 5
    inside = [row for row in rows if row["cgroup"] == inode]
    assert {row["pid"] for row in inside} == threads - {0}
    assert {row["cgroup_hierarchy"] for row in inside} == {cgroups.UNIFIED}
    (container,) = {row["container"] for row in inside}
    if paths:
        assert container == number
    else:
        assert len(container) == 12 and container != number[:12]
        assert number not in text
    assert len({row["pid"] for row in rows}) >= 5
    assert {row["comm"] for row in inside} >= {"sleep"}


def test_a_group_of_version_1_is_that_of_its_hierarchy(live: Path, tmp_path: Path) -> None:
    with control_group("memory", f"hindsight-tasks-{os.getpid()}") as group:
        inode = os.stat(group).st_ino
        rows, threads = tasks(tmp_path, group)
    inside = [row for row in rows if (row["cgroup"], row["cgroup_hierarchy"]) == (inode, "memory")]
    assert threads <= {row["pid"] for row in inside}
    assert {row["container"] for row in inside} == {None}


def test_what_is_not_known_is_null(live: Path) -> None:
    me = Path("/proc/self")
    found = Memberships({}).of(me)
    assert found is not None and found.number is None, "no hierarchy is mounted here"
    assert Memberships().of(Path("/proc/0")) is None
    elsewhere = {name: Hierarchy(name, Path("/not/here"), Path("/")) for name in cgroups.CONTROLLERS}  # type: ignore[arg-type]
    found = Memberships(elsewhere).of(me)
    assert found is not None and found.number is None, "it lies outside of what is mounted"


@pytest.mark.parametrize(
    "path,expected",
    [
        ("/", None),
        ("/system.slice/postgresql.service", None),
        ("/user.slice/user-1000.slice/session-2.scope", None),
        (f"/docker/{ID}", ID),
        (f"/system.slice/docker-{ID}.scope", ID),
        (f"/machine.slice/libpod-{ID}.scope/container", ID),
        (f"/kubepods.slice/kubepods-burstable-pod1_2.slice/cri-containerd-{ID}.scope", ID),
        (f"/kubepods/besteffort/pod0b1c2d3e-1111-2222-3333-444455556666/{ID}", ID),
        (f"/kubepods.slice/crio-{ID}.scope", ID),
        (f"/process_api/{ID[:32]}", ID[:32]),
        ("/lxc.payload.web/init.scope", "web"),
        ("/lxc/web", "web"),
        ("/machine.slice/systemd-nspawn@web.service", "web"),
        (f"/docker/{ID}/docker/{'ab' * 32}", "ab" * 32),
        (f"/docker/{ID[:-1]}", None),
        (f"/docker/{ID}0", None),
    ],
)
def test_the_id_of_a_container_is_in_its_path(path: str, expected: str | None) -> None:
    assert container_id(path) == expected
