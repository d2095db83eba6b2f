"""How late advice is: kernel → user space → kernel, measured, with what it costs in processor time.

A program reads a file and knows of nothing. This process follows its events
(:mod:`hindsight.lab.live_events`), lets the packaged model decide at each wake-up, and acts on the program's
open file through a duplicate of its descriptor. The delay of a piece of advice is the time from the newest
event that it rests on until it is in force.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from hindsight.errors import ConfigurationError, HindsightError, NotPermittedError, UsageError
from hindsight.lab.advice_result import Capturing, Condition, Piece, write_result
from hindsight.lab.device import IMAGES
from hindsight.lab.interruption import interruptible
from hindsight.lab.live_events import LiveEvents
from hindsight.lab.quiet import Patience, processor_waits
from hindsight.lab.rearm import duplicate

PAGE = 4096
FILE_PAGES = 4096
THINK_US = (5_000, 15_000)
"""Between two reads of the program, drawn anew each time: longer than advice takes, in step with nothing."""

WARM_UP = 20
"""Pieces of advice before those that count: code is compiled and loaded."""

CHUNK = 100
"""Pieces of advice between two lines of progress, which are written while nothing is timed."""

RATE_SECONDS = 1.0
"""How long a program that reads without a pause is followed, for the cost of an event at a high rate."""

PATIENCE_SECONDS = 10.0
"""Without an event for so long something is wrong."""

# Two pages in a row, then sixteen further on, so that the kernel reads ahead a little, and whether it does
# depends on the advice; round after round two pages later. It ends when its standard input does: with this
# process, whatever ends that.
_READER = """
import os, random, select, sys
path, pages, low, high, seed = sys.argv[1], *map(int, sys.argv[2:])
draw = random.Random(seed)
fd = os.open(path, os.O_RDONLY)
print(fd, flush=True)
os.read(0, 1)
reads = 0
while not select.select([0], [], [], draw.uniform(low, high) / 1e6)[0]:
    page = reads // 2 * 16 + reads % 2 + reads // (pages // 8) * 2
    os.pread(fd, 4096, page % pages * 4096)
    reads += 1
print(reads, flush=True)
"""
_SPINNER = """
import os, select, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
print("spinning", flush=True)
while not select.select([0], [], [], 0)[0]:
    for _ in range(100_000):
        pass
