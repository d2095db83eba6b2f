"""The rows of one kind of event out of stretches, in order of (time, processor, position)."""

from __future__ import annotations

from typing import Any

import numpy as np

from hindsight.capture.compiled import compiled
from hindsight.capture.conversion.columns import Layout, Source, Text, texts_of
from hindsight.capture.conversion.events import Kind
from hindsight.capture.conversion.merge import merge, ordered
from hindsight.capture.conversion.stretches import (
    BEGIN,
    CPU,
    END,
    HIGH,
    LOW,
    PLACE,
    ROWS,
    STRETCH_BITS,
    STRETCH_ROWS,
    StretchColumns,
    Views,
)

_MIXED = -1


@compiled
def list_stretches(stretches: Any, parts: Any) -> bool:
    """All stretches as ``parts`` of :func:`copy_rows`; whether that is their order, as they do not overlap in
    time.
    """
    row = np.int64(0)
    sound = True
    for n in range(stretches.shape[0]):
        i = np.uint64(n)
        begin = stretches[i, BEGIN]
        if n > 0:
            sound &= stretches[i, LOW] >= stretches[i - np.uint64(1), HIGH]
        parts[i, 0] = row
        parts[i, 1] = n
        parts[i, 2] = begin
        row += stretches[i, END] - begin
    parts[np.uint64(stretches.shape[0]), 0] = row
    return sound


@compiled
def list_rows(memory: Any, stretches: Any, numbers: Any, ts: Any, codes: Any) -> None:
    """Of some stretches (``numbers`` i64), one after the other: the time (i64) of each row, and its code
    (u32): the number of the stretch, and that of the row within it.
    """
    to = np.uint64(0)
    for n in range(numbers.size):
        number = np.uint64(numbers[n])
        place = np.uint64(stretches[number, PLACE]) >> np.uint64(3)
        for i in range(np.uint64(stretches[number, BEGIN]), np.uint64(stretches[number, END])):
            ts[to] = np.int64(memory[place + np.uint64(i)])
            codes[to] = np.uint32(number << np.uint64(STRETCH_BITS) | np.uint64(i))
            to += np.uint64(1)


@compiled
def copy_column(
    memory: Any, stretches: Any, parts: Any, codes: Any, before: Any, part: Any, start: Any, stop: Any,
    out: Any, place: Any,
) -> None:  # fmt: skip
    """Copy rows ``start`` … ``stop`` of a column into ``out``, from ``place`` on.

    ``memory``: all of it, of the width of the column; ``before``: bytes of a row in the columns before. The
    rest as in :func:`copy_rows`; ``part``: the one that has row ``start``.
    """
    one = np.uint64(1)
    width = np.uint64(memory.itemsize)
    row = np.uint64(start)
    to = np.uint64(place)
    while row < np.uint64(stop):
        first = np.uint64(parts[part, 0])
        end = min(np.uint64(parts[part + one, 0]), np.uint64(stop))
        origin = np.uint64(parts[part, 2]) + row - first
        number = parts[part, 1]
        if number >= 0:
            here = np.uint64(number)
            rows = np.uint64(stretches[here, ROWS])
            source = (np.uint64(stretches[here, PLACE]) + rows * np.uint64(before)) // width + origin
            for i in range(end - row):
                out[to + np.uint64(i)] = memory[source + np.uint64(i)]
        else:
            for i in range(end - row):
                code = np.uint64(codes[origin + np.uint64(i)])
                here = code >> np.uint64(STRETCH_BITS)
                rows = np.uint64(stretches[here, ROWS])
                source = (np.uint64(stretches[here, PLACE]) + rows * np.uint64(before)) // width
                out[to + np.uint64(i)] = memory[source + (code & np.uint64(STRETCH_ROWS - 1))]
        to += end - row
        row = end
        part += one


@compiled
def copy_rows(
    views: Any, stretches: Any, parts: Any, codes: Any, columns: Any, part: Any, start: Any, stop: Any,
    out: Any, place: Any,
) -> None:  # fmt: skip
    """Copy rows ``start`` … ``stop`` of several columns into ``out``, row ``place`` on; it and ``views`` are
    :class:`hindsight.capture.conversion.stretches.Views`, as plain tuples, which are handed over in less
    time.

    ``parts`` i64[n + 1, 3]: consecutive rows, the number of the first; the stretch that has them (its rows
    from the third number on), or -1: these are the rows of ``codes`` (u32) from there on. ``columns``
    i64[m, 3]: as :meth:`hindsight.capture.conversion.stretches.StretchColumns.targets`.
    """
    views, out = Views(*views), Views(*out)
    for c in range(columns.shape[0]):
        column = np.uint64(c)
        before, width = columns[column, 0], columns[column, 1]
        to = np.uint64(columns[column, 2]) + np.uint64(place)
        if width == 8:
            copy_column(views.u64, stretches, parts, codes, before, part, start, stop, out.u64, to)
        elif width == 4:
            copy_column(views.u32, stretches, parts, codes, before, part, start, stop, out.u32, to)
        elif width == 2:
            copy_column(views.u16, stretches, parts, codes, before, part, start, stop, out.u16, to)
        else:
            copy_column(views.u8, stretches, parts, codes, before, part, start, stop, out.u8, to)


