"""A process and its descendants, as /proc shows them: perf events are inherited, but never listed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path


class Family:
    """The processes ``pids`` and those that they create.

    A descendant whose parent ended before it was seen here is not found (it has another parent then).
    """

    def __init__(self, pids: Iterable[int]) -> None:
        self.pids = list(pids)
        self._seen = set(self.pids)

    def members(self) -> list[int]:
        """Those that live, ascending."""
        living: set[int] = set()
        waiting = sorted(self._seen)
        while waiting:
            pid = waiting.pop()
            if pid in living or not Path(f"/proc/{pid}").exists():
                continue
            living.add(pid)
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    waiting += map(int, children.read_text().split())
        self._seen = living
        return sorted(living)
