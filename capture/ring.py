"""Move the kernel's ring buffers to files (splice, at the end read) and account for what was lost."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from dataclasses import dataclass
from pathlib import Path

from hindsight.capture.tracefs import Instance

_PIPE_BYTES = 1 << 20
_COUNTERS = {"dropped events": "ring full", "overrun": "ring overrun", "commit overrun": "ring overrun"}
"""Counters of the kernel that mean lost events, with the cause that the ``losses`` table names."""


@dataclass
class Loss:
    """Events of one CPU that the kernel counted as lost between two looks at its counters."""

    instance: str
    cpu: int
    from_ns: int
    to_ns: int
    count: int
    cause: str


class LossWatch:
    """Looks at the kernel's loss counters and keeps an interval for each rise."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._seen: dict[tuple[int, str], int] = {}
        self._looked: dict[int, int] = {}
        self.losses: list[Loss] = []
        self.first = {cpu: self._look(cpu) for cpu in instance.cpus()}
        self.last = dict(self.first)

    def _look(self, cpu: int) -> dict[str, int]:
        before = time.monotonic_ns()
        stats = self._instance.stats(cpu)
        after = time.monotonic_ns()
        for counter, cause in _COUNTERS.items():
            value = stats.get(counter, 0)
            rise = value - self._seen.get((cpu, counter), value)
            self._seen[cpu, counter] = value
            if rise > 0:
                self._add(Loss(self._instance.name, cpu, self._looked[cpu], after, rise, cause))
        self._looked[cpu] = before
        return stats

    def _add(self, loss: Loss) -> None:
        for previous in reversed(self.losses):
            if previous.cpu == loss.cpu and previous.cause == loss.cause:
                if previous.to_ns >= loss.from_ns:  # the buffer stayed full: one interval
                    previous.to_ns = loss.to_ns
                    previous.count += loss.count
                    return
                break
        self.losses.append(loss)

    def look(self) -> None:
        """Read the counters of every CPU."""
        for cpu in self.first:
            self.last[cpu] = self._look(cpu)


class Drain:
    """Moves the sub-buffers of one instance into one file per CPU under ``directory``."""

    def __init__(self, instance: Instance, directory: Path) -> None:
        self._subbuffer = instance.subbuffer_bytes()
        self._pipe_read, self._pipe_write = os.pipe2(os.O_CLOEXEC)
        # An unprivileged pipe may be limited to less than was asked for: any size works.
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._pipe_write, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._chunk = fcntl.fcntl(self._pipe_write, fcntl.F_GETPIPE_SZ) // self._subbuffer * self._subbuffer
        self.files: dict[int, Path] = {}
        self._open: list[tuple[int, int]] = []
        directory.mkdir(mode=0o700, parents=True)
        self._closed = False
        for cpu in instance.cpus():
            self.files[cpu] = directory / f"cpu{cpu}.pages"
            raw = os.open(instance.path / f"per_cpu/cpu{cpu}/trace_pipe_raw", os.O_RDONLY | os.O_NONBLOCK)
            out = os.open(self.files[cpu], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            self._open.append((raw, out))

    def drain(self) -> int:
        """Move every full sub-buffer; returns the number of bytes moved."""
        return sum(self._splice(raw, out) for raw, out in self._open)

    def _splice(self, raw: int, out: int) -> int:
        moved = 0
        while True:
            try:
                count = os.splice(raw, self._pipe_write, self._chunk, flags=_SPLICE_FLAGS)
            except BlockingIOError:
                return moved
            if count == 0:
                return moved
            left = count
            while left:
                left -= os.splice(self._pipe_read, out, left)
            moved += count

    def finish(self) -> int:
        """After tracing stopped: move everything that is left, partly filled sub-buffers as well."""
        moved = self.drain()
        for raw, out in self._open:
            while True:
                try:
                    page = os.read(raw, self._subbuffer)
                except BlockingIOError:
                    break
                if not page:
                    break
                view = memoryview(page.ljust(self._subbuffer, b"\0"))
                while view:
                    view = view[os.write(out, view) :]
                moved += self._subbuffer
        return moved

    def close(self) -> None:
        """Close the ring buffers and the files (which are made durable first)."""
        for raw, out in self._open:
            os.close(raw)
            os.fsync(out)
            os.close(out)
        if not self._closed:
            os.close(self._pipe_read)
            os.close(self._pipe_write)
        self._open, self._closed = [], True


_SPLICE_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
