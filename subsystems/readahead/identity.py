"""Which open file a call and a readahead decision belong to, as the BPF programs saw it in the kernel.

``file_reads`` and ``file_readahead`` (recorded with ``--open-files``) have a row for each, a moment before or
after the row of the tracepoint. Here the two are joined: by thread and order, not by time alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hindsight.capture.schema.openfiles import FILE_READ_CALLS, READAHEAD_KINDS
from hindsight.subsystems.readahead import calls as sc
from hindsight.subsystems.readahead.calls import Calls, Tables, integers
from hindsight.subsystems.readahead.descriptors import certain

if TYPE_CHECKING:
    from hindsight.subsystems.readahead.history import History

NOT_KNOWN = 0
"""The ordinal of what belongs to no known open file."""
_FAR_NS = 1_000_000
"""Two rows of one event are no further apart; only asked where a row of some pair was lost."""
_CODES = {
    "read": (sc.READ,),
    "readv": (sc.READ,),
    "pread64": (sc.PREAD,),
    "preadv": (sc.PREAD,),
    "preadv2": (sc.READ, sc.PREAD),
    "sendfile64": (sc.TRANSFER,),
    "splice": (sc.TRANSFER,),
    "copy_file_range": (sc.COPY,),
    "readahead": (sc.READAHEAD,),
    "fadvise64": (sc.FADVISE,),
    "io_uring": (sc.RING_READ,),
    "mmap": (sc.MMAP,),
}
FILE = ("s_dev_major", "s_dev_minor", "i_ino")
Ordinals = NDArray[np.int64]
Columns = dict[str, NDArray[Any]]


def _rows(tables: Tables, name: str) -> Columns | None:
    table = tables.get(name)
    return dict(table) if table is not None and len(table["ts"]) else None


def of_calls(tables: Tables, calls: Calls, pids: NDArray[np.int64]) -> Ordinals:
    """The open file of each call (N,), :data:`NOT_KNOWN` where there is none of a regular file.

    ``pids``: sorted thread ids, whose places are the ordinals of threads in ``calls``.
    """
    row = rows_of_calls(tables, calls, pids)
    rows = _rows(tables, "file_reads")
    if rows is None:
        return np.zeros(len(row), np.int64)
    return np.where(row >= 0, integers(rows["ordinal"])[np.maximum(row, 0)], NOT_KNOWN)


def rows_of_calls(tables: Tables, calls: Calls, pids: NDArray[np.int64]) -> NDArray[np.int64]:
    """The row of ``file_reads`` of each call (N,), -1 = none; ``pids`` as in :func:`of_calls`."""
    found = np.full(len(calls.ts), -1, np.int64)
    rows = _rows(tables, "file_reads")
    if rows is None or len(found) == 0:
        return found
    task = np.searchsorted(pids, integers(rows["pid"]))
    known = task < len(pids)
    known[known] = pids[task[known]] == integers(rows["pid"])[known]
    # A row belongs to the first call of its thread that has not returned before it.
    order = np.lexsort((calls.end, calls.task))
    at = _first_not_before(calls.task[order], calls.end[order], task, integers(rows["ts"]))
    call = order[np.minimum(at, len(order) - 1)]
    code = np.zeros((len(FILE_READ_CALLS) + 1, sc.CODES), np.bool_)
    for number, name in enumerate(FILE_READ_CALLS, 1):
        code[number, list(_CODES.get(name, ()))] = True
    kind = np.minimum(integers(rows["call"]), len(FILE_READ_CALLS))
    fits = known & (at < len(order)) & (calls.task[call] == task) & code[kind, calls.code[call]]
    fits &= calls.fd[call] == integers(rows["fd"])
    found[call[fits]] = np.flatnonzero(fits)
    # Of a call with two rows nothing is known.
    found[np.bincount(call[fits], minlength=len(found)) > 1] = -1
    return found


def _first_not_before(
    task: NDArray[np.int64], end: NDArray[np.int64], key_task: NDArray[np.int64], key_ts: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Place of the first of sorted (task, end) that is not less than each key."""
    count, keys = len(task), len(key_task)
    order = np.lexsort(
        (np.r_[np.ones(count, np.int64), np.zeros(keys, np.int64)], np.r_[end, key_ts], np.r_[task, key_task])
    )
    is_key = order >= count
    place = np.empty(keys, np.int64)
    place[order[is_key] - count] = np.cumsum(~is_key)[is_key]
    return place


def of_decisions(tables: Tables, name: str) -> Ordinals:
    """The open file of each row of a table of decisions: one of :data:`READAHEAD_KINDS`."""
    table = _rows(tables, name)
    if table is None:
        return np.zeros(0, np.int64)
    found = np.zeros(len(table["ts"]), np.int64)
    rows = _rows(tables, "file_readahead")
    if rows is None:
        return found
    use = integers(rows["kind"]) == READAHEAD_KINDS.index(name)
    rows = {column: values[use] for column, values in rows.items()}
    columns = ("pid", *FILE, "index")
    both = np.stack([np.r_[integers(table[c]), integers(rows[c])] for c in columns], axis=1)
    _, key = np.unique(both, axis=0, return_inverse=True)
    key = np.asarray(key).reshape(-1)
    one, two = key[: len(found)], key[len(found) :]
    pair = _pairs(one, integers(table["ts"]), two, integers(rows["ts"]))
    found[pair >= 0] = integers(rows["ordinal"])[pair[pair >= 0]]
    return found


