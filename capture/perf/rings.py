"""Ring buffers that the kernel shares with this process, one for each processor, and the files they go to.

What every tracer needs that reads perf's ring buffers, whoever fills them: moving, cutting, counting.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from hindsight.capture.perf.blocks import as_subbuffer, count_samples
from hindsight.capture.perf.ring import Ring

RECORD_BYTES = 8
"""What the size of every record in a raw file is a multiple of."""
_ONLINE = Path("/sys/devices/system/cpu/online")
_BLOCK_BYTES = 4096
_MOVES = 256
_COUNTERS = ("read events", "dropped events", "overrun", "commit overrun", "entries", "bytes")


def online_cpus(path: Path = _ONLINE) -> list[int]:
    """The processors that are online, ascending."""
    cpus: list[int] = []
    for part in path.read_text().strip().split(","):
        first, _, last = part.partition("-")
        cpus += range(int(first), int(last or first) + 1)
    return cpus


@contextlib.contextmanager
def _running_on(cpu: int) -> Iterator[bool]:
    """Run the calling thread on one processor; False when that is not allowed."""
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {cpu})
    except OSError:
        yield False
        return
    try:
        yield True
    finally:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, before)


class Filled(Protocol):
    """A ring buffer and what fills it, on processor ``cpu``; ``descriptor`` is to be waited for."""

    cpu: int
    descriptor: int

    @property
    def ring(self) -> Ring:
        """The ring buffer."""

    def count(self) -> tuple[int, int]:
        """How many events occurred, and how many of them found the ring buffer full."""

    def settled(self) -> tuple[int, int, int] | None:
        """Position, occurrences and losses that belong together, while events may go on; None if unlucky.

        Call it from a thread that runs on this processor: no other thread's event is then half-way between
        being counted and being written, and an interrupt's shows in one of the values that are read twice.
        """

    def switch(self, on: bool) -> None:
        """Begin, or stop; when this returns on stopping, nothing is written any more."""

    def close(self) -> None:
        """Release the ring buffer and what fills it."""


Fills = TypeVar("Fills", bound=Filled)


class RingFiles(Generic[Fills]):
    """The part of a :class:`hindsight.capture.recording.tracer.Tracer` that moves and counts."""

    def __init__(self) -> None:
        self._cpus = online_cpus()
        self._groups: dict[int, Fills] = {}
        self._exact: dict[int, tuple[int, int, int]] = {}
        self._directory: Path | None = None
        self._on = False
        self._moves: deque[tuple[int, int, int]] = deque(maxlen=_MOVES)

    def _pass_everywhere(self) -> None:
        """Run on each processor once: what another thread was in the middle of there is over."""
        for cpu in self._groups:
            with _running_on(cpu):
                pass

    def _begin(self, directory: Path) -> None:
        """The ring buffers are there: open files for them."""
        self._use_files(directory)
        self._exact = {cpu: (0, 0, 0) for cpu in self._groups}

    def _use_files(self, directory: Path) -> None:
        files: dict[int, int] = {}
        try:
            for cpu, ring in self._rings():
                files[cpu] = ring.write_to(directory / f"cpu{cpu}.perf")
        except OSError:
            for descriptor in files.values():
                os.close(descriptor)
            raise
        for cpu, ring in self._rings():
            ring.use(files[cpu])
        self._moves.clear()

    def _rings(self) -> Iterator[tuple[int, Ring]]:
        for cpu, group in self._groups.items():
            yield cpu, group.ring

    def drain(self) -> int:
        """See :class:`Tracer`; without sub-buffers, all that is there is moved."""
        return sum(self._copy(cpu, ring, None) for cpu, ring in self._rings())

    def finish(self) -> int:
        """Move everything that is there, on each processor up to a position at which the counts are exact."""
        return sum(self._settle(group) for group in self._groups.values())

    def flush(self) -> None:
        """Nothing waits outside the ring buffers."""

    def _copy(self, cpu: int, ring: Ring, until: int | None) -> int:
        offset = ring.written
        try:
            return ring.copy(until)
        finally:
            if ring.written > offset:
                self._moves.append((cpu, offset, ring.written - offset))

    def rotate(self, directory: Path) -> None:
        """See :class:`Tracer`."""
        self._directory = directory
        self._use_files(directory)

    def _settle(self, group: Fills) -> int:
        """Copy up to a position for which the counts are known, and remember them; returns bytes."""
        found = None
        if self._on:
            with _running_on(group.cpu) as here:
                found = group.settled() if here else None
        else:
            found = (group.ring.head, *group.count())
        if found is None:  # the processor may not be used, or never rests: count what is in the file
            count, lost = self._counted(group)
            found = group.ring.tail, count, lost
        position, count, lost = found
        moved = self._copy(group.cpu, group.ring, position)
        self._exact[group.cpu] = position, count, lost
        return moved

    def _counted(self, group: Fills) -> tuple[int, int]:
        """Samples up to where the ring buffer was copied, counted one by one; what was lost until now."""
        ring = group.ring
        position, count, lost = self._exact[group.cpu]
        taken = count - lost + count_samples(ring.file, ring.written - (ring.tail - position), ring.written)
        lost_now = group.count()[1]
        return taken + lost_now, lost_now

    def stats(self) -> dict[int, dict[str, int]]:
        """See :class:`Tracer`.

        ``read events`` is exact after :meth:`finish`, until more is drained, and while it is off. In between
        it includes what still waits in the ring buffer. Events that the kernel counts and then neither writes
        nor counts as lost (docs/perf-source.md) are in it as well.
        """
        found = {}
        for cpu in self._cpus:
            if cpu not in self._groups:
                found[cpu] = dict.fromkeys(_COUNTERS, 0)
                continue
            group = self._groups[cpu]
            ring = group.ring
            position, count, lost = self._exact[cpu]
            if ring.tail != position or not self._on:
                count, lost = group.count()
                if not self._on:
                    count -= ring.samples(ring.head)
            found[cpu] = dict(zip(_COUNTERS, (count - lost, lost, 0, 0, 0, ring.pending), strict=True))
        return found

    def recent(self, count: int) -> list[bytes]:
        """See :class:`Tracer`; the latest records, put into ftrace's sub-buffers."""
        rings = dict(self._rings())
        moves = list(self._moves)
        if len(moves) > count:
            moves = [moves[(2 * i + 1) * len(moves) // (2 * count)] for i in range(count)]
        blocks = (os.pread(rings[c].file, min(size, _BLOCK_BYTES), offset) for c, offset, size in moves)
        return [page for page in map(as_subbuffer, blocks) if page]

    def close(self) -> None:
        """See :class:`Tracer`."""
        groups, self._groups = list(self._groups.values()), {}
        for group in groups:
            group.close()
