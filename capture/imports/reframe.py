"""Put samples of perf.data, of any layout, into the records that native captures have: compiled, in two
passes.

The first pass finds, in consecutive records, the samples that hold a record of a tracepoint; the second
copies
them, processor by processor, in the layout of :mod:`hindsight.capture.perf.event` (identifier, time, size,
the record). What else matters, losses and records of perf itself, is listed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hindsight.capture.compiled import compiled
from hindsight.capture.conversion.walk import UNKNOWN
from hindsight.capture.imports.perf_sample import (
    CHAIN,
    CONFIG,
    CPU_AT,
    CPU_BACK,
    RAW_AT,
    READ_AT,
    READ_BY,
    READ_EACH,
    TIME_AT,
    TIME_BACK,
)

MAX_CPU = 1 << 13
"""More processors than any kernel is built for."""
SAMPLE, LOST, THROTTLE, LOST_SAMPLES = 9, 2, 5, 13
FIRST_OWN = 64
"""Records from here on are perf's own."""
FINISHED_ROUND = 68
PASSED = (67, FINISHED_ROUND, 69, 72, 73, 74, 75, 76, 77, 78, 79, 82)
"""Of these, those that say nothing of tracepoints."""
AT, SAMPLES, BAD, NOTES, WHY, TOP, CHANGES = range(7)
"""Of the tally: words that were read, samples found, unusable ones, entries of ``notes``, why it stopped; the
latest sample (ns), how often the processor is another one than before."""
END, STOPPED, DAMAGED, ODD, FULL, ROUND, UNFIT = range(7)
"""It stopped at the end of the words, at a record of perf itself, at what is no record, after a record whose
size is no multiple of 4, when there was no room for more samples or notes, after perf ended a round, at a
sample that is of no kind or too short."""
_BY_BPF = 1 << 15


@compiled
def owner_of(identifier: Any, ids: Any, owner: Any, id_at: Any) -> int:
    """The event of an identifier: a place in the array of layouts, -1 if it is none."""
    if id_at < 0:
        return 0
    low = np.uint64(0)
    high = np.uint64(ids.size)
    if high == 0:
        return -1
    guess = identifier - ids[low]  # a kernel numbers what is opened one after the other
    if guess < high and ids[guess] == identifier:
        return owner[guess]
    while low < high:
        middle = (low + high) >> np.uint64(1)
        if ids[middle] < identifier:
            low = middle + np.uint64(1)
        else:
            high = middle
    if low < np.uint64(ids.size) and ids[low] == identifier:
        return owner[low]
    return -1


@compiled
def long_at(words: Any, at: Any) -> Any:
    """The u64 at a place."""
    return np.uint64(words[at]) | np.uint64(words[at + np.uint64(1)]) << np.uint64(32)


@compiled
def raw_place(words: Any, body: Any, end: Any, rows: Any, mine: Any) -> Any:
    """Where the size of a sample's raw data is (words); 0 when the sample is damaged."""
    two = np.uint64(2)
    at = body + np.uint64(rows[mine, RAW_AT])
    if rows[mine, READ_AT] >= 0:
        size = np.uint64(rows[mine, READ_BY])
        if rows[mine, READ_EACH] > 0:
            if at + two > end:
                return np.uint64(0)
            members = long_at(words, at)
            if members > np.uint64(1 << 13):
                return np.uint64(0)
            size += members * np.uint64(rows[mine, READ_EACH])
        at += size
    if rows[mine, CHAIN]:
        if at + two > end:
            return np.uint64(0)
        depth = long_at(words, at)
        if depth > np.uint64(1 << 13):
            return np.uint64(0)
        at += two + two * depth
    return at if at + two <= end else np.uint64(0)


