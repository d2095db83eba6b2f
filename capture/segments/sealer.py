"""The thread that makes segments durable and seals them: neither fsync nor a hash stalls the drain."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from hindsight.capture import owner


@dataclass(frozen=True)
class Outcome:
    """What became of a job: its ``value``, or the ``error`` that it raised."""

    kind: str
    value: Any = None
    error: BaseException | None = None


class Sealer:
    """Runs jobs one after another in a thread of its own; their outcomes wait in :meth:`outcomes`.

    ``notify`` is called from that thread after each job. ``thread`` is its id for the kernel, ``pending`` the
    number of jobs without an outcome.
    """

    def __init__(self, notify: Callable[[], None]) -> None:
        self._notify = notify
        self._jobs: SimpleQueue[tuple[str, Callable[[], Any]] | None] = SimpleQueue()
        self._outcomes: deque[Outcome] = deque()
        self.pending = 0
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), name="sealer", daemon=True)
        self._thread.start()
        started.wait()

    @property
    def thread(self) -> int:
        """The id of the thread."""
        number = self._thread.native_id
        assert number is not None
        return number

    def do(self, kind: str, job: Callable[[], Any]) -> None:
        """Queue a job."""
        self.pending += 1
        self._jobs.put((kind, job))

    def outcomes(self) -> list[Outcome]:
        """What is done since the last call, in order."""
        found = []
        while self._outcomes:
            found.append(self._outcomes.popleft())
        self.pending -= len(found)
        return found

    def close(self) -> None:
        """Wait for the jobs that are queued, and end the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self, started: threading.Event) -> None:
        started.set()
        while (entry := self._jobs.get()) is not None:
            kind, job = entry
            try:
                self._outcomes.append(Outcome(kind, job()))
            except BaseException as error:  # the main thread decides what it means
                self._outcomes.append(Outcome(kind, error=error))
            self._notify()


def thread_ids() -> list[int]:
    """The threads of this process, and of those that work for it."""
    return sorted({*map(int, os.listdir("/proc/self/task")), *owner.adopted()})
