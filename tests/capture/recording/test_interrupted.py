"""Live: recorders that are killed, interrupted, stopped: nothing is left, and nothing is missing unsaid."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from accounts import Account, counted

from hindsight.capture.profiles import profile

GROUPS = tuple(profile("readahead").events)

Run = Callable[..., subprocess.CompletedProcess[str]]
CALLS = 200_000


class Recorder:
    """``hindsight capture record`` and its command, in a process group of their own."""

    def __init__(self, live: Path, raw: Path, *arguments: object) -> None:
        self.live = live
        self.raw = raw
        command = [sys.executable, "-m", "hindsight", "capture", "record", "-o", str(raw)]
        self.process = subprocess.Popen(
            [*command, *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
            # A recorder under nohup ignores it, and so would this one if the tests run under it.
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        )  # fmt: skip

    @property
    def instances(self) -> list[Path]:
        return list((self.live / "instances").glob(f"hindsight-*-{self.process.pid}-*"))

    def wait_until_it_records(self) -> None:
        def recording() -> bool:
            assert self.process.poll() is None, self.finish()
            instances = self.instances
            with contextlib.suppress(OSError):  # it ends at once
                return len(instances) == len(GROUPS) and all(
                    (i / "tracing_on").read_text() == "1\n" for i in instances
                )
            return False

        until(recording)

    def end(self) -> str:
        """End what is left of the group; returns what was said."""
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.communicate(timeout=30)[1]

    def finish(self, seconds: float = 60) -> str:
        """Wait for its end; returns what was said."""
        return self.process.communicate(timeout=seconds)[1]


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


@pytest.fixture
def recorder(live: Path) -> Iterator[Callable[..., Recorder]]:
    made: list[Recorder] = []

    def start(raw: Path, *arguments: object) -> Recorder:
        made.append(Recorder(live, raw, *arguments))
        return made[-1]

    yield start
    for one in made:
        if one.process.returncode is None:
            one.end()
        for path in one.instances:  # of a test that failed
            path.rmdir()


def account_of(raw: Path, out: Path) -> Account | None:
    """What is sealed in a directory, None when nothing is."""
    if not raw.exists() or not [path for path in raw.iterdir() if not path.name.startswith(".")]:
        return None
    return Account.of(raw, out)


def check_prefix(account: Account) -> int:
    """The calls up to the last one that was recorded are there or lost; returns how many are there."""
    calls = account.calls()
    if calls:
        account.check_calls(calls[-1]["pos"] + 1, ["ring", "recorder died", "truncated"])
    account.check_counts(killed=True)
    return len(calls)


def kill_at_random(
    recorder: Callable[..., Recorder], hindsight: Run, tmp_path: Path, times: int, seed: int
) -> int:
    """SIGKILL, then ``hindsight capture clean``: returns how many recordings held something."""
    chance = random.Random(seed)
    kinds = [[], ["--rotate-every", "0.2s"], ["--buffer-kb", "128"], ["--rotate-size", "300K"]]
    held = 0
    for number in range(times):
        raw, out = tmp_path / f"raw{number}", tmp_path / f"out{number}"
        one = recorder(raw, *kinds[number % 4], "--", *counted(CALLS, 2000, 0.01))
        if number % 3:
            one.wait_until_it_records()
        time.sleep(chance.uniform(0, 0.5))
        one.process.kill()
        one.process.wait()
        cleaned = hindsight("capture", "clean", *(["-o", raw] if raw.exists() else []))
        assert cleaned.returncode == 0, cleaned.stderr
        # (Another recorder that starts on this host at this moment may be at it as well.)
        until(lambda: one.instances == [] and list(raw.glob(".recording-*")) == [])  # noqa: B023
        one.end()
        account = account_of(raw, out)
        if account is not None and check_prefix(account):
            held += 1
        shutil.rmtree(raw, ignore_errors=True)
        shutil.rmtree(out, ignore_errors=True)
    return held


def test_killed(live: Path, recorder: Callable[..., Recorder], hindsight: Run, tmp_path: Path) -> None:
    assert kill_at_random(recorder, hindsight, tmp_path, 4, 1) >= 1


@pytest.mark.slow
def test_killed_a_hundred_times(
    live: Path, recorder: Callable[..., Recorder], hindsight: Run, tmp_path: Path
) -> None:
    assert kill_at_random(recorder, hindsight, tmp_path, 100, 2) >= 50


def interrupt_at_random(recorder: Callable[..., Recorder], tmp_path: Path, times: int, seed: int) -> None:
    """SIGINT, SIGTERM, SIGHUP, once or again and again: sealed, and exit status 0."""
    chance = random.Random(seed)
    for number in range(times):
        raw, out = tmp_path / f"raw{number}", tmp_path / f"out{number}"
        whole = number % 4 == 3
        one = recorder(raw, "--rotate-every", "0.3s", *([] if whole else ["--", *counted(CALLS, 2000, 0.01)]))
        one.wait_until_it_records()
        time.sleep(chance.uniform(0, 0.5))
        kind = chance.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
        for _ in range(chance.choice([1, 1, 5])):
            one.process.send_signal(kind)
            time.sleep(chance.uniform(0, 0.02))
            if one.process.poll() is not None:
                break
        said = one.finish()
        assert one.process.returncode == 0, said
        assert one.instances == []
        account = account_of(raw, out)
        assert account is not None and account.facts[-1]["closed"] == "end"
        account.check_counts()
        if not whole:
            check_prefix(account)
        shutil.rmtree(raw)
        shutil.rmtree(out)


def test_interrupted(live: Path, recorder: Callable[..., Recorder], tmp_path: Path) -> None:
    interrupt_at_random(recorder, tmp_path, 4, 3)


@pytest.mark.slow
def test_interrupted_thirty_times(live: Path, recorder: Callable[..., Recorder], tmp_path: Path) -> None:
    interrupt_at_random(recorder, tmp_path, 30, 4)


def test_interrupted_while_it_starts(live: Path, recorder: Callable[..., Recorder], tmp_path: Path) -> None:
    """A signal that comes before recording began ends it all the same, and leaves nothing in the kernel."""
    for number in range(3):
        one = recorder(tmp_path / "raw", "--", *counted(CALLS, 1000, 0.01))
        until(lambda: one.instances or one.process.poll() is not None)  # noqa: B023 (called at once)
        time.sleep(0.02 * number)
        one.process.send_signal(signal.SIGTERM)
        said = one.finish()
        assert one.process.returncode == 0, said
        assert one.instances == []
    assert list((tmp_path / "raw").glob(".recording-*")) == []


@pytest.mark.parametrize("same", [True, False], ids=["one directory", "two directories"])
def test_two_at_once(live: Path, recorder: Callable[..., Recorder], tmp_path: Path, same: bool) -> None:
    calls = 30_000
    directories = [tmp_path / "a", tmp_path / ("a" if same else "b")]
    both = [recorder(raw, "--rotate-size", "1M", "--", *counted(calls, 2000, 0.02)) for raw in directories]
    for number, one in enumerate(both):
        printed, said = one.process.communicate(timeout=60)
        assert one.process.returncode == 0, said
        own = tmp_path / f"own{number}"
        own.mkdir()
        for path in map(Path, printed.split()):
            shutil.copytree(path, own / path.name)
        account = Account.of(own, tmp_path / f"out{number}")
        assert account.check_calls(calls, ["ring full"]) == 0
        account.check_counts()


def test_stopped_for_a_while(live: Path, recorder: Callable[..., Recorder], tmp_path: Path) -> None:
    """A recorder that does not run loses what its ring buffers cannot hold, and says exactly how much."""
    calls = 60_000
    one = recorder(tmp_path / "raw", "--buffer-kb", 256, "--", *counted(calls, 5000, 0.05))
    one.wait_until_it_records()
    time.sleep(0.2)
    one.process.send_signal(signal.SIGSTOP)
    time.sleep(0.6)
    one.process.send_signal(signal.SIGCONT)
    said = one.finish()
    assert one.process.returncode == 0, said
    account = Account.of(tmp_path / "raw", tmp_path / "out")
    account.check_counts()
    missing = account.check_calls(calls, ["ring full"])
    assert missing > 0
    assert 0 <= account.of_the_command - 2 * calls < 3000


def test_a_crowd_of_short_processes(live: Path, recorder: Callable[..., Recorder], tmp_path: Path) -> None:
    script = "i=0; while [ $i -lt 300 ]; do (exit 0) & (exit 0) & (exit 0) & wait; i=$((i+1)); done"
    one = recorder(tmp_path / "raw", "--rotate-every", "0.3s", "--", "sh", "-c", script)
    said = one.finish()
    assert one.process.returncode == 0, said
    account = Account.of(tmp_path / "raw", tmp_path / "out")
    account.check_counts()
    assert len(account.tables["task_newtask"]) == 900
    assert len(account.tables["sched_process_exit"]) == 901


def test_directory_is_removed_meanwhile(
    live: Path, recorder: Callable[..., Recorder], tmp_path: Path
) -> None:
    """It ends with a message and status 1; the command is not harmed; the kernel is left clean."""
    done = tmp_path / "done"
    script = f"sleep 1.5; echo done > {done}"
    one = recorder(tmp_path / "raw", "--rotate-every", "0.3s", "--", "sh", "-c", script)
    one.wait_until_it_records()
    shutil.rmtree(tmp_path / "raw", ignore_errors=True)
    said = one.finish()
    assert one.process.returncode == 1, said
    assert "raw" in said and "the command goes on" in said
    assert done.read_text() == "done\n"
    assert one.instances == []


def test_processor_goes_offline(live: Path, recorder: Callable[..., Recorder], tmp_path: Path) -> None:
    switch = Path("/sys/devices/system/cpu/cpu1/online")
    if not os.access(switch, os.W_OK):
        pytest.skip("no processor here can be taken offline")
    calls = 40_000
    one = recorder(tmp_path / "raw", "--rotate-every", "0.4s", "--", *counted(calls, 1000, 0.03))
    one.wait_until_it_records()
    try:
        time.sleep(0.2)
        try:
            switch.write_text("0")
        except OSError as error:
            pytest.skip(f"the processor cannot be taken offline: {error.strerror}")
        time.sleep(0.4)
    finally:
        with contextlib.suppress(OSError):
            switch.write_text("1")
    said = one.finish()
    assert one.process.returncode == 0, said
    account = Account.of(tmp_path / "raw", tmp_path / "out")
    assert account.check_calls(calls, ["ring"]) == 0
    account.check_counts()
