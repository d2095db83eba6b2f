"""From starting `hindsight capture record` to its first event, while a process makes a call every ms."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import children
import recorders
from figures import Figure, sample

from hindsight.capture.conversion.events import index_segment
from hindsight.capture.segments.segment import find_segments, open_segment

TICKER = """
import os, time
fd = os.open("/proc/self/exe", os.O_RDONLY)
while True:
    os.pread(fd, 1, 0)
    time.sleep(0.001)
"""


def measure(directory: Path, runs: int) -> list[Figure]:
    """The figure."""
    ticker = subprocess.Popen([sys.executable, "-I", "-S", "-c", TICKER])
    try:
        seconds = sample([_once(directory / str(number)) for number in range(runs)])
    finally:
        ticker.kill()
        ticker.wait()
    value = f"{seconds.median:.2f} s (of {runs}: {min(seconds.values):.2f} … {max(seconds.values):.2f})"
    details = {"seconds": seconds.as_dict()}
    return [Figure("record: start to first event", value, "≤ 0.3 s", seconds.median <= 0.3, details)]


def _once(out: Path) -> float:
    begin = time.monotonic_ns()
    children.run([*recorders.HINDSIGHT, "capture", "record", "-o", str(out), "--duration", "0.5"])
    path = find_segments([out])[0]
    (tasks,) = (trace for trace in index_segment(open_segment(path)) if trace.name == "tasks")
    first = min(int(index.low.min()) for index in tasks.cpus if index.low.size)
    shutil.rmtree(out)
    return (first - begin) / 1e9