"""

Decide = Callable[[], int]
"""A decision: returns the advice (``POSIX_FADV_…``) for the open file."""


@dataclass(frozen=True)
class DelayOptions:
    """``samples``: pieces of advice in each condition; ``package``: of the model, None if there is none;
    ``files``: where the file that is read is put, not on tmpfs; ``patience``: seconds that may be spent
    waiting for a quiet machine."""

    output: Path
    samples: int = 500
    package: Path | None = None
    files: Path = IMAGES
    seed: int = 1
    patience: float = 0.0


def measure(options: DelayOptions) -> dict[str, Any]:
    """Measure both conditions, write delays.parquet and summary.json; returns the summary.

    Raises UsageError (no samples), ConfigurationError (no place for the file, another model than this program
    has), NotPermittedError (not root, or not with this kernel), HindsightError (no events, events lost).
    """
    if options.samples < 1:
        raise UsageError("nothing to measure", "Ask for at least one sample.")
    if os.geteuid() != 0:
        raise NotPermittedError(
            "following a program and advising its open files need root", "Run it as root."
        )
    decide, model = decision_of(options.package, options.seed)
    say(f"{model['name'] or 'no model: make a package with `dvc repro`, or name it: --package DIR'}")
    patience = Patience(options.patience)
    with interruptible(), cold_file(options.files) as path:
        patience.wait()
        conditions = [_condition("idle", path, options, decide)]
        rate = follow_only(path, options.seed, RATE_SECONDS)
        with spinning():
            conditions.append(_condition("busy", path, options, decide))
    return write_result(options.output, model, conditions, rate)


def decision_of(package: Path | None, seed: int) -> tuple[Decide, dict[str, Any]]:
    """The decision that the package takes, on features drawn from their ranges, and what model it is.

    Without a package NORMAL is advised. Raises what :func:`hindsight.lab.predictions.load_model` raises.
    """
    if package is None:
        return lambda: os.POSIX_FADV_NORMAL, {"name": "", "actions": 0, "features": 0, "trees": 0}
    from hindsight.lab.predictions import load_model
    from hindsight.pipeline.policies import ModelPolicy
    from hindsight.subsystems.contract import Simulation, load
    from hindsight.subsystems.readahead import actions

    subsystem = load("readahead")
    policy = load_model(package, subsystem).policy
    assert isinstance(policy, ModelPolicy)
    low = np.array([feature.low for feature in subsystem.features])
    high = np.array([feature.high for feature in subsystem.features])
    drawn = np.random.Generator(np.random.PCG64(seed)).uniform(low, high, (1024, len(low)))
    rows = iter(_endlessly(drawn.astype(np.float32)))
    limits, random = actions.table()
    # A model of the future has nothing to say here: the policy of a model never asks the simulation.
    nothing = cast(Simulation, None)

    def decide() -> int:
        action = policy(nothing, next(rows))
        if action >= 0 and random[action]:
            return os.POSIX_FADV_RANDOM
        more = action >= 0 and limits[action] > 32
        return os.POSIX_FADV_SEQUENTIAL if more else os.POSIX_FADV_NORMAL

    facts = {
        "name": package.name, "actions": len(subsystem.actions), "features": len(low),
        "trees": policy.forest.n_trees,
    }  # fmt: skip
    return decide, facts


def _endlessly(rows: np.ndarray) -> Iterator[np.ndarray]:
    while True:
        yield from rows


@contextlib.contextmanager
def cold_file(directory: Path, pages: int = FILE_PAGES) -> Iterator[Path]:
    """A file of so many pages below a new directory, removed afterwards."""
    try:
        made = tempfile.TemporaryDirectory(prefix="hindsight-delay-", dir=directory)
    except OSError as error:
        raise ConfigurationError(
            f"no file can be made in {directory}: {error.strerror}", "Name another place: --files DIR."
        ) from error
    with made as folder:
        path = Path(folder) / "file"
        path.write_bytes(os.urandom(pages * PAGE))
        yield path


def make_cold(path: Path) -> None:
    """Write the file back and drop its cached pages."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


