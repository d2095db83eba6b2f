"""Ask a running recorder to seal what it holds, by SIGUSR1, and wait for the segment."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from hindsight.capture.operation.state import State, read, running
from hindsight.capture.operation.status import CLEAN, unsealed
from hindsight.errors import HindsightError, NotPermittedError, UsageError

_POLL_S = 0.02


def choose(capture: str | None, everyone: bool) -> list[State]:
    """The recorders that are meant: the named one, all, or the only one.

    Raises UsageError when none or several could be meant, HindsightError when the named one is dead.
    """
    states = running()
    alive = [state for state in states if state.alive is not False]
    if capture is not None:
        named = [state for state in states if state.capture == capture]
        if not named:
            raise UsageError(f"no recorder {capture} runs", _those(alive))
        if named[0].alive is False:
            raise HindsightError(f"the recorder {capture} is dead", f"{CLEAN} -o {named[0].out}")
        return named[:1]
    if not alive:
        raise HindsightError(
            "no recorder runs that this user may see", "Start one: hindsight capture record; or use sudo."
        )
    if len(alive) > 1 and not everyone:
        raise UsageError(f"{len(alive)} recorders run", f"Name one, or --all. {_those(alive)}")
    return alive


def _those(states: list[State]) -> str:
    if not states:
        return "None runs that this user may see (hindsight capture status)."
    return "Running: " + ", ".join(f"{state.capture} ({state.out})" for state in states) + "."


def trigger(state: State, timeout: float | None) -> Path | None:
    """Signal one recorder; wait at most ``timeout`` seconds for the segment (None: do not wait).

    The process is held by a pidfd before it is identified, so that no other can take its place; and it must
    catch SIGUSR1, belong to the state file's user and have the start time that the file names. Raises
    HindsightError when it ends or the time is over, NotPermittedError when it may not be signalled.
    """
    pid = state.owner.pid
    held = _hold(state)
    try:
        # The segment that is open now, or a later one, is what the signal will seal.
        number = max((_number(name) for name in unsealed(state)), default=None)
        if number is None:
            number = _number(state.sealed.name) + 1 if state.sealed is not None else 0
        try:
            signal.pidfd_send_signal(held, signal.SIGUSR1)
        except ProcessLookupError:
            raise _ended(state) from None
        except PermissionError:
            raise NotPermittedError(
                f"process {pid} may not be signalled", "Use sudo hindsight capture trigger."
            ) from None
        return None if timeout is None else _wait(state, held, number, timeout)
    finally:
        os.close(held)


def _hold(state: State) -> int:
    if state.alive is None:
        raise NotPermittedError(
            f"the recorder {state.capture} is in another pid namespace",
            "Run hindsight capture trigger in the container where it was started.",
        )
    pid = state.owner.pid
    try:
        held = os.pidfd_open(pid)
    except ProcessLookupError:
        raise _ended(state) from None
    try:
        # The pidfd pins the process: identified after it was opened, it cannot be another one.
        if not state.alive:
            raise _ended(state)
        if not _is_recorder(pid, state.uid):
            raise HindsightError(
                f"process {pid} does not wait for a trigger",
                f"It is no recorder of the user who wrote {state.path}, or has not begun: try again.",
            )
    except BaseException:
        os.close(held)
        raise
    return held


def _is_recorder(pid: int, uid: int) -> bool:
    """Whether it catches SIGUSR1 (which would kill it otherwise) and is of that user, unless that is root."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", text, re.MULTILINE)
    owner = re.search(r"^Uid:\s*\d+\s+(\d+)", text, re.MULTILINE)
    if caught is None or owner is None:
        return False
    return bool(int(caught[1], 16) >> (signal.SIGUSR1 - 1) & 1) and uid in (0, int(owner[1]))


def _number(name: str) -> int:
    digits = name.rpartition("-")[2]
    return int(digits) if digits.isdecimal() else 0


def _sealed(state: State, number: int) -> Iterator[Path]:
    """Segments of the capture from ``number`` on that are sealed, the first one first."""
    prefix = f"{state.capture}-"
    with contextlib.suppress(OSError):
        names = [name for name in os.listdir(state.out) if name.startswith(prefix)]
        yield from (state.out / name for name in sorted(names, key=_number) if _number(name) >= number)
    now = read(state.path)  # the output directory may not be readable, or the segment gone already
    if now is not None and now.sealed is not None and _number(now.sealed.name) >= number:
        yield now.sealed


def _wait(state: State, held: int, number: int, timeout: float) -> Path:
    deadline = time.monotonic() + timeout
    while True:
        ended = bool(select.select([held], [], [], _POLL_S)[0])
        for path in _sealed(state, number):
            return path
        if ended:
            raise _ended(state)
        if time.monotonic() > deadline:
            raise HindsightError(
                f"no segment was sealed within {timeout:g} s",
                "It may hold no events, or the disk is slow: see hindsight capture status, or --timeout.",
            )


def _ended(state: State) -> HindsightError:
    return HindsightError(
        f"the recorder {state.capture} has ended", f"Its segments are in {state.out}; see also: {CLEAN}"
    )
