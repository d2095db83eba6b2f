"""Each profile records a workload, and its rows add up to what the kernel says elsewhere."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from scratch import control_group, file_system, loop_device, remount
from taken import Row, Taken, python

from hindsight.capture import profiles
from hindsight.capture.conversion.columns import sources
from hindsight.capture.conversion.convert import convert
from hindsight.capture.devices import Device
from hindsight.capture.formats import parse_event
from hindsight.capture.options import PERF, Budgets, RecordOptions
from hindsight.capture.profiles import DEVICES, PROFILES, SCRUBBED, SWITCHES, TASKS, profile
from hindsight.capture.recording.record import record
from hindsight.capture.schema import TABLES
from hindsight.errors import UsageError

MIB = 1 << 20
PAGE = 4096


def disk(device: Device) -> dict[str, int]:
    """What /proc/diskstats counts: requests, merges and sectors, read and written."""
    for line in Path("/proc/diskstats").read_text().splitlines():
        words = line.split()
        if tuple(map(int, words[:2])) == device:
            names = (
                "reads",
                "read_merges",
                "read_sectors",
                "read_ms",
                "writes",
                "write_merges",
                "write_sectors",
            )
            return dict(zip(names, map(int, words[3:]), strict=False))
    raise AssertionError(device)


def rise(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: after[name] - before[name] for name in before}


def of_device(rows: list[Row], device: Device) -> list[Row]:
    return [row for row in rows if (row["dev_major"], row["dev_minor"]) == device]


# What a profile is


@pytest.mark.parametrize("name", PROFILES)
def test_every_event_of_a_profile_has_a_table_that_this_kernel_fills(live: Path, name: str) -> None:
    known = {table.tracepoint: table for table in TABLES.values() if table.tracepoint}
    events = profile(name).tracepoints
    assert len(set(events)) == len(events) > 4
    found = 0
    for one in events:
        path = live / "events" / one / "format"
        if path.exists():
            sources(parse_event(one.split("/")[0], path.read_text()), known[one])
            found += 1
    assert found > len(events) // 2


def test_events_of_any_context_are_not_in_a_group_that_follows_threads() -> None:
    for name in PROFILES:
        for group, events in profile(name).events.items():
            for one in events:
                if one.partition("/")[0] in ("block", "power", "timer", "damon"):
                    assert group == DEVICES, one
                if one in ("sched/sched_switch", "sched/sched_waking", "sched/sched_wakeup"):
                    assert group == SWITCHES, one
    for name in PROFILES:
        assert "block/block_touch_buffer" not in profile(name).tracepoints
        assert "block/block_dirty_buffer" not in profile(name).tracepoints
        assert "task/task_newtask" in profile(name).events[SCRUBBED], "who the threads are is in all of them"


def test_joined_profiles_record_what_any_of_them_does() -> None:
    both = profile("readahead+sched")
    assert set(both.tracepoints) == {*profile("readahead").tracepoints, *profile("sched").tracepoints}
    assert both.ftrace_only and not profile("readahead").ftrace_only
    assert profile("sched+sched").tracepoints == profile("sched").tracepoints
    # A filter holds only as long as nobody wants the rest.
    assert profile("writeback").filters.keys() == {"block/block_rq_issue", "block/block_rq_complete"}
    assert profile("writeback+blockio").filters == {}
    assert profile("writeback+sched").filters == profile("writeback").filters
    with pytest.raises(UsageError, match="'nothing'"):
        profile("readahead+nothing")
    with pytest.raises(UsageError, match="''"):
        profile("readahead+")


def test_perf_refuses_what_it_would_miss(tmp_path: Path) -> None:
    options = RecordOptions(tmp_path, ("true",), "cpuidle+readahead", source=PERF)
    with pytest.raises(UsageError, match="perf misses events of the profile cpuidle"):
        record(options, say=lambda text: None)


# pagecache

READ_AND_DROP = """
import ctypes, mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
while os.read(fd, 100_000): pass
size = os.fstat(fd).st_size
mapped = mmap.mmap(fd, size, prot=mmap.PROT_READ | mmap.PROT_WRITE)
libc = ctypes.CDLL(None)
start = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
def resident():
    found = (ctypes.c_ubyte * (size // 4096))()
    assert libc.mincore(ctypes.c_void_p(start), ctypes.c_size_t(size), found) == 0
    return sum(byte & 1 for byte in found)
full = resident()
os.posix_fadvise(fd, 0, size // 2, os.POSIX_FADV_DONTNEED)
print(full, resident(), file=open(sys.argv[2], "w"), flush=True)
"""


def test_pagecache_adds_up_to_what_is_resident(live: Path, tmp_path: Path) -> None:
    with file_system(tmp_path, "ext4") as (where, device):
        (where / "file").write_bytes(os.urandom(8 * MIB))
        remount(where, "ext4")
        inode = os.stat(where / "file").st_ino
        command = (*python(READ_AND_DROP), where / "file", tmp_path / "resident")
        taken = Taken(tmp_path, "pagecache", command, devices=(device,))
    full, left = map(int, (tmp_path / "resident").read_text().split())
    assert full == 8 * MIB // PAGE

    def pages(table: str) -> list[int]:
        rows = [row for row in taken.rows(table) if row["i_ino"] == inode]
        return [row["index"] + n for row in rows for n in range(1 << row["order"])]

    added = pages("mm_filemap_add_to_page_cache")
    assert sorted(added) == list(range(full)), "each page once"
    # Unmounting takes out what is left; the recording has ended by then.
    deleted = pages("mm_filemap_delete_from_page_cache")
    assert len(set(deleted)) == len(deleted) == full - left > 0
    assert len([r for r in taken.rows("mm_filemap_get_pages") if r["i_ino"] == inode]) >= 8 * MIB // 100_000


TOUCH = """
import ctypes, mmap, resource, sys
memory = mmap.mmap(-1, 700 * 4096)
memory.madvise(mmap.MADV_NOHUGEPAGE)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for page in range(0, 700, 7): memory[page * 4096] = 1
after = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
open(sys.argv[1], "w").write(f"{address} {after - before}")
"""


def test_faults_shows_each_page_that_is_touched_first(live: Path, tmp_path: Path) -> None:
    if not (live / "events/exceptions/page_fault_user").exists():
        pytest.skip("this architecture has no tracepoint of page faults")
    taken = Taken(tmp_path, "faults", (*python(TOUCH), tmp_path / "told"))
    address, faults = map(int, (tmp_path / "told").read_text().split())
    rows = [r for r in taken.rows("page_fault_user") if 0 <= r["address"] - address < 700 * PAGE]
    assert [(r["address"] - address) // PAGE for r in rows] == list(range(0, 700, 7))
    assert {r["error_code"] & 7 for r in rows} == {6}, "not there, written, by the program"
    assert faults >= len(rows)


READ_IN_GROUP = """
import os, sys
open(sys.argv[2], "w").write(str(os.getpid()))
fd = os.open(sys.argv[1], os.O_RDONLY)
while os.read(fd, 1 << 16): pass
"""


def test_pagecache_shows_reclaim_at_a_memory_limit(live: Path, tmp_path: Path) -> None:
    limit = 8 * MIB
    with (
        control_group("memory", f"hindsight-reclaim-{os.getpid()}") as group,
        file_system(tmp_path, "ext4") as (where, device),
    ):
        (where / "file").write_bytes(os.urandom(48 * MIB))
        remount(where, "ext4")
        (group / "memory.limit_in_bytes").write_text(str(limit))
        command = (*python(READ_IN_GROUP), where / "file", group / "cgroup.procs")
        taken = Taken(tmp_path, "pagecache", command, devices=(device,))
        charged = (group / "memory.stat").read_text()
        (group / "memory.force_empty").write_text("0")
    (thread,) = {row["pid"] for row in taken.rows("mm_vmscan_memcg_reclaim_begin")}
    ends = taken.rows("mm_vmscan_memcg_reclaim_end")
    assert len(ends) == len(taken.rows("mm_vmscan_memcg_reclaim_begin"))
    by_reclaim = sum(row["nr_reclaimed"] for row in ends)
    # What went is what was read and does not fit; the kernel frees some more than it has to.
    least = (48 * MIB - limit) // PAGE
    assert least <= by_reclaim <= 48 * MIB // PAGE + 2048
    deleted = [r for r in taken.rows("mm_filemap_delete_from_page_cache") if r["pid"] == thread]
    of_file = sum(1 << row["order"] for row in deleted)
    assert of_file >= least
    assert abs(of_file - by_reclaim) <= by_reclaim // 20
    added = [r for r in taken.rows("mm_filemap_add_to_page_cache") if r["pid"] == thread]
    left = sum(1 << row["order"] for row in added) - of_file
    cached = int(dict(line.split() for line in charged.splitlines())["cache"]) // PAGE
    assert 0 <= cached - left <= 64, "what the group is charged for: that, and pages of the interpreter"
    shrunk = [row for row in taken.rows("mm_vmscan_lru_shrink_inactive") if row["pid"] == thread]
    assert sum(row["nr_reclaimed"] for row in shrunk) == by_reclaim


# blockio and writeback

IO = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_DIRECT)
buffer = mmap.mmap(-1, 1 << 20)
for at in range(0, 8 << 20, 1 << 20):
    assert os.preadv(fd, [buffer], at) == 1 << 20
for at in range(0, 4 << 20, 1 << 16):
    assert os.pwritev(fd, [memoryview(buffer)[: 1 << 16]], at) == 1 << 16
fd = os.open(sys.argv[1], os.O_RDWR)
for at in range(0, 6 << 20, 4096):  # small pieces that meet again in the queue
    os.pwrite(fd, bytes(4096), at)
os.fsync(fd)
"""


def test_blockio_agrees_with_diskstats(live: Path, tmp_path: Path) -> None:
    with loop_device(tmp_path / "image", 16 * MIB) as (node, device):
        time.sleep(0.5)  # who looks at new devices (udev) is done
        before = disk(device)
        taken = Taken(tmp_path, "blockio", (*python(IO), node), devices=(device,))
        time.sleep(0.2)
        counted = rise(before, disk(device))
    done = of_device(taken.rows("block_rq_complete"), device)
    assert {row["error"] for row in done} == {0}
    reads = [row for row in done if row["rwbs"].startswith("R")]
    writes = [row for row in done if "W" in row["rwbs"]]
    assert len(reads) == counted["reads"] > 0 and len(writes) == counted["writes"] > 0
    assert sum(row["nr_sector"] for row in reads) == counted["read_sectors"] == 8 * MIB // 512
    assert sum(row["nr_sector"] for row in writes) == counted["write_sectors"]
    merges = [
        row for table in ("block_bio_backmerge", "block_bio_frontmerge", "block_rq_merge")
        for row in of_device(taken.rows(table), device)
    ]  # fmt: skip
    assert len(merges) == counted["read_merges"] + counted["write_merges"]
    asked = of_device(taken.rows("block_bio_queue"), device)
    assert sum(row["nr_sector"] for row in asked if row["rwbs"].startswith("R")) == counted["read_sectors"]
    assert {row["pid"] for row in asked if row["rwbs"].startswith("R")} <= {
        row["pid"] for row in taken.rows("tasks")
    }


WRITE = """
import mmap, os, sys
def dirtied():
    return int(dict(line.split(": ") for line in open("/proc/self/io"))["write_bytes"])
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
other = os.open(sys.argv[3], os.O_RDONLY | os.O_DIRECT)
os.preadv(other, [mmap.mmap(-1, 1 << 20)], 0)
before = dirtied()
for at in range(0, 8 << 20, 1 << 20):
    os.pwrite(fd, os.urandom(1 << 20), at)
bytes_dirtied = dirtied() - before
os.sync()
print(bytes_dirtied, file=open(sys.argv[2], "w"), flush=True)
"""


def test_writeback_writes_what_was_dirtied(live: Path, tmp_path: Path) -> None:
    with file_system(tmp_path, "ext4") as (where, device):
        (where / "other").write_bytes(os.urandom(MIB))
        remount(where, "ext4")
        before = disk(device)
        command = (*python(WRITE), where / "new", tmp_path / "dirtied", where / "other")
        taken = Taken(tmp_path, "writeback", command, devices=(device,))
        counted = rise(before, disk(device))
        inode = os.stat(where / "new").st_ino
    name = f"{device[0]}:{device[1]}"
    dirtied = int((tmp_path / "dirtied").read_text())
    assert dirtied == 8 * MIB, "as /proc/PID/io says"
    folios = [
        row for row in taken.rows("writeback_dirty_folio") if (row["name"], row["ino"]) == (name, inode)
    ]
    assert folios and {row["index"] for row in folios} <= set(range(dirtied // PAGE))
    inodes = [
        row for row in taken.rows("writeback_single_inode") if (row["name"], row["ino"]) == (name, inode)
    ]
    assert sum(row["wrote"] for row in inodes) == dirtied // PAGE
    assert 2 in {row["reason"] for row in taken.rows("writeback_start")}, "WB_REASON_SYNC"
    done = of_device(taken.rows("block_rq_complete"), device)
    assert all("W" in row["rwbs"] for row in done), "reads are filtered"
    assert counted["reads"] > 0
    assert sum(row["nr_sector"] for row in done) == counted["write_sectors"] >= dirtied // 512
    written = taken.rows("writeback_written")
    assert len(written) == len(taken.rows("writeback_start"))
    for table in ("writeback_dirty_folio", "writeback_single_inode", "writeback_start", "writeback_queue"):
        assert {row["name"] for row in taken.rows(table)} <= {name}, f"{table} has other devices"


# Names


@pytest.mark.parametrize("name", ["sched", "blockio+writeback"])
def test_raw_trace_holds_no_names_of_threads(live: Path, tmp_path: Path, name: str) -> None:
    program = tmp_path / "zanzibar"
    shutil.copy("/bin/dd", program)
    command = (program, "if=/dev/zero", f"of={tmp_path / 'written'}", "bs=64k", "count=64", "conv=fsync")
    taken = Taken(tmp_path, name, command)
    raw = [file.read_bytes() for file in (tmp_path / "raw").glob("*/raw/*/*")]
    assert sum(map(len, raw)) > 4096 and taken.recording.events > 20
    assert not any(b"zanzibar" in data for data in raw)
    kept = tmp_path / "kept"
    record(RecordOptions(kept, tuple(map(str, command)), name, comm=True), say=lambda text: None)
    assert any(b"zanzibar" in file.read_bytes() for file in kept.glob("*/raw/*/*")), "or it proves nothing"


# Losses and budgets


@pytest.mark.parametrize("name", ["sched", "cpuidle", "blockio", "pagecache", "writeback"])
def test_what_a_small_budget_sheds_is_in_the_ledger(live: Path, tmp_path: Path, name: str) -> None:
    text = (
        "import os, time, sys\nuntil = time.time() + 3\n"
        "while time.time() < until:\n"
        "    with open(sys.argv[1], 'wb') as f:\n"
        "        for _ in range(200): f.write(bytes(4096)); f.flush()\n"
        "        os.fsync(f.fileno())\n"
        "    os.posix_fadvise(os.open(sys.argv[1], os.O_RDONLY), 0, 0, os.POSIX_FADV_DONTNEED)\n"
        "    open(sys.argv[1], 'rb').read()\n    time.sleep(0.001)\n"
    )
    (tmp_path / "raw").mkdir()
    # Busy processors are seldom idle.
    budgets = Budgets(max_rate=1 if name == "cpuidle" else 100)
    raw = RecordOptions(tmp_path / "raw", (*python(text), str(tmp_path / "file")), name, budgets=budgets)
    done = record(raw, say=lambda text: None)
    (converted,) = convert([done.path], tmp_path / "data")
    assert converted.events == done.events
    files = (tmp_path / "data").glob("host=*/date=*/losses/*.parquet")
    shed = [
        r for file in files for r in pq.read_table(file).to_pylist() if r["cause"].startswith("budget shed")
    ]
    assert {row["event"] for row in shed} <= set(profile(name).tracepoints)
    if name == "cpuidle" and not shed and done.events <= 4:
        pytest.skip(f"the processors were too busy to be idle: {done.events} events in 3 s")
    assert shed and done.unrecorded
    assert TASKS and profiles.group_of("syscalls/sys_enter_read") == TASKS
