"""The pages of one processor in a trace.dat, read once: as the kernel wrote them, or out of chunks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hindsight.capture.conversion.decode import EARLIEST, LATEST, PageDecoder
from hindsight.capture.conversion.index import Advance, CpuCounts, PageCounter, read_exactly
from hindsight.capture.conversion.stream import Block
from hindsight.capture.imports.compression import Compression, Filling
from hindsight.capture.imports.foreign import Foreign
from hindsight.capture.imports.trace_dat import CpuPages

_LARGEST, _SMALLEST = 1 << 20, 64 << 10
"""Bytes of a block: what belongs to two slices is copied from one to the other, block by block."""
_ALL = 4 << 20
"""Bytes of the blocks of all processors together, unless they would be too small."""


class PageFeed:
    """Reads and counts pages, a block at a time: see :class:`hindsight.capture.conversion.stream.Feed`.

    ``fill`` fills an array of u8 with what comes next, and says how much that was: less at the end alone.
    """

    def __init__(self, cpu: int, decoder: PageDecoder, pages: int, fill: Callable[[np.ndarray], int]) -> None:
        self.bound = EARLIEST
        self.room = pages * decoder.page_words * 4
        self._cpu, self._decoder, self._fill = cpu, decoder, fill
        self._counter = PageCounter(cpu, decoder, pages)

    def read(self, into: np.ndarray) -> list[Block]:
        """The next block, if there is one."""
        size = self._fill(into)
        page_bytes = self._decoder.page_words * 4
        whole = size // page_bytes * page_bytes
        blocks = []
        if size:
            found = self._counter.add(into[:size])
        if whole:
            low, high = int(found.low.min()), int(found.high.max())
            counts, by = found.counts[0], self._decoder
            blocks.append(Block(self._cpu, 0, whole, low, high, counts, by, by.overwrites(counts)))
            # The events of a processor follow each other: where they don't, it will be noticed.
            self.bound = low
        if size < into.size:
            self.bound = LATEST
        return blocks

    def counts(self) -> CpuCounts:
        """What was read so far."""
        return self._counter.finish()


def page_feeds(
    file: Foreign, cpus: list[CpuPages], compression: Compression, decoder: PageDecoder, advance: Advance
) -> list[PageFeed]:
    """A feed for each processor."""
    size = min(max(_ALL // max(len(cpus), 1), _SMALLEST), _LARGEST)
    pages = max(size // (decoder.page_words * 4), 1)
    return [PageFeed(one.cpu, decoder, pages, _filling(file, one, compression, advance)) for one in cpus]


def _filling(
    file: Foreign, pages: CpuPages, compression: Compression, advance: Advance
) -> Callable[[np.ndarray], int]:
    # Of a processor without pages nobody vouches for the place.
    if not pages.size:
        return lambda into: 0
    if pages.compressed:
        return Filling(compression.chunks(file, pages.offset, pages.size, advance))
    at, end = pages.offset, pages.offset + pages.size

    def fill(into: np.ndarray) -> int:
        nonlocal at
        size = min(into.size, end - at)
        read_exactly(file.descriptor, into[:size], at, file.path)
        at += size
        advance(size)
        return size

    return fill
