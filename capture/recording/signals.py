"""Signals of a recording: noted for its loop instead of ending the process."""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TRIGGER = signal.SIGUSR1


class Signals:
    """While entered, signals are noted; ``wake`` becomes readable when one came.

    ``ending`` holds the signals that ask for the end, in order; ``triggered`` is set by SIGUSR1 and taken
    back by whom it serves.
    """

    def __init__(self) -> None:
        self.ending: list[int] = []
        self.triggered = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        self.wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        with contextlib.suppress(ValueError):  # not the main thread: the caller handles signals
            for number in (*ENDING, TRIGGER):
                if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                    continue  # nohup
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        os.close(self.wake)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == TRIGGER:
            self.triggered = True
        else:
            self.ending.append(number)
        self.notify()

    def notify(self) -> None:
        """Make ``wake`` readable; callable from any thread."""
        with contextlib.suppress(OSError):
            os.eventfd_write(self.wake, 1)

    def clear(self) -> None:
        """Take back what made ``wake`` readable."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.wake)
