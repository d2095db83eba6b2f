"""Files that changed while they were recorded, and how large they were when they were read.

The kernel's own word (``i_size`` of ``file_reads``, recorded with ``--open-files``) is what counts; else it
follows from truncations and writes, where these tell it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hindsight.subsystems.readahead import calls as sc
from hindsight.subsystems.readahead.calls import integers
from hindsight.subsystems.readahead.events import columns_of
from hindsight.subsystems.readahead.history import History
from hindsight.subsystems.readahead.operations import ACTING
from hindsight.subsystems.readahead.pages import PAGE_SHIFT

_TICK_NS = 10_000_000
"""Times of modification are those of the last tick; there are a hundred a second at least."""
_TOLD, _SET, _GROWN, _ASKED = range(4)
_UNKNOWN = -1

Columns = dict[str, NDArray[Any]]


class Sizes(NamedTuple):
    """Of files that changed; shapes (N,) by operation, (F,) by file."""

    of_ops: NDArray[np.int64]
    """Bytes when each operation began, -1 = unknown, or the file did not change."""
    largest: NDArray[np.int64]
    """Bytes that it ever had, at most; 0 of a file that did not change."""
    known: NDArray[np.bool_]
    """False where some operation that may decide began at an unknown size."""


def changed(history: History) -> NDArray[np.bool_]:
    """Which files (F,) were written or truncated: a call did it, or the time of modification says so."""
    flags = np.zeros(len(history.used_files) + 1, np.bool_)
    flags[history.file_of_calls(np.flatnonzero(history.changes_file & (history.calls.ret >= 0)))] = True
    added = history.inside_any(history.added, history.changes_file)
    flags[history.file_id[history.added.file[added]]] = True
    recorded = columns_of(history.tables, "files")
    anchors = columns_of(history.tables, "clock_anchors")
    if recorded is not None and anchors is not None:
        began = int(integers(anchors["realtime_ns"])[np.argmin(integers(anchors["ts"]))])
        late = integers(recorded["mtime_ns"]) >= began - _TICK_NS
        flags[history.file_id[history.files.of_table["files"][late]]] = True
    result: NDArray[np.bool_] = flags[:-1]
    return result


def sizes(history: History, ops: Columns, streams: NDArray[np.int64], size: NDArray[np.int64]) -> Sizes:
    """``streams``: the place of each stream's file; ``size`` (F,): bytes when recording ended."""
    which = changed(history)
    place = np.append(history.file_of_calls(np.arange(len(history.calls.ts))), -1)[:-1]
    calls = history.calls
    written = np.where(calls.code == sc.PWRITE, calls.b, history.write_pos)
    told = np.flatnonzero(history.told_size >= 0)
    cut = np.flatnonzero(history.truncated_to[:-1] >= 0)
    grown = np.flatnonzero(history.is_write & (calls.ret > 0))
    beyond = np.where(written[grown] >= 0, written[grown] + calls.ret[grown], _UNKNOWN)
    asked = np.arange(len(ops["ts"]))
    parts = (
        (told, _TOLD, place[told], calls.ts[told], history.told_size[told]),
        (cut, _SET, place[cut], calls.end[cut], history.truncated_to[cut]),
        (grown, _GROWN, place[grown], calls.end[grown], beyond),
        (asked, _ASKED, streams[ops["stream"]], ops["ts"], asked),
    )
    kind = np.concatenate([np.full(len(p[0]), p[1]) for p in parts])
    file, ts, value = (np.concatenate([np.asarray(p[i], np.int64) for p in parts]) for i in (2, 3, 4))
    kept = np.flatnonzero((file >= 0) & np.append(which, False)[file])
    kept = kept[np.lexsort((kind[kept], ts[kept], file[kept]))]
    kind, file, value = kind[kept], file[kept], value[kept]
    # Where nothing tells or sets it, and no write reached its end, it always had the size of the end.
    ends = np.zeros(len(size), np.int64)
    np.maximum.at(ends, file[kind == _GROWN], value[kind == _GROWN])
    moved = np.isin(kind, (_TOLD, _SET)) | ((kind == _GROWN) & (value < 0))
    constant = (np.bincount(file[moved], minlength=len(size)) == 0) & (size > ends)
    of_ops = np.full(len(ops["ts"]), _UNKNOWN, np.int64)
    _sweep(kind, file, value, np.where(constant, size, _UNKNOWN), of_ops)
    acting = np.isin(ops["kind"], ACTING) & which[streams[ops["stream"]]]
    known = np.ones(len(size), np.bool_)
    known[streams[ops["stream"]][acting & (of_ops < 0)]] = False
    largest = np.where(which, size, 0)
    reached = kind != _ASKED
    np.maximum.at(largest, file[reached], value[reached])
    pages = history.file_id[history.added.file]
    extent = (history.added.index + (np.int64(1) << history.added.order)) << PAGE_SHIFT
    inside = (pages >= 0) & np.append(which, False)[pages]
    np.maximum.at(largest, pages[inside], extent[inside])
    return Sizes(of_ops, largest, known)


@njit(cache=True, nogil=True)
def _sweep(kind, file, value, begin, of_ops):  # type: ignore[no-untyped-def]
    """Rows sorted by (file, time). ``begin`` (F,): the size at the beginning, -1 = unknown."""
    size = np.int64(_UNKNOWN)
    for row in range(kind.shape[0]):
        if row == 0 or file[row] != file[row - 1]:
            size = begin[file[row]]
        if kind[row] == _ASKED:
            of_ops[value[row]] = size
        elif kind[row] == _GROWN and value[row] >= 0:
            if size >= 0:
                size = max(size, value[row])
        else:
            size = value[row]