@compiled
def find_samples(
    words: Any, rows: Any, ids: Any, owner: Any, id_at: Any, id_back: Any, passed: Any,
    last: Any, place: Any, raw: Any, cpu: Any, ts: Any, kinds: Any, kind_of_id: Any, need: Any, notes: Any,
    tally: Any, rounds: bool,
) -> None:  # fmt: skip
    """Find the samples in whole records from word ``tally[AT]`` of ``words`` (u32) on.

    ``rows`` … ``id_back`` as in :class:`hindsight.capture.imports.perf_sample.Layouts`; ``passed`` bool[256]:
    which of perf's own records say nothing. ``last`` i64[MAX_CPU]: the latest sample of each processor so
    far, ns. Per sample: ``place`` u32 (words to the record), ``raw`` u32 (words to the size of its data),
    ``cpu`` u16, ``ts`` i64 (ns) and, unless it is empty, ``kinds`` u16: the number of its event by
    ``kind_of_id`` u16[65536]; ``need`` u64[kinds]: words that such an event has, at least. ``notes``
    i64[n, 5]: what was lost: kind of record, processor, from, to (ns), events (-1 = unknown). ``tally``
    i64[7]: the samples and changes are those of this call, all else goes on. ``rounds``: stop after the end
    of a round.
    """
    sorts = kinds.size > 0
    top = tally[TOP]
    changes = 0
    before = np.uint32(MAX_CPU)
    one = np.uint64(1)
    two = np.uint64(2)
    size = np.uint64(words.size)
    at = np.uint64(tally[AT])
    found = np.uint64(0)
    note = np.uint64(tally[NOTES])
    bad = tally[BAD]
    why = END
    while at + two <= size:
        if found == np.uint64(place.size) or note == np.uint64(notes.shape[0]):
            why = FULL
            break
        kind = words[at]
        head = np.uint64(words[at + one])
        length = head >> np.uint64(16)
        # What comes from the kernel is a multiple of 8 bytes; so no sample grows when it is copied.
        if length < np.uint64(8) or (kind < FIRST_OWN and length & np.uint64(7)):
            why = DAMAGED
            break
        if kind >= FIRST_OWN and (kind >= 256 or not passed[kind]):
            why = STOPPED
            break
        end = at + (length >> two)
        if end > size:
            break
        if length & np.uint64(3):
            at = end
            why = ODD
            break
        body = at + two
        if kind == SAMPLE:
            whose = -1
            if id_at < 0:
                whose = 0
            elif body + np.uint64(id_at) + two <= end:
                whose = owner_of(long_at(words, body + np.uint64(id_at)), ids, owner, id_at)
            if whose < 0:
                wrong = True
            elif rows[whose, RAW_AT] < 0:
                at = end
                continue
            else:
                mine = np.uint64(whose)
                wrong = True
                if body + np.uint64(rows[mine, RAW_AT]) <= end:
                    stamp = long_at(words, body + np.uint64(rows[mine, TIME_AT]))
                    number = words[body + np.uint64(rows[mine, CPU_AT])]
                    where = raw_place(words, body, end, rows, mine)
                    if where > 0 and number < MAX_CPU and stamp >> np.uint64(63) == 0:
                        payload = np.uint64(words[where])
                        fits = (
                            payload >= np.uint64(8) and where + one + ((payload + np.uint64(3)) >> two) <= end
                        )
                        if fits and np.int64(words[where + one] & 0xFFFF) == rows[mine, CONFIG]:
                            wrong = False
                            if sorts:
                                number_of = np.uint64(
                                    kind_of_id[np.uint64(words[where + one]) & np.uint64(0xFFFF)]
                                )
                                if number_of == np.uint64(UNKNOWN) or payload >> two < need[number_of]:
                                    why = UNFIT
                                    break
                                kinds[found] = np.uint16(number_of)
                            place[found] = np.uint32(at)
                            raw[found] = np.uint32(where)
                            cpu[found] = np.uint16(number)
                            changes += number != before
                            before = number
                            top = max(top, np.int64(stamp))
                            ts[found] = np.int64(stamp)
                            found += one
                            last[np.uint64(number)] = np.int64(stamp)
            if wrong:
                bad += 1
        elif kind in (LOST, LOST_SAMPLES, THROTTLE):
            by_bpf = kind == LOST_SAMPLES and head & np.uint64(_BY_BPF)
            if not by_bpf and end >= body + two:
                whose = -1
                if id_back < 0:
                    whose = 0
                elif body + np.uint64(id_back) <= end:
                    whose = owner_of(long_at(words, end - np.uint64(id_back)), ids, owner, id_at)
                number = np.int64(-1)
                stamp = np.int64(-1)
                if whose >= 0:
                    if rows[whose, CPU_BACK] > 0 and body + np.uint64(rows[whose, CPU_BACK]) <= end:
                        number = np.int64(words[end - np.uint64(rows[whose, CPU_BACK])])
                    if rows[whose, TIME_BACK] > 0 and body + np.uint64(rows[whose, TIME_BACK]) <= end:
                        stamp = np.int64(long_at(words, end - np.uint64(rows[whose, TIME_BACK])))
                if number >= MAX_CPU:
                    number = np.int64(-1)
                events = np.int64(-1)
                if kind == LOST and end >= body + np.uint64(4):
                    events = np.int64(long_at(words, body + two))
                elif kind == LOST_SAMPLES:
                    events = np.int64(long_at(words, body))
                notes[note, 0] = np.int64(kind)
                notes[note, 1] = number
                notes[note, 2] = last[np.uint64(number)] if number >= 0 else np.int64(-1)
                notes[note, 3] = stamp
                notes[note, 4] = events
                note += one
        elif kind == FINISHED_ROUND and rounds:
            at = end
            why = ROUND
            break
        at = end
    tally[AT] = np.int64(at)
    tally[SAMPLES] = np.int64(found)
    tally[BAD] = bad
    tally[NOTES] = np.int64(note)
    tally[WHY] = why
    tally[TOP] = top
    tally[CHANGES] = changes