class Reader:
    """The program: reads pages of the file after :meth:`go`, with a pause before each read."""

    def __init__(self, path: Path, think_us: tuple[int, int], seed: int) -> None:
        self._process = _child(_READER, str(path), str(FILE_PAGES), *map(str, think_us), str(seed))
        self.pid = self._process.pid
        assert self._process.stdout is not None
        self.fd = int(self._process.stdout.readline())

    def go(self) -> None:
        """Begin to read."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def end(self) -> int:
        """End it; returns how many pages it has read."""
        said = _end(self._process).strip()
        if self._process.returncode != 0:
            raise HindsightError(f"the program that reads ended with status {self._process.returncode}")
        return int(said)

    def kill(self) -> None:
        """End it, whatever it does."""
        _kill(self._process)


@contextlib.contextmanager
def spinning() -> Iterator[None]:
    """One process on each processor of ours that does nothing but compute."""
    with contextlib.ExitStack() as stack:
        for cpu in sorted(os.sched_getaffinity(0)):
            process = _child(_SPINNER, str(cpu))
            stack.callback(_kill, process)
            assert process.stdout is not None
            process.stdout.readline()
        yield


def _child(code: str, *arguments: str) -> subprocess.Popen[str]:
    # A process group of its own: Ctrl-C is for this process, which ends them.
    return subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", code, *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0,
    )  # fmt: skip


def _end(process: subprocess.Popen[str]) -> str:
    try:
        return process.communicate(timeout=PATIENCE_SECONDS)[0]
    except subprocess.TimeoutExpired:
        raise HindsightError("the program that reads does not end") from None


def _kill(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.kill()
    process.communicate()


@contextlib.contextmanager
def followed(path: Path, think_us: tuple[int, int], seed: int) -> Iterator[tuple[Reader, LiveEvents]]:
    """A program that reads the file from a cold cache, and its events."""
    make_cold(path)
    reader = Reader(path, think_us, seed)
    try:
        with LiveEvents(reader.pid, path.stat().st_ino) as events:
            reader.go()
            yield reader, events
    finally:
        reader.kill()


def _condition(name: str, path: Path, options: DelayOptions, decide: Decide) -> Condition:
    pieces: list[Piece] = []
    capturing = Capturing()
    with followed(path, THINK_US, options.seed) as (reader, events):
        advise(reader, events, decide, WARM_UP, Capturing())
        waits, begun = processor_waits(), time.monotonic_ns()
        while len(pieces) < options.samples:
            count = min(CHUNK, options.samples - len(pieces))
            pieces += advise(reader, events, decide, count, capturing)
            say(f"{name}: {len(pieces)} of {options.samples} pieces of advice")
        pressure = round(1e6 * (processor_waits() - waits) / (time.monotonic_ns() - begun))
        _check_lost(events)
        reader.end()
    return Condition(name, pieces, capturing, pressure)


def advise(
    reader: Reader, events: LiveEvents, decide: Decide, count: int, capturing: Capturing
) -> list[Piece]:
    """So many pieces of advice, one at each wake-up; ``capturing`` gets what the loop took besides deciding
    and acting.

    Raises HindsightError if no event comes.
    """
    pieces: list[Piece] = []
    begun, cpu = time.monotonic_ns(), time.thread_time_ns()
    while len(pieces) < count:
        ready = events.wait(PATIENCE_SECONDS)
        awake = time.monotonic_ns()
        if not ready:
            raise HindsightError("no event of the program came", _NO_EVENT)
        taken = events.take(ready)
        if taken is None:
            continue
        decoded, decoded_cpu = time.monotonic_ns(), time.thread_time_ns()
        advice = decide()
        decided, decided_cpu = time.monotonic_ns(), time.thread_time_ns()
        copy = duplicate(reader.pid, reader.fd)
        try:
            os.posix_fadvise(copy, 0, 0, advice)
            acted = time.monotonic_ns()
        finally:
            os.close(copy)
        acted_cpu = time.thread_time_ns()
        pieces.append(
            Piece(
                taken.events, taken.oldest_ns, taken.newest_ns, awake, decoded, decided, acted,
                decided_cpu - decoded_cpu, acted_cpu - decided_cpu,
            )
        )  # fmt: skip
    spent = sum(piece.decision_cpu_ns + piece.acting_cpu_ns for piece in pieces)
    capturing.add(
        sum(piece.events for piece in pieces),
        count,
        time.monotonic_ns() - begun,
        time.thread_time_ns() - cpu - spent,
    )
    return pieces


def follow_only(path: Path, seed: int, seconds: float) -> Capturing:
    """Take and decode the events of a program that reads without a pause, and do nothing else."""
    capturing = Capturing()
    with followed(path, (0, 0), seed) as (reader, events):
        begun, cpu = time.monotonic_ns(), time.thread_time_ns()
        found = wakeups = 0
        while time.monotonic_ns() - begun < seconds * 1e9:
            ready = events.wait(PATIENCE_SECONDS)
            if not ready:
                raise HindsightError("no event of the program came", _NO_EVENT)
            taken = events.take(ready)
            found += taken.events if taken else 0
            wakeups += 1
        capturing.add(found, wakeups, time.monotonic_ns() - begun, time.thread_time_ns() - cpu)
        _check_lost(events)
        reader.end()
    return capturing


_NO_EVENT = "The file has to be on a file system that reads through the page cache (not tmpfs): --files DIR."


def _check_lost(events: LiveEvents) -> None:
    lost = events.count_lost()
    if lost:
        raise HindsightError(f"{lost} events were lost", "Use a less busy machine.")


def say(message: str) -> None:
    """Progress, on standard error."""
    print(f"hindsight: {message}", file=sys.stderr, flush=True)
