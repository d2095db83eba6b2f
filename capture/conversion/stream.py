"""Decode a recording in one pass: what is read is counted, and decoded while it is still in memory.

That needs processors whose trace goes on in order of time, and room for the rows of all tables at once. What
lacks either is :class:`Unsuited`: it is indexed first and then read again
(:mod:`hindsight.capture.conversion.slices`). The rows, and the bytes of the tables, are the same either way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from hindsight.capture.conversion.decode import EARLIEST, LATEST, CpuEvents
from hindsight.capture.conversion.events import Kind, Slices
from hindsight.capture.conversion.index import CpuCounts, Filler
from hindsight.capture.conversion.scratch import Scratch
from hindsight.capture.conversion.slices import SLICE_BYTES, fill_blocks
from hindsight.capture.conversion.workers import NONE, Workers

MOST_BYTES = 128 << 20
"""Raw trace that is held, at most: what is in more disorder than that is indexed first."""
_MOST_SLOTS = 1 << 12
"""However small they are."""


class Unsuited(Exception):
    """The recording cannot be decoded in one pass."""


@dataclass
class Block:
    """Consecutive events of one processor: ``size`` bytes from ``begin`` of where they were read to.

    ``low`` and ``high``: earliest and latest event, ns; ``counts`` integers[kinds]. ``overwrites``: who
    decodes it writes over it.
    """

    cpu: int
    begin: int
    size: int
    low: int
    high: int
    counts: np.ndarray
    filler: Filler
    overwrites: bool = False


class Feed(Protocol):
    """Raw trace that is read from front to back.

    ``bound``: nothing that was not read yet happened before (ns); LATEST when all was read. ``room``: bytes
    that are read at once, at most.
    """

    @property
    def bound(self) -> int:
        """See above."""

    @property
    def room(self) -> int:
        """See above."""

    def read(self, into: np.ndarray) -> list[Block]:
        """Read some more into an array of u8, of ``room`` bytes."""


@dataclass(frozen=True)
class StreamedTrace:
    """The raw trace of one instance that is read once.

    ``facts``: as those of :class:`hindsight.capture.conversion.convert.Recording`, at any time; complete when
    all slices were had. So are ``counts``: what each processor's trace held.
    """

    name: str
    kinds: list[Kind]
    feeds: Sequence[Feed]
    facts: Callable[[], dict[str, Any]]
    counts: Callable[[], list[CpuCounts]]

    def slices(
        self, workers: Workers = NONE, slice_bytes: int = SLICE_BYTES, scratch: Scratch | None = None
    ) -> Slices:
        """See :func:`slices`."""
        return slices(self.feeds, workers, slice_bytes, scratch or Scratch())


def slices(feeds: Sequence[Feed], workers: Workers, slice_bytes: int, scratch: Scratch) -> Slices:
    """The events of each slice of time; and 0, as feeds themselves tell of the bytes that they read.

    Events are valid until the next slice is asked for. Raises :class:`Unsuited` when more would have to be
    held than :data:`MOST_BYTES`, or an event comes when those after it are gone; what feeds raise.
    """
    memory = _Memory(max((feed.room for feed in feeds), default=0), scratch)
    blocks: list[Block] = []
    earliest = EARLIEST
    while True:
        while True:
            latest = min((feed.bound - 1 for feed in feeds), default=LATEST)
            if latest >= LATEST - 1:
                latest = LATEST
                break
            ready = sum(block.size for block in blocks if block.high <= latest)
            unread = sorted((f for f in feeds if f.bound < LATEST), key=lambda feed: feed.bound)
            first = unread[: min(workers.threads, memory.free)]
            if ready >= slice_bytes or (ready and not first):
                break
            if not first:
                raise Unsuited
            read = _read(first, memory, workers)
            if any(block.low < earliest for block in read if block.counts.any()):
                raise Unsuited
            blocks += read
        left = [block for block in blocks if block.high > latest]
        # The next slice needs these as they were read.
        saved = [(b, memory.data[b.begin : b.begin + b.size].copy()) for b in left if b.overwrites]
        yield _decode(blocks, memory, earliest, latest, scratch, workers), 0
        if latest == LATEST:
            return
        for block, data in saved:
            memory.data[block.begin : block.begin + data.size] = data
        memory.keep(left)
        blocks, earliest = left, latest + 1


class _Memory:
    """Room for what is read, in slots that are used again; ``data`` u8 takes what was touched of it alone."""

    def __init__(self, room: int, scratch: Scratch) -> None:
        self._slot = max(room + 7, 8) // 8 * 8
        count = min(max(MOST_BYTES // self._slot, 1), _MOST_SLOTS)
        self.data = scratch.take("held", count * self._slot, "u1")
        self._free = list(range(count))[::-1]
        self._used: set[int] = set()

    @property
    def free(self) -> int:
        """Slots that nothing is held in."""
        return len(self._free)

    def take(self) -> int:
        """Where a free slot begins; the one that was used last, as it may be in the cache."""
        number = self._free.pop()
        self._used.add(number)
        return number * self._slot

    def keep(self, blocks: list[Block]) -> None:
        """Only these are held any more."""
        held = {block.begin // self._slot for block in blocks}
        self._free += sorted(self._used - held, reverse=True)
        self._used = held


def _read(feeds: list[Feed], memory: _Memory, workers: Workers) -> list[Block]:
    begins = [memory.take() for _ in feeds]

    def one(place: tuple[Feed, int]) -> list[Block]:
        feed, begin = place
        blocks = feed.read(memory.data[begin : begin + feed.room])
        for block in blocks:
            block.begin += begin
        return blocks

    return [block for blocks in workers.each(one, zip(feeds, begins, strict=True)) for block in blocks]


def _decode(
    blocks: list[Block], memory: _Memory, earliest: int, latest: int, scratch: Scratch, workers: Workers
) -> list[CpuEvents]:
    by_cpu: dict[int, list[Block]] = {}
    for block in blocks:
        by_cpu.setdefault(block.cpu, []).append(block)
    words = memory.data.view("<u4")

    def one(cpu: int) -> CpuEvents:
        mine = by_cpu[cpu]
        counts = np.array([block.counts for block in mine]).sum(axis=0, dtype=np.int64)
        parts = ((b.filler, words[b.begin // 4 : (b.begin + b.size) // 4], b.begin // 4) for b in mine)
        return fill_blocks(cpu, words, counts, parts, earliest, latest, scratch, cpu)

    return workers.each(one, sorted(by_cpu))
