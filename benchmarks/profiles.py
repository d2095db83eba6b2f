"""What each recording profile and each set of counters comes to on a stated workload: events, bytes, CPU.

The workload, ``WORKLOAD`` below: for some seconds, 50 rounds a second, on an ext4 of its own behind a loop
device: a cold read of 64 KiB, a cached one, a write of 16 KiB that is forced to the device every tenth round,
and a short-lived child every fiftieth. The command alone is recorded, of devices the loop device alone; of
processors, reclaim and DAMON all that happens on the host meanwhile. Needs root. ``profiles.py [SECONDS]``.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from hindsight.capture.conversion.convert import convert
from hindsight.capture.counters.source import SETS
from hindsight.capture.options import RecordOptions
from hindsight.capture.profiles import PROFILES
from hindsight.capture.recording.record import record
from hindsight.capture.schema import TABLES
from hindsight.capture.segments.segment import open_segment

SECONDS = 20.0
HOUR = 3600
EVERY_S = 1.0
WORKLOAD = """
import os, subprocess, sys, time
place, until, round = sys.argv[1], time.monotonic() + float(sys.argv[2]), 0
data = os.open(place + "/data", os.O_RDONLY)
log = os.open(place + "/log", os.O_RDWR | os.O_CREAT)
size = os.fstat(data).st_size
while time.monotonic() < until:
    at = round * (1 << 16) * 7 % size
    os.posix_fadvise(data, at, 1 << 16, os.POSIX_FADV_DONTNEED)
    os.pread(data, 1 << 16, at)
    os.pread(data, 1 << 12, 0)
    os.pwrite(log, bytes(1 << 14), round * (1 << 14) % (16 << 20))
    if round % 10 == 9: os.fsync(log)
    if round % 50 == 49: subprocess.run(["/bin/true"])
    round += 1
    time.sleep(0.02)
"""


@contextlib.contextmanager
def scratch(directory: Path) -> Iterator[Path]:
    """An ext4 of 256 MiB on a loop device with direct I/O, and a file of 64 MiB on it."""

    def run(*words: object) -> str:
        done = subprocess.run([str(w) for w in words], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    image, where = directory / "image", directory / "mnt"
    where.mkdir()
    with open(image, "xb") as file:
        os.posix_fallocate(file.fileno(), 0, 256 << 20)
    node = run("losetup", "--find", "--show", "--direct-io=on", image)
    try:
        run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", node)
        run("mount", "-o", "noatime", node, where)
        try:
            (where / "data").write_bytes(os.urandom(64 << 20))
            os.sync()
            yield where
        finally:
            run("umount", where)
    finally:
        run("losetup", "--detach", node)


def measure(where: Path, seconds: float, **options: Any) -> dict[str, float]:
    """Record and convert once; figures per second."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        raw, data = Path(directory) / "raw", Path(directory) / "data"
        command = (sys.executable, "-S", "-c", WORKLOAD, str(where), str(seconds))
        number = os.stat(where).st_dev
        asked = RecordOptions(
            raw, command, devices=((os.major(number), os.minor(number)),), every_s=EVERY_S, **options
        )
        done = record(asked, lambda text: None)
        convert([raw], data)
        facts = open_segment(done.path).facts
        span = (facts["recorder"]["to_ns"] - facts["recorder"]["from_ns"]) / 1e9
        bytes_of = {"events": 0, "counters": 0}
        rows = 0
        for path in data.glob("host=*/date=*/*/*.parquet"):
            table = path.parent.name
            if table == "counters":
                rows = pq.ParquetFile(path).metadata.num_rows
                bytes_of["counters"] += path.stat().st_size
            elif TABLES[table].tracepoint:
                bytes_of["events"] += path.stat().st_size
        sampled = sum(path.stat().st_size for path in raw.glob("*/rows/*.jsonl"))
        return {
            "events": done.events / span,
            "lost": done.lost,
            "raw": facts["recorder"]["raw_bytes"] / span,
            "parquet": bytes_of["events"] / span,
            "cpu": facts["recorder"]["cpu_ns"] / 1e9 / span,
            "rows": rows / span,
            "rows raw": sampled / span,
            "rows parquet": bytes_of["counters"] / span,
        }


def main(seconds: float) -> None:
    if os.geteuid() != 0:
        print("skipped: recording needs root")
        return
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory, scratch(Path(directory)) as where:
        heads = f"{'raw MB/h':>9} {'Parquet MB/h':>13}"
        print(f"{'profile':24} {'events/s':>9} {heads} {'bytes/event':>12} {'CPU':>6}")
        for name in (*PROFILES, "readahead+sched", "+".join(PROFILES)):
            got = measure(where, seconds, profile=name)
            each = got["parquet"] / got["events"] if got["events"] else 0.0
            lost = f"  {got['lost']:.0f} LOST" if got["lost"] else ""
            print(
                f"{name if name.count('+') < 2 else 'all of them':24} {got['events']:9,.0f} "
                f"{got['raw'] * HOUR / 1e6:9.1f} {got['parquet'] * HOUR / 1e6:13.2f} {each:12.1f} "
                f"{got['cpu']:6.1%}{lost}",
                flush=True,
            )
        print()
        print(f"{'counters every 1 s':24} {'rows/s':>9} {heads}")
        for name in SETS:
            got = measure(where, seconds, profile="damon", counters=(name,))
            print(
                f"{name:24} {got['rows']:9,.1f} {got['rows raw'] * HOUR / 1e6:9.2f} "
                f"{got['rows parquet'] * HOUR / 1e6:13.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS)
