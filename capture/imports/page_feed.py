"""The pages of one processor in a trace.dat, read once: as the kernel wrote them, or out of chunks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from hindsight.capture.compiled import compiled
from hindsight.capture.conversion.decode import EARLIEST, LATEST, PageCounts, PageDecoder, Pages
from hindsight.capture.conversion.index import Advance, CpuCounts, PageCounter, read_exactly
from hindsight.capture.conversion.stretches import (
    COUNT,
    FILLED,
    SIZE,
    STRETCH_ROWS,
    Shape,
    Sorting,
    StretchColumns,
    Views,
    store_events,
)
from hindsight.capture.conversion.walk import walk
from hindsight.capture.imports.chunks import Chunks
from hindsight.capture.imports.compression import Compression
from hindsight.capture.imports.foreign import Foreign
from hindsight.capture.imports.trace_dat import CpuPages

_LARGEST, _SMALLEST = 2 << 20, 64 << 10
"""Bytes that are stored at once."""
_PIECE_BYTES = 512 << 10
"""Of these, bytes that are read at once."""
_BLOCK_BYTES = 128 << 10
"""Of these, bytes whose events are listed and stored at once: they stay in the cache in between."""
_HEAD_BYTES = 4
"""Of an event, before its payload, at least."""
_SMALLEST_EVENT = 8
_ALL = 8 << 20
"""Bytes that are stored at once of all processors together, unless they would be too small."""


class Listing(NamedTuple):
    """Room for events in the order in which they come: ``ts`` i64 (ns), ``at`` u32 (words to the payload),
    ``size`` u32 (words of the payload; empty: they are not wanted), ``kind`` u16.
    """

    ts: np.ndarray
    at: np.ndarray
    size: np.ndarray
    kind: np.ndarray

    @classmethod
    def room(cls, size: int, sized: bool) -> Listing:
        """For the events of so many bytes of pages."""
        count = size // _SMALLEST_EVENT
        kinds = ("<i8", count), ("<u4", count), ("<u4", count if sized else 0), ("<u2", count)
        return cls(*(np.empty(rows, dtype) for dtype, rows in kinds))


@compiled
def take_pages(
    words: Any, pages: Any, at_once: Any, counts: Any, place: Any, page_ts: Any, page_end: Any,
    page_low: Any, page_high: Any, page_state: Any, page_missed: Any, page_bad: Any, listing: Any, cpu: Any,
    sorting: Any, shape: Any, views: Any, stretches: Any, state: Any,
) -> None:  # fmt: skip
    """Store the events of pages (``words`` u32), those of ``at_once`` pages at once.

    ``pages``: :class:`hindsight.capture.conversion.decode.Pages`; ``counts`` i64[1, kinds] goes on; what is
    said of each page, as in :func:`hindsight.capture.conversion.walk.walk`, begins at ``place``. ``listing``:
    room for the events of ``at_once`` pages; ``sorting`` … as in
    :func:`hindsight.capture.conversion.stretches.store_events`.
    """
    # Plain tuples are handed over in less time than named ones, and this is called for each piece.
    pages, listing, sorting = Pages(*pages), Listing(*listing), Sorting(*sorting)
    shape, views = Shape(*shape), Views(*views)
    page_words = np.uint64(pages.layout[0])
    step = np.uint64(at_once) * page_words
    size = np.uint64(words.size)
    first = np.uint64(place)
    none = listing.ts[:0]
    begin = np.uint64(0)
    while begin < size:
        end = min(begin + step, size)
        last = first + (end - begin) // page_words
        before = _total(counts)
        some = words[begin:end]
        walk(
            some, pages.layout, pages.kind_of_id, pages.need, at_once, counts, page_ts[first:last],
            page_end[first:last], page_low[first:last], page_high[first:last], page_state[first:last],
            page_missed[first:last], page_bad[first:last], False, none, 0, 0, 0, listing.ts, listing.at,
            listing.size, listing.kind,
        )  # fmt: skip
        count = _total(counts) - before
        if listing.size.size > 0:
            for n in range(count):
                i = np.uint64(n)
                if pages.sized[np.uint64(listing.kind[i])]:
                    some[np.uint64(listing.at[i]) - np.uint64(1)] = listing.size[i] * np.uint32(4)
        _store(some, listing, count, cpu, sorting, shape, views, stretches, state)
        begin, first = end, last


@compiled
def _total(counts: Any) -> Any:
    total = np.uint64(0)
    for kind in range(counts.shape[1]):
        total += np.uint64(counts[0, np.uint64(kind)])
    return total


@compiled
def _store(
    words: Any, listing: Any, count: Any, cpu: Any, sorting: Any, shape: Any, views: Any, stretches: Any,
    state: Any,
) -> None:  # fmt: skip
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
    ``decoder`` says which payloads are held with their sizes; ``size``: bytes of whole pages that are stored
    at once.
    """

    def __init__(
        self,
        cpu: int,
        decoder: PageDecoder,
        columns: StretchColumns,
        size: int,
        fill: Callable[[np.ndarray], int],
    ) -> None:
        self.bound = EARLIEST
        self.room = columns.room(size, _HEAD_BYTES)
        self._page_bytes = decoder.page_words * 4
        self._most_pages = size // self._page_bytes
        self._piece = np.empty(self._whole(min(size, _PIECE_BYTES)), np.uint8)
        block = min(self._whole(_BLOCK_BYTES), self._piece.size)
        self._at_once = block // self._page_bytes
        self._pages = tuple(decoder.pages)
        self._listing = tuple(Listing.room(block, bool(decoder.pages.sized.any())))
        self._sorting = tuple(Sorting.room(decoder.kinds))
        self._cpu, self._kinds, self._fill = cpu, decoder.kinds, fill
        self._columns, self._shape = columns, tuple(columns.own())
        # More than are needed, unless each event is of another kind than the one before; what is not used
        # is never touched.
        self._stretches = np.empty((size // _SMALLEST_EVENT, SIZE + 1), np.int64)
        self._state = np.zeros(2, np.int64)
        self._counter = PageCounter(cpu, decoder, self._most_pages)

    def _whole(self, size: int) -> int:
        return max(size // self._page_bytes, 1) * self._page_bytes

    def read(self, views: Views, begin: int) -> np.ndarray:
        """The stretches of the next pages. Raises what filling does, VerificationError for values that do not
        fit their columns.
        """
        self._state[[FILLED, COUNT]] = begin, 0
        found = PageCounts(1, self._kinds, self._most_pages)
        memory = tuple(views)
        size = pages = before = 0
        more = True
        while more and pages + self._piece.size // self._page_bytes <= self._most_pages:
            filled = self._fill(self._piece)
            before, size, more = pages, size + filled, filled == self._piece.size
            pages += filled // self._page_bytes
            take_pages(
                self._piece[: (pages - before) * self._page_bytes].view("<u4"), self._pages, self._at_once,
                found.counts, before, *found.arrays, self._listing, self._cpu, self._sorting, self._shape,
                memory, self._stretches, self._state,
            )  # fmt: skip
        self._columns.check(Shape(*self._shape).lost)
        found.cut(pages)
        if size:
            self._counter.take(found, size)
        if not more:
            self.bound = LATEST
        else:
            # The events of a processor follow each other: where they don't, it will be noticed.
            self.bound = int(found.low[before:].min())
        return self._stretches[: int(self._state[COUNT])].copy()

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
    whole = max(size // (decoder.page_words * 4), 1) * decoder.page_words * 4
    return [
        PageFeed(one.cpu, decoder, columns, whole, _filling(file, one, compression, advance)) for one in cpus
    ]


def _filling(
    file: Foreign, pages: CpuPages, compression: Compression, advance: Advance
) -> Callable[[np.ndarray], int]:
    # Of a processor without pages nobody vouches for the place.
    if not pages.size:
        return lambda into: 0
    if pages.compressed:
        return Chunks(file, compression, pages.offset, pages.size, advance)
    at, end = pages.offset, pages.offset + pages.size

    def fill(into: np.ndarray) -> int:
        nonlocal at
        size = min(into.size, end - at)
        read_exactly(file.descriptor, into[:size], at, file.path)
        at += size
        advance(size)
        return size

    return fill
