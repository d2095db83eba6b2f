"""What a record tells a replay of the page cache, beside the demand: :class:`Changes` of what is cached,
what there was room for (:class:`Admitted`), and the states of single steps (:class:`Corrections`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

DROPPED, RECLAIMED, TRUNCATED, ADDED = range(4)
"""How a folio left, or that it came."""
NOWHERE = np.int64(1 << 62)

Columns = Mapping[str, NDArray[Any]]


class Changes(NamedTuple):
    """Folios that come into the cache, or leave it, by no decision on readahead, shapes (R,): sorted by (op,
    after).
    """

    op: NDArray[np.int64]
    """The operation during which, or before which, one comes or leaves."""
    after: NDArray[np.int64]
    """How many folios that operation has added by then; -1: before it."""
    reach: NDArray[np.int64]
    """Where the read's next batch began, at this page or behind it: one comes or leaves before that; NOWHERE:
    before the next folio that the operation adds.
    """
    file: NDArray[np.int64]
    index: NDArray[np.int64]  # type: ignore[assignment]
    order: NDArray[np.int64]
    how: NDArray[np.uint8]
    """One of DROPPED, RECLAIMED (a shadow takes its place), TRUNCATED, ADDED."""
    split: NDArray[np.int64]
    """Of TRUNCATED: the page around which a folio is split that the end of the file lies in."""
    now: NDArray[np.int64]
    """(3,) the next row, the operation in progress, the folios that it has added."""


class Admitted(NamedTuple):
    """Folios that operations added while memory was so short that some could not be had: what a record shows
    is what there was room for. Shapes (A,), sorted by (op, time), but for ``limited``.
    """

    op: NDArray[np.int64]
    index: NDArray[np.int64]  # type: ignore[assignment]
    order: NDArray[np.int64]
    since: NDArray[np.int64]
    """Where the read's last batch before it began: one that begins behind this page added it; -1: any."""
    limited: NDArray[np.uint8]
    """(N,) 1 of each operation that added nothing but these; (0,) where none is."""
    now: NDArray[np.int64]
    """(3,) the next row, whether the last folio could not be had, the page at which the batch began (NOWHERE:
    it is none of a read).
    """


class Corrections(NamedTuple):
    """The states that a record shows before its requests, for a replay of single steps; shapes (C,), sorted
    by (op, time).
    """

    next: NDArray[np.int64]
    """(N,) the next row of each operation; (0,) where there are none."""
    beyond: NDArray[np.int64]
    """(N,) the row after the last one of each operation."""
    kind: NDArray[np.int64]
    index: NDArray[np.int64]  # type: ignore[assignment]
    start: NDArray[np.int64]
    """Of the window before, -1 = not known."""
    size: NDArray[np.int64]
    async_size: NDArray[np.int64]
    order: NDArray[np.int64]
    prev_pos: NDArray[np.int64]


def changes_of(columns: Columns | None) -> Changes:
    """As the compiled code wants them; without ``columns`` nothing changes on its own."""
    op = _column(columns, "op")
    return Changes(
        op=op,
        after=_column(columns, "after"),
        reach=_column(columns, "reach") if "reach" in (columns or {}) else np.full(len(op), NOWHERE),
        file=_column(columns, "file"),
        index=_column(columns, "index"),
        order=_column(columns, "order"),
        how=_column(columns, "how", np.uint8),
        split=_column(columns, "split"),
        now=np.zeros(3, np.int64),
    )


def admitted_of(columns: Columns | None) -> Admitted:
    """As the compiled code wants them; without ``columns`` there is room for all."""
    op = _column(columns, "op")
    return Admitted(
        op=op,
        index=_column(columns, "index"),
        order=_column(columns, "order"),
        since=_column(columns, "since") if "since" in (columns or {}) else np.full(len(op), -1),
        limited=_column(columns, "limited", np.uint8),
        now=np.array([0, 0, NOWHERE], np.int64),
    )


def corrections_of(columns: Columns | None) -> Corrections:
    """As the compiled code wants them."""
    return Corrections(*(_column(columns, name) for name in Corrections._fields))


def _column(table: Columns | None, name: str, dtype: type[np.generic] = np.int64) -> NDArray[Any]:
    return np.array((table or {}).get(name, ()), dtype)
