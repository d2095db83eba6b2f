"""What changed in the page cache other than by readahead, between which steps of the replay.

Folios left it: POSIX_FADV_DONTNEED dropped them, memory was reclaimed, the file was truncated. Folios came: a
write added them, and what is met although nobody was seen to add it was there before the recording. The
``mm_filemap_*`` rows say what and when; the replay, which knows no clock, wants to know between which of its
steps. A folio is reclaimed to make room for another: what left during an operation on its file is told by how
many folios that operation had added by then, and what others reclaimed meanwhile by the batch of the read
that came next.

Where memory is so short, the kernel gives up a folio that it cannot have at once, and reads less than it
decided. No trace shows that but in what was added: it is taken from there, for operations that had to
reclaim.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.subsystems.readahead.history import History, PageRows
from hindsight.subsystems.readahead.operations import of_calls
from hindsight.subsystems.readahead.pages import PAGE_SHIFT
from hindsight.subsystems.readahead.recorded import ADDED, DROPPED, NOWHERE, RECLAIMED, TRUNCATED
from hindsight.subsystems.readahead.warm import cached_before

BEFORE = -1
"""``after`` of what changed before its operation did anything."""
NO_SPLIT = -1

Columns = dict[str, NDArray[Any]]


def changes(history: History, ops: Columns, calls: NDArray[np.int64], streams: NDArray[np.int64]) -> Columns:
    """Columns of :class:`hindsight.subsystems.readahead.recorded.Changes`, sorted by (op, after, time).

    ``calls``: the call of each operation (-1 = none); ``streams``: the place of each stream's file. What
    changed after the last operation on its file is not in it.
    """
    op_file = streams[ops["stream"]]
    deleted, added = history.deleted, history.added
    advised = history.inside(deleted, history.is_dontneed)
    truncated = _truncated(history)
    how = np.where(advised, DROPPED, np.where(truncated, TRUNCATED, RECLAIMED))
    op = np.where(advised, of_calls(calls, len(history.calls.ts))[deleted.call], -1)
    after = np.full(len(op), BEFORE, np.int64)
    others = np.flatnonzero(~advised & (history.file_id[deleted.file] >= 0))
    op[others], after[others] = _during(history, deleted, others, ops, op_file)
    reach = np.full(len(op), NOWHERE)
    own = others[after[others] != BEFORE]
    reach[own] = _reach(history, calls[op[own]], deleted.ts[own])
    end = history.truncated_to[deleted.call] >> PAGE_SHIFT if len(op) else op
    parts = [_columns(history, deleted, op, after, how, np.where(truncated, end, NO_SPLIT), reach)]
    written = np.flatnonzero(history.inside_any(added, history.changes_file) & _of_streams(history, added))
    op, after = (np.full(len(added.ts), -1, np.int64) for _ in range(2))
    op[written], after[written] = _during(history, added, written, ops, op_file)
    came, whole, nowhere = (np.full(len(op), value) for value in (ADDED, NO_SPLIT, NOWHERE))
    parts.append(_columns(history, added, op, after, came, whole, nowhere))
    parts.append(_cached_before(history, op_file))
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.lexsort((joined["index"], joined["ts"], joined["after"], joined["op"]))
    return {
        name: column[order].astype(np.uint8 if name == "how" else np.int64)
        for name, column in joined.items()
        if name != "ts"
    }


def _cached_before(history: History, op_file: NDArray[np.int64]) -> Columns:
    """What was cached before the recording comes before the first operation on its file."""
    warm = cached_before(history)
    first = np.full(len(history.used_files), -1, np.int64)
    first[op_file[::-1]] = np.arange(len(op_file))[::-1]
    op = first[warm.file]
    kept = np.flatnonzero(op >= 0)
    count = len(kept)
    return {
        "op": op[kept],
        "after": np.full(count, BEFORE),
        "reach": np.full(count, NOWHERE),
        "file": warm.file[kept],
        "index": warm.index[kept],
        "order": warm.order[kept],
        "how": np.full(count, ADDED),
        "split": np.full(count, NO_SPLIT),
        "ts": np.full(count, -1),
    }


def _of_streams(history: History, rows: PageRows) -> NDArray[np.bool_]:
    result: NDArray[np.bool_] = history.file_id[rows.file] >= 0
    return result


def _truncated(history: History) -> NDArray[np.bool_]:
    """Which folios left because their file was truncated: in the call, on the file, that did it."""
    deleted = history.deleted
    if len(deleted.ts) == 0:
        return np.zeros(0, np.bool_)
    own = history.inside(deleted, history.truncated_to[:-1] >= 0)
    own[own] = history.file_of[history.of[deleted.call[own]]] == deleted.file[own]
    return own


def _columns(
    history: History,
    rows: PageRows,
    op: NDArray[np.int64],
    after: NDArray[np.int64],
    how: NDArray[Any],
    split: NDArray[Any],
    reach: NDArray[np.int64],
) -> Columns:
    place = history.file_id[rows.file]
    kept = np.flatnonzero((op >= 0) & (place >= 0))
    columns = {
        "op": op, "after": after, "file": place, "index": rows.index, "order": rows.order, "how": how,
        "reach": reach, "split": split, "ts": rows.ts,
    }  # fmt: skip
    return {name: column[kept] for name, column in columns.items()}


def _since(history: History, call: NDArray[np.int64], ts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The page at which the last batch of a call before each of these moments began; -1: none did."""
    met = history.met
    moments = np.unique(np.concatenate([met.ts, ts]))
    keys = met.call * (len(moments) + 1) + np.searchsorted(moments, met.ts)
    order = np.argsort(keys, kind="stable")
    at = np.searchsorted(keys[order], call * (len(moments) + 1) + np.searchsorted(moments, ts)) - 1
    before = np.append(order, -1)[at]
    known = (at >= 0) & (before >= 0)
    known[known] = met.call[before[known]] == call[known]
    return np.where(known, np.append(met.index, -1)[before], -1)


