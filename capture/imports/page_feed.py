"""The pages of one processor in a trace.dat, read once: as the kernel wrote them, or out of chunks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hindsight.capture.compiled import compiled
from hindsight.capture.conversion.decode import EARLIEST, LATEST, PageDecoder
from hindsight.capture.conversion.index import Advance, CpuCounts, PageCounter, read_exactly
from hindsight.capture.conversion.scratch import Scratch
from hindsight.capture.conversion.stretches import (
    COUNT,
    FILLED,
    SIZE,
    STRETCH_ROWS,
    Columns,
    Views,
    store_stretch,
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
def store_kinds(
    words: Any, at: Any, ts: Any, first: Any, cpu: Any, shape: Any, views: Any, stretches: Any, state: Any
) -> None:
    """Store the events of each kind k, ``first[k]`` … ``first[k + 1]`` of ``at`` and ``ts``: see
    :func:`hindsight.capture.conversion.stretches.store_stretch`.
    """
    most = np.uint64(STRETCH_ROWS)
    for k in range(first.size - 1):
        kind = np.uint64(k)
        begin = np.uint64(first[kind])
        stop = np.uint64(first[kind + np.uint64(1)])
        while begin < stop:
            end = min(begin + most, stop)
            store_stretch(words, at, ts, begin, end, kind, cpu, shape, views, stretches, state)
            begin = end


class PageFeed:
    """Reads pages, some at a time: see :class:`hindsight.capture.conversion.stream.Feed`.

    ``fill`` fills an array of u8 with what comes next, and says how much that was: less at the end alone.
    ``decoder`` writes down the sizes of payloads that are held.
    """

    def __init__(
        self,
        cpu: int,
        decoder: PageDecoder,
        columns: Columns,
        pages: int,
        fill: Callable[[np.ndarray], int],
        scratch: Scratch,
    ) -> None:
        self.bound = EARLIEST
        self._piece_bytes = pages * decoder.page_words * 4
        self.room = columns.room(self._piece_bytes, _HEAD_BYTES)
        self._cpu, self._decoder, self._fill = cpu, decoder, fill
        self._columns, self._shape = columns, columns.own()
        self._counter = PageCounter(cpu, decoder, pages)
        self._scratch = scratch

    def read(self, views: Views, begin: int) -> np.ndarray:
        """The stretches of the next pages. Raises what filling does, VerificationError for values that do not
        fit their columns.
        """
        piece = self._scratch.take("piece", self._piece_bytes, "u1")
        size = self._fill(piece)
        page_bytes = self._decoder.page_words * 4
        whole = size // page_bytes * page_bytes
        stretches = np.empty((0, SIZE + 1), np.int64)
        if size:
            found = self._counter.add(piece[:size])
        if whole:
            stretches = self._store(piece[:whole].view("<u4"), found.counts[0], views, begin)
            # The events of a processor follow each other: where they don't, it will be noticed.
            self.bound = int(found.low.min())
        if size < piece.size:
            self.bound = LATEST
        return stretches

    def _store(self, words: np.ndarray, counts: np.ndarray, views: Views, begin: int) -> np.ndarray:
        first = np.zeros(counts.size + 1, np.int64)
        np.cumsum(counts, out=first[1:])
        ts, at = self._scratch.take("ts", first[-1], "i8"), self._scratch.take("at", first[-1], "u4")
        self._decoder.fill(words, 0, EARLIEST, LATEST, first[:-1].copy(), first[1:], ts, at)
        stretches = np.empty((int((-(-counts // STRETCH_ROWS)).sum()), SIZE + 1), np.int64)
        state = np.zeros(2, np.int64)
        state[[FILLED, COUNT]] = begin, 0
        store_kinds(words, at, ts, first, self._cpu, self._shape, views, stretches, state)
        self._columns.check(self._shape.lost)
        return stretches

    def counts(self) -> CpuCounts:
        """What was read so far."""
        return self._counter.finish()


def page_feeds(
    file: Foreign,
    cpus: list[CpuPages],
    compression: Compression,
    decoder: PageDecoder,
    columns: Columns,
    advance: Advance,
) -> list[PageFeed]:
    """A feed for each processor."""
    size = min(max(_ALL // max(len(cpus), 1), _SMALLEST), _LARGEST)
    pages = max(size // (decoder.page_words * 4), 1)
    return [
        PageFeed(one.cpu, decoder, columns, pages, _filling(file, one, compression, advance), Scratch())
        for one in cpus
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
