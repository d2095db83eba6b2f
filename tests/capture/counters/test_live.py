"""Counters of a recording against what a workload is known to have done, as the kernel itself says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from scratch import control_group, loop_device

from hindsight.capture import cgroups
from hindsight.capture.conversion.convert import convert
from hindsight.capture.counters.cgroup import Group
from hindsight.capture.counters.source import Counters
from hindsight.capture.options import RecordOptions
from hindsight.capture.recording.record import record

MIB = 1 << 20
Rows = list[dict[str, Any]]


def recorded(tmp_path: Path, command: tuple[str, ...], **options: Any) -> tuple[Rows, list[str]]:
    """Rows of ``counters`` of a recording of the command, and what the recorder said."""
    said: list[str] = []
    record(RecordOptions(tmp_path / "raw", command, every_s=0.05, **options), say=said.append)
    convert([tmp_path / "raw"], tmp_path / "data")
    (path,) = (tmp_path / "data").glob("host=*/date=*/counters/*.parquet")
    return pq.read_table(path).to_pylist(), said


def series(rows: Rows, source: str, scope: str, name: str) -> list[int]:
    """The values of one counter, as they changed."""
    return [r["value"] for r in rows if (r["source"], r["scope"], r["name"]) == (source, scope, name)]


def python(text: str, *words: object) -> tuple[str, ...]:
    """A command that runs Python text; its first statement waits until there was a first sample."""
    return (sys.executable, "-c", f"import time; time.sleep(0.3)\n{text}", *map(str, words))


DIRECT = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT)
buffer = mmap.mmap(-1, 1 << 20)
for at in range(0, int(sys.argv[2]) << 20, 1 << 20):
    assert os.preadv(fd, [buffer], at) == 1 << 20
"""


def test_bytes_read_of_a_device_are_exact(live: Path, tmp_path: Path) -> None:
    with loop_device(tmp_path / "image", 16 * MIB) as (node, (major, minor)):
        time.sleep(0.5)  # who looks at new devices (udev) is done
        rows, _ = recorded(tmp_path, python(DIRECT, node, 8), counters=("diskstats",))
    scope = f"{major}:{minor}"
    sectors = series(rows, "diskstats", scope, "sectors_read")
    assert sectors[-1] - sectors[0] == 8 * MIB // 512
    assert sectors == sorted(sectors)
    requests = series(rows, "diskstats", scope, "reads")
    assert 8 <= requests[-1] - requests[0] <= 8 * MIB // 4096
    written = series(rows, "diskstats", scope, "sectors_written")
    assert written[-1] == written[0], "nothing was written"
    assert not any(row["reset"] for row in rows)


TOUCH = """
import mmap, resource, sys
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
memory = mmap.mmap(-1, int(sys.argv[1]) * 4096)
memory.madvise(mmap.MADV_NOHUGEPAGE)
for page in range(int(sys.argv[1])):
    memory[page * 4096] = 1
time.sleep(0.2)
print(before, resource.getrusage(resource.RUSAGE_SELF).ru_minflt, file=open(sys.argv[2], "w"), flush=True)
"""


def test_page_faults_of_a_command_are_what_the_kernel_tells_the_command(live: Path, tmp_path: Path) -> None:
    rows, said = recorded(tmp_path, python(TOUCH, 3000, tmp_path / "usage"), counters=("perf",))
    before, after = map(int, (tmp_path / "usage").read_text().split())
    faults = series(rows, "perf", "command", "minor-faults")
    # The command was stopped when counting began: what it had faulted by then is not counted.
    assert after - before >= 3000
    assert after - before <= faults[-1] <= after + 200
    assert series(rows, "perf", "command", "page-faults")[-1] >= faults[-1]
    assert series(rows, "perf", "command", "task-clock")[-1] > 0
    absent = {
        name.strip() for text in said if "does not count" in text for name in text.split(":")[1].split(",")
    }
    assert absent.isdisjoint({row["name"] for row in rows}), "what is absent has no rows"
    has_pmu = any(Path("/sys/bus/event_source/devices").glob("*cpu*"))
    assert has_pmu or {"cycles", "instructions"} <= absent, "and is said"