def _reach(history: History, call: NDArray[np.int64], ts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The page of the batch that was the next step of a call after each of these moments; NOWHERE where it
    added a folio first, for which there was no room before, or did nothing more.
    """
    met, added = history.met, history.added
    of = np.concatenate([met.call, added.call])
    when = np.concatenate([met.ts, added.ts])
    page = np.concatenate([met.index, np.full(len(added.ts), NOWHERE)])
    order = np.lexsort((when, of))
    of, when, page = of[order], when[order], page[order]
    moments = np.unique(np.concatenate([when, ts]))
    keys = of * (len(moments) + 1) + np.searchsorted(moments, when)
    at = np.searchsorted(keys, call * (len(moments) + 1) + np.searchsorted(moments, ts), "right")
    following = np.minimum(at, max(len(of) - 1, 0))
    known = (call >= 0) & (at < len(of)) & (of[following] == call) if len(of) else np.zeros(len(ts), np.bool_)
    result: NDArray[np.int64] = np.where(known, np.append(page, NOWHERE)[following], NOWHERE)
    return result


def admitted(history: History, ops: Columns, calls: NDArray[np.int64], streams: NDArray[np.int64]) -> Columns:
    """Columns of :class:`hindsight.subsystems.readahead.recorded.Admitted`; arguments as of
    :func:`changes`.
    """
    op_of = of_calls(calls, len(history.calls.ts))
    limited = np.zeros(len(calls) + 1, np.uint8)
    reclaimed = ~history.inside(history.deleted, history.is_dontneed) & ~_truncated(history)
    limited[op_of[history.deleted.call[reclaimed]]] = 1
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
        "since": _since(history, added.call[kept], added.ts[kept]),
        "limited": limited[:-1] if limited.any() else limited[:0],
    }


def _during(
    history: History, rows: PageRows, which: NDArray[np.int64], ops: Columns, op_file: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The operation on the same file in progress when each of these rows happened, else the next one (-1 =
    none); and how many folios it had added by then.
    """
    added = history.added
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
