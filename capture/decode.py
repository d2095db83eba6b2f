"""Decode the kernel's ring-buffer pages: compiled, in two passes, driven by the layouts that come with them.

The first pass counts the events of each kind; the second writes down, per kind and in order, when each event
happened and where its payload lies. Fields are then gathered from the payloads, column by column
(:mod:`hindsight.capture.columns`). Nothing here knows a tracepoint.

Format: kernel/trace/ring_buffer.c and Documentation/trace/ring-buffer-design.rst of Linux 6.18. A payload is
aligned to 4 bytes only, so that all positions are in 32-bit words.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

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
_DAMAGE = {
    BAD_LENGTH: "a page is longer than a page can be",
    BAD_EVENT: "an event does not fit into its page",
    UNKNOWN_ID: "events of unknown kind",
    SHORT_PAYLOAD: "events shorter than their layout",
}


@njit(cache=True, nogil=True)
def walk(
    words: Any,
    layout: Any,
    kind_of_id: Any,
    need: Any,
    fill: bool,
    cursor: Any,
    ts_out: Any,
    at_out: Any,
    page_ts: Any,
    page_end: Any,
    page_state: Any,
    page_missed: Any,
    page_bad: Any,
) -> None:
    """Walk every page of one CPU.

    ``words`` u32[pages * page_words]; ``layout`` u64[3]: words per page, word of the commit field, words
    before the data; ``kind_of_id`` u16[65536] maps event ids to kinds; ``need`` u64[kinds]: payload in words.
    ``cursor`` i64[kinds] counts the events of each kind (``fill`` False) or holds where the next one goes in
    ``ts_out`` (i64, ns) and ``at_out`` (u32, payload position in words).

    Per page: time of its header, time of its last event, state flags, number of missed events, number of
    events that could not be used. What follows damage in a page is dropped; the next page starts afresh.
    """
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
        missed = np.uint64(0)
        if length > capacity or length & np.uint64(3):
            page_state[page] = BAD_LENGTH
            page_end[page] = np.int64(clock)
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
                        if fill:
                            slot = np.uint64(cursor[kind])
                            ts_out[slot] = np.int64(clock)
                            at_out[slot] = np.uint32(payload)
                        cursor[kind] += 1
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

    Kind k owns ``ts[first[k]:first[k + 1]]`` (i64, ns) and the same slice of ``at`` (u32: position of the
    payload in ``words``, the pages as u32).
    """

    cpu: int
    words: np.ndarray
    first: np.ndarray
    ts: np.ndarray
    at: np.ndarray
    unusable: int
    problems: list[Problem]

    @property
    def events(self) -> int:
        """Events that were decoded."""
        return int(self.ts.size)


def load_words(path: Path, layout: PageLayout) -> tuple[np.ndarray, bool]:
    """A file of raw pages as u32 words, and whether an incomplete page at its end was left out.

    Raises VerificationError when the file is too large to be addressed (16 GiB per CPU and segment).
    """
    size = path.stat().st_size
    whole = size // layout.page_bytes * layout.page_bytes
    if whole // 4 >= 1 << 32:
        raise VerificationError(f"{path} is larger than 16 GiB", "Record shorter segments.")
    if whole == 0:
        return np.empty(0, "<u4"), size > 0
    return np.memmap(path, "<u4", "r", shape=(whole // 4,)), whole != size


def decode_cpu(
    cpu: int, words: np.ndarray, layout: PageLayout, kinds: list[EventFormat], truncated: bool = False
) -> CpuEvents:
    """Decode the pages of one CPU (``words``: u32, whole pages). ``kinds`` are the events to expect.

    Damage never raises: it is listed in ``problems``, and the events that it hides are counted as unusable.
    """
    kind_of_id = np.full(IDS, UNKNOWN, np.uint16)
    need = np.zeros(len(kinds), np.uint64)
    for number, kind in enumerate(kinds):
        kind_of_id[kind.id] = number
        need[number] = (kind.payload_bytes + 3) // 4
    page_words = layout.page_bytes // 4
    pages = words.size // page_words
    shape = np.array([page_words, layout.commit_offset // 4, layout.data_offset // 4], np.uint64)
    page = [np.zeros(pages, dtype) for dtype in (np.int64, np.int64, np.uint8, np.int64, np.int64)]
    found = np.zeros(len(kinds), np.int64)
    nothing = (np.empty(0, np.int64), np.empty(0, np.uint32))
    walk(words, shape, kind_of_id, need, False, found, *nothing, *page)
    first = np.zeros(len(kinds) + 1, np.int64)
    np.cumsum(found, out=first[1:])
    ts = np.empty(first[-1], np.int64)
    at = np.empty(first[-1], np.uint32)
    walk(words, shape, kind_of_id, need, True, first[:-1].copy(), ts, at, *page)
    page_ts, page_end, page_state, page_missed, page_bad = page
    problems = []
    count: int | None
    for number in np.flatnonzero(page_state).tolist():
        begin = int(page_end[number - 1]) if number else int(page_ts[number])
        finish = int(page_ts[number + 1]) if number + 1 < pages else int(page_end[number])
        state = int(page_state[number])
        here = int(page_ts[number])
        if state & MISSED:
            count = int(page_missed[number]) or None
            text = "the kernel flagged missed events"
            problems.append(Problem(min(begin, here), here, count, "ring overrun", text))
        damage = "; ".join(text for flag, text in _DAMAGE.items() if state & flag)
        if damage:
            exact = not state & (BAD_LENGTH | BAD_EVENT)
            until = max(finish, here, int(page_end[number]))
            count = int(page_bad[number]) if exact else None
            problems.append(Problem(here, until, count, "decode error", damage))
    if truncated:
        last = int(page_end[-1]) if pages else 0
        problems.append(Problem(last, last, None, "decode error", "the last page is incomplete"))
    return CpuEvents(cpu, words, first, ts, at, int(page_bad.sum()), problems)
