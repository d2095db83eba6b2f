"""A file system that is full while recording: a pause that is written down, nothing torn, and on it goes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from hindsight.capture.conversion.convert import convert
from hindsight.capture.profiles import INSTANCES
from hindsight.capture.segments.segment import open_segment

MIB = 1 << 20
LOAD = """
import os, sys, time
descriptor = os.open(sys.argv[0], os.O_RDONLY)
number = 0
while True:
    for _ in range(100):
        os.pread(descriptor, 1, number)
        number += 1
    time.sleep(float(sys.argv[1]))
"""


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """An ext4 file system of 16 MiB."""
    for program in ("losetup", "mkfs.ext4", "mount", "umount"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    image = tmp_path / "image"
    with image.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 16 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", str(image)], check=True)
    attached = subprocess.run(
        ["losetup", "-f", "--show", str(image)], capture_output=True, text=True, check=False
    )
    if attached.returncode:
        pytest.skip(f"no loop device: {attached.stderr.strip()}")
    device = attached.stdout.strip()
    where = tmp_path / "mounted"
    where.mkdir()
    try:
        subprocess.run(["mount", device, str(where)], check=True)
        try:
            yield where
        finally:
            subprocess.run(["umount", str(where)], check=True)
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def fill(path: Path) -> None:
    """Take all the space that is left."""
    with path.open("wb", buffering=0) as file:
        block = bytes(64 << 10)
        while block:
            try:
                file.write(block)
            except OSError:
                block = block[: len(block) // 2]


class Recorder:
    """A recorder of a load that reads without end, numbering its reads by their offset."""

    def __init__(self, out: Path, scratch: Path, *options: str, pace: float = 0.002) -> None:
        self.out = out
        self.messages = scratch / "messages"
        script = scratch / "load.py"
        script.write_text(LOAD)
        command = [sys.executable, "-m", "hindsight", "capture", "record", "-o", str(out)]
        command += ["--device", "7:250", *options, "--", sys.executable, "-I", str(script), str(pace)]
        with self.messages.open("w") as messages:
            self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=messages)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)

    def said(self, text: str) -> int:
        return self.messages.read_text().count(text)

    def paused(self) -> bool:
        return self.said("pauses (disk)") > self.said("goes on")

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def sealed(out: Path) -> list[Path]:
    return sorted(path for path in out.iterdir() if not path.name.startswith("."))


def rows(segments: list[Path], target: Path, table: str) -> list[dict[str, Any]]:
    convert(segments, target)
    files = sorted(target.glob(f"host=*/date=*/{table}/*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def check(segments: list[Path], target: Path) -> None:
    """All verify; reads are missing only where the losses say so."""
    recorded = lost = 0
    intervals = []
    for path in segments:
        facts = open_segment(path).facts
        for name, instance in facts["instances"].items():
            for cpu, after in instance["stats_after"].items():
                recorded += after["read events"] - instance["stats_before"][cpu]["read events"]
            assert name in INSTANCES
        intervals += [(row["from_ns"], row["to_ns"]) for row in facts["losses"]]
        lost += sum(row["count_lower"] for row in facts["losses"])
    assert recorded
    losses = rows(segments, target, "losses")
    assert not [row for row in losses if row["cause"].startswith("decode error")]
    reads = sorted((row["ts"], row["pos"]) for row in rows(segments, target, "sys_enter_pread64"))
    gaps = [
        (before, after)
        for (before, first), (after, second) in pairwise(reads)
        if second > first + 1  # the same page twice, and the first again, are the workload's own
    ]
    slack = 50_000_000
    for before, after in gaps:
        assert any(begin - slack <= after and before <= end + slack for begin, end in intervals), (
            before,
            after,
        )


@pytest.mark.slow
def test_space_runs_out_slowly(live: Path, small: Path, tmp_path: Path) -> None:
    """The recorder fills the disk itself: it stops before, and goes on when somebody makes room."""
    out = small / "raw"
    with Recorder(out, tmp_path, "--min-free", "0", "--rotate-size", "2M") as recorder:
        until(recorder.paused)
        until(lambda: len(sealed(out)) >= 2)
        for path in sealed(out)[:-2]:
            shutil.rmtree(path)
        until(lambda: recorder.said("goes on"))
        assert recorder.process.poll() is None
        time.sleep(1)
        assert recorder.end() == 0
    assert [name for name in os.listdir(out) if name.startswith(".recording")] == []
    segments = sealed(out)
    causes = [row["cause"] for path in segments for row in open_segment(path).facts["losses"]]
    assert "paused: disk" in causes
    check(segments, tmp_path / "parquet")


def test_space_runs_out_at_once(live: Path, small: Path, tmp_path: Path) -> None:
    """Somebody else takes all the space between two looks: writes fail."""
    out = small / "raw"
    with Recorder(out, tmp_path, "--min-free", "0", "--rotate-size", "64M") as recorder:
        until(lambda: list(out.glob(".recording-*/raw/tasks/*.pages")) if out.exists() else False)
        time.sleep(0.5)
        fill(small / "filler")
        until(recorder.paused)
        until(lambda: sealed(out))
        time.sleep(0.7)
        assert recorder.paused()
        assert recorder.process.poll() is None
        (small / "filler").unlink()
        until(lambda: not recorder.paused())
        time.sleep(0.5)
        assert recorder.end() == 0
    segments = sealed(out)
    assert len(segments) >= 2
    causes = [row["cause"] for path in segments for row in open_segment(path).facts["losses"]]
    assert "paused: disk" in causes
    check(segments, tmp_path / "parquet")


def test_it_ends_while_there_is_no_space(live: Path, small: Path, tmp_path: Path) -> None:
    out = small / "raw"
    with Recorder(out, tmp_path, "--min-free", "0") as recorder:
        until(lambda: list(out.glob(".recording-*/raw/tasks/*.pages")) if out.exists() else False)
        time.sleep(0.5)
        fill(small / "filler")
        until(recorder.paused)
        until(lambda: sealed(out))
        assert recorder.end() == 0
    check(sealed(out), tmp_path / "parquet")


@pytest.mark.slow
def test_more_in_memory_than_fits(live: Path, small: Path, tmp_path: Path) -> None:
    """The ring buffers hold more than the disk: they are kept until the end, and then as far as it goes."""
    out = small / "raw"
    options = ("--min-free", "0", "--flight", "--buffer-kb", "16384")
    with Recorder(out, tmp_path, *options, pace=0) as recorder:
        until(lambda: list(out.glob(".recording-*/raw/tasks/*.pages")) if out.exists() else False)
        time.sleep(3)
        until(recorder.paused)
        recorder.process.send_signal(signal.SIGUSR1)
        time.sleep(0.5)
        assert recorder.process.poll() is None
        assert recorder.end() == 0
    segments = sealed(out)
    losses = [row for path in segments for row in open_segment(path).facts["losses"]]
    assert "paused: disk" in {row["cause"] for row in losses}
    check(segments, tmp_path / "parquet")
