"""Decode the kernel's ring-buffer pages: compiled, in two passes, driven by the layouts that come with them.

The first pass counts the events of each kind; the second writes down, per kind and in order, when each event
happened and where its payload lies. Fields are then gathered from the payloads, column by column
(:mod:`hindsight.capture.conversion.columns`). Nothing here knows a tracepoint.

Format: kernel/trace/ring_buffer.c and Documentation/trace/ring-buffer-design.rst of Linux 6.18. A payload is
aligned to 4 bytes only, so that all positions are in 32-bit words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hindsight.capture.compiled import compiled
from hindsight.capture.formats import EventFormat, PageLayout
from hindsight.errors import VerificationError

IDS = 1 << 16
UNKNOWN = 0xFFFF

# Flags of a page's state.
BAD_LENGTH = 1
BAD_EVENT = 2
UNKNOWN_ID = 4
SHORT_PAYLOAD = 8
MISSED = 16
EARLIEST, LATEST = -(1 << 63), (1 << 63) - 1
TRUNCATED = "the last page is incomplete"
_DAMAGE = {
    BAD_LENGTH: "a page is longer than a page can be",
    BAD_EVENT: "an event does not fit into its page",
    UNKNOWN_ID: "events of unknown kind",
    SHORT_PAYLOAD: "events shorter than their layout",
}


@compiled
def walk(
    words: Any,
    layout: Any,
    kind_of_id: Any,
    need: Any,
    block_pages: Any,
    cursor: Any,
    page_ts: Any,
    page_end: Any,
    page_low: Any,
    page_high: Any,
    page_state: Any,
    page_missed: Any,
    page_bad: Any,
    fill: bool,
    limit: Any,
    origin: Any,
    earliest: Any,
    latest: Any,
    ts_out: Any,
    at_out: Any,
    size_out: Any,
    kind_out: Any,
) -> None:
    """Walk pages of one CPU.

    ``words`` u32[pages * page_words]; ``layout`` u64[3]: words per page, word of the commit field, words
    before the data; ``kind_of_id`` u16[65536] maps event ids to kinds; ``need`` u64[kinds]: payload in words.

    ``fill`` False: ``cursor`` i64[blocks, kinds] counts the events of each kind in each block of
    ``block_pages`` pages. Per page: time of its header, time after its last event, earliest and latest time
    of a usable event (of the header if there is none), state flags, number of missed events, number of
    events that could not be used. What follows damage in a page is dropped; the next page starts afresh.
    Unless ``kind_out`` (u16) is empty, all events are written down as they come, in it and in the arrays of
    what follows.

    ``fill`` True: ``cursor`` says where the next event of each kind goes in ``ts_out`` (i64, ns) and
    ``at_out`` (u32, ``origin`` + payload position in words), up to ``limit`` i64[kinds]; beyond it the cursor
    moves on alone. Events before ``earliest`` or after ``latest`` (i64, ns) are left out. ``size_out`` (u32,
    as long as ``ts_out``, or empty: it is not wanted) takes the words of each payload.
    """
    sizes = size_out.size > 0
    lists = kind_out.size > 0
    listed = np.uint64(0)
    page_words = np.uint64(layout[0])
    commit_word = np.uint64(layout[1])
    head = np.uint64(layout[2])
    one = np.uint64(1)
    two = np.uint64(2)
    capacity = (page_words - head) * np.uint64(4)
    pages = np.uint64(words.size) // page_words
    for page in range(pages):
        base = np.uint64(page) * page_words
        clock = np.uint64(words[base]) | np.uint64(words[base + one]) << np.uint64(32)
        commit = np.uint64(words[base + commit_word])
        length = commit & np.uint64(0xFFFFF)
        page_ts[page] = np.int64(clock)
        state = np.uint8(0)
        bad = 0
        block = np.uint64(page) // np.uint64(block_pages)
        low = np.int64(0)
        high = np.int64(-1)
        any_event = False
        missed = np.uint64(0)
        if length > capacity or length & np.uint64(3):
            page_state[page] = BAD_LENGTH
            page_end[page] = np.int64(clock)
            page_low[page] = np.int64(clock)
            page_high[page] = np.int64(clock)
            page_missed[page] = 0
            page_bad[page] = 1
            continue
        if commit & np.uint64(0xC0000000):
            state |= np.uint8(MISSED)
            # Bit 30: the number is stored behind the data, where there is room for it.
            if commit & np.uint64(1 << 30) and length + np.uint64(8) <= capacity:
                tail = base + head + length // np.uint64(4)
                missed = np.uint64(words[tail]) | np.uint64(words[tail + one]) << np.uint64(32)
        at = base + head
        end = at + length // np.uint64(4)
        while at < end:
            header = np.uint64(words[at])
            kind_len = header & np.uint64(31)
            delta = header >> np.uint64(5)
            if kind_len <= np.uint64(28):
                if kind_len == 0:
                    if at + one >= end:
                        state |= np.uint8(BAD_EVENT)
                        bad += 1
                        break
                    size = np.uint64(words[at + one])
                    if size < np.uint64(4):
                        state |= np.uint8(BAD_EVENT)
                        bad += 1
                        break
                    size = (size + np.uint64(3)) // np.uint64(4)
                    payload = at + two
                    after = at + one + size
                else:
                    payload = at + one
                    after = payload + kind_len
                if after > end:
                    state |= np.uint8(BAD_EVENT)
                    bad += 1
                    break
                clock += delta
                if after == payload:
                    state |= np.uint8(SHORT_PAYLOAD)
                    bad += 1
                else:
                    kind = np.uint64(kind_of_id[np.uint64(words[payload]) & np.uint64(0xFFFF)])
                    if kind == np.uint64(UNKNOWN):
                        state |= np.uint8(UNKNOWN_ID)
                        bad += 1
                    elif after - payload < need[kind]:
                        state |= np.uint8(SHORT_PAYLOAD)
                        bad += 1
                    else:
                        ts = np.int64(clock)
                        if fill:
                            if earliest <= ts <= latest:
                                slot = cursor[block, kind]
                                if slot < limit[kind]:
                                    ts_out[np.uint64(slot)] = ts
                                    at_out[np.uint64(slot)] = np.uint32(np.uint64(origin) + payload)
                                    if sizes:
                                        size_out[np.uint64(slot)] = np.uint32(after - payload)
                                cursor[block, kind] = slot + 1
                        else:
                            cursor[block, kind] += 1
                            if lists:
                                ts_out[listed] = ts
                                at_out[listed] = np.uint32(payload)
                                kind_out[listed] = np.uint16(kind)
                                if sizes:
                                    size_out[listed] = np.uint32(after - payload)
                                listed += one
                            if not any_event:
                                low = ts
                                high = ts
                                any_event = True
                            elif ts < low:
                                low = ts
                            elif ts > high:
                                high = ts
                at = after
            elif kind_len == np.uint64(29):
                if delta == 0:
                    break
                # A discarded event: its length follows. The kernel's reader does not add its delta either.
                if at + one >= end:
                    state |= np.uint8(BAD_EVENT)
                    bad += 1
                    break
                at += one + (np.uint64(words[at + one]) + np.uint64(3)) // np.uint64(4)
                if at > end:
                    state |= np.uint8(BAD_EVENT)
                    bad += 1
            else:
                if at + one >= end:
                    state |= np.uint8(BAD_EVENT)
                    bad += 1
                    break
                stamp = delta + (np.uint64(words[at + one]) << np.uint64(27))
                if kind_len == np.uint64(30):
                    clock += stamp
                else:
                    # 59 bits: the upper five are those of the running clock, one more when it wrapped.
                    full = (stamp & np.uint64(0x07FFFFFFFFFFFFFF)) | (clock & np.uint64(0xF800000000000000))
                    if clock & np.uint64(0xF800000000000000) and full < clock:
                        full += np.uint64(1 << 59)
                    clock = full
                at += two
        page_end[page] = np.int64(clock)
        page_low[page] = low if any_event else page_ts[page]
        page_high[page] = high if any_event else page_ts[page]
        page_state[page] = state
        page_missed[page] = np.int64(missed)
        page_bad[page] = bad


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


class Listing(NamedTuple):
    """Room for events in the order in which they come: ``ts`` i64 (ns), ``at`` u32 (words to the payload),
    ``kind`` u16, ``size`` u32 (words of the payload).
    """

    ts: np.ndarray
    at: np.ndarray
    kind: np.ndarray
    size: np.ndarray


_NOTHING = Listing(*(np.empty(0, dtype) for dtype in ("<i8", "<u4", "<u2", "<u4")))


class PageDecoder:
    """Walks pages of one layout in which events of the ``kinds`` are expected.

    ``sized``: the kinds (numbers) whose payloads have no fixed length. In the words of what was filled, the
    word before each such payload holds its size in bytes, as it does in perf's records.
    """

    def __init__(self, layout: PageLayout, kinds: list[EventFormat], sized: Sequence[int] = ()) -> None:
        self._sized = tuple(sized)
        self.page_words = layout.page_bytes // 4
        self.kinds = len(kinds)
        self._kind_of_id = np.full(IDS, UNKNOWN, np.uint16)
        self._need = np.zeros(len(kinds), np.uint64)
        for number, kind in enumerate(kinds):
            self._kind_of_id[kind.id] = number
            self._need[number] = (kind.payload_bytes + 3) // 4
        self._layout = np.array(
            [self.page_words, layout.commit_offset // 4, layout.data_offset // 4], np.uint64
        )

    def count(
        self, words: np.ndarray, block_pages: int | None = None, listing: Listing | None = None
    ) -> PageCounts:
        """Count the events of each kind in every block of ``block_pages`` pages (None: one block), and write
        them down in ``listing``.
        """
        pages = words.size // self.page_words
        size = max(pages, 1) if block_pages is None else block_pages
        found = PageCounts(-(-pages // size) if block_pages else 1, self.kinds, pages)
        out = _NOTHING if listing is None else listing
        walk(
            words, self._layout, self._kind_of_id, self._need, size, found.counts, *found.arrays,
            False, _NOTHING.ts, 0, 0, 0, out.ts, out.at, out.size, out.kind,
        )  # fmt: skip
        if listing is not None and found.counts[:, list(self._sized)].any():
            kinds = listing.kind[: found.counts.sum()]
            some = np.flatnonzero(np.isin(kinds, self._sized))
            words[listing.at[some] - np.uint32(1)] = listing.size[some] * np.uint32(4)
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
            words, self._layout, self._kind_of_id, self._need, max(pages, 1), cursor.reshape(1, -1),
            *scratch.arrays, True, limit, origin, earliest, latest, ts, at, sizes, _NOTHING.kind,
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
