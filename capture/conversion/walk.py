"""Walk the kernel's ring-buffer pages: compiled. Nothing here knows a tracepoint.

Format: kernel/trace/ring_buffer.c and Documentation/trace/ring-buffer-design.rst of Linux 6.18. A payload is
aligned to 4 bytes only, so that all positions are in 32-bit words.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hindsight.capture.compiled import compiled

IDS = 1 << 16
UNKNOWN = 0xFFFF

# Flags of a page's state.
BAD_LENGTH = 1
BAD_EVENT = 2
UNKNOWN_ID = 4
SHORT_PAYLOAD = 8
MISSED = 16


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
