"""Events of one program and one file, decoded as soon as the kernel has written them.

A private tracefs instance that wakes its reader at the first event (``buffer_percent`` 0), and whose partly
filled pages are read: a recorder, which waits for full pages, would be seconds late.
"""

from __future__ import annotations

import os
import select
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from hindsight.capture.conversion.decode import EARLIEST, LATEST, PageDecoder
from hindsight.capture.conversion.gather import CUT, gather
from hindsight.capture.formats import EventFormat, parse_event, parse_header_page
from hindsight.capture.ftrace.tracefs import Instance, locate
from hindsight.capture.profiles import profile
from hindsight.errors import HindsightError, NotPermittedError

BUFFER_KB = 4096
"""Of each processor."""

_PAGES = 256
"""Pages that one look takes at most; the rest is taken by the next one."""
_SYSTEMS = ("filemap/", "readahead/")
_EVERY_BIT = np.uint64((1 << 64) - 1)
_LOST = ("overrun", "commit overrun", "dropped events")


@dataclass(frozen=True)
class Taken:
    """What one look found: how many events, and the times of the oldest and newest (CLOCK_MONOTONIC, ns)."""

    events: int
    oldest_ns: int
    newest_ns: int


class LiveEvents:
    """What process ``pid`` does to the file with inode number ``inode``, as capture's readahead profile
    records it: what is looked up in the page cache, and what readahead decides.

    Raises NotPermittedError where tracing is not allowed, or the kernel has none of these events.
    """

    def __init__(self, pid: int, inode: int) -> None:
        self._pid, self._inode = pid, inode
        root = locate()
        self._descriptors: list[int] = []
        self._instance = Instance(root, f"live{pid}")
        try:
            self._instance.configure(BUFFER_KB)
            self._instance.write("buffer_percent", "0")
            wanted = [e for e in profile("readahead").tracepoints if e.startswith(_SYSTEMS)]
            events = [event for event in wanted if self._instance.has(event)]
            self._kinds = [parse_event(e.partition("/")[0], self._instance.format(e)) for e in events]
            if not any("i_ino" in kind.fields for kind in self._kinds):
                raise NotPermittedError("this kernel has no tracepoints of the page cache")
            header = self._instance.path / "events/header_page"
            header = header if header.exists() else root / "events/header_page"
            layout = parse_header_page(header.read_text())
            self._decoder = PageDecoder(layout, self._kinds)
            self._page_words = layout.page_bytes // 4
            self._words = np.zeros(_PAGES * self._page_words, "<u4")
            self._bytes = self._words.data.cast("B")
            self._poll = select.poll()
            for cpu in self._instance.cpus():
                path = self._instance.path / f"per_cpu/cpu{cpu}/trace_pipe_raw"
                self._descriptors.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
                self._poll.register(self._descriptors[-1], select.POLLIN)
            self._instance.enable(events)
            self._instance.follow([pid])
            self._instance.on()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> LiveEvents:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def wait(self, seconds: float) -> list[int]:
        """The ring buffers that hold something, as :meth:`take` wants them; [] after so many seconds."""
        return [descriptor for descriptor, _ in self._poll.poll(seconds * 1000)]

    def take(self, descriptors: list[int]) -> Taken | None:
        """Take what these ring buffers hold and decode it; None if nothing of it is of the program and file.

        Raises HindsightError if a page cannot be decoded.
        """
        pages = 0
        size = self._page_words * 4
        for descriptor in descriptors:
            while pages < _PAGES:
                page = self._bytes[pages * size : (pages + 1) * size]
                try:
                    count = os.readv(descriptor, [page])
                except BlockingIOError:
                    break
                if count == 0:
                    break
                page[count:] = bytes(size - count)
                pages += 1
        words = self._words[: pages * self._page_words]
        counted = self._decoder.count(words)
        if counted.bad.any():
            raise HindsightError("a page of the ring buffer cannot be decoded")
        first = np.zeros(len(self._kinds) + 1, np.int64)
        np.cumsum(counted.counts[0], out=first[1:])
        ts, at = np.empty(first[-1], np.int64), np.empty(first[-1], np.uint32)
        self._decoder.fill(words, 0, EARLIEST, LATEST, first[:-1].copy(), first[1:], ts, at)
        own = np.zeros(len(ts), bool)
        for number, kind in enumerate(self._kinds):
            here = slice(int(first[number]), int(first[number + 1]))
            if here.start < here.stop and "i_ino" in kind.fields:
                own[here] = self._values(words, at[here], kind, "common_pid") == self._pid
                own[here] &= self._values(words, at[here], kind, "i_ino") == self._inode
        ts = ts[own]
        return Taken(len(ts), int(ts.min()), int(ts.max())) if len(ts) else None

    @staticmethod
    def _values(words: np.ndarray, at: np.ndarray, kind: EventFormat, name: str) -> np.ndarray:
        field = kind.fields[name]
        out = np.empty(len(at), np.uint64)
        begin, stop = np.uint64(0), np.uint64(len(at))
        gather(
            words, at, begin, stop, field.offset, field.size, field.signed, 0, _EVERY_BIT, CUT, out, begin
        )  # fmt: skip
        return out

    def count_lost(self) -> int:
        """Events that found no room so far, by the kernel's counters."""
        stats = [self._instance.stats(cpu) for cpu in self._instance.cpus()]
        return sum(counters.get(name, 0) for counters in stats for name in _LOST)

    def close(self) -> None:
        """Remove the instance."""
        while self._descriptors:
            os.close(self._descriptors.pop())
        self._instance.remove()
