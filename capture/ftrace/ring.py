"""Move the kernel's ring buffers to files: whole sub-buffers by splice, partly filled ones by read."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections import deque
from pathlib import Path

from hindsight.capture.ftrace.tracefs import Instance, parse_stats

_PIPE_BYTES = 1 << 20
_SPLICE_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
_MOVES = 256
"""How many of the latest moves are remembered for :meth:`Drain.recent`."""


class Drain:
    """Moves the sub-buffers of one instance into one file per CPU: ``<directory>/cpu<N>.pages``.

    What was taken from a ring buffer waits in a pipe until it is written: when a file cannot be written
    (no space), the next call writes it first.
    """

    def __init__(self, instance: Instance, buffer_kb: int) -> None:
        self._instance = instance
        self._subbuffer = instance.subbuffer_bytes()
        self._limit = max(buffer_kb << 10, self._subbuffer)
        self._pipe_read, self._pipe_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        # An unprivileged pipe may be limited to less than was asked for: any size works.
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._pipe_write, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._chunk = fcntl.fcntl(self._pipe_write, fcntl.F_GETPIPE_SZ) // self._subbuffer * self._subbuffer
        self._raw: dict[int, int] = {}
        self._stats: dict[int, int] = {}
        self._files: dict[int, int] = {}
        self._sizes: dict[int, int] = {}
        self._in_pipe: tuple[int, int] = (0, 0)
        self._page: tuple[int, memoryview] = (0, memoryview(b""))
        self._moves: deque[tuple[int, int, int]] = deque(maxlen=_MOVES)
        try:
            for cpu in instance.cpus():
                base = instance.path / f"per_cpu/cpu{cpu}"
                self._raw[cpu] = os.open(base / "trace_pipe_raw", os.O_RDONLY | os.O_NONBLOCK)
                self._stats[cpu] = os.open(base / "stats", os.O_RDONLY)
        except BaseException:
            self.close()
            raise

    @property
    def descriptors(self) -> list[int]:
        """The ring buffers, to be waited for."""
        return list(self._raw.values())

    def rotate(self, directory: Path) -> None:
        """Write to new files in ``directory`` from now on; old ones that hold nothing are removed.

        Raises OSError when they cannot be made or when the old ones cannot take what waits in the pipe; the
        old ones stay in use then.
        """
        self.flush()
        files: dict[int, int] = {}
        try:
            for cpu in self._raw:
                path = directory / f"cpu{cpu}.pages"
                files[cpu] = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError:
            for descriptor in files.values():
                os.close(descriptor)
            raise
        self.close_files()
        self._files = files
        self._sizes = dict.fromkeys(files, 0)

    def drain(self) -> int:
        """Move every full sub-buffer, at most a ring buffer's size of each CPU; returns bytes moved."""
        self.flush()
        return sum(self._splice(cpu, raw) for cpu, raw in self._raw.items())

    def finish(self) -> int:
        """Move everything, partly filled sub-buffers as well; bounded like :meth:`drain`."""
        moved = self.drain()
        for cpu, raw in self._raw.items():
            # A reader that takes a page while it is being written finds the rest of it afterwards, with its
            # own time stamp: what is read now is complete up to now.
            most = self._limit + self._subbuffer
            while most > 0:
                try:
                    page = os.read(raw, self._subbuffer)
                except BlockingIOError:
                    break
                if not page:
                    break
                self._page = (cpu, memoryview(page.ljust(self._subbuffer, b"\0")))
                self._flush_page()
                most -= self._subbuffer
                moved += self._subbuffer
        return moved

    def _splice(self, cpu: int, raw: int) -> int:
        moved = 0
        while moved < self._limit:
            try:
                count = os.splice(raw, self._pipe_write, self._chunk, flags=_SPLICE_FLAGS)
            except BlockingIOError:
                break
            if count == 0:
                break
            self._in_pipe = (cpu, count)
            self._flush_pipe()
            moved += count
        return moved

    def flush(self) -> None:
        """Write what was taken from a ring buffer when a file could not be written."""
        self._flush_pipe()
        self._flush_page()

    def _flush_pipe(self) -> None:
        cpu, left = self._in_pipe
        while left:
            count = os.splice(self._pipe_read, self._files[cpu], left)
            left -= count
            self._in_pipe = (cpu, left)
            self._wrote(cpu, count)

    def _flush_page(self) -> None:
        cpu, left = self._page
        while left:
            count = os.write(self._files[cpu], left)
            left = left[count:]
            self._page = (cpu, left)
            self._wrote(cpu, count)

    def _wrote(self, cpu: int, count: int) -> None:
        self._moves.append((cpu, self._sizes[cpu], count))
        self._sizes[cpu] += count

    def stats(self) -> dict[int, dict[str, int]]:
        """The kernel's counters by CPU."""
        return {cpu: parse_stats(os.pread(file, 4096, 0)) for cpu, file in self._stats.items()}

    def recent(self, count: int) -> list[bytes]:
        """Up to ``count`` sub-buffers, spread evenly over those that were moved last, oldest first."""
        size = self._subbuffer
        pages = [
            (cpu, offset)
            for cpu, begin, length in self._moves
            for offset in range(-(-begin // size) * size, begin + length - size + 1, size)
        ]
        if len(pages) > count:
            pages = [pages[(2 * i + 1) * len(pages) // (2 * count)] for i in range(count)]
        return [os.pread(self._files[cpu], size, offset) for cpu, offset in pages]

    def close_files(self) -> None:
        """Close the files; sealing, which may run already, removes those that hold nothing."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files, self._sizes = {}, {}
        self._moves.clear()

    def close(self) -> None:
        """Close everything; what waits in the pipe is given up."""
        self.close_files()
        for descriptor in (*self._raw.values(), *self._stats.values(), self._pipe_read, self._pipe_write):
            if descriptor >= 0:
                os.close(descriptor)
        self._raw, self._stats = {}, {}
        self._pipe_read = self._pipe_write = -1
