"""A progress bar on a terminal: how much of the raw trace is converted, and how fast."""

from __future__ import annotations

import sys
import threading
import time
from typing import TextIO

_PERIOD_S = 0.1
_WIDTH = 24


class Progress:
    """Counts bytes of raw trace; draws on ``stream`` if that is a terminal and ``wanted``. Thread-safe."""

    def __init__(self, wanted: bool = True, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._draws = wanted and self._stream.isatty()
        self._lock = threading.Lock()
        self._drawn = 0.0
        self._begun = time.monotonic()
        self._name, self._total, self._done, self._events = "", 1, 0, 0

    def start(self, name: str, total: int) -> None:
        """Begin with a segment whose trace takes ``total`` bytes, each read twice: verified, then decoded.

        What is read once counts double.
        """
        self._name, self._total, self._done, self._events = name, 2 * total, 0, 0
        self._begun = time.monotonic()

    def advance(self, count: int, events: int = 0) -> None:
        """So many bytes more were read, so many events decoded."""
        if not self._draws:
            return
        with self._lock:
            self._done += count
            self._events += events
            now = time.monotonic()
            if now - self._drawn >= _PERIOD_S:
                self._drawn = now
                self._stream.write(f"\r{self.line(now - self._begun)}\x1b[K")
                self._stream.flush()

    def line(self, seconds: float) -> str:
        """The bar after so many seconds."""
        share = min(self._done / self._total, 1.0) if self._total else 1.0
        bar = ("#" * round(share * _WIDTH)).ljust(_WIDTH, ".")
        rate = self._events / seconds / 1e6 if seconds > 0 else 0.0
        done, total = self._done / 2 / 1e6, self._total / 2 / 1e6
        what = f"{rate:.1f} M events/s" if self._events else "verifying"
        return f"{self._name} [{bar}] {done:.0f}/{total:.0f} MB, {what}"

    def clear(self) -> None:
        """Remove the bar."""
        if self._draws and self._drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._drawn = 0.0
