"""What recording through perf_event_open costs beside ftrace: in the workload, in the recorder, on disk.

A program makes a known number of system calls, recorded by neither, by ftrace and by perf in turns; CPU time
(user and system) of the program and of the recorder, medians. Needs root.
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

from hindsight.capture.options import FTRACE, PERF
from hindsight.capture.recording.record import RecordOptions, record
from hindsight.capture.segments.segment import open_segment

CALLS = 400_000
ROUNDS = 5
PROGRAM = f"""
import os
fd, seek = os.open("/proc/self/exe", os.O_RDONLY), os.lseek
for _ in range({CALLS}):
    seek(fd, 0, 0)
"""


def children_ns() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (used.ru_utime + used.ru_stime) * 1e9


def plain() -> float:
    before = children_ns()
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-S", "-c", PROGRAM]) == 0
    return children_ns() - before


def recorded(source: str, out: Path) -> dict[str, float]:
    before = children_ns()
    begun = time.monotonic()
    options = RecordOptions(out, (sys.executable, "-S", "-c", PROGRAM), buffer_kb=65536, source=source)
    done = record(options, lambda text: None)
    wall = time.monotonic() - begun
    used = children_ns() - before
    facts = open_segment(done.path).facts
    assert done.lost == 0
    return {
        "program": used,
        "events": done.events,
        "recorder": facts["recorder"]["cpu_ns"] / done.events,
        "bytes": facts["recorder"]["raw_bytes"] / done.events,
        "wall": wall,
    }


def main() -> None:
    """Print a table: one line for each source."""
    plains: list[float] = []
    results: dict[str, list[dict[str, float]]] = {FTRACE: [], PERF: []}
    with tempfile.TemporaryDirectory() as name:
        for number in range(ROUNDS):
            plains.append(plain())
            for source, runs in results.items():
                runs.append(recorded(source, Path(name, f"{source}{number}")))
    base = statistics.median(plains)
    print(f"{CALLS} system calls, {base / 1e6:.0f} ms of CPU unrecorded; load {os.getloadavg()[0]:.1f}")
    print("source   workload ns/event  recorder ns/event  bytes/event  whole run s")
    for source, runs in results.items():
        median = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        extra = (median["program"] - base) / median["events"]
        print(
            f"{source:8} {extra:17.0f} {median['recorder']:18.0f}"
            f" {median['bytes']:12.1f} {median['wall']:12.2f}"
        )


if __name__ == "__main__":
    main()
