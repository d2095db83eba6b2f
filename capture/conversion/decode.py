"""Decode the kernel's ring-buffer pages in two passes, driven by the layouts that come with them.

The first pass counts the events of each kind; the second writes down, per kind and in order, when each event
happened and where its payload lies. Fields are then gathered from the payloads, column by column
(:mod:`hindsight.capture.conversion.columns`). What is read once is counted and written down in one pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hindsight.capture.conversion.walk import (
    BAD_EVENT,
    BAD_LENGTH,
    IDS,
    MISSED,
    SHORT_PAYLOAD,
    UNKNOWN,
    UNKNOWN_ID,
    walk,
)
from hindsight.capture.formats import EventFormat, PageLayout
from hindsight.errors import VerificationError

EARLIEST, LATEST = -(1 << 63), (1 << 63) - 1
TRUNCATED = "the last page is incomplete"
_DAMAGE = {
    BAD_LENGTH: "a page is longer than a page can be",
    BAD_EVENT: "an event does not fit into its page",
    UNKNOWN_ID: "events of unknown kind",
    SHORT_PAYLOAD: "events shorter than their layout",
}


@dataclass(frozen=True)
class Problem:
    """A stretch of time of one CPU in which something is missing: in ns; ``count`` None = unknown."""

    from_ns: int
    to_ns: int
    count: int | None
    cause: str
    detail: str


@dataclass(frozen=True)
class CpuEvents:
    """The decoded order of one CPU's events.

    Kind k owns ``ts[span(k)]`` (i64, ns) and the same slice of ``at`` (u32: position of the payload in
    ``words``, the pages as u32): from ``first[k]`` to ``stop[k]``, or to ``first[k + 1]`` without ``stop``.
    """

    cpu: int
    words: np.ndarray
    first: np.ndarray
    ts: np.ndarray
    at: np.ndarray
    unusable: int
    problems: list[Problem]
    stop: np.ndarray | None = None

    def span(self, kind: int) -> slice:
        """Where the events of a kind are."""
        stop = self.first[kind + 1] if self.stop is None else self.stop[kind]
        return slice(int(self.first[kind]), int(stop))

    def rows(self, kind: int) -> int:
        """Events of a kind."""
        span = self.span(kind)
        return span.stop - span.start

    @property
    def counts(self) -> np.ndarray:
        """Events of each kind, i64[kinds]."""
        return (self.first[1:] if self.stop is None else self.stop) - self.first[:-1]

    @property
    def events(self) -> int:
        """Events that were decoded."""
        return int(self.counts.sum())


class PageCounts:
    """What a first walk over consecutive pages finds: ``counts`` i64[blocks, kinds]; the rest per page."""

    def __init__(self, blocks: int, kinds: int, pages: int) -> None:
        self.counts = np.zeros((blocks, kinds), np.int64)
        self.ts, self.end, self.low, self.high = (np.zeros(pages, np.int64) for _ in range(4))
        self.state = np.zeros(pages, np.uint8)
        self.missed, self.bad = (np.zeros(pages, np.int64) for _ in range(2))

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """The arrays per page, in the order in which :func:`walk` takes them."""
        return self.ts, self.end, self.low, self.high, self.state, self.missed, self.bad

    def cut(self, pages: int) -> None:
        """Only so many pages were there."""
        self.ts, self.end, self.low, self.high = (a[:pages] for a in (self.ts, self.end, self.low, self.high))
        self.state, self.missed, self.bad = self.state[:pages], self.missed[:pages], self.bad[:pages]

    def problems(self, before: int | None, after: int | None) -> list[Problem]:
        """Damage and missed events, in order. ``before``: when the page before these ended; ``after``: when
        the page after them begins; None where there is none.
        """
        found = []
        count: int | None
        pages = len(self.ts)
        for number in np.flatnonzero(self.state).tolist():
            here = int(self.ts[number])
            begin = int(self.end[number - 1]) if number else here if before is None else before
            finish = int(self.ts[number + 1]) if number + 1 < pages else after
            state = int(self.state[number])
            if state & MISSED:
                # Behind a damaged page may stand any number: one that cannot be is an unknown one.
                count = int(self.missed[number]) if self.missed[number] > 0 else None
                text = "the kernel flagged missed events"
                found.append(Problem(min(begin, here), here, count, "ring overrun", text))
            damage = "; ".join(text for flag, text in _DAMAGE.items() if state & flag)
            if damage:
                exact = not state & (BAD_LENGTH | BAD_EVENT)
                until = max(here, int(self.end[number]), here if finish is None else finish)
                count = int(self.bad[number]) if exact else None
                found.append(Problem(here, until, count, "decode error", damage))
        return found


class Pages(NamedTuple):
    """What pages hold, as :func:`walk` takes it: ``layout`` u64[3], ``kind_of_id`` u16[65536], ``need``
    u64[kinds]; ``sized`` bool[kinds]: the payloads of these have no fixed length.
    """

    layout: np.ndarray
    kind_of_id: np.ndarray
    need: np.ndarray
    sized: np.ndarray


_NOTHING = tuple(np.empty(0, dtype) for dtype in ("<i8", "<u4", "<u4", "<u2"))


class PageDecoder:
    """Walks pages of one layout in which events of the ``kinds`` are expected.

    ``sized``: the kinds (numbers) whose payloads have no fixed length. In the words of what was filled, the
    word before each such payload holds its size in bytes, as it does in perf's records.
    """

    def __init__(self, layout: PageLayout, kinds: list[EventFormat], sized: Sequence[int] = ()) -> None:
        self._sized = tuple(sized)
        self.page_words = layout.page_bytes // 4
        self.kinds = len(kinds)
        place = [self.page_words, layout.commit_offset // 4, layout.data_offset // 4]
        self.pages = Pages(
            np.array(place, np.uint64),
            np.full(IDS, UNKNOWN, np.uint16),
            np.zeros(len(kinds), np.uint64),
            np.zeros(len(kinds), np.bool_),
        )
        for number, kind in enumerate(kinds):
            self.pages.kind_of_id[kind.id] = number
            self.pages.need[number] = (kind.payload_bytes + 3) // 4
        self.pages.sized[list(sized)] = True

    def count(self, words: np.ndarray, block_pages: int | None = None) -> PageCounts:
        """Count the events of each kind in every block of ``block_pages`` pages (None: one block)."""
        pages = words.size // self.page_words
        size = max(pages, 1) if block_pages is None else block_pages
        found = PageCounts(-(-pages // size) if block_pages else 1, self.kinds, pages)
        none, *nothing = _NOTHING
        walk(
            words, *self.pages[:3], size, found.counts, *found.arrays, False, none, 0, 0, 0, none, *nothing
        )  # fmt: skip
        return found

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
        pages = words.size // self.page_words
        scratch = PageCounts(0, 0, pages)
        sizes = np.empty(ts.size if self._sized else 0, np.uint32)
        begun = cursor.copy()
        walk(
            words, *self.pages[:3], max(pages, 1), cursor.reshape(1, -1), *scratch.arrays, True, limit,
            origin, earliest, latest, ts, at, sizes, _NOTHING[3],
        )  # fmt: skip
        for kind in self._sized:
            some = slice(int(begun[kind]), int(min(cursor[kind], limit[kind])))
            words[at[some] - np.uint32(origin + 1)] = sizes[some] * np.uint32(4)


def load_words(path: Path, layout: PageLayout) -> tuple[np.ndarray, bool]:
    """A file of raw pages as u32 words, and whether an incomplete page at its end was left out.

    Raises VerificationError when the file is too large to be addressed at once (16 GiB).
    """
    size = path.stat().st_size
    whole = size // layout.page_bytes * layout.page_bytes
    if whole // 4 >= 1 << 32:
        raise VerificationError(f"{path} is larger than 16 GiB", "Decode it in slices.")
    if whole == 0:
        return np.empty(0, "<u4"), size > 0
    return np.memmap(path, "<u4", "r", shape=(whole // 4,)), whole != size


def decode_cpu(
    cpu: int, words: np.ndarray, layout: PageLayout, kinds: list[EventFormat], truncated: bool = False
) -> CpuEvents:
    """Decode the pages of one CPU (``words``: u32, whole pages). ``kinds`` are the events to expect.

    Damage never raises: it is listed in ``problems``, and the events that it hides are counted as unusable.
    """
    decoder = PageDecoder(layout, kinds)
    counted = decoder.count(words)
    first = np.zeros(len(kinds) + 1, np.int64)
    np.cumsum(counted.counts[0], out=first[1:])
    ts = np.empty(first[-1], np.int64)
    at = np.empty(first[-1], np.uint32)
    decoder.fill(words, 0, EARLIEST, LATEST, first[:-1].copy(), first[1:], ts, at)
    problems = counted.problems(None, None)
    if truncated:
        last = int(counted.end[-1]) if len(counted.end) else 0
        problems.append(Problem(last, last, None, "decode error", TRUNCATED))
    return CpuEvents(cpu, words, first, ts, at, int(counted.bad.sum()), problems)
