"""Live: ring buffers that overwrite; what they hold is kept when asked for, and what is gone is counted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from accounts import Account, counted

from hindsight.capture.options import FLIGHT, Pressure, RecordOptions
from hindsight.capture.recording.pressure import QUIET_NS, PressureWatch
from hindsight.capture.recording.record import record
from hindsight.errors import NotPermittedError


def start(raw: Path, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "hindsight", "capture", "record", "-o", str(raw), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_the_end_is_kept(live: Path, tmp_path: Path) -> None:
    calls = 60_000
    recording = record(RecordOptions(tmp_path / "raw", counted(calls), buffer_kb=256, mode=FLIGHT))
    account = Account.of(tmp_path / "raw", tmp_path / "out")
    assert len(recording.segments) == 1
    assert all(instance["overwrite"] for instance in account.facts[0]["instances"].values())
    account.check_counts()
    missing = account.check_calls(calls, ["ring overrun"])
    assert 0 < missing <= recording.lost
    assert account.calls()[-1]["pos"] == calls - 1, "the latest events are there"
    # Two events a call; those of the program's start and end come on top.
    assert 0 <= account.of_the_command - 2 * calls < 3000


def test_dumps_while_it_goes_on(live: Path, tmp_path: Path) -> None:
    """Three dumps of a load that overwrites all the time: no call is missing that no loss accounts for."""
    calls = 300_000
    recorder = start(tmp_path / "raw", "--flight", "--buffer-kb", 256, "--", *counted(calls, 2000, 0.01))
    assert recorder.stdout is not None and recorder.stderr is not None
    until(lambda: list((live / "instances").glob(f"hindsight-*-{recorder.pid}-*-tasks")))
    paths = []
    for _ in range(2):
        time.sleep(0.5)
        recorder.send_signal(signal.SIGUSR1)
        paths.append(Path(recorder.stdout.readline().strip()))
        assert recorder.poll() is None
    paths.append(Path(recorder.stdout.readline().strip()))
    said = recorder.stderr.read()
    assert recorder.wait(30) == 0, said
    recorder.stdout.close()
    recorder.stderr.close()
    account = Account.of(tmp_path / "raw", tmp_path / "out")
    assert account.segments == paths
    assert [facts["closed"] for facts in account.facts] == ["trigger", "trigger", "end"]
    account.check_counts()
    missing = account.check_calls(calls, ["ring overrun"])
    lost = sum(row["count_lower"] for row in account.losses)
    assert 0 < missing <= lost
    assert 0 <= account.of_the_command - 2 * calls < 3000


def test_pressure_threshold(tmp_path: Path) -> None:
    """The kernel's own trigger on a real stall: two spinning processes on one processor."""
    if not os.access("/proc/pressure/cpu", os.W_OK):
        pytest.skip("no pressure stall information here that this user may watch")
    import select

    watch = PressureWatch([Pressure("cpu", "some", 50_000, 2_000_000)])
    cpu = min(os.sched_getaffinity(0))
    spin = ("taskset", "-c", str(cpu), "sh", "-c", "while :; do :; done")
    spinning = [subprocess.Popen(spin) for _ in range(2)]
    try:
        poller = select.poll()
        for descriptor in watch.descriptors:
            poller.register(descriptor, select.POLLPRI)
        ((_, event),) = poller.poll(10_000)
        assert event & select.POLLPRI
    finally:
        for process in spinning:
            process.kill()
            process.wait()
        watch.close()
    assert watch.descriptors == {}


def test_pressure_is_heeded_once_in_a_while(tmp_path: Path) -> None:
    for name in ("cpu", "io"):
        (tmp_path / name).write_text("")
    watch = PressureWatch([Pressure("io", "full", 1000, 500_000)], tmp_path)
    assert (tmp_path / "io").read_bytes() == b"full 1000 500000\0"
    assert [watch.heed(now) for now in (0, 1, QUIET_NS - 1, QUIET_NS, QUIET_NS + 1)] == [
        True, False, False, True, False,
    ]  # fmt: skip
    watch.close()
    with pytest.raises(NotPermittedError, match="no pressure stall information for memory"):
        PressureWatch([Pressure("memory", "some", 1000, 500_000)], tmp_path)


def test_pressure_makes_a_dump(live: Path, tmp_path: Path) -> None:
    if not os.access("/proc/pressure/cpu", os.W_OK):
        pytest.skip("no pressure stall information here that this user may watch")
    cpu = min(os.sched_getaffinity(0))
    recorder = start(
        tmp_path / "raw", "--flight", "--psi", "cpu:some:50ms/2s", "--",
        "sh", "-c", f"taskset -c {cpu} sh -c 'while :; do :; done' & A=$!; "
        f"taskset -c {cpu} sh -c 'while :; do :; done' & B=$!; sleep 4; kill $A $B",
    )  # fmt: skip
    out, said = recorder.communicate(timeout=60)
    assert recorder.returncode == 0, said
    account = Account.of(tmp_path / "raw", tmp_path / "out")
    assert [str(path) for path in account.segments] == out.split()
    assert [facts["closed"] for facts in account.facts] == ["trigger", "end"], "one in ten seconds"
    account.check_counts()
