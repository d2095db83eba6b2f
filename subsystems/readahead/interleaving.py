"""Reads of one file by several tasks at the same time.

What decides then is who finds a page missing, who adds it, and who meets the mark. A record shows when each
folio was added and when each batch of each read was over; the replay takes the reads' steps in that order.
The steps themselves are its own: what is decided, and what is added, comes from the demand and the cache.
When a task looked, and when the position of a read was noted, no row tells; it is taken from how long these
take in the same capture (:func:`pace`). What two tasks did to each other within a microsecond, no trace
shows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hindsight.subsystems.readahead import operations as d
from hindsight.subsystems.readahead.compiled import step
from hindsight.subsystems.readahead.filling import ALL, KIND, NOTHING, add, carry_out, settle
from hindsight.subsystems.readahead.history import History
from hindsight.subsystems.readahead.kernel import (
    begin_asynchronous,
    begin_synchronous,
    finish_read,
    look_up,
)
from hindsight.subsystems.readahead.pages import PAGE_SHIFT, is_cached

LOOKED, FOUND, LATE, ADDED, BATCH, END = range(6)
"""Steps: pages were looked for, and none or some of them found, or even a late look was over; a folio was
added, a batch was over, the call returned.
"""
LATEST = 2
"""Multiple of the time to a look, after which even a late one is over."""
BEGUN_NS, BEFORE_NS, NOTED_NS = 1400, 2600, 600
"""The longest of each pace, of a machine that is slow and records all of the readahead profile."""
LOOKING_PERCENT = 40
"""A read that misses has looked by then, of the time that it takes to its first folio."""
_FEW = 5
"""Of fewer reads nothing is said."""
_LOOK, _LOOK_AGAIN, _MARK, _DONE = range(4)
_FAR = np.int64(1 << 62)

Columns = dict[str, NDArray[Any]]


def groups(file: NDArray[np.int64], ts: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of operations on files, which are in progress at the same time: a number that they have in common, -1
    of those that are alone. Shapes (K,); ``ts`` and ``end`` in ns.
    """
    order = np.lexsort((end, ts, file))
    group = _sweep(file[order], ts[order], end[order])
    size = np.bincount(group, minlength=1)
    result = np.empty(len(file), np.int64)
    result[order] = np.where(size[group] > 1, group, -1)
    return result


@njit(cache=True, nogil=True)
def _sweep(file, ts, end):  # type: ignore[no-untyped-def]
    group = np.zeros(file.shape[0], np.int64)
    until, number = np.int64(0), np.int64(-1)
    for i in range(file.shape[0]):
        if i == 0 or file[i] != file[i - 1] or ts[i] >= until:
            number += 1
            until = end[i]
        until = max(until, end[i])
        group[i] = number
    return group


class Pace(NamedTuple):
    """How long after its call began a read looked, how long before it added the first folio of a later batch,
    and how long before its call returned it noted its position; ns.
    """

    begun: int
    before: int
    noted: int
    waits: bool = False
    """Whether a read that adds nothing looks at the end of its batch, after it waited, not at the start."""


