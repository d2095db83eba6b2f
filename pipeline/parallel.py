"""Do the same for many captures at once; results come in the order of the captures, whoever was first.

Threads: the simulations and the trees are compiled and release the interpreter's lock, so that nothing has to
be copied to other processes.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def workers() -> int:
    """Processors that this process may use."""
    return max(1, len(os.sched_getaffinity(0)))


def each(function: Callable[[Item], Result], items: Sequence[Item], label: str) -> list[Result]:
    """``[function(item) for item in items]`` on all processors, with a progress bar.

    The first exception, in the order of the items, ends it; what had not begun by then never begins.
    """
    progress = Progress(label, len(items))
    with ThreadPoolExecutor(workers()) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            for future in as_completed(futures):
                if future.exception() is not None:
                    break
                progress.step()
            return [future.result() for future in futures if not future.cancel()]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            progress.close()


class Progress:
    """A bar on standard error, if that is a terminal; nothing at all otherwise."""

    WIDTH = 30

    def __init__(self, label: str, total: int) -> None:
        self.label, self.total, self.done = label, total, 0
        self.shown = total > 0 and sys.stderr.isatty()
        self.drawn = 0.0
        self._draw()

    def step(self) -> None:
        """One more is done."""
        self.done += 1
        self._draw()

    def _draw(self) -> None:
        now = time.monotonic()
        if not self.shown or (now - self.drawn < 0.1 and self.done < self.total):
            return
        self.drawn = now
        filled = self.WIDTH * self.done // self.total
        bar = "━" * filled + "─" * (self.WIDTH - filled)
        print(f"\r\033[K{self.label:<24} {bar} {self.done}/{self.total}", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Take the bar away."""
        if self.shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
