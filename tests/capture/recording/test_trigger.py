"""``trigger`` signals recorders, waits for their segments, and never touches a stranger."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hindsight.capture import host, owner
from hindsight.capture.operation import state
from hindsight.capture.operation.trigger import choose, trigger
from hindsight.capture.owner import Owner
from hindsight.errors import HindsightError, NotPermittedError, UsageError

Run = Callable[..., subprocess.CompletedProcess[str]]
CATCHES = "import signal,time; signal.signal(signal.SIGUSR1, lambda *_: print('usr1', flush=True)); " \
    "print('ready', flush=True)\nwhile True: time.sleep(0.05)"  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "run"
    directory.mkdir()
    monkeypatch.setattr(state, "directories", lambda: [directory])
    return directory


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    """A process that catches SIGUSR1, as a recorder does."""
    started = subprocess.Popen([sys.executable, "-c", CATCHES], stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    yield started
    started.kill()
    started.communicate()


def identity(pid: int) -> Owner:
    return Owner(owner.own().namespace, pid, owner._start_ticks(pid) or 0)


def write(place: Path, who: Owner, **changes: Any) -> state.State:
    values = {"capture": "c", "owner": who.as_dict(), "out": str(place), "boot": host.boot_id()} | changes
    path = place / f"{values['capture']}.json"
    state.write(path, values)
    found = state.read(path)
    assert found is not None
    return found


def test_the_segment_that_was_open_is_waited_for(place: Path, process: subprocess.Popen[str]) -> None:
    (place / "c-0006").mkdir()
    (place / ".recording-c-0007").mkdir()
    found = write(place, identity(process.pid))
    assert process.stdout is not None

    def seal() -> None:
        assert process.stdout is not None
        process.stdout.readline()
        (place / ".recording-c-0007").rename(place / "c-0007")

    sealer = threading.Thread(target=seal)
    sealer.start()
    assert trigger(found, 10) == place / "c-0007"
    sealer.join()


def test_no_wait(place: Path, process: subprocess.Popen[str]) -> None:
    assert trigger(write(place, identity(process.pid)), None) is None
    assert process.stdout is not None
    assert process.stdout.readline() == "usr1\n"


def test_time_is_over(place: Path, process: subprocess.Popen[str]) -> None:
    with pytest.raises(HindsightError, match="no segment was sealed"):
        trigger(write(place, identity(process.pid)), 0.1)


def test_a_recorder_that_ends(place: Path, process: subprocess.Popen[str]) -> None:
    found = write(place, identity(process.pid))
    threading.Timer(0.1, process.kill).start()
    with pytest.raises(HindsightError, match="has ended"):
        trigger(found, 10)


def test_a_stranger_is_never_signalled(place: Path) -> None:
    """Another process has the id now; or the process would die of the signal."""
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        ticks = owner._start_ticks(stranger.pid) or 0
        with pytest.raises(HindsightError, match="has ended"):
            trigger(write(place, Owner(owner.own().namespace, stranger.pid, ticks + 1)), 1)
        with pytest.raises(HindsightError, match="does not wait for a trigger"):
            trigger(write(place, identity(stranger.pid)), 1)
        with pytest.raises(NotPermittedError, match="pid namespace"):
            trigger(write(place, Owner(1, stranger.pid, ticks)), 1)
        time.sleep(0.05)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
    assert -stranger.returncode == signal.SIGKILL


@pytest.mark.skipif(os.geteuid() != 0, reason="another user is needed")
def test_a_user_cannot_make_root_signal_anothers_process(place: Path, process: subprocess.Popen[str]) -> None:
    found = write(place, identity(process.pid))
    os.chown(place, 65534, 65534)
    os.chown(found.path, 65534, 65534)
    (believed,) = state.running([place])
    with pytest.raises(HindsightError, match="no recorder of the user"):
        trigger(believed, 1)


def test_which_recorder_is_meant(place: Path, process: subprocess.Popen[str]) -> None:
    with pytest.raises(HindsightError, match="no recorder runs"):
        choose(None, False)
    write(place, identity(process.pid), capture="a")
    assert [s.capture for s in choose(None, False)] == ["a"]
    write(place, identity(process.pid), capture="b")
    write(place, Owner(owner.own().namespace, process.pid, 1), capture="dead")
    with pytest.raises(UsageError, match="2 recorders run"):
        choose(None, False)
    assert [s.capture for s in choose(None, True)] == ["a", "b"]
    assert [s.capture for s in choose("b", False)] == ["b"]
    with pytest.raises(UsageError, match="no recorder x"):
        choose("x", False)
    with pytest.raises(HindsightError, match="dead"):
        choose("dead", False)


def test_usage(hindsight: Run) -> None:
    assert hindsight("capture", "trigger", "x", "--all").returncode == 2
    assert hindsight("capture", "trigger", "--timeout", "0").returncode == 2
    assert hindsight("capture", "trigger", "no-such-capture").returncode == 2


def test_a_real_recorder_seals_and_goes_on(live: Path, hindsight: Run, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hindsight", "capture", "record", "-o", str(tmp_path / "raw")]
    recorder = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert recorder.stderr is not None and recorder.stdout is not None
        assert "whole host" in recorder.stderr.readline()
        (capture,) = {s.capture for s in state.running() if s.owner.pid == recorder.pid}
        sealed = []
        for _ in range(2):
            done = hindsight("capture", "trigger", capture)
            assert done.returncode == 0, done.stderr
            sealed.append(Path(done.stdout.strip()))
        assert [path.name for path in sealed] == [f"{capture}-0000", f"{capture}-0001"]
        assert all((path / "manifest.json").is_file() for path in sealed)
        assert recorder.poll() is None
    finally:
        recorder.terminate()
        out, _ = recorder.communicate(timeout=30)
    assert recorder.returncode == 0
    assert out.splitlines()[:2] == [str(path) for path in sealed]