def pace(history: History) -> Pace:
    """What no row tells, from reads whose rows come right before or after it: one that found its pages has a
    row as soon as it looked; the least that passes after a row is what the return takes.
    """
    calls = history.calls
    far = np.iinfo(np.int64).max
    met, added = (np.full(len(calls.ts), far) for _ in range(2))
    last = np.zeros(len(calls.ts), np.int64)
    for rows, first in ((history.met, met), (history.added, added)):
        inside = rows.call >= 0
        np.minimum.at(first, rows.call[inside], rows.ts[inside])
        np.maximum.at(last, rows.call[inside], rows.ts[inside])
    reads = history.is_read & (calls.ret > 0)
    found, missed = reads & (met < added), reads & (added < met)
    return Pace(
        _typical((met - calls.ts)[found], 50, BEGUN_NS),
        _typical((added - calls.ts)[missed] * (100 - LOOKING_PERCENT) // 100, 50, BEFORE_NS),
        _typical((calls.end - last)[reads & (last > 0)], 0, NOTED_NS),
    )


def _typical(values: NDArray[np.int64], percent: int, most: int) -> int:
    if len(values) < _FEW:
        return most
    return int(np.clip(np.sort(values)[len(values) * percent // 100], 0, most))


def steps(
    history: History, ops: Columns, calls: NDArray[np.int64], streams: NDArray[np.int64], paced: Pace
) -> Columns:
    """The steps of reads at the same time, sorted by (group, time): ``group`` (the first operation of it),
    ``op``, ``ts``, ``kind``, ``page``, and ``limit``: the page where the next batch of the same read began.

    ``calls``: the call of each operation (-1 = none), ``streams``: the place of each stream's file. Groups in
    which not all are reads that wait have none. ``paced``: when what no row tells took place.
    """
    place = streams[ops["stream"]]
    reads = (ops["kind"] == d.READ) & ((ops["ret"] > 0) | (ops["ret"] == d.NO_RESULT))
    acts = np.flatnonzero(reads | (np.isin(ops["kind"], d.ACTING) & (ops["kind"] != d.READ)))
    number = groups(place[acts], ops["ts"][acts], ops["end"][acts])
    plain = reads[acts] & (ops["pos"][acts] >= 0) & (ops["advice"][acts] <= 0)
    mixed = np.zeros(number.max(initial=0) + 2, np.bool_)
    mixed[number[~plain]] = True
    mixed[-1] = True  # (number -1: alone)
    group = np.full(len(place), -1, np.int64)
    first = np.full(len(mixed), len(place), np.int64)
    np.minimum.at(first, number, acts)
    group[acts] = np.where(mixed[number], -1, first[number])

    op_of = d.of_calls(calls, len(history.calls.ts))
    members = np.flatnonzero(group >= 0)
    none = np.zeros(len(members), np.int64)
    parts = [
        (ops["ts"][members], members, none + BATCH, none - 1),
        (ops["end"][members] - paced.noted, members, none + END, none + _FAR),
    ]
    for rows, what in ((history.added, ADDED), (history.met, BATCH)):
        op = op_of[rows.call]
        own = history.file_id[rows.file] == np.append(place, -1)[op]
        use = np.flatnonzero((op >= 0) & (np.append(group, -1)[op] >= 0) & own)
        parts.append((rows.ts[use], op[use], np.full(len(use), what), rows.index[use]))
    ts, op, kind, page = (np.concatenate([part[i] for part in parts]) for i in range(4))
    order = np.lexsort((page, kind, ts, op))
    ts, op, kind, page = ts[order], op[order], kind[order], page[order]
    # Each batch begins with a look: also one that adds nothing, and then waits for its pages. What delays an
    # addition mostly delays the look before it; so where one comes late, pages were waited for, and looked
    # for again.
    passed = np.append(np.int64(0), np.diff(ts))
    begins = (kind[1:] != END) & (kind[:-1] == BATCH)
    again = (kind[1:] == ADDED) & (kind[:-1] == ADDED) & (op[1:] == op[:-1]) & (passed[1:] > paced.before)
    after = 1 + np.flatnonzero(begins | again)
    passed = passed[after]
    soon = np.minimum(paced.begun, passed)
    soon = passed - soon if paced.waits else soon
    late = passed - np.minimum(paced.before, passed)
    late = np.where(
        (kind[after - 1] == BATCH) & (page[after - 1] < 0),
        np.maximum(late, passed * LOOKING_PERCENT // 100),
        late,
    )
    looked = ts[after - 1] + np.where(kind[after] == BATCH, soon, late)
    found = kind[after] == BATCH
    over = after[found & (passed > LATEST * paced.begun) & (not paced.waits)]
    ts = np.concatenate([ts, looked, ts[over - 1] + LATEST * paced.begun])
    op, page = (np.concatenate([column, column[after], column[over]]) for column in (op, page))
    kind = np.concatenate([kind, np.where(found, FOUND, LOOKED), np.full(len(over), LATE)])
    order = np.lexsort((kind, ts, op))
    ts, op, kind, page = ts[order], op[order], kind[order], page[order]
    limit = _limits(op, kind, page)
    order = np.lexsort((kind, op, ts, group[op]))
    return {
        "group": group[op][order],
        "op": op[order],
        "ts": ts[order],
        "kind": kind[order].astype(np.uint8),
        "page": page[order],
        "limit": limit[order],
    }


@njit(cache=True, nogil=True)
def _limits(op, kind, page):  # type: ignore[no-untyped-def]
    """Of each step the page where the batch after its own began."""
    result = np.full(op.shape[0], _FAR)
    if op.shape[0] == 0:
        return result
    this = np.full(op.max() + 1, _FAR)
    after = np.full(op.max() + 1, _FAR)
    for row in range(op.shape[0] - 1, -1, -1):
        if kind[row] == BATCH:
            after[op[row]] = this[op[row]]
            this[op[row]] = page[row]
        result[row] = after[op[row]]
    return result


@njit(cache=True, nogil=True)
def read_at_once(cache, files, ops, begin, end, step_op, step_kind, step_page, step_limit, otherwise, log):  # type: ignore[no-untyped-def]
    """Take the steps [begin, end) of one group; ``ops``: the columns stream, pos, count, ret of all.
    ``otherwise`` (N,) or (0,): how many steps of each operation added another folio than was recorded, or one
    where none was, is added there.
    """
    stream, pos, count, ret = ops
    first = step_op[begin:end].min()
    # Of each read its page, the page after its last, what it does next, where its batch ends, its last folio.
    state = np.full((step_op[begin:end].max() - first + 1, 5), -1, np.int64)
    fill = np.zeros((state.shape[0], log.fill.shape[0]), np.int64)
    for row in range(begin, end):
        op = step_op[row]
        mine = state[op - first]
        s = np.int64(stream[op])
        asked = max(count[op], ret[op])
        stop = min(
            pos[op] + (ret[op] if ret[op] > d.NO_RESULT else asked),
            cache.size[np.uint64(files.file[np.uint64(s)])],
        )
        if mine[0] < 0:
            mine[0], mine[1], mine[2] = pos[op] >> PAGE_SHIFT, (stop - 1 >> PAGE_SHIFT) + 1, _LOOK
        last_index = (pos[op] + asked + (1 << PAGE_SHIFT) - 1) >> PAGE_SHIFT
        log.n[2] = op
        log.fill[:] = fill[op - first]
        inserted = log.n[1]
        missing = not is_cached(cache, np.uint64(files.file[np.uint64(s)]), mine[0])
        if step_kind[row] == FOUND and missing:
            pass  # (not yet: it will be when the batch is over)
        elif step_kind[row] == LATE and (not missing or mine[0] > step_page[row]):
            pass  # (it was there)
        elif step_kind[row] <= ADDED:
            # A batch whose last folio has not arrived is over without a row.
            most = np.int64(step_kind[row] == ADDED)
            added = _go_on(cache, files, s, mine, last_index, step_limit[row], most, log)
            while added < most and mine[0] < mine[1]:
                added += _go_on(cache, files, s, mine, last_index, step_limit[row], most, log)
        else:
            while mine[0] < mine[1] and mine[0] <= step_page[row]:
                _go_on(cache, files, s, mine, last_index, step_limit[row], ALL, log)
        fill[op - first] = log.fill
        if otherwise.shape[0] == 0:
            pass
        elif step_kind[row] == ADDED:
            at = cache.base[np.uint64(files.file[np.uint64(s)])] + np.uint64(step_page[row])
            otherwise[op] += log.n[1] == inserted or cache.start[at] != step_page[row]
        else:
            otherwise[op] += np.int64(log.n[1] - inserted)
        if step_kind[row] == END and stop > pos[op]:
            finish_read(cache, files, s, pos[op], stop - pos[op])


@step
def _go_on(cache, files, s, mine, last_index, limit, most, log):  # type: ignore[no-untyped-def]
    """Go on with one read until it has added ``most`` folios, or its batch is over; how many it added."""
    file = np.uint64(files.file[np.uint64(s)])
    added = np.int64(0)
    while mine[0] < mine[1]:
        if log.fill[KIND] != NOTHING:
            added += carry_out(cache, files, log, most - added)
            if added >= most:
                settle(cache, files, log)
                return added
        if mine[2] == _LOOK or mine[2] == _LOOK_AGAIN:
            mine[3], mine[4] = look_up(cache, file, mine[0], min(last_index, limit))
            if mine[4] >= 0:
                mine[2] = _MARK
            elif mine[2] == _LOOK:
                begin_synchronous(cache, files, s, mine[0], last_index - mine[0], log)
                mine[2] = _LOOK_AGAIN
            else:
                add(cache, file, mine[0], np.int64(0), np.int64(0), last_index, log)
                mine[0] += 1
                mine[2] = _LOOK
                return added + 1
        elif mine[2] == _MARK:
            if cache.mark[cache.base[file] + np.uint64(mine[4])] != 0:
                begin_asynchronous(cache, files, s, mine[4], last_index - mine[4], log)
            mine[2] = _DONE
        else:
            mine[0] = min(mine[3], last_index)
            mine[2] = _LOOK
            return added
    return added
