"""Budgets on this host: what is given up is written down and comes back; what is kept verifies."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from hindsight.capture.conversion.convert import convert
from hindsight.capture.segments.segment import open_segment

MIB = 1 << 20
NOWHERE = ("--device", "7:250")  # no event of a device is wanted: only what the command itself does
LOAD = """
import os, sys, time
descriptor = os.open(sys.argv[0], os.O_RDONLY)
def mark(offset):
    os.pread(descriptor, 1, offset)
mark(1 << 40)
for word in sys.argv[1:]:
    rate, _, seconds = word.partition(":")
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        for _ in range(max(int(rate) // 100, 1)):
            os.pread(descriptor, 100, 0)
        if int(rate) < 1_000_000:
            time.sleep(0.01)
    mark((1 << 40) + 1)
"""


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., tuple[str, ...]]:
    """A command that calls pread64(2) so often: words RATE:SECONDS; it marks the end of each."""
    script = tmp_path / "load.py"
    script.write_text(LOAD)

    def command(*words: str) -> tuple[str, ...]:
        return ("--", sys.executable, "-I", str(script), *words)

    return command


@contextmanager
def recorder(out: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A recorder in the background; it is ended when nobody did."""
    command = [sys.executable, "-m", "hindsight", "capture", "record", "-o", str(out), *arguments]
    with (out.parent / "stderr").open("w") as messages:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=messages, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(30)


def said(out: Path) -> str:
    return (out.parent / "stderr").read_text()


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def sealed(out: Path) -> list[Path]:
    return sorted(path for path in out.iterdir() if not path.name.startswith("."))


def facts(out: Path) -> list[dict[str, Any]]:
    """Of every segment, verified."""
    return [open_segment(path).facts for path in sealed(out)]


def losses(out: Path, cause: str) -> list[dict[str, Any]]:
    return [row for each in facts(out) for row in each["losses"] if row["cause"] == cause]


def rows(out: Path, table: str) -> list[dict[str, Any]]:
    target = out.parent / "parquet"
    convert(sealed(out), target)
    found = [
        row
        for f in sorted(target.glob(f"host=*/date=*/{table}/*.parquet"))
        for row in pq.read_table(f).to_pylist()
    ]
    return sorted(found, key=lambda row: row.get("ts", 0))


def allocated(out: Path) -> int:
    run = subprocess.run(["du", "-s", "-B1", str(out)], capture_output=True, text=True, check=False)
    return int(run.stdout.split()[0])


def test_max_rate(live: Path, tmp_path: Path, load: Callable[..., tuple[str, ...]]) -> None:
    out = tmp_path / "raw"
    with recorder(out, *NOWHERE, "--max-rate", "2000", *load("1000000:1.5", "100:5")) as process:
        assert process.wait(60) == 0
    shed = losses(out, "budget shed: rate")
    assert {"syscalls/sys_enter_pread64", "syscalls/sys_exit_pread64"} <= {row["event"] for row in shed}
    assert all(row["count_lower"] == 0 and row["count_upper"] is None for row in shed)
    assert all(row["from_ns"] < row["to_ns"] for row in shed)
    assert "not recording" in said(out) and "again" in said(out)
    preads = rows(out, "sys_enter_pread64")
    away = [(r["from_ns"], r["to_ns"]) for r in shed if r["event"] == "syscalls/sys_enter_pread64"]
    slack = 100_000_000  # the row begins before the event is off, and ends after it is on
    assert not [row for row in preads if any(a + slack < row["ts"] < b - slack for a, b in away)]
    # The end of the calm part is recorded again, whole.
    last = preads[-1]["ts"]
    assert preads[-1]["pos"] == (1 << 40) + 1 and max(b for _, b in away) < last
    assert [row for row in preads if max(b for _, b in away) < row["ts"] < last]


@pytest.mark.slow
def test_max_cpu(live: Path, tmp_path: Path, load: Callable[..., tuple[str, ...]]) -> None:
    out = tmp_path / "raw"
    with recorder(out, *NOWHERE, "--max-cpu", "0.3%", *load("1000000:6")) as process:
        assert process.wait(60) == 0
    away = losses(out, "budget shed: cpu") + losses(out, "paused: cpu")
    assert away
    begin, end = min(row["from_ns"] for row in away), max(row["to_ns"] for row in away)
    assert not losses(out, "decode error")
    assert [row for row in rows(out, "sys_enter_pread64") if row["ts"] < begin < end]


def test_max_memory(live: Path, tmp_path: Path) -> None:
    out = tmp_path / "raw"
    with recorder(out, "--max-memory", "48M", "--", "true") as process:
        assert process.wait(30) == 0
    (segment,) = facts(out)
    cpus = os.cpu_count() or 1
    rings = sum(instance["buffer_kb"] for instance in segment["instances"].values()) * 1024 * cpus
    assert rings < 16384 * 1024 * cpus
    assert rings + segment["recorder"]["peak_rss_bytes"] <= 48 * MIB


def test_too_little_memory(live: Path, tmp_path: Path) -> None:
    out = tmp_path / "raw"
    with recorder(out, "--max-memory", "4M", "--", "true") as process:
        assert process.wait(30) == 3
    assert "--max-memory of at least" in said(out)


@pytest.mark.slow
def test_max_disk(live: Path, tmp_path: Path, load: Callable[..., tuple[str, ...]]) -> None:
    out = tmp_path / "raw"
    limit = 24 * MIB
    most = 0
    command = load("40000:3600")
    with recorder(out, *NOWHERE, "--max-disk", "24M", "--rotate-size", "2M", *command) as process:

        def paused() -> bool:
            nonlocal most
            most = max(most, allocated(out)) if out.exists() else 0
            return said(out).count("pauses (disk)") > said(out).count("goes on")

        for _ in range(2):
            until(paused, 60)
            for path in sealed(out)[: len(sealed(out)) * 3 // 4]:
                shutil.rmtree(path)
            until(lambda: not paused())
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        paths = (process.stdout.read() if process.stdout else "").split()
    assert most <= limit
    assert allocated(out) <= limit
    assert {str(path) for path in sealed(out)} <= set(paths)
    away = losses(out, "paused: disk")
    assert all(row["count_upper"] is None and row["event"] is None for row in away)
    (last,) = [row for row in away if row["to_ns"] == max(r["to_ns"] for r in away)][:1]
    preads = [row["ts"] for row in rows(out, "sys_enter_pread64")]
    assert not [ts for ts in preads if last["from_ns"] + 100_000_000 < ts < last["to_ns"]]
    assert [ts for ts in preads if ts > last["to_ns"]]
    assert not losses(out, "decode error")


def test_a_disk_that_is_full_from_the_beginning(live: Path, tmp_path: Path) -> None:
    out = tmp_path / "raw"
    recording = out / "earlier-0000"
    recording.mkdir(parents=True)
    (recording / "manifest.json").write_text(json.dumps({}))
    (recording / "pages").write_bytes(b"x" * 9 * MIB)
    with recorder(out, *NOWHERE, "--max-disk", "8M", "--", "sleep", "0.8") as process:
        assert process.wait(30) == 0
    shutil.rmtree(recording)
    assert losses(out, "paused: disk")
    assert "pauses (disk)" in said(out)
