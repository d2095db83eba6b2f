"""A program of known system calls."""

from __future__ import annotations

import contextlib
import os

ENTER, EXIT = "syscalls/sys_enter_lseek", "syscalls/sys_exit_lseek"
MAGIC = 1 << 40


class Caller:
    """A process that calls lseek ``calls`` times, and no more, when it is let go; ``children`` do as well."""

    def __init__(self, calls: int, children: int = 0, cpus: set[int] | None = None) -> None:
        read, self._go = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            with contextlib.suppress(BaseException):
                os.close(self._go)
                if cpus:
                    os.sched_setaffinity(0, cpus)
                fd = os.open("/proc/self/exe", os.O_RDONLY)
                seek, offset, sets = os.lseek, MAGIC, os.SEEK_SET
                os.read(read, 1)
                pids: list[int] = []
                while len(pids) < children and 0 not in pids:
                    pids.append(os.fork())
                for _ in range(calls):
                    seek(fd, offset, sets)
                if 0 not in pids:
                    for pid in pids:
                        os.waitpid(pid, 0)
                code = 0
            os._exit(code)
        os.close(read)

    def go(self) -> None:
        os.write(self._go, b"g")
        os.close(self._go)

    def running(self) -> bool:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        assert status == 0
        return pid == 0

    def wait(self) -> None:
        assert os.waitpid(self.pid, 0)[1] == 0