@compiled
def copy_cpus(
    stretches: Any, parts: Any, codes: Any, part: Any, start: Any, stop: Any, out: Any, place: Any
) -> None:
    """The processor of rows ``start`` … ``stop``, into ``out`` (u16) from ``place`` on: see copy_rows."""
    one = np.uint64(1)
    row = np.uint64(start)
    to = np.uint64(place)
    while row < np.uint64(stop):
        end = min(np.uint64(parts[part + one, 0]), np.uint64(stop))
        origin = np.uint64(parts[part, 2]) + row - np.uint64(parts[part, 0])
        number = parts[part, 1]
        if number >= 0:
            cpu = np.uint16(stretches[np.uint64(number), CPU])
            for i in range(end - row):
                out[to + np.uint64(i)] = cpu
        else:
            for i in range(end - row):
                here = np.uint64(codes[origin + np.uint64(i)]) >> np.uint64(STRETCH_BITS)
                out[to + np.uint64(i)] = np.uint16(stretches[here, CPU])
        to += end - row
        row = end
        part += one


class StretchTable:
    """The rows of some stretches of one kind: see :class:`hindsight.capture.conversion.columns.EventRows`.

    ``stretches`` i64[n, 9]: by processor, those of each in the order in which they were read; ``views``: the
    memory that they are in.
    """

    def __init__(self, kind: Kind, columns: StretchColumns, stretches: np.ndarray, views: Views) -> None:
        self._kind = kind
        self._columns = columns
        self._stretches = np.ascontiguousarray(stretches)
        self._views = views
        self._parts, self._codes = _in_order(self._stretches, views.u64)
        self.rows = int(self._parts[-1, 0])

    def into(self, layout: Layout, rows: slice, place: int) -> dict[str, Text]:
        """See :meth:`hindsight.capture.conversion.columns.EventTable.into`."""
        part = int(np.searchsorted(self._parts[:, 0], rows.start, "right")) - 1
        here = (self._stretches, self._parts, self._codes)
        some = (np.uint64(part), rows.start, rows.stop)
        targets = self._columns.targets(self._kind.number, layout.rows)
        copy_rows(tuple(self._views), *here, targets, *some, layout.rows.views, place)
        copy_cpus(*here, *some, layout.rows.numbers["cpu"], place)
        return self._texts(layout.texts, here, some) if layout.texts else {}

    def _texts(self, sources: list[Source], here: Any, some: Any) -> dict[str, Text]:
        at = np.empty(some[2] - some[1], np.uint32)
        before = int(self._columns.shape.payload[self._kind.number])
        copy_column(self._views.u32, *here, before, *some, at, 0)
        return texts_of(self._kind.format, sources, self._views.u32, at)


def _in_order(stretches: np.ndarray, memory: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``parts`` and ``codes`` of :func:`copy_rows`: stretches that others do not overlap in time are parts,
    and so is what those that do hold together.
    """
    count = len(stretches)
    parts = np.empty((count + 1, 3), np.int64)
    if list_stretches(stretches, parts):
        return parts, np.empty(0, np.uint32)
    order = np.lexsort((np.arange(count), stretches[:, CPU], stretches[:, LOW]))
    some = stretches[order]
    sizes = some[:, END] - some[:, BEGIN]
    begins = _beginnings(some, order)
    firsts = np.flatnonzero(begins)
    members = np.diff(firsts, append=count)
    rows = np.add.reduceat(sizes, firsts)
    parts = np.zeros((len(firsts) + 1, 3), np.int64)
    np.cumsum(rows, out=parts[1:, 0])
    parts[:-1, 1] = order[firsts]
    parts[:-1, 2] = some[firsts, BEGIN]
    mixed = members > 1
    if not mixed.any():
        return parts, np.empty(0, np.uint32)
    # They are in order of processors, as all stretches are.
    numbers = np.sort(order[np.repeat(mixed, members)])
    parts[:-1, 1][mixed] = _MIXED
    parts[:-1, 2][mixed] = np.cumsum(rows[mixed]) - rows[mixed]
    return parts, _merged(stretches, numbers, memory)


def _beginnings(some: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Which of some stretches, in order of their earliest rows, come after all rows of those before."""
    reach = np.maximum.accumulate(some[:, HIGH])
    after = np.ones(len(some), np.bool_)
    after[1:] = some[1:, LOW] > reach[:-1]
    # Or at the same time as the last of them, when that is one alone, of the same processor, read before.
    touching = np.zeros(len(some), np.bool_)
    touching[1:] = (
        after[:-1]
        & (some[1:, CPU] == some[:-1, CPU])
        & (order[1:] > order[:-1])
        & (some[1:, LOW] == reach[:-1])
        & (some[:-1, HIGH] == reach[:-1])
    )
    return after | touching


def _merged(stretches: np.ndarray, numbers: np.ndarray, memory: np.ndarray) -> np.ndarray:
    """The codes of all rows of some stretches, in order."""
    sizes = stretches[numbers, END] - stretches[numbers, BEGIN]
    ts, codes = np.empty(sizes.sum(), np.int64), np.empty(sizes.sum(), np.uint32)
    list_rows(memory, stretches, numbers, ts, codes)
    cpus = stretches[numbers, CPU]
    cuts = [0, *(np.flatnonzero(np.diff(cpus)) + 1).tolist(), len(cpus)]
    ends = np.cumsum([0, *sizes])[cuts].tolist()
    runs = [
        ordered(ts[begin:end], codes[begin:end], int(cpus[first]))
        for first, begin, end in zip(cuts, ends[:-1], ends[1:], strict=False)
    ]
    return merge(runs).at
