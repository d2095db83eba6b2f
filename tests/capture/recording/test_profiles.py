"""Each profile records a workload, and its rows add up to what the kernel says elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from scratch import control_group, file_system, loop_device, remount

from hindsight.capture import profiles
from hindsight.capture.conversion.columns import sources
from hindsight.capture.conversion.convert import convert
from hindsight.capture.devices import Device
from hindsight.capture.formats import parse_event
from hindsight.capture.options import PERF, Budgets, RecordOptions
from hindsight.capture.perf import event
from hindsight.capture.profiles import DEVICES, PROFILES, SCRUBBED, SWITCHES, TASKS, profile
from hindsight.capture.recording.record import Recording, record
from hindsight.capture.schema import TABLES
from hindsight.errors import UsageError

MIB = 1 << 20
PAGE = 4096
KDAMONDS = Path("/sys/kernel/mm/damon/admin/kdamonds")
Row = dict[str, Any]


class Taken:
    """A recording, converted: all of it must be there, as the kernel counted."""

    def __init__(self, tmp_path: Path, name: str, command: tuple[object, ...] = (), **options: Any) -> None:
        raw = RecordOptions(tmp_path / "raw", tuple(map(str, command)), name, **options)
        self.recording: Recording = record(raw, say=lambda text: None)
        self.converted = convert([tmp_path / "raw"], tmp_path / "data")
        self._data = tmp_path / "data"
        assert self.recording.lost == 0
        assert sum(one.events for one in self.converted) == self.recording.events
        assert self.rows("captures")[0]["profile"] == name

    def rows(self, table: str) -> list[Row]:
        """All rows of a table."""
        files = sorted(self._data.glob(f"host=*/date=*/{table}/*.parquet"))
        return [row for file in files for row in pq.read_table(file).to_pylist()]


def python(text: str) -> tuple[str, ...]:
    return (sys.executable, "-c", text)


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


# sched

SWITCHING = """
import os, sys, threading, time
def counts():
    status = dict(line.split(":", 1) for line in open("/proc/thread-self/status"))
    switches = int(status["voluntary_ctxt_switches"]) + int(status["nonvoluntary_ctxt_switches"])
    return switches, *map(int, open("/proc/thread-self/schedstat").read().split())
def work(path):
    for _ in range(100):
        time.sleep(0.002)
        for _ in range(3000): pass
    text = f"{threading.get_native_id()} {' '.join(map(str, counts()))}"
    print(text, file=open(path, "w"), flush=True)
