"""Pages that were cached before the recording began.

No row shows them. A read that got a page which nobody was seen to add met one; so did what dropped or
reclaimed one. Of the others nothing is known, and they are taken not to have been there; nor is it known in
which folios they were (but where such a folio left), or whether one carried the readahead mark: they are
taken for single pages without.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hindsight.subsystems.readahead import calls as sc
from hindsight.subsystems.readahead.history import History
from hindsight.subsystems.readahead.pages import PAGE_SHIFT

_ADDED, _DELETED, _GOT = range(3)


class Warm(NamedTuple):
    """Folios that were cached before, shapes (W,), in the order in which they were met."""

    file: NDArray[np.int64]
    """Place of the file."""
    index: NDArray[np.int64]  # type: ignore[assignment]
    order: NDArray[np.int64]
    read: NDArray[np.bool_]
    """A read met it; False: it was seen when it left."""


def cached_before(history: History) -> Warm:
    """What is known to have been cached before the recording."""
    calls = history.calls
    got = np.flatnonzero(
        (history.is_read | (history.is_transfer & (calls.code != sc.COPY)))
        & (history.pos >= 0) & (calls.ret > 0)
    )  # fmt: skip
    first = history.pos[got] >> PAGE_SHIFT
    last = history.pos[got] + calls.ret[got] - 1 >> PAGE_SHIFT
    added, deleted = history.added, history.deleted
    parts = (
        (_ADDED, added.ts, history.file_id[added.file], added.index, np.int64(1) << added.order, added.order),
        (
            _DELETED, deleted.ts, history.file_id[deleted.file], deleted.index,
            np.int64(1) << deleted.order, deleted.order,
        ),
        (_GOT, calls.end[got], history.file_of_calls(got), first, last - first + 1, first * 0),
    )  # fmt: skip
    kind = np.concatenate([np.full(len(p[1]), p[0]) for p in parts])
    ts, file, index, count, order = (np.concatenate([p[i] for p in parts]) for i in range(1, 6))
    kept = np.flatnonzero(file >= 0)
    kept = kept[np.lexsort((kind[kept], ts[kept]))]
    kind, file, index, count, order = (c[kept] for c in (kind, file, index, count, order))
    base = np.zeros(len(history.used_files) + 1, np.int64)
    np.maximum.at(base, file + 1, index + count)
    rows = np.zeros((2, 4), np.int64)
    found = _sweep(kind, file, index, count, order, np.cumsum(base), rows)
    if found > len(rows):
        rows = np.zeros((found, 4), np.int64)
        _sweep(kind, file, index, count, order, np.cumsum(base), rows)
    rows = rows[:found]
    return Warm(rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3] == _GOT)


@njit(cache=True, nogil=True)
def _sweep(kind, file, index, count, order, base, out):  # type: ignore[no-untyped-def]
    """Rows in order of time; writes what was there before into ``out`` as far as it has room, returns how
    many rows that are.
    """
    seen = np.zeros(base[-1], np.bool_)
    found = np.int64(0)
    for row in range(kind.shape[0]):
        begin = base[file[row]] + index[row]
        whole = kind[row] == _DELETED and not seen[begin : begin + count[row]].any()
        for page in range(count[row]):
            if not seen[begin + page]:
                if kind[row] != _ADDED and (page == 0 or not whole):
                    if found < out.shape[0]:
                        out[found, 0] = file[row]
                        out[found, 1] = index[row] + page
                        out[found, 2] = order[row] if whole else 0
                        out[found, 3] = kind[row]
                    found += 1
                seen[begin + page] = True
    return found
