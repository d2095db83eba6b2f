"""The index of a raw file: in one pass its hash, its damage, and how many events of when each block holds.

With it a recording of any size is decoded slice by slice (:mod:`hindsight.capture.conversion.slices`). A
block is some 128 KiB of whole records. Reading is done with read(2), not through a mapping: an error of the
disk is an error, not a signal.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from isal.isal_zlib import crc32

from hindsight.capture.conversion.decode import TRUNCATED, PageCounts, PageDecoder, Problem
from hindsight.capture.segments.checksum import Checksum
from hindsight.capture.segments.segment import open_raw
from hindsight.errors import VerificationError

BLOCK_BYTES = 128 << 10
_PIECE_BYTES = 2 << 20
Advance = Callable[[int], None]


class Filler(Protocol):
    """Decodes whole blocks of one source: see :class:`hindsight.capture.conversion.decode.PageDecoder`."""

    def fill(
        self,
        words: np.ndarray,
        origin: int,
        earliest: int,
        latest: int,
        cursor: np.ndarray,
        limit: np.ndarray,
        ts: np.ndarray,
        at: np.ndarray,
    ) -> None:
        """Write down the events of ``earliest`` … ``latest`` (ns); ``cursor`` (i64[kinds]) moves on."""


@dataclass(frozen=True)
class CpuCounts:
    """What the raw trace of one CPU holds, block by block: see :class:`RawIndex`."""

    cpu: int
    low: np.ndarray
    high: np.ndarray
    counts: np.ndarray
    unusable: int
    problems: list[Problem]

    @property
    def events(self) -> int:
        """Events that can be decoded."""
        return int(self.counts.sum())


@dataclass(frozen=True)
class RawIndex:
    """What one pass over the raw file of one CPU found.

    ``offset`` i64[blocks + 1]: bytes, multiples of 4; ``low`` and ``high`` i64[blocks]: earliest and latest
    event, ns; ``counts`` u32[blocks, kinds]. ``unusable``: events that no layout fits. ``end`` i64[blocks]:
    where blocks end that don't follow each other; None: each ends where the next begins.
    """

    cpu: int
    path: Path
    filler: Filler
    offset: np.ndarray
    low: np.ndarray
    high: np.ndarray
    counts: np.ndarray
    unusable: int
    problems: list[Problem]
    end: np.ndarray | None = None

    @property
    def ends(self) -> np.ndarray:
        """Where each block ends, i64[blocks]: bytes."""
        return self.offset[1:] if self.end is None else self.end

    @property
    def sizes(self) -> np.ndarray:
        """The bytes of each block, i64[blocks]."""
        return self.ends - self.offset[:-1]

    @property
    def events(self) -> int:
        """Events that can be decoded."""
        return int(self.counts.sum())


def read_exactly(descriptor: int, into: np.ndarray, offset: int, path: Path) -> None:
    """Fill an array of u8 from a file. Raises VerificationError when the file is shorter or unreadable."""
    view = into.data
    while view:
        try:
            count = os.preadv(descriptor, [view], offset)
        except OSError as error:
            raise VerificationError(f"{path} cannot be read: {error.strerror}") from error
        if count == 0:
            raise VerificationError(f"{path} became shorter while it was read")
        view, offset = view[count:], offset + count


def index_pages(
    cpu: int,
    root: Path,
    name: str,
    expected: dict[str, object],
    decoder: PageDecoder,
    advance: Advance = lambda count: None,
    verify: bool = True,
) -> RawIndex:
    """Index the file of pages ``name`` of the segment ``root`` whose manifest says ``expected``.

    Raises VerificationError when size or (``verify``) checksum differ, or the file cannot be read.
    """
    path = root / name
    digest = Checksum(crc32)
    descriptor, size = open_raw(root, name, expected)
    try:
        index = index_open_pages(
            cpu, path, descriptor, 0, size, decoder, advance, digest.update if verify else None
        )
    finally:
        os.close(descriptor)
    if verify and digest.hexdigest() != expected["crc32"]:
        raise VerificationError(f"{path} does not have the checksum of its manifest: it was altered")
    return index


def index_open_pages(
    cpu: int,
    path: Path,
    descriptor: int,
    begin: int,
    end: int,
    decoder: PageDecoder,
    advance: Advance = lambda count: None,
    look: Callable[[memoryview], object] | None = None,
) -> RawIndex:
    """Index the pages that lie between two places (bytes) of an open file; ``look`` sees all bytes once.

    Raises VerificationError when the file cannot be read.
    """

    def pieces() -> Iterator[np.ndarray]:
        size = piece_bytes(decoder)
        buffer = np.empty(min(size, max(end - begin, 0)), np.uint8)
        at = begin
        while at < end:
            piece = buffer[: min(size, end - at)]
            read_exactly(descriptor, piece, at, path)
            if look is not None:
                look(piece.data)
            yield piece
            at += piece.size
            advance(piece.size)

    return index_pieces(cpu, path, begin, pieces(), decoder)


def piece_bytes(decoder: PageDecoder) -> int:
    """How much is indexed at once: whole blocks of pages."""
    page_bytes = decoder.page_words * 4
    block_bytes = max(BLOCK_BYTES // page_bytes, 1) * page_bytes
    return max(_PIECE_BYTES // block_bytes, 1) * block_bytes


def index_pieces(
    cpu: int, path: Path, begin: int, pieces: Iterable[np.ndarray], decoder: PageDecoder
) -> RawIndex:
    """Index pages (u8) that lie one after the other in the file ``path``, from byte ``begin`` on.

    All pieces but the last are :func:`piece_bytes` long; each is looked at before the next is asked for.
    """
    counter = PageCounter(cpu, decoder, max(BLOCK_BYTES // (decoder.page_words * 4), 1))
    for piece in pieces:
        counter.add(piece)
    found = counter.finish()
    offset = np.array([0, *counter.ends], np.int64) + begin
    return RawIndex(
        cpu, path, decoder, offset, found.low, found.high, found.counts, found.unusable, found.problems
    )


class PageCounter:
    """Counts the events in the pages of one processor, piece by piece, in blocks of ``block_pages`` pages.

    ``ends``: where blocks end, in bytes from the first page.
    """

    def __init__(self, cpu: int, decoder: PageDecoder, block_pages: int) -> None:
        self._cpu, self._decoder, self._block_pages = cpu, decoder, block_pages
        self._page_bytes = decoder.page_words * 4
        self._low: list[np.ndarray] = []
        self._high: list[np.ndarray] = []
        self._counts: list[np.ndarray] = []
        self._problems: list[Problem] = []
        self._pending: tuple[PageCounts, int | None] | None = None
        self._unusable, self._at = 0, 0
        self._before: int | None = None
        self.ends: list[int] = []

    def add(self, piece: np.ndarray) -> None:
        """Count those of some more bytes (u8); only the last piece may end within a page."""
        whole = piece.size // self._page_bytes * self._page_bytes
        self.take(self._decoder.count(piece[:whole].view("<u4"), self._block_pages), piece.size)

    def take(self, found: PageCounts, size: int) -> None:
        """Take in what some more bytes (``size``) hold; only those of the last may end within a page."""
        page_bytes, block_pages = self._page_bytes, self._block_pages
        whole = size // page_bytes * page_bytes
        if self._pending is not None:
            counts, before = self._pending
            extend(self._problems, counts.problems(before, int(found.ts[0]) if whole else None))
        self._pending = (found, self._before)
        if whole:
            pages = whole // page_bytes
            starts = np.arange(0, pages, block_pages)
            self._low.append(np.minimum.reduceat(found.low, starts))
            self._high.append(np.maximum.reduceat(found.high, starts))
            self._counts.append(found.counts.astype(np.uint32))
            self.ends += (self._at + np.append(starts[1:], pages) * page_bytes).tolist()
            self._before = int(found.end[-1])
            self._unusable += int(found.bad.sum())
        self._at += size

    def finish(self) -> CpuCounts:
        """What all pieces held, if there are no more."""
        problems = list(self._problems)
        if self._pending is not None:
            counts, before = self._pending
            extend(problems, counts.problems(before, None))
        if self._at % self._page_bytes:
            last = self._before or 0
            problems.append(Problem(last, last, None, "decode error", TRUNCATED))
        none = np.empty(0, np.int64)
        return CpuCounts(
            self._cpu,
            np.concatenate(self._low) if self._low else none,
            np.concatenate(self._high) if self._high else none,
            np.concatenate(self._counts) if self._counts else np.zeros((0, self._decoder.kinds), np.uint32),
            self._unusable,
            problems,
        )


def extend(problems: list[Problem], more: list[Problem]) -> None:
    """Append, joining damage that follows damage: a file that is all damage has one problem, not millions."""
    for problem in more:
        last = problems[-1] if problems else None
        if (
            last is not None
            and (last.cause, last.detail) == (problem.cause, problem.detail)
            and last.cause == "decode error"
            and (last.count is None) == (problem.count is None)
            and last.from_ns <= problem.from_ns <= last.to_ns
        ):
            count = None if last.count is None or problem.count is None else last.count + problem.count
            until = max(last.to_ns, problem.to_ns)
            problems[-1] = Problem(last.from_ns, until, count, last.cause, last.detail)
        else:
            problems.append(problem)