@compiled
def add_sizes(words: Any, raw: Any, cpu: Any, size_of: Any) -> None:
    """Add what samples will take, in words, to that of their processors: ``size_of`` i64[MAX_CPU]."""
    for i in range(raw.size):
        # Header, identifier, time, size, record: a multiple of 8 bytes.
        size = np.uint64(28) + np.uint64(words[np.uint64(raw[i])])
        size_of[np.uint64(cpu[i])] += np.int64((size + np.uint64(7)) >> np.uint64(3)) * 2


@compiled
def copy_samples(
    words: Any, id_at: Any, place: Any, raw: Any, cpu: Any, ts: Any, cursor: Any, out: Any
) -> None:
    """Copy what :func:`find_samples` found; ``cursor`` i64[MAX_CPU]: where each processor's go in ``out``."""
    one = np.uint64(1)
    two = np.uint64(2)
    for i in range(place.size):
        sample = np.uint64(i)
        body = np.uint64(place[sample]) + two
        where = np.uint64(raw[sample])
        identifier = np.uint64(0)
        if id_at >= 0:
            identifier = long_at(words, body + np.uint64(id_at))
        payload = np.uint64(words[where])
        record = (payload + np.uint64(3)) >> two
        length = ((np.uint64(28) + payload + np.uint64(7)) >> np.uint64(3)) * two
        at = np.uint64(cursor[np.uint64(cpu[sample])])
        out[at] = SAMPLE
        out[at + one] = np.uint32(length << np.uint64(18))
        out[at + two] = np.uint32(identifier)
        out[at + np.uint64(3)] = np.uint32(identifier >> np.uint64(32))
        time = np.uint64(ts[sample])
        out[at + np.uint64(4)] = np.uint32(time & np.uint64(0xFFFFFFFF))
        out[at + np.uint64(5)] = np.uint32(time >> np.uint64(32))
        out[at + np.uint64(6)] = np.uint32(payload)
        target = at + np.uint64(7)
        source = where + one
        for j in range(record):
            out[target + np.uint64(j)] = words[source + np.uint64(j)]
        for j in range(np.uint64(7) + record, length):
            out[at + np.uint64(j)] = 0
        cursor[np.uint64(cpu[sample])] = np.int64(at + length)