other = threading.Thread(target=work, args=(sys.argv[1] + ".thread",))
other.start()
work(sys.argv[1])
other.join()
"""


@pytest.mark.slow  # a busy machine moves what it compares
@pytest.mark.parametrize("whole_host", [False, True])
def test_sched_has_every_switch_of_a_thread(live: Path, tmp_path: Path, whole_host: bool) -> None:
    command = (*python(SWITCHING), str(tmp_path / "counts"))
    if whole_host:
        watched = subprocess.Popen(
            (sys.executable, "-c", "import time; time.sleep(1.0)\n" + command[2], *command[3:])
        )
        taken = Taken(tmp_path, "sched", duration=4.0)
        assert watched.wait() == 0
    else:
        taken = Taken(tmp_path, "sched", command)
    switches = taken.rows("sched_switch")
    wakeups = taken.rows("sched_wakeup")
    for path in (tmp_path / "counts", tmp_path / "counts.thread"):
        thread, counted, ran_ns, *_ = map(int, path.read_text().split())
        ends = [row for row in switches if row["prev_pid"] == thread]
        begins = [row for row in switches if row["next_pid"] == thread]
        told = int((path.name == "counts") and not whole_host)
        # The thread looked at its counters just before its last few switches.
        recorded = len(ends)
        slack = (
            12 if not whole_host or path.name != "counts" else 60
        )  # its beginning was before the recording
        assert recorded >= 100, "it slept a hundred times"
        assert abs(recorded - counted) <= slack
        on_cpu = sum(
            end["ts"] - begin["ts"] for begin, end in pairwise(
                sorted([*begins, *ends], key=lambda row: row["ts"])
            ) if begin["next_pid"] == thread and end["prev_pid"] == thread
        )  # fmt: skip
        if not whole_host:
            assert on_cpu <= 1.3 * ran_ns + 5_000_000 * told
        # On a processor whose idle thread fires no tracepoints, what begins after idling is not told.
        if not whole_host and len(begins) >= len(ends) - 2:
            assert 0.7 * ran_ns <= on_cpu
        woken = [row for row in wakeups if row["target_pid"] == thread]
        assert 95 <= len(woken) <= recorded + slack
    if not whole_host:
        mine = {row["pid"] for row in taken.rows("tasks")} | {
            row["child_pid"] for row in taken.rows("task_newtask")
        }
        assert all(row["prev_pid"] in mine or row["next_pid"] in mine for row in switches)
        assert all(row["target_pid"] in mine or row["pid"] in mine for row in wakeups)


# cpuidle


@pytest.fixture
def idle_events(live: Path) -> Iterator[Callable[[], list[int]]]:
    """How often perf has counted ``cpu_idle`` on each processor: not by way of a ring buffer."""
    number = int((live / "events/power/cpu_idle/id").read_text())
    attr = event.attribute(event.TYPE_TRACEPOINT, number, sampled=False, read_format=0, flags=0)
    opened = [event.open_event(attr, -1, cpu) for cpu in range(os.cpu_count() or 1)]
    yield lambda: [int.from_bytes(os.read(descriptor, 8), "little") for descriptor in opened]
    for descriptor in opened:
        os.close(descriptor)


@pytest.mark.slow  # a busy machine moves what it compares
def test_cpuidle_counts_entries_as_the_governor_does(
    live: Path, tmp_path: Path, idle_events: Callable[[], list[int]]
) -> None:
    if not any(Path("/sys/devices/system/cpu").glob("cpu*/cpuidle/state*/usage")):
        pytest.skip("this machine's processors have no idle states that are counted")
    before = idle_events()
    taken = Taken(tmp_path, "cpuidle", duration=3.0, counters=("cpuidle",), every_s=0.5)
    counted = [late - early for early, late in zip(before, idle_events(), strict=True)]
    usage = [r for r in taken.rows("counters") if r["name"] == "usage"]
    rows = taken.rows("cpu_idle")
    entered = [row for row in rows if row["state"] != 0xFFFFFFFF]
    assert entered and abs(2 * len(entered) - len(rows)) <= (os.cpu_count() or 1)
    assert all(row["cpu"] == row["cpu_id"] for row in rows)
    compared = 0
    for scope in {row["scope"] for row in usage}:
        samples = sorted((row["ts"], row["value"]) for row in usage if row["scope"] == scope)
        cpu, state = (int("".join(filter(str.isdigit, part))) for part in scope.split("/"))
        assert len([row for row in rows if row["cpu"] == cpu]) <= counted[cpu]
        if len(samples) < 2 or not counted[cpu]:
            continue  # never entered; or an idle thread that fires no tracepoints (docs/profiles.md)
        (begin, low), (end, high) = samples[0], samples[-1]
        mine = [r for r in entered if (r["cpu"], r["state"]) == (cpu, state) and begin <= r["ts"] <= end]
        # The time of a sample is when it begins to read; a busy host adds some entries until it has.
        assert abs(len(mine) - (high - low)) <= max(20, (high - low) // 50)
        compared += high - low
    assert compared > 50


# damon


def _mapped(pid: int) -> tuple[int, int]:
    """From the lowest to the highest address of a process."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    ends = [[int(end, 16) for end in line.split()[0].split("-")] for line in lines]
    return min(low for low, _ in ends), max(high for _, high in ends)


def _largest_ram() -> tuple[int, int]:
    """Where the largest piece of memory is: physical addresses."""
    lines = [line for line in Path("/proc/iomem").read_text().splitlines() if line.endswith("System RAM")]
    ends = [[int(end, 16) for end in line.split(" : ")[0].split("-")] for line in lines]
    low, high = max(ends, key=lambda pair: pair[1] - pair[0])
    return low, high + 1