def _pairs(
    one: NDArray[np.int64], one_ts: NDArray[np.int64], two: NDArray[np.int64], two_ts: NDArray[np.int64]
) -> NDArray[np.int64]:
    """For each of ``one`` its partner among ``two`` with the same key, -1 if none: the first belongs to the
    first, the second to the second, …; where there are not as many, the nearest, if it is near.
    """
    partner = np.full(len(one), -1, np.int64)
    keys = int(max(one.max(initial=-1), two.max(initial=-1))) + 1
    same = np.bincount(one, minlength=keys) == np.bincount(two, minlength=keys)
    first, second = (np.lexsort((ts, key)) for key, ts in ((one, one_ts), (two, two_ts)))
    mine, theirs = first[same[one[first]]], second[same[two[second]]]
    partner[mine] = theirs
    rest, others = first[~same[one[first]]], second[~same[two[second]]]
    if len(rest) and len(others):
        after = _first_not_before(two[others], two_ts[others], one[rest], one_ts[rest])
        best = np.full(len(rest), -1, np.int64)
        distance = np.full(len(rest), _FAR_NS + 1, np.int64)
        for place in (after - 1, after):
            inside = (place >= 0) & (place < len(others))
            candidate = others[np.clip(place, 0, len(others) - 1)]
            apart = np.abs(two_ts[candidate] - one_ts[rest])
            nearer = inside & (two[candidate] == one[rest]) & (apart < distance)
            best[nearer], distance[nearer] = candidate[nearer], apart[nearer]
        taken = np.bincount(best[best >= 0], minlength=len(two))
        best[(best >= 0) & (taken[np.maximum(best, 0)] > 1)] = -1
        partner[rest] = best
    return partner


def of_unbounded(tables: Tables, calls: Calls, of_call: Ordinals, pids: NDArray[np.int64]) -> Ordinals:
    """The open file of each row of ``page_cache_ra_unbounded``, which shows none: that of the decision of the
    same thread that led to it, else that of the call on whose behalf it is (POSIX_FADV_WILLNEED, readahead).
    """
    table = _rows(tables, "page_cache_ra_unbounded")
    if table is None:
        return np.zeros(0, np.int64)
    ts, pid = integers(table["ts"]), integers(table["pid"])
    task = np.where(np.isin(pid, pids), np.searchsorted(pids, pid), -1).astype(np.int64)
    call = sc.span_of(task, ts, calls.task, calls.ts, calls.end)
    found = (
        np.where(call >= 0, of_call[np.maximum(call, 0)], NOT_KNOWN) if len(of_call) else np.zeros_like(ts)
    )
    rows = _rows(tables, "file_readahead")
    if rows is None:
        return found
    who, when = integers(rows["pid"]), integers(rows["ts"])
    order = np.lexsort((when, who))
    before = _first_not_before(who[order], when[order], pid, ts) - 1
    last = order[np.maximum(before, 0)]
    same = (before >= 0) & (who[last] == pid)
    for column in FILE:
        same &= integers(rows[column])[last] == integers(table[column])
    # An earlier decision may have been on behalf of another call.
    same &= (call < 0) | (when[last] >= calls.ts[np.maximum(call, 0)]) if len(calls.ts) else True
    return np.where(same, integers(rows["ordinal"])[last], found)


class Agreement(NamedTuple):
    """Two ways of telling open files apart, call by call, where both know: ``calls``, and of these the ones
    that do not fit (``apart``: one tells files apart that are one to the other).
    """

    calls: int
    apart: int


def agreement(one: Ordinals, two: Ordinals) -> Agreement:
    """Compare two numberings of the same calls (N,); less than 1 = not known. Names need not be the same."""
    both = (one > 0) & (two > 0)
    if not both.any():
        return Agreement(0, 0)
    _, first = np.unique(one[both], return_inverse=True)
    _, second = np.unique(two[both], return_inverse=True)
    pairs, pair = np.unique(
        np.stack([np.asarray(first).reshape(-1), np.asarray(second).reshape(-1)], axis=1),
        axis=0,
        return_inverse=True,
    )
    count = np.bincount(np.asarray(pair).reshape(-1))
    # A pair fits when neither of the two has another partner; of several partners none can be trusted.
    alone = (np.bincount(pairs[:, 0])[pairs[:, 0]] == 1) & (np.bincount(pairs[:, 1])[pairs[:, 1]] == 1)
    return Agreement(int(both.sum()), int(count[~alone].sum()))


def of_descriptions(history: History) -> Ordinals:
    """The open file of each call (N,) as the system calls alone tell it, from 1; :data:`NOT_KNOWN` where that
    is not certain.
    """
    sure = certain(history.descriptions, history.files.of_table.get("descriptors"))
    of = np.maximum(history.of, 0)
    return np.where((history.of >= 0) & (sure[of] if len(sure) else False), history.of + 1, NOT_KNOWN)


def open_files(tables: Tables) -> Columns:
    """One row per open file, by ordinal: ``ordinal``, ``pid`` (process), device and inode, ``flags``,
    ``from_ns`` (it was met first), ``to_ns`` (it was released; -1 = it was open at the end).
    """
    opens = _rows(tables, "opens")
    names = ("ordinal", "pid", *FILE, "flags", "from_ns", "to_ns")
    if opens is None:
        return {name: np.zeros(0, np.int64) for name in names}
    opens = opens | {"from_ns": opens["ts"], "pid": opens["tgid"]}
    order = np.lexsort((integers(opens["ts"]), integers(opens["ordinal"])))
    _, first = np.unique(integers(opens["ordinal"])[order], return_index=True)
    found = {name: integers(opens[name])[order][first] for name in names[:-1]}
    found["to_ns"] = np.full(len(first), -1, np.int64)
    released = _rows(tables, "file_releases")
    if released is not None:
        ordinal = integers(released["ordinal"])
        at = np.minimum(np.searchsorted(found["ordinal"], ordinal), len(first) - 1)
        hit = found["ordinal"][at] == ordinal
        found["to_ns"][at[hit]] = integers(released["ts"])[hit]
    return found
