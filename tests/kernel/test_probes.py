"""Debian's 6.1 kernel, which has no tracepoints of readahead: kprobes stand for them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from guest import Result

from hindsight.capture import schema
from hindsight.capture.conversion.convert import convert
from hindsight.capture.ftrace.probes import NOT_THERE, STAND_INS
from hindsight.capture.schema.facts import NOT_IN_KERNEL
from hindsight.capture.segments.segment import find_segments, open_segment
from hindsight.pipeline.dataset import find_captures, read_tables
from hindsight.pipeline.demand import read_demand
from hindsight.pipeline.fidelity import compare_capture
from hindsight.pipeline.replay import emit
from hindsight.subsystems.contract import load
from hindsight.subsystems.readahead import demand, verdict

PAGES = 256
READER = """
import mmap, os
fd = os.open("/mnt/data", os.O_RDONLY)
for page in range(64):
    os.read(fd, 4096)
os.pread(fd, 100, 200 << 12)
other = os.open("/mnt/data", os.O_RDONLY)
os.posix_fadvise(other, 120 << 12, 8 << 12, os.POSIX_FADV_WILLNEED)
with mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ) as memory:
    memory[250 << 12]
"""
LARGE_PAGES = 4096
RANDOM_READER = f"""
import os

state = 61
def draw(bound):
    global state
    state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
    return (state >> 33) % bound

