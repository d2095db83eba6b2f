"""The kernel's types, held against what bpftool reads out of the same file; and the probes made of them."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from hindsight.capture.ftrace import probes
from hindsight.capture.ftrace.btf import VMLINUX, Btf
from hindsight.capture.owner import Owner, own
from hindsight.errors import NotPermittedError


@pytest.fixture(scope="module")
def btf() -> Btf:
    if not VMLINUX.exists():
        pytest.skip("this kernel does not describe its types")
    return Btf()


@pytest.fixture(scope="module")
def described() -> list[dict]:  # type: ignore[type-arg]
    bpftool = shutil.which("bpftool", path="/usr/sbin:/usr/bin:/sbin:/bin")
    if bpftool is None:
        pytest.skip("bpftool is not installed")
    command = [bpftool, "-j", "btf", "dump", "file", str(VMLINUX), "format", "raw"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"bpftool cannot read it: {done.stderr.decode()[:200]}")
    return json.loads(done.stdout)["types"]  # type: ignore[no-any-return]


def test_members_and_parameters_are_those_that_bpftool_sees(btf: Btf, described: list[dict]) -> None:  # type: ignore[type-arg]
    structs, functions = {}, {}
    by_id = {entry["id"]: entry for entry in described}
    for entry in described:
        if entry["kind"] == "STRUCT" and entry["name"] != "(anon)":
            structs.setdefault(entry["name"], entry)
        elif entry["kind"] == "FUNC":
            functions.setdefault(entry["name"], by_id[entry["type_id"]])
    compared = 0
    for name in ("inode", "file", "file_ra_state", "readahead_control", "vm_fault", "task_struct", "page"):
        for member in structs[name]["members"]:
            if member["name"] != "(anon)" and member["bits_offset"] % 8 == 0:
                assert btf.offset(name, member["name"]) == member["bits_offset"] // 8, (name, member["name"])
                compared += 1
    assert compared > 300
    for name in ("page_cache_sync_ra", "filemap_fault", "vfs_read", "schedule"):
        assert btf.arguments(name) == [p["name"] for p in functions[name]["params"]]
    assert btf.offset("inode", "no_such_member") is None and btf.offset("no_such_struct", "x") is None
    assert btf.arguments("no_such_function") is None


def test_members_of_unnamed_parts_are_found(btf: Btf) -> None:
    """``vm_fault.pgoff`` is in an unnamed structure, ``page.mapping`` in one inside of a union."""
    assert (btf.offset("vm_fault", "pgoff") or 0) > 0
    assert btf.offset("page", "mapping") == 24


@pytest.mark.parametrize("damage", ["empty", "other", "cut", "noise"])
def test_what_is_no_description_is_refused(tmp_path: Path, damage: str, btf: Btf) -> None:
    whole = VMLINUX.read_bytes()
    header = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, 1 << 20, 1 << 20, 16)
    content = {"empty": b"", "other": b"x" * 64, "cut": whole[:5000], "noise": header + b"\xff" * 4096}[
        damage
    ]
    path = tmp_path / "btf"
    path.write_bytes(content)
    with pytest.raises(NotPermittedError, match=r"cannot be understood"):
        Btf(path)
    with pytest.raises(NotPermittedError, match="does not describe its types"):
        Btf(tmp_path / "absent")


def test_every_tracepoint_has_a_stand_in_here(btf: Btf) -> None:
    """This kernel has the functions; probes are not made, only written down."""
    found = probes.probes_for([*probes.STAND_INS, "block/block_rq_issue"], btf)
    assert found.keys() == probes.STAND_INS.keys()
    sync = found["readahead/page_cache_sync_ra"]
    assert sync.function == "page_cache_sync_ra" and "req_count=$arg2:u64" in sync.fields
    assert f"prev_pos=+{btf.offset('file_ra_state', 'prev_pos')}" in " ".join(sync.fields)


class NoTypes:
    def offset(self, struct: str, member: str) -> int | None:
        return None

    def arguments(self, function: str) -> list[str] | None:
        return ["ractl"]


def test_what_the_types_lack_is_left_out() -> None:
    assert probes.probes_for(probes.STAND_INS, NoTypes()) == {}  # type: ignore[arg-type]


def test_only_probes_of_dead_recorders_are_abandoned(tmp_path: Path) -> None:
    me, dead = own(), Owner(own().namespace, 1 << 21, 5)
    lines = [
        f"p:hindsight_{str(owner).replace('-', '_')}/page_cache_sync_ra page_cache_sync_ra x=$arg1:u64"
        for owner in (me, dead, Owner(1, 1, 1))
    ]
    lines += ["p:mine/probe do_exit", "p:hindsight_x/y z"]
    (tmp_path / "kprobe_events").write_text("\n".join(lines) + "\n")
    left = f"hindsight_{str(dead).replace('-', '_')}/page_cache_sync_ra"
    assert probes.abandoned(tmp_path) == [left]
    assert probes.remove_abandoned(tmp_path) == [left]
    assert (tmp_path / "kprobe_events").read_text().splitlines() == [*lines, f"-:{left}"]
    assert probes.abandoned(tmp_path / "none") == []


def test_what_cannot_be_probed_is_missing(tmp_path: Path) -> None:
    """Without kprobes nothing is made, and nothing is left."""
    (tmp_path / "events").mkdir()
    made = probes.StandIns(tmp_path, probes.STAND_INS)
    assert made.made == {} and not (tmp_path / "kprobe_events").exists()
    made.close()
    (tmp_path / "events" / "readahead" / "page_cache_sync_ra").mkdir(parents=True)
    assert "readahead/page_cache_sync_ra" not in probes.lacking(tmp_path, probes.STAND_INS)
