"""Live: what is recorded and what is lost are all, within a segment, across segments, and after a kill."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from followed import Reader, count, decoded, total
from forked import Forked

from hindsight.capture import schema
from hindsight.capture.bpf.tracer import OpenFilesTracer
from hindsight.capture.conversion.convert import convert
from hindsight.capture.perf import rings
from hindsight.capture.recording.record import RecordOptions, record
from hindsight.capture.schema import openfiles


def test_recorded_and_lost_are_all(
    tracer_of: Callable[..., OpenFilesTracer], data: Path, tmp_path: Path
) -> None:
    """A ring buffer too small for a program of known reads."""
    tracer = tracer_of(16)
    reader = Reader(data, 50_000, pause_s=0.2)
    tracer.follow([reader.pid])
    tracer.on()
    tracer.drain()
    reader.go()
    while reader.running():
        tracer.drain()
        time.sleep(0.003)
    tracer.off()
    tracer.finish()
    stats = tracer.stats()
    lost = total(stats, "dropped events")
    rows = decoded(tmp_path / "raw0")
    assert lost > 1000
    assert sum(count(rows).values()) == total(stats, "read events")
    # It was opened, read once and 50,000 times, and released.
    others = count(rows)["opens"] - 1
    assert total(stats, "read events") + lost == others + 1 + 1 + 50_000 + 1


@pytest.mark.parametrize("fallback", [False, True])
def test_cuts_while_it_reads(
    tracer_of: Callable[..., OpenFilesTracer],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fallback: bool,
) -> None:
    """Each file holds exactly what the counters say was read between two cuts."""
    tracer = tracer_of(64)
    if fallback:

        def nowhere(*_: object) -> None:
            raise OSError(errno.EINVAL, "no such processor")

        monkeypatch.setattr(rings.os, "sched_setaffinity", nowhere)
    stop = tmp_path / "stop"

    def read() -> None:
        until = time.monotonic() + 60  # should the test fail
        fd = os.open(data, os.O_RDONLY)
        while not stop.exists() and time.monotonic() < until:
            for number in range(1000):
                os.pread(fd, 1, number)

    reader = Forked(read)
    tracer.follow([reader.pid])
    tracer.on()
    reader.go()
    before = {cpu: 0 for cpu in rings.online_cpus()}
    full = 0
    for cut in range(1000):
        time.sleep(0.01)
        tracer.drain()
        tracer.finish()
        counted = {cpu: counters["read events"] for cpu, counters in tracer.stats().items()}
        (tmp_path / f"raw{cut + 1}").mkdir()
        tracer.rotate(tmp_path / f"raw{cut + 1}")
        rows = sum(count(decoded(tmp_path / f"raw{cut}")).values())
        assert rows == sum(counted[cpu] - before[cpu] for cpu in counted)
        before = counted
        full += rows > 0
        if full == 4:
            break
    assert full == 4
    stop.touch()
    reader.wait()
    tracer.off()


def test_open_files_are_described_again_in_the_next_segment(
    tracer_of: Callable[..., OpenFilesTracer], data: Path, tmp_path: Path
) -> None:
    tracer = tracer_of()
    fd = os.open(data, os.O_RDONLY)
    tracer.follow([os.getpid()])
    tracer.on()
    os.pread(fd, 31, 0)
    tracer.finish()
    (tmp_path / "raw1").mkdir()
    tracer.rotate(tmp_path / "raw1")
    os.pread(fd, 32, 0)
    os.pread(fd, 33, 0)
    tracer.off()
    tracer.finish()
    os.close(fd)
    first, second = decoded(tmp_path / "raw0"), decoded(tmp_path / "raw1")
    (ordinal,) = first["file_reads"]["ordinal"][first["file_reads"]["count"] == 31]
    opens = second["opens"]
    assert opens["origin"][opens["ordinal"] == ordinal].tolist() == [openfiles.OPENED_AGAIN]
    again = second["file_reads"]
    assert again["ordinal"][(again["count"] == 32) | (again["count"] == 33)].tolist() == [ordinal, ordinal]


def test_a_recording_accounts_for_all(allowed: None, live: Path, data: Path, tmp_path: Path) -> None:
    """Through `record`, with ring buffers that are too small, and converted: rows and losses are all."""
    program = f"import os\nfd = os.open({str(data)!r}, 0)\nfor n in range(200000): os.pread(fd, 1, n)"
    command = (sys.executable, "-S", "-c", program)
    options = RecordOptions(tmp_path / "raw", command, buffer_kb=64, open_files=True, rotate_bytes=1 << 20)
    done = record(options, lambda text: None)
    assert done.status == 0 and done.lost > 0
    convert([tmp_path / "raw"], tmp_path / "dataset")
    rows = sum(
        pq.read_metadata(path).num_rows
        for path in (tmp_path / "dataset").rglob("*.parquet")
        if schema.TABLES[path.parent.name].tracepoint
    )
    losses = [
        row
        for path in (tmp_path / "dataset").rglob("losses/*.parquet")
        for row in pq.read_table(path).to_pylist()
    ]
    assert {row["cause"] for row in losses} <= {"ring full"}
    assert sum(row["count_lower"] for row in losses) == done.lost
    assert rows == done.events


def test_what_a_killed_recorder_left_is_sealed(
    allowed: None, live: Path, data: Path, tmp_path: Path, hindsight: Callable[..., Any]
) -> None:
    program = (
        f"import os, time\nfd = os.open({str(data)!r}, 0)\n"
        "for _ in range(20000): os.pread(fd, 7, 0); time.sleep(0.001)"
    )
    command = [
        sys.executable,
        "-m",
        "hindsight",
        "capture",
        "record",
        "-o",
        str(tmp_path / "raw"),
        "--open-files",
    ]
    nothing = subprocess.DEVNULL  # what outlives this test holds nothing of it
    recorder = subprocess.Popen(
        [*command, "--", sys.executable, "-S", "-c", program], stdout=nothing, stderr=nothing
    )
    files = tmp_path / "raw"
    until = time.monotonic() + 30
    while time.monotonic() < until and not sum(
        p.stat().st_size > 8192 for p in files.glob(".rec*/raw/files/*")
    ):
        time.sleep(0.1)
    recorder.kill()
    recorder.wait()
    assert hindsight("capture", "clean", "-o", files).returncode == 0
    convert([files], tmp_path / "dataset")
    (path,) = (tmp_path / "dataset").rglob("file_reads/*.parquet")
    assert 7 in pq.read_table(path)["count"].to_pylist()
    (path,) = (tmp_path / "dataset").rglob("losses/*.parquet")
    died = [row for row in pq.read_table(path).to_pylist() if row["cause"] == "recorder died"]
    assert any(row["count_upper"] is None for row in died)  # what its ring buffers held is gone


def test_a_whole_host_without_the_recorder(allowed: None, live: Path, data: Path, tmp_path: Path) -> None:
    read = f"import os, time\ntime.sleep(1)\nfd = os.open({str(data)!r}, 0)\nos.pread(fd, 4321, 5)"
    reader = subprocess.Popen([sys.executable, "-S", "-c", read])
    done = record(RecordOptions(tmp_path / "raw", duration=2.5, open_files=True), lambda text: None)
    assert reader.wait() == 0
    convert([tmp_path / "raw"], tmp_path / "dataset")
    (path,) = (tmp_path / "dataset").rglob("file_reads/*.parquet")
    reads = pq.read_table(path).to_pydict()
    assert (reader.pid, 4321, 5) in set(zip(reads["pid"], reads["count"], reads["pos"], strict=True))
    assert os.getpid() not in reads["pid"]
    assert done.lost == 0
