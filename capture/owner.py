"""Who holds a tracefs instance or an unsealed segment, and whether that recorder still lives.

A process id alone is not enough: it is used again, and counts differently in each pid namespace.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

_START_TIME = 19
"""Position of ``starttime`` in /proc/<pid>/stat after the name of the program (proc_pid_stat(5))."""


def _start_ticks(pid: int) -> int | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    words = text.rpartition(")")[2].split()
    if len(words) <= _START_TIME or words[0] in ("Z", "X"):  # a dead process that nobody has waited for
        return None
    return int(words[_START_TIME])


def _namespace() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


class Owner(NamedTuple):
    """A recorder: pid namespace, process id there, and when it started (clock ticks since boot)."""

    namespace: int
    pid: int
    start_ticks: int

    def __str__(self) -> str:
        return f"{self.namespace}-{self.pid}-{self.start_ticks}"

    def as_dict(self) -> dict[str, int]:
        """For JSON; :func:`from_dict` reads it."""
        return self._asdict()

    @property
    def alive(self) -> bool | None:
        """Whether it lives; None when that cannot be seen from this pid namespace."""
        if self.namespace != _namespace():
            return None
        return _start_ticks(self.pid) == self.start_ticks


def own() -> Owner:
    """This process."""
    return Owner(_namespace(), os.getpid(), _start_ticks(os.getpid()) or 0)


def parse(text: str) -> Owner | None:
    """The owner that ``str(owner)`` wrote, None when it is not one."""
    words = text.split("-")
    if len(words) != 3 or not all(word.isdigit() for word in words):
        return None
    return Owner(*map(int, words))


def from_dict(values: Any) -> Owner | None:
    """The owner that :meth:`Owner.as_dict` wrote, None when it is not one."""
    try:
        owner = Owner(values["namespace"], values["pid"], values["start_ticks"])
    except (KeyError, TypeError):
        return None
    return owner if all(isinstance(value, int) for value in owner) else None


_adopted: set[int] = set()


def adopt(pid: int) -> None:
    """Count a child process, which works for this one, as a part of it: it is not to be traced."""
    _adopted.add(pid)


def adopted() -> frozenset[int]:
    """The child processes that work for this one, those that have ended too."""
    return frozenset(_adopted)