def test_faults_of_the_whole_host_are_those_of_all_processors(live: Path, tmp_path: Path) -> None:
    rows, _ = recorded(tmp_path, (), counters=("perf", "vmstat"), duration=1.0)
    scopes = {row["scope"] for row in rows if row["source"] == "perf"}
    assert scopes == {f"cpu{number}" for number in range(os.cpu_count() or 1)}
    by_perf = sum(series(rows, "perf", scope, "page-faults")[-1] for scope in scopes)
    by_vmstat = series(rows, "vmstat", "", "pgfault")
    assert by_perf > 0
    # The two are sampled by threads of their own, some milliseconds apart.
    assert abs(by_perf - (by_vmstat[-1] - by_vmstat[0])) <= max(by_perf // 2, 3000)


READ_IN_GROUP = (
    """
import os, sys
for path in sys.argv[3:]:
    open(path, "w").write(str(os.getpid()))
"""
    + DIRECT
    + """
os.close(fd)
fd = os.open(sys.argv[1], os.O_RDONLY)
os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
while os.read(fd, 1 << 20): pass
time.sleep(0.2)
"""
)


def test_a_control_group_of_version_1_pays_for_what_it_reads(live: Path, tmp_path: Path) -> None:
    with (
        control_group("blkio", f"hindsight-counters-{os.getpid()}") as io,
        control_group("memory", f"hindsight-counters-{os.getpid()}") as memory,
        loop_device(tmp_path / "image", 16 * MIB) as (node, (major, minor)),
    ):
        # The kernel counts for a group once it may have to throttle it.
        (io / "blkio.throttle.read_bps_device").write_text(f"{major}:{minor} {1 << 40}")
        command = python(READ_IN_GROUP, node, 8, io / "cgroup.procs", memory / "cgroup.procs")
        # As /proc/PID/cgroup gives it: both hierarchies have a group of that name.
        rows, _ = recorded(tmp_path, command, cgroups=(f"/{io.name}",))
        numbers = {kind: str(os.stat(path).st_ino) for kind, path in (("io", io), ("memory", memory))}
        (io / "blkio.throttle.read_bps_device").write_text(f"{major}:{minor} 0")
    scope = f"{numbers['io']}/{major}:{minor}"
    read = series(rows, "cgroup.io", scope, "blkio.throttle.io_service_bytes.Read")
    assert read[-1] == (8 + 16) * MIB, "read directly, and once more through the page cache"
    held = series(rows, "cgroup.memory", numbers["memory"], "memory.usage_in_bytes")
    assert max(held) - held[0] >= 16 * MIB
    cache = series(rows, "cgroup.memory", numbers["memory"], "memory.stat.cache")
    # Its buffer is shared memory, which is counted like a file's; a page or two more are the interpreter's.
    assert 17 * MIB <= max(cache) - cache[0] <= 17 * MIB + (1 << 18)


BURN = """
import os, sys
open(sys.argv[1], "w").write(str(os.getpid()))
until = time.process_time() + 0.5
while time.process_time() < until: pass
print(time.process_time(), file=open(sys.argv[2], "w"), flush=True)
time.sleep(0.2)
"""


def test_a_control_group_of_version_2_counts_processor_time(live: Path, tmp_path: Path) -> None:
    with control_group(cgroups.UNIFIED, f"hindsight-counters-{os.getpid()}") as group:
        command = python(BURN, group / "cgroup.procs", tmp_path / "used")
        rows, _ = recorded(tmp_path, command, cgroups=(str(group),))  # by its directory
        number = str(os.stat(group).st_ino)
        if not (group / "cpu.stat").exists():
            pytest.skip("this kernel's version 2 has no cpu.stat")
    used = float((tmp_path / "used").read_text())
    usage = series(rows, "cgroup.cpu", number, "cpu.stat.usage_usec")
    assert 0.5e6 <= usage[-1] - usage[0] <= (used + 0.2) * 1e6
    assert {row["scope"] for row in rows} == {number}


def test_a_total_that_begins_anew_is_marked(live: Path) -> None:
    with control_group("memory", f"hindsight-reset-{os.getpid()}") as group:
        (group / "memory.limit_in_bytes").write_text(str(4 * MIB))
        text = (
            f"import os; open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
            f"open('/dev/shm/hindsight-{os.getpid()}', 'wb').write(bytes({8 * MIB}))"
        )
        try:
            subprocess.run([sys.executable, "-c", text], capture_output=True)  # against its limit
        finally:
            Path(f"/dev/shm/hindsight-{os.getpid()}").unlink(missing_ok=True)
        source = Counters("cgroup", Group(str(group)).read, 1.0)

        def failures() -> dict[str, Any]:
            named = {row["name"]: row for row in source.sample().rows["counters"]}
            return dict(named.get("memory.failcnt", {}))

        first = failures()
        assert first["value"] > 0 and first["total"] and not first["reset"]
        assert failures() == {}, "what did not change is not repeated"
        (group / "memory.failcnt").write_text("0")
        last = failures()
        assert (last["value"], last["reset"]) == (0, True)


def test_what_cannot_be_sampled_is_an_error_with_its_exit_code(
    live: Path, tmp_path: Path, hindsight: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    begin = ("capture", "record", "-o", tmp_path / "raw")
    done = hindsight(*begin, "--counters", "psi,nonsense", "--", "true")
    assert (done.returncode, "Known sets: cpuidle" in done.stderr) == (2, True)
    done = hindsight(*begin, "--cgroup", "/no/such/group", "--", "true")
    assert (done.returncode, "/proc/PID/cgroup" in done.stderr) == (3, True)
    assert not (tmp_path / "raw").exists() or list((tmp_path / "raw").glob("[!.]*")) == []


def test_a_group_that_goes_is_a_loss_and_not_the_end(live: Path, tmp_path: Path) -> None:
    with control_group(cgroups.UNIFIED, f"hindsight-gone-{os.getpid()}") as group:
        command = (
            sys.executable,
            "-c",
            f"import os, time; time.sleep(0.3); os.rmdir({str(group)!r}); time.sleep(0.4)",
        )
        rows, said = recorded(tmp_path, command, cgroups=(str(group),))
        assert rows
        assert sum("the control group is gone" in text for text in said) == 1
        (path,) = (tmp_path / "data").glob("host=*/date=*/losses/*.parquet")
        causes = {(r["event"], r["cause"]) for r in pq.read_table(path).to_pylist()}
        assert ("counters", "not sampled: cgroup: the control group is gone") in causes
        group.mkdir()  # for the fixture


def test_every_row_is_readable_json_in_the_segment(live: Path, tmp_path: Path) -> None:
    idle = ("cpuidle",) if Path("/sys/devices/system/cpu/cpu0/cpuidle").is_dir() else ()
    rows, _ = recorded(tmp_path, ("sleep", "0.3"), counters=("psi", "stat", "meminfo", *idle))
    assert {row["source"] for row in rows} >= {"stat", "meminfo"}
    (file,) = (tmp_path / "raw").glob("*/rows/counters.jsonl")
    stored = [row for line in file.read_text().splitlines() for row in json.loads(line[9:])["rows"]]
    assert sorted(map(str, stored)) == sorted(map(str, rows))
