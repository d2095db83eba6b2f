"""The pages of one processor in a trace.dat, read once: as the kernel wrote them, or out of chunks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hindsight.capture.compiled import compiled
from hindsight.capture.conversion.decode import EARLIEST, LATEST, Listing, PageDecoder
from hindsight.capture.conversion.index import Advance, CpuCounts, PageCounter, read_exactly
from hindsight.capture.conversion.stretches import (
    COUNT,
    FILLED,
    SIZE,
    STRETCH_ROWS,
    Sorting,
    StretchColumns,
    Views,
    store_events,
)
from hindsight.capture.imports.compression import Compression, Filling
from hindsight.capture.imports.foreign import Foreign
from hindsight.capture.imports.trace_dat import CpuPages

_LARGEST, _SMALLEST = 1 << 20, 64 << 10
"""Bytes that are read at once."""
_HEAD_BYTES = 4
"""Of an event, before its payload, at least."""
_ALL = 4 << 20
"""Bytes that are read at once of all processors together, unless they would be too small."""


@compiled
def store_listed(
    words: Any, listing: Any, count: Any, cpu: Any, sorting: Any, shape: Any, views: Any, stretches: Any,
    state: Any,
) -> None:  # fmt: skip
    """Store ``count`` events of one processor: see
    :func:`hindsight.capture.conversion.stretches.store_events`.
    """
    most = np.uint64(STRETCH_ROWS)
    begin = np.uint64(0)
    while begin < np.uint64(count):
        stop = min(begin + most, np.uint64(count))
        store_events(
            words, listing.at, 0, listing.ts, listing.kind, begin, stop, cpu, sorting, shape, views,
            stretches, state,
        )  # fmt: skip
        begin = stop


class PageFeed:
    """Reads pages, some at a time: see :class:`hindsight.capture.conversion.stream.Feed`.

    ``fill`` fills an array of u8 with what comes next, and says how much that was: less at the end alone.
    ``decoder`` writes down the sizes of payloads that are held.
    """

    def __init__(
        self,
        cpu: int,
        decoder: PageDecoder,
        columns: StretchColumns,
        pages: int,
        fill: Callable[[np.ndarray], int],
    ) -> None:
        self.bound = EARLIEST
        size = pages * decoder.page_words * 4
        self.room = columns.room(size, _HEAD_BYTES)
        self._piece = np.empty(size, np.uint8)
        # An event takes 8 bytes, at least.
        self._listing = Listing(*(np.empty(size // 8, dtype) for dtype in ("<i8", "<u4", "<u2", "<u4")))
        self._sorting = Sorting.room(decoder.kinds)
        self._cpu, self._decoder, self._fill = cpu, decoder, fill
        self._columns, self._shape = columns, columns.own()
        self._counter = PageCounter(cpu, decoder, pages)

    def read(self, views: Views, begin: int) -> np.ndarray:
        """The stretches of the next pages. Raises what filling does, VerificationError for values that do not
        fit their columns.
        """
        size = self._fill(self._piece)
        page_bytes = self._decoder.page_words * 4
        whole = size // page_bytes * page_bytes
        stretches = np.empty((0, SIZE + 1), np.int64)
        if size:
            found = self._counter.add(self._piece[:size], self._listing)
        if whole:
            words = self._piece[:whole].view("<u4")
            stretches = self._store(words, found.counts[0], views, begin)
            # The events of a processor follow each other: where they don't, it will be noticed.
            self.bound = int(found.low.min())
        if size < self._piece.size:
            self.bound = LATEST
        return stretches

    def _store(self, words: np.ndarray, counts: np.ndarray, views: Views, begin: int) -> np.ndarray:
        count = int(counts.sum())
        most = min(-(-count // STRETCH_ROWS) * int(np.count_nonzero(counts)), count)
        stretches = np.empty((most, SIZE + 1), np.int64)
        state = np.zeros(2, np.int64)
        state[[FILLED, COUNT]] = begin, 0
        store_listed(
            words, self._listing, count, self._cpu, self._sorting, self._shape, views, stretches, state
        )
        self._columns.check(self._shape.lost)
        return stretches[: int(state[COUNT])]

    def counts(self) -> CpuCounts:
        """What was read so far."""
        return self._counter.finish()


def page_feeds(
    file: Foreign,
    cpus: list[CpuPages],
    compression: Compression,
    decoder: PageDecoder,
    columns: StretchColumns,
    advance: Advance,
) -> list[PageFeed]:
    """A feed for each processor."""
    size = min(max(_ALL // max(len(cpus), 1), _SMALLEST), _LARGEST)
    pages = max(size // (decoder.page_words * 4), 1)
    return [
        PageFeed(one.cpu, decoder, columns, pages, _filling(file, one, compression, advance)) for one in cpus
    ]


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
