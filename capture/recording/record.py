"""Record kernel events of a command, or of the whole host, into sealed segments."""

from __future__ import annotations

import contextlib
import errno
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hindsight.capture.options import RecordOptions
from hindsight.capture.recording.launch import Launch
from hindsight.capture.recording.signals import Signals
from hindsight.errors import HindsightError

__all__ = ["RecordOptions", "Recording", "record"]

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)


@dataclass(frozen=True)
class Recording:
    """A sealed recording: its last segment, all of them, events recorded and lost as the kernel counted.

    ``status``: the command's exit status (negative: a signal), None without one. ``unrecorded``: why, in some
    intervals, an unknown number of events is missing (shed, or all was paused).
    """

    path: Path
    segments: tuple[Path, ...]
    events: int
    lost: int
    status: int | None
    unrecorded: tuple[str, ...] = ()


def _say(message: str) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more: the recording goes on
        print(f"hindsight: {message}", file=sys.stderr, flush=True)


def _keep_quiet(_: Path) -> None:
    pass


def record(
    options: RecordOptions,
    say: Callable[[str], None] = _say,
    sealed: Callable[[Path], None] = _keep_quiet,
) -> Recording:
    """Record as ``options`` say; returns when the last segment is sealed.

    ``say`` gets messages for the user, ``sealed`` the path of each segment once it is sealed. Raises
    NotPermittedError without root or tracefs, CommandNotStarted when the command cannot be executed,
    ConfigurationError for an unusable output directory or user, UsageError for an unknown profile,
    HindsightError when writing fails. The ring buffers are released in every case; ``options.out`` shows
    sealed segments under their names, and one that could not be sealed as ``.recording-…``.
    """
    with Signals() as signals:
        try:
            with Launch(options, say) as launch:
                # Loaded while the kernel allocates the ring buffers.
                from hindsight.capture.recording.session import Session

                session = Session(launch, signals, sealed)
                session.run()
        except OSError as error:
            remedy = f"What could be kept is sealed by: hindsight capture clean -o {options.out}"
            if error.errno in _DISK_ERRORS:
                remedy += "\n  Choose a directory (-o) with more space, on a disk that works."
            raise HindsightError(f"recording into {options.out} failed: {error}", remedy) from error
    if not session.segments:
        raise HindsightError(
            "nothing was recorded: there was no space for a segment", "Make space; or -o DIR."
        )
    return Recording(
        session.segments[-1],
        session.segments,
        session.events,
        session.lost,
        session.status,
        session.unrecorded,
    )
