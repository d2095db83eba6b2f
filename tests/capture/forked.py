"""A child of the test that works when it is let go: what it does can be followed from the beginning."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable


class Forked:
    """A process that waits, does ``work``, and ends with status 0 if nothing was raised."""

    def __init__(self, work: Callable[[], object]) -> None:
        waiting, self._go = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            with contextlib.suppress(BaseException):
                os.close(self._go)
                os.read(waiting, 1)
                work()
                code = 0
            os._exit(code)
        os.close(waiting)

    def go(self) -> None:
        os.write(self._go, b"g")
        os.close(self._go)

    def running(self) -> bool:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        assert status == 0
        return pid == 0

    def wait(self) -> None:
        assert os.waitpid(self.pid, 0)[1] == 0

    def run(self) -> None:
        """Let it go, and wait for its end."""
        self.go()
        self.wait()
