"""When pages left the cache on their own: what POSIX_FADV_DONTNEED dropped, and what was reclaimed.

The ``mm_filemap_delete_from_page_cache`` rows say what left and when; the replay, which knows no clock, wants
to know between which of its steps. A folio is reclaimed to make room for another: what left during an
operation on its file is told by how many folios that operation had added by then.

Where memory is so short, the kernel gives up a folio that it cannot have at once, and reads less than it
decided. No trace shows that but in what was added: it is taken from there, for operations that had to
reclaim.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.subsystems.readahead.history import History

BEFORE = -1
"""``after`` of what left before its operation did anything."""

Columns = dict[str, NDArray[Any]]


def leaving(history: History, ops: Columns, calls: NDArray[np.int64], streams: NDArray[np.int64]) -> Columns:
    """Columns of :class:`hindsight.subsystems.readahead.pages.Leaving`, sorted by (op, after, time).

    ``calls``: the call of each operation (-1 = none); ``streams``: the place of each stream's file. What left
    after the last operation on its file is not in it.
    """
    rows = history.deleted
    place = history.file_id[rows.file]
    op_of = _op_of_calls(history, calls)
    advised = history.inside(rows, history.is_dontneed)
    op = np.where(advised, op_of[rows.call], -1)
    after = np.full(len(op), BEFORE, np.int64)
    reclaimed = np.flatnonzero(~advised & (place >= 0))
    op[reclaimed], after[reclaimed] = _during(history, reclaimed, ops, streams[ops["stream"]])
    kept = np.flatnonzero((op >= 0) & (place >= 0))
    kept = kept[np.lexsort((rows.index[kept], rows.ts[kept], after[kept], op[kept]))]
    return {
        "op": op[kept],
        "after": after[kept],
        "file": place[kept],
        "index": rows.index[kept],
        "order": rows.order[kept],
        "reclaimed": (~advised[kept]).astype(np.uint8),
    }


def admitted(history: History, ops: Columns, calls: NDArray[np.int64], streams: NDArray[np.int64]) -> Columns:
    """Columns of :class:`hindsight.subsystems.readahead.pages.Admitted`; arguments as of :func:`leaving`."""
    op_of = _op_of_calls(history, calls)
    limited = np.zeros(len(calls) + 1, np.uint8)
    limited[op_of[history.deleted.call[~history.inside(history.deleted, history.is_dontneed)]]] = 1
    limited[-1] = 0
    added = history.added
    op = op_of[added.call]
    own = history.file_id[added.file] == np.append(streams[ops["stream"]], -1)[op]
    kept = np.flatnonzero((limited[op] != 0) & own)
    kept = kept[np.lexsort((added.index[kept], added.ts[kept], op[kept]))]
    return {
        "op": op[kept],
        "index": added.index[kept],
        "order": added.order[kept],
        "limited": limited[:-1] if limited.any() else limited[:0],
    }


def _op_of_calls(history: History, calls: NDArray[np.int64]) -> NDArray[np.int64]:
    """The operation of each call, -1 = none; last that of no call."""
    op_of = np.full(len(history.calls.ts) + 1, -1, np.int64)
    op_of[calls] = np.arange(len(calls))
    op_of[-1] = -1  # (faults are no calls)
    return op_of


def _during(
    history: History, which: NDArray[np.int64], ops: Columns, op_file: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The operation on the same file in progress when each of these rows left, else the next one (-1 = none);
    and how many folios it had added by then.
    """
    rows, added = history.deleted, history.added
    moments = np.unique(np.concatenate([ops["ts"], rows.ts[which], added.ts]))

    def keys(file: NDArray[np.int64], ts: NDArray[np.int64]) -> NDArray[np.int64]:
        return file * (len(moments) + 1) + np.searchsorted(moments, ts)

    order = np.argsort(keys(op_file, ops["ts"]), kind="stable")
    of_ops = keys(op_file, ops["ts"])[order]
    # Of several at the same time the one that lasts longest.
    until = op_file[order] * (int(ops["end"].max(initial=0)) + 1) + ops["end"][order]
    longest = np.where(until == np.maximum.accumulate(until), np.arange(len(order)), 0)
    lasting = order[np.maximum.accumulate(longest)] if len(order) else order
    of_added = np.sort(keys(history.file_id[added.file], added.ts))
    file = history.file_id[rows.file[which]]
    mine = keys(file, rows.ts[which])
    at = np.searchsorted(of_ops, mine, "right")
    last = np.where(at > 0, lasting[np.maximum(at - 1, 0)], -1) if len(order) else np.full(len(at), -1)
    ongoing = (last >= 0) & (op_file[last] == file) & (ops["end"][last] >= rows.ts[which])
    following = np.append(order, -1)[at]
    following = np.where((following >= 0) & (op_file[following] == file), following, -1)
    begun = np.searchsorted(of_added, keys(file, np.where(ongoing, ops["ts"][last], 0)))
    count = np.searchsorted(of_added, mine) - begun
    return np.where(ongoing, last, following), np.where(ongoing, count, BEFORE)
