"""Emitted against recorded decisions: how exactly the replay reproduces what the kernel did.

A recorded decision belongs to the operation during which it happened, in the same thread and on the same
file; decisions of one operation are aligned by their longest common subsequence, so that one that is missing
does not make all later ones differ. Rows are equal only in every field that both show.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hindsight.subsystems.contract import Fidelity
from hindsight.subsystems.readahead import operations as d
from hindsight.subsystems.readahead import replay
from hindsight.subsystems.readahead.calls import Columns, Tables, integers, span_of
from hindsight.subsystems.readahead.events import columns_of
from hindsight.subsystems.readahead.onestep import corrections
from hindsight.subsystems.readahead.state import DECISION_TABLES, NOT_DETERMINED
from hindsight.subsystems.readahead.verdict import REASONS

FIELDS = ("kind", "index", "req", "order", "size", "async_size", "ra_pages", "prev_pos")
"""What must be equal; a field that a tracepoint does not have is 0."""

_RECORDED_AS = {"req": ("req_count", "nr_to_read"), "async_size": ("async_size", "lookahead_size")}
_PREV_POS, _ORDER = FIELDS.index("prev_pos"), FIELDS.index("order")
_NOT_SHOWN = 0xFFFFFFFF
"""``order`` of decisions of a kernel that keeps none (Linux 6.1, through kprobes)."""
_INODE = ("s_dev_major", "s_dev_minor", "i_ino")
_UNATTRIBUTED, _APART = -1, -2
_LARGEST_ALIGNMENT = 1 << 24


@njit(cache=True, nogil=True)
def _same(a, i, b, j):  # type: ignore[no-untyped-def]
    equal = True
    for k in range(a.shape[1]):
        equal &= (
            a[i, k] == b[j, k]
            or (k == _PREV_POS and b[j, k] == NOT_DETERMINED)
            or (k == _ORDER and a[i, k] == _NOT_SHOWN)
        )
    return equal


@njit(cache=True, nogil=True)
def _align(recorded, emitted, r, r_end, e, e_end, r_hit, e_hit):  # type: ignore[no-untyped-def]
    """Flag the rows of a longest common subsequence of recorded[r:r_end] and emitted[e:e_end]."""
    while r < r_end and e < e_end and _same(recorded, r, emitted, e):
        r_hit[r] = e_hit[e] = True
        r += 1
        e += 1
    while r < r_end and e < e_end and _same(recorded, r_end - 1, emitted, e_end - 1):
        r_end -= 1
        e_end -= 1
        r_hit[r_end] = e_hit[e_end] = True
    rows, columns = r_end - r, e_end - e
    if rows == 0 or columns == 0:
        return
    if rows * columns > _LARGEST_ALIGNMENT:
        # Too long to align: only what stays in step counts, which can but lower the share.
        for i in range(min(rows, columns)):
            if _same(recorded, r + i, emitted, e + i):
                r_hit[r + i] = e_hit[e + i] = True
        return
    length = np.zeros((rows + 1, columns + 1), np.int32)
    for i in range(rows - 1, -1, -1):
        for j in range(columns - 1, -1, -1):
            if _same(recorded, r + i, emitted, e + j):
                length[i, j] = length[i + 1, j + 1] + 1
            else:
                length[i, j] = max(length[i + 1, j], length[i, j + 1])
    i = j = 0
    while i < rows and j < columns:
        if _same(recorded, r + i, emitted, e + j):
            r_hit[r + i] = e_hit[e + j] = True
            i += 1
            j += 1
        elif length[i + 1, j] >= length[i, j + 1]:
            i += 1
        else:
            j += 1


@njit(cache=True, nogil=True)
def _align_all(recorded, r_op, emitted, e_op, r_hit, e_hit):  # type: ignore[no-untyped-def]
    """Align operation by operation; both sides sorted by operation."""
    r = e = 0
    while r < r_op.shape[0] and e < e_op.shape[0]:
        op = min(r_op[r], e_op[e])
        r_end, e_end = r, e
        while r_end < r_op.shape[0] and r_op[r_end] == op:
            r_end += 1
        while e_end < e_op.shape[0] and e_op[e_end] == op:
            e_end += 1
        _align(recorded, emitted, r, r_end, e, e_end, r_hit, e_hit)
        r, e = r_end, e_end


def _recorded_rows(tables: Tables) -> dict[str, NDArray[np.int64]]:
    """Rows of the four decision tables, sorted by time."""
    parts: dict[str, list[NDArray[np.int64]]] = {}
    for kind, name in enumerate(DECISION_TABLES):
        table = columns_of(tables, name)
        if table is None:
            continue
        count = len(table["ts"])
        parts.setdefault("kind", []).append(np.full(count, kind, np.int64))
        for field in ("ts", "pid", *_INODE, *FIELDS[1:]):
            source = next((c for c in (field, *_RECORDED_AS.get(field, ())) if c in table), None)
            parts.setdefault(field, []).append(
                integers(table[source]) if source else np.zeros(count, np.int64)
            )
    rows = {name: np.concatenate(columns) for name, columns in parts.items()}
    if not rows:
        return {f: np.zeros(0, np.int64) for f in ("ts", "pid", *_INODE, *FIELDS)}
    order = np.lexsort((rows["kind"], rows["ts"]))
    return {name: column[order] for name, column in rows.items()}


def _places(rows: dict[str, NDArray[np.int64]], demand: Mapping[str, Columns]) -> NDArray[np.int64]:
    """The operation of each recorded row; _UNATTRIBUTED if a read caused it that belongs to no stream (or a
    thread whose calls were not recorded), _APART if no read did: an execution, a directory."""
    ops, streams, files, tasks = demand["ops"], demand["streams"], demand["files"], demand["tasks"]
    place = np.searchsorted(tasks["pid"], rows["pid"])
    known = place < len(tasks["pid"])
    known[known] = tasks["pid"][place[known]] == rows["pid"][known]
    task = np.where(known, place, -1)
    acting = np.flatnonzero(np.isin(ops["kind"], d.ACTING))
    span = span_of(
        task, rows["ts"], ops["task"][acting].astype(np.int64), ops["ts"][acting], ops["end"][acting]
    )
    inside = span >= 0
    op = np.where(inside, acting[np.maximum(span, 0)] if len(acting) else -1, -1)
    file = (
        streams["file_id"][ops["stream"][np.maximum(op, 0)]]
        if len(ops["ts"])
        else np.zeros(len(op), np.int64)
    )
    same_file = inside.copy()
    for column in _INODE:
        if len(files[column]):
            same_file &= files[column][file].astype(np.int64) == rows[column]
    others = demand["others"]
    orphan = span_of(task, rows["ts"], others["task"].astype(np.int64), others["ts"], others["end"]) >= 0
    silent = np.ones(len(task), np.bool_)
    if len(tasks["calls"]):
        silent = (task < 0) | (tasks["calls"][np.maximum(task, 0)] == 0)
    unattributed = ~inside & (orphan | silent)
    return np.where(same_file, op, np.where(unattributed, _UNATTRIBUTED, _APART))


def _groups(ops: Columns) -> NDArray[np.int64]:
    """Of each operation the first of those that it was submitted with: what each of them decided, no trace
    tells apart.
    """
    result = np.arange(len(ops["ts"]))
    together = np.flatnonzero(ops["together"] >= 0)
    _, first, inverse = np.unique(ops["together"][together], return_index=True, return_inverse=True)
    result[together] = together[first][np.asarray(inverse).reshape(-1)]
    return result


def _row(columns: Mapping[str, NDArray[Any]], at: int, event: str) -> dict[str, Any]:
    return {"event": event, "ts": int(columns["ts"][at]), **{f: int(columns[f][at]) for f in FIELDS[1:]}}


def compare(emitted: Columns, recorded: Tables, demand: Mapping[str, Columns]) -> Fidelity:
    """Hold the decisions that :func:`replay.run` emitted against the recorded ones.

    The totals are over streams that are replayable, plus recorded decisions that a buffered read caused but
    that belong to no stream (``unattributed``: they count as recorded and not matched). ``per_stream`` has a
    row for each stream with a decision, with its reason if it is not replayable, and last a row without a
    stream for decisions outside of reads.
    """
    streams = demand["streams"]
    rows = _recorded_rows(recorded)
    place = _places(rows, demand)
    inside = place >= 0
    place[inside] = _groups(demand["ops"])[place[inside]]
    attributed = np.flatnonzero(place >= 0)
    attributed = attributed[np.argsort(place[attributed], kind="stable")]
    r_keys = np.stack([rows[f][attributed] for f in FIELDS], axis=1)
    e_keys = np.stack([emitted[f].astype(np.int64) for f in FIELDS], axis=1)
    group = _groups(demand["ops"])
    r_op, e_op = place[attributed], group[emitted["op"].astype(np.int64)]
    r_hit, e_hit = np.zeros(len(r_op), np.bool_), np.zeros(len(e_op), np.bool_)
    _align_all(r_keys, r_op, e_keys, e_op, r_hit, e_hit)

    one_step = np.zeros(len(r_op), np.bool_)
    ordered = {name: rows[name][attributed] for name in ("ts", *FIELDS)}
    of = demand["ops"]["stream"][r_op].astype(np.int64)
    states = corrections(ordered, r_op, of, len(demand["ops"]["ts"]))
    steps = replay.run(demand, states)
    s_keys = np.stack([steps[f].astype(np.int64) for f in FIELDS], axis=1)
    s_op = group[steps["op"].astype(np.int64)]
    _align_all(r_keys, r_op, s_keys, s_op, one_step, np.zeros(len(s_op), np.bool_))

    count = len(streams["eligible"])
    r_stream = demand["ops"]["stream"][r_op].astype(np.int64)
    e_stream = emitted["stream"].astype(np.int64)
    per_recorded = np.bincount(r_stream, minlength=count)
    per_emitted = np.bincount(e_stream, minlength=count)
    per_matched = np.bincount(r_stream[r_hit], minlength=count)
    eligible = streams["replayable"].astype(np.bool_)
    unattributed = int(np.count_nonzero(place == _UNATTRIBUTED))
    in_streams, compared, matched = (int(x[eligible].sum()) for x in (per_recorded, per_emitted, per_matched))

    per_stream = [
        {
            "stream": int(s),
            "file": str(streams["file"][s]),
            "device": str(streams["device"][s]),
            "program": str(streams["program"][s]),
            "reason": "" if eligible[s] else REASONS[int(streams["reason"][s])],
            "recorded": int(per_recorded[s]),
            "emitted": int(per_emitted[s]),
            "matched": int(per_matched[s]),
        }
        for s in np.flatnonzero((per_recorded > 0) | (per_emitted > 0))
    ]
    outside = int(np.count_nonzero(place == _APART))
    if outside:
        per_stream.append({"stream": None, "reason": "not caused by a read call", "recorded": outside})
    return Fidelity(
        recorded=in_streams + unattributed,
        compared=compared,
        matched=matched,
        missing=in_streams - matched,
        extra=compared - matched,
        unattributed=unattributed,
        first_divergence=_first_divergence(
            rows, attributed, r_op, r_hit & eligible[r_stream] | ~eligible[r_stream], emitted, e_op,
            e_hit | ~eligible[e_stream], streams, demand,
        ),
        per_stream=tuple(per_stream),
        one_step=int(one_step[eligible[r_stream]].sum()),
    )  # fmt: skip


def _first_divergence(
    rows: dict[str, NDArray[np.int64]],
    attributed: NDArray[np.int64],
    r_op: NDArray[np.int64],
    r_fine: NDArray[np.bool_],
    emitted: Columns,
    e_op: NDArray[np.int64],
    e_fine: NDArray[np.bool_],
    streams: Columns,
    demand: Mapping[str, Columns],
) -> dict[str, Any] | None:
    """The first operation in which the two sides differ, with the first row of each that has no partner."""
    r_bad, e_bad = np.flatnonzero(~r_fine), np.flatnonzero(~e_fine)
    if len(r_bad) == 0 and len(e_bad) == 0:
        return None
    op = min([*r_op[r_bad[:1]].tolist(), *e_op[e_bad[:1]].tolist()])
    stream = int(demand["ops"]["stream"][op])
    result: dict[str, Any] = {"op": int(op), "stream": stream, "file": str(streams["file"][stream])}
    result |= {c: int(demand["ops"][c][op]) for c in ("ts", "pos", "count", "ret")}
    result["recorded"] = result["emitted"] = None
    if len(r_bad) and r_op[r_bad[0]] == op:
        at = int(attributed[r_bad[0]])
        result["recorded"] = _row(rows, at, DECISION_TABLES[int(rows["kind"][at])])
    if len(e_bad) and e_op[e_bad[0]] == op:
        at = int(e_bad[0])
        result["emitted"] = _row(emitted, at, str(emitted["event"][at]))
    return result
