"""A program of known system calls."""

from __future__ import annotations

import os

from forked import Forked

ENTER, EXIT = "syscalls/sys_enter_lseek", "syscalls/sys_exit_lseek"
MAGIC = 1 << 40


class Caller(Forked):
    """A process that calls lseek ``calls`` times, and no more, when it is let go; ``children`` do as well."""

    def __init__(self, calls: int, children: int = 0, cpus: set[int] | None = None) -> None:
        def call() -> None:
            if cpus:
                os.sched_setaffinity(0, cpus)
            fd = os.open("/proc/self/exe", os.O_RDONLY)
            seek, offset, sets = os.lseek, MAGIC, os.SEEK_SET
            pids: list[int] = []
            while len(pids) < children and 0 not in pids:
                pids.append(os.fork())
            for _ in range(calls):
                seek(fd, offset, sets)
            if 0 not in pids:
                for pid in pids:
                    os.waitpid(pid, 0)

        super().__init__(call)
