"""When a recording is over: its command has ended, its time has passed, or a signal asked for the end."""

from __future__ import annotations

import signal
from collections.abc import Callable

from hindsight.capture.recording.child import StoppedCommand
from hindsight.capture.recording.signals import Signals

_GRACE_NS = 5_000_000_000
"""A command that was asked to end is given so long."""


class Ending:
    """Of a recording of ``command`` (None = the whole host), of ``duration`` seconds at most (None = any)."""

    def __init__(
        self,
        command: StoppedCommand | None,
        duration: float | None,
        signals: Signals,
        say: Callable[[str], None],
    ) -> None:
        self._command = command
        self._duration_ns = None if duration is None else int(duration * 1e9)
        self._signals = signals
        self._say = say
        self._begun_ns = 0
        self._asked_ns: int | None = None

    def begin(self, now_ns: int) -> None:
        """The recording begins."""
        self._begun_ns = now_ns

    def due_ns(self, now_ns: int) -> int | None:
        """When the time is over, None = never, or it was said already."""
        if self._duration_ns is None or self._asked_ns is not None:
            return None
        return self._begun_ns + self._duration_ns

    def over(self, now_ns: int) -> bool:
        """Whether the recording is over. A command is asked to end when it is time, and killed 5 s later."""
        command = self._command
        if command is not None and command.poll() is not None:
            return True
        expired = self._duration_ns is not None and now_ns - self._begun_ns >= self._duration_ns
        if (self._signals.ending or expired) and self._asked_ns is None:
            if command is None:
                return True
            if expired:
                self._say("the time is over: the command is asked to end")
            command.signal(self._signals.ending[0] if self._signals.ending else signal.SIGTERM)
            self._asked_ns = now_ns
        if self._asked_ns is not None and now_ns - self._asked_ns > _GRACE_NS and command is not None:
            command.signal(signal.SIGKILL)
        return False

    def without_recording(self, error: Exception, wait: Callable[[], object]) -> None:
        """The recording has failed, the command need not: wait for its end, and pass signals on to it.

        ``wait`` returns when a signal came, or after a while.
        """
        command = self._command
        if command is None or not command.released or command.poll() is not None:
            return
        self._say(f"the recording has failed ({error}); the command goes on, unrecorded")
        passed = 0
        while command.poll() is None:
            for number in self._signals.ending[passed:]:
                command.signal(number)
            passed = len(self._signals.ending)
            wait()