@pytest.fixture
def kdamond() -> Iterator[tuple[int, Callable[[str], int], tuple[int, int] | None]]:
    """A kdamond: its thread, its attributes, and the span of memory it watches if it is the test's own.

    The interface has room for one user: where a kdamond is set up already it is left as it is, and watched.
    """
    if os.geteuid() != 0 or not KDAMONDS.is_dir():
        pytest.skip("this kernel has no DAMON sysfs interface")
    intervals = KDAMONDS / "0/contexts/0/monitoring_attrs/intervals"
    regions = KDAMONDS / "0/contexts/0/monitoring_attrs/nr_regions"

    def attribute(name: str) -> int:
        return int((regions if name in ("min", "max") else intervals).joinpath(name).read_text())

    if (KDAMONDS / "nr_kdamonds").read_text().strip() != "0":
        if (KDAMONDS / "0/state").read_text().strip() != "on":
            pytest.skip("somebody has set up a kdamond that does not run")
        yield int((KDAMONDS / "0/pid").read_text()), attribute, None
        return
    text = (
        "import time; held = bytearray(b'x' * (64 << 20))\n"
        "while True: held[::4096] = bytes(len(held) // 4096); time.sleep(.01)"
    )
    watched = subprocess.Popen(python(text))
    try:
        (KDAMONDS / "nr_kdamonds").write_text("1")
        (KDAMONDS / "0/contexts/nr_contexts").write_text("1")
        context = KDAMONDS / "0/contexts/0"
        virtual = "vaddr" in (context / "avail_operations").read_text().split()
        (context / "operations").write_text("vaddr" if virtual else "paddr")
        (context / "targets/nr_targets").write_text("1")
        if virtual:
            (context / "targets/0/pid_target").write_text(str(watched.pid))
        else:
            region = context / "targets/0/regions/0"
            (region.parent / "nr_regions").write_text("1")
            for name, value in zip(("start", "end"), _largest_ram(), strict=True):
                (region / name).write_text(str(value))
        time.sleep(0.5)
        (KDAMONDS / "0/state").write_text("on")
        span = _mapped(watched.pid) if virtual else _largest_ram()
        yield int((KDAMONDS / "0/pid").read_text()), attribute, span
        (KDAMONDS / "0/state").write_text("off")
    finally:
        watched.kill()
        watched.wait()
        (KDAMONDS / "nr_kdamonds").write_text("0")


def test_damon_has_every_region_of_every_interval(
    live: Path, tmp_path: Path, kdamond: tuple[int, Callable[[str], int], tuple[int, int] | None]
) -> None:
    thread, attribute, span = kdamond
    interval_s = attribute("aggr_us") / 1e6
    if interval_s > 20:
        pytest.skip(f"the kdamond of this host says something every {interval_s} s only")
    taken = Taken(tmp_path, "damon", duration=max(2.5 * interval_s, 1.0))
    rows = taken.rows("damon_aggregated")
    assert rows and {row["pid"] for row in rows} == {thread}
    looks: list[list[Row]] = []
    for row in rows:  # the regions of an interval follow each other
        if not looks or row["ts"] - looks[-1][-1]["ts"] > interval_s * 2e8:
            looks.append([])
        looks[-1].append(row)
    assert len(looks) >= 2
    for one, other in pairwise(looks):
        assert 0.8 * interval_s <= (other[0]["ts"] - one[0]["ts"]) / 1e9 <= 2 * interval_s + 1
    samples = attribute("aggr_us") // attribute("sample_us")
    for look in looks:
        targets = {row["target_id"] for row in look}
        for target in targets:
            regions = [row for row in look if row["target_id"] == target]
            assert len(regions) == regions[0]["nr_regions"], "each region is there"
            assert len(regions) <= attribute("max")
            assert all(one["end"] <= other["start"] for one, other in pairwise(regions)), "in order"
            assert all(row["start"] < row["end"] for row in regions)
            assert all(row["nr_accesses"] <= samples for row in regions)
            if span is not None:
                assert all(span[0] <= row["start"] and row["end"] <= span[1] for row in regions)


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
    budgets = Budgets(max_rate=10 if name == "cpuidle" else 100)
    raw = RecordOptions(tmp_path / "raw", (*python(text), str(tmp_path / "file")), name, budgets=budgets)
    done = record(raw, say=lambda text: None)
    (converted,) = convert([done.path], tmp_path / "data")
    assert converted.events == done.events
    files = (tmp_path / "data").glob("host=*/date=*/losses/*.parquet")
    shed = [
        r for file in files for r in pq.read_table(file).to_pylist() if r["cause"].startswith("budget shed")
    ]
    assert {row["event"] for row in shed} <= set(profile(name).tracepoints)
    assert shed and done.unrecorded
    assert TASKS and profiles.group_of("syscalls/sys_enter_read") == TASKS