size = {LARGE_PAGES} << 12
advice = (os.POSIX_FADV_NORMAL, os.POSIX_FADV_RANDOM, os.POSIX_FADV_SEQUENTIAL, os.POSIX_FADV_WILLNEED)
for _ in range(12):
    fd = os.open("/mnt/large", os.O_RDONLY)
    for _ in range(4):
        pos, length = draw(size), (100, 4096, 5000, 65536, 300000)[draw(5)]
        step = (length, length, 3 * length + 5, -length, -length, 0)[draw(6)]
        for _ in range(4 + draw(10)):
            if draw(10) == 0:
                os.posix_fadvise(fd, draw(size), 1 + draw(1 << 20), advice[draw(4)])
            os.pread(fd, length, pos % size)
            pos = pos + step if step else draw(size)
        os.lseek(fd, draw(size), os.SEEK_SET)
        for _ in range(draw(10)):
            os.read(fd, length)
    os.close(fd)
    if draw(2):
        fd = os.open("/mnt/large", os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
"""
SCRIPT = """#!/bin/sh
mkdir -p /sys/kernel/tracing
mount /dev/vdb /mnt || exit 1
run="python3 -m hindsight capture"
stat -c '%i' /mnt/data > inode
$run record -o raw --buffer-kb 4096 -- python3 /reader.py || exit 2
cat /sys/kernel/tracing/kprobe_events > left
$run record -o random --buffer-kb 8192 -- python3 /random.py || exit 4
$run doctor --json > doctor.json
: > none
mount -o bind none /sys/kernel/tracing/kprobe_events
mount -o remount,ro,bind none /sys/kernel/tracing/kprobe_events
echo 3 > /proc/sys/vm/drop_caches
$run record -o bare --buffer-kb 4096 -- python3 /reader.py > bare.log 2>&1 || exit 3
$run doctor --json > bare.json
umount /sys/kernel/tracing/kprobe_events
$run record -o killed --buffer-kb 256 -- sleep 60 &
until grep -q hindsight_ /sys/kernel/tracing/kprobe_events && ls -d killed/.rec*; do usleep 100000; done
sleep 1
kill -9 $!
grep -c hindsight_ /sys/kernel/tracing/kprobe_events > after_kill
$run clean -o killed > clean 2>&1
cat /sys/kernel/tracing/kprobe_events > after_clean
ls /sys/kernel/tracing/instances >> after_clean
exit 0
"""


@pytest.fixture(scope="module")
def guest_files(debian_kernel: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import guest

    where = tmp_path_factory.mktemp("probes")
    disk, tree = where / "disk.img", where / "tree"
    tree.mkdir()
    (tree / "data").write_bytes(bytes(range(256)) * 16 * PAGES)
    (tree / "large").write_bytes(bytes(range(256)) * 16 * LARGE_PAGES)
    subprocess.run(["mkfs.ext4", "-q", "-d", str(tree), str(disk), "48M"], check=True, capture_output=True)
    result: Result = guest.boot(
        debian_kernel,
        SCRIPT,
        where / "out",
        files={"/reader.py": READER.encode(), "/random.py": RANDOM_READER.encode()},
        disks=[disk],
    )
    assert result.status == 0, result.explain()
    return result.files


@pytest.fixture(scope="module")
def tables(guest_files: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("dataset")
    convert([guest_files / "raw"], out)
    return {path.parent.name: pq.read_table(path) for path in out.glob("host=*/date=*/*/*.parquet")}


@pytest.fixture
def of_file(guest_files: Path, tables: dict[str, Any]) -> Callable[[str], list[dict[str, int]]]:
    """The rows of a table that are of the file, by time."""
    inode = int((guest_files / "inode").read_text())

    def rows(name: str) -> list[dict[str, int]]:
        table = tables.get(name)
        return [row for row in table.to_pylist() if row["i_ino"] == inode] if table is not None else []

    return rows


def test_the_probes_are_gone(guest_files: Path) -> None:
    assert (guest_files / "left").read_text() == ""
    assert int((guest_files / "after_kill").read_text()) == len(STAND_INS)
    assert (guest_files / "after_clean").read_text() == "", (guest_files / "clean").read_text()


def test_doctor_says_how_decisions_are_seen(guest_files: Path) -> None:
    checks = {c["id"]: c for c in json.loads((guest_files / "doctor.json").read_text())["checks"]}
    assert checks["events-readahead"]["state"] == "ok"
    assert "4 of 4; 4 through kprobes" in checks["events-readahead"]["why"]


def test_no_address_of_the_kernel_is_left(guest_files: Path) -> None:
    """Kernel text and data are at 0xffff… on x86-64; little endian, so these bytes come last."""
    for segment in find_segments([guest_files / "raw"]):
        for name in open_segment(segment).files:
            if name.startswith("raw/") and name.endswith(".pages"):
                words = np.frombuffer((segment / name).read_bytes(), "<u4")
                assert not ((words[1:] == 0xFFFFFFFF) & (words[:-1] >> 24 == 0x81)).any(), name
        facts = open_segment(segment).facts
        probed = [e for group in facts["instances"].values() for e in group.get("probed", [])]
        assert sorted(probed) == sorted(STAND_INS)
        assert facts["losses"] == [], "nothing of the profile is missing, and nothing was lost"


def test_what_a_sequential_read_decides(of_file: Callable[[str], list[dict[str, int]]]) -> None:
    """Linux 6.1: the first window is four pages for a request of one (the limit is 32), then it doubles."""
    sync = of_file("page_cache_sync_ra")
    assert (sync[0]["index"], sync[0]["req_count"], sync[0]["prev_pos"]) == (0, 1, -1)
    assert {row["order"] for row in sync} == {NOT_THERE} and {row["ra_pages"] for row in sync} == {32}
    windows = [(row["index"], row["size"], row["async_size"]) for row in of_file("page_cache_ra_order")]
    assert windows[:4] == [(0, 4, 3), (4, 8, 8), (12, 16, 16), (28, 32, 32)]
    late = of_file("page_cache_async_ra")
    assert [row["index"] for row in late][:3] == [1, 4, 12]
    forced = of_file("page_cache_ra_unbounded")
    assert (120, 8) in [(row["index"], row["nr_to_read"]) for row in forced], "WILLNEED"


@pytest.mark.parametrize("recording,least", [("raw", 20), ("random", 400)])
def test_the_replay_decides_as_this_kernel_did(
    guest_files: Path, tmp_path: Path, recording: str, least: int
) -> None:
    convert([guest_files / recording], tmp_path)
    subsystem = load("readahead")
    (capture,) = find_captures(tmp_path)
    found = read_demand(subsystem, capture)
    compared = compare_capture(subsystem, capture, found, emit(subsystem, capture.id, found))
    assert compared["first_divergence"] is None
    assert compared["matched"] == compared["recorded"] == compared["compared"] >= least


def test_what_was_met_and_faulted(of_file: Callable[[str], list[dict[str, int]]]) -> None:
    met = of_file("mm_filemap_get_pages")
    assert {(row["index"], row["last_index"]) for row in met} >= {(page, page) for page in range(64)}
    assert (200, 200) in {(row["index"], row["last_index"]) for row in met}
    assert 250 in {row["index"] for row in of_file("mm_filemap_fault")}
    added = {page for row in of_file("mm_filemap_add_to_page_cache")
             for page in range(row["index"], row["index"] + (1 << row["order"]))}  # fmt: skip
    assert added >= {*range(64), 200, *range(120, 128), 250}


def test_without_probes_the_baseline_is_unverified(guest_files: Path, tmp_path: Path) -> None:
    """The same kernel, its kprobes out of reach: the demand is recorded, what it decided is not."""
    assert "this kernel does not have" in (guest_files / "bare.log").read_text()
    checks = {c["id"]: c for c in json.loads((guest_files / "bare.json").read_text())["checks"]}
    assert checks["events-readahead"]["state"] == "warn" and checks["events-readahead"]["remedy"]
    convert([guest_files / "bare"], tmp_path)
    (capture,) = find_captures(tmp_path)
    tables = read_tables(capture, schema.TABLES)
    lost = zip(tables["losses"]["event"], tables["losses"]["cause"], strict=True)
    assert {event for event, cause in lost if cause == NOT_IN_KERNEL} == set(STAND_INS)
    streams = demand.build(tables)["streams"]
    inode = int((guest_files / "inode").read_text())
    mine = [f.endswith(f"/{inode}") for f in streams["file"].tolist()]
    assert sum(mine) >= 1 and not streams["replayable"].any()
    assert {int(r) for r in streams["reason"][mine]} == {verdict.UNVERIFIED}


def test_who_read(tables: dict[str, Any]) -> None:
    """Identity rows are there: threads, programs, calls."""
    assert tables["sys_enter_read"].num_rows >= 64 and tables["sched_process_exec"].num_rows >= 1
    (release,) = set(tables["captures"]["kernel_release"].to_pylist())
    assert release.startswith("6.1.")
