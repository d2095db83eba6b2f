"""Live: segments follow one another without a gap; each stands alone; what is lost adds up over all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from accounts import Account, counted

from hindsight.capture.options import Duty, RecordOptions
from hindsight.capture.recording.record import record
from hindsight.capture.recording.tracers import Tracers


def drain_late(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Make the recorder drain on a slow timer alone, whatever its ring buffers hold."""
    monkeypatch.setattr(Tracers, "pause", lambda *_: seconds)
    monkeypatch.setattr(Tracers, "descriptors", [])


def test_by_size_without_losing_an_event(live: Path, tmp_path: Path) -> None:
    calls = 100_000
    seen: list[Path] = []
    recording = record(
        RecordOptions(tmp_path / "raw", counted(calls, 20_000, 0.4), rotate_bytes=1 << 20), sealed=seen.append
    )
    account = Account.of(tmp_path / "raw", tmp_path / "out")
    assert tuple(account.segments) == tuple(seen) == recording.segments
    assert recording.path == seen[-1]
    assert len(seen) >= 2
    assert recording.lost == 0
    assert account.check_calls(calls) == 0
    account.check_counts()
    assert recording.events == account.events
    assert [facts["closed"] for facts in account.facts] == ["rotation"] * (len(seen) - 1) + ["end"]
    assert [facts["segment"] for facts in account.facts] == list(range(len(seen)))
    for facts in account.facts:
        (capture,) = facts["tables"]["captures"]
        anchors = facts["tables"]["clock_anchors"]
        assert (anchors[0]["ts"], anchors[-1]["ts"]) == (capture["start_ns"], capture["end_ns"])
        assert facts["tables"]["devices"]
        # The program, which has /dev/zero open, and every one of its threads: as they were at the opening.
        assert facts["tables"]["tasks"]
        assert facts["recorder"]["raw_bytes"] > 0
    assert list((tmp_path / "raw").glob(".*")) == []


def test_by_time(live: Path, tmp_path: Path) -> None:
    recording = record(RecordOptions(tmp_path / "raw", ("sleep", "1.5"), rotate_s=0.4))
    account = Account.of(tmp_path / "raw", tmp_path / "out")
    assert 2 <= len(recording.segments) <= 5
    account.check_counts()
    lengths = [row["end_ns"] - row["start_ns"] for row in account.tables["captures"]]
    assert all(length >= 4e8 for length in lengths[:-1])


def test_losses_add_up_over_segments(live: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 100_000
    drain_late(monkeypatch, 0.1)
    options = RecordOptions(
        tmp_path / "raw", counted(calls, 10_000, 0.05), buffer_kb=128, rotate_bytes=200_000
    )
    recording = record(options)
    account = Account.of(tmp_path / "raw", tmp_path / "out")
    assert len(recording.segments) >= 2
    assert recording.lost > 0
    account.check_counts()
    missing = account.check_calls(calls)
    assert 0 < missing <= recording.lost
    # Two events a call, and those of the program's start and end.
    assert 0 <= account.of_the_command - 2 * calls < 3000


def test_trigger_seals_at_once(live: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hindsight", "capture", "record", "-o", str(tmp_path / "raw"), "--"]
    recorder = subprocess.Popen(
        [*command, "sh", "-c", "echo ready; exec sleep 100"], stdout=subprocess.PIPE, text=True
    )
    assert recorder.stdout is not None
    assert recorder.stdout.readline() == "ready\n"
    recorder.send_signal(signal.SIGUSR1)
    first = Path(recorder.stdout.readline().strip())
    assert first.is_dir() and recorder.poll() is None
    recorder.send_signal(signal.SIGINT)
    last = Path(recorder.stdout.readline().strip())
    assert recorder.wait(20) == 0
    recorder.stdout.close()
    account = Account.of(tmp_path / "raw", tmp_path / "out")
    assert account.segments == [first, last]
    assert [facts["closed"] for facts in account.facts] == ["trigger", "end"]
    account.check_counts()


def test_duty(live: Path, tmp_path: Path) -> None:
    """Half of the time: what is missing of the calls lies in the pauses, and nowhere else."""
    calls = 2000
    recording = record(RecordOptions(tmp_path / "raw", counted(calls, 10, 0.01), duty=Duty(0.4, 0.8)))
    account = Account.of(tmp_path / "raw", tmp_path / "out")
    assert len(recording.segments) >= 2
    pauses = [row for row in account.losses if row["cause"] == "paused: duty"]
    assert pauses and all(row["count_upper"] is None and row["count_lower"] == 0 for row in pauses)
    long = [row for row in pauses if row["to_ns"] - row["from_ns"] > 3e8]
    assert long, "a pause is at the end of one segment and goes on in the next"
    assert recording.lost == 0
    assert recording.unrecorded == ("paused: duty",)
    assert 0 < account.check_calls(calls, ["paused: duty"]) < calls
    inside = [
        row["pos"]
        for row in account.calls()
        for p in pauses
        if p["from_ns"] + 10**8 < row["ts"] < p["to_ns"] - 10**8
    ]
    assert inside == []


def test_threads_and_files_are_looked_at_anew(live: Path, tmp_path: Path) -> None:
    """What a program opened before a segment began is in that segment's descriptors."""
    data = tmp_path / "data"
    data.write_bytes(bytes(9000))
    script = f"exec 7< {data}; dd bs=100 count=3 <&7 >/dev/null 2>&1; sleep 0.6; sleep 0.6"
    record(RecordOptions(tmp_path / "raw", ("sh", "-c", script), rotate_s=0.5))
    account = Account.of(tmp_path / "raw", tmp_path / "out")
    assert len(account.facts) >= 2
    later = [row for row in account.facts[1]["tables"]["descriptors"] if row["fd"] == 7]
    assert later and {row["i_ino"] for row in later} == {os.stat(data).st_ino}
    assert {row["pos"] for row in later} == {300}
