"""Threads that work on independent things; when one fails, or a signal comes, all have stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Workers:
    """A context manager; with one thread everything happens in the caller's."""

    def __init__(self, threads: int) -> None:
        self.threads = max(threads, 1)
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def each(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Apply a function to each item; results in order.

        Whatever is raised, by the function or by a signal, is raised when no thread works any more.
        """
        if self._pool is None:
            return [function(item) for item in items]
        futures = [self._pool.submit(function, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            _settle(futures)
            raise


NONE = Workers(1)
"""No threads."""


def _settle(futures: list[Future[Any]]) -> None:
    for future in futures:
        future.cancel()
    while True:
        try:
            wait(futures)
            return
        except KeyboardInterrupt:  # asked for a second time; it is a matter of milliseconds
            continue
