"""Rows in columns, before they are in order.

A stretch is some rows of one kind and one processor, in order of time. It is made where raw trace was read,
while that is in the cache: of an event, what its table keeps is all that is held until its turn comes, and is
copied once, in its place (:mod:`hindsight.capture.conversion.stretch_table`). Of kinds that have texts, the
payloads are held as well.

In memory the columns of a stretch follow each other, the widest first: times (i64, ns), numbers of 8 bytes;
where the payloads are (u32, words from the beginning of the memory), if these are held; numbers of 4, 2, 1
bytes. Payloads come last; the word before each has its size in bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from hindsight.capture.compiled import compiled
from hindsight.capture.conversion.columns import Rows, Source, check_lost, number_field
from hindsight.capture.conversion.events import Kind
from hindsight.capture.conversion.gather import gather_rows
from hindsight.capture.schema import numpy_dtype

KIND, CPU, PLACE, ROWS, BEGIN, END, LOW, HIGH, SIZE = range(9)
"""Of a stretch (i64[9]): its kind and processor; where it begins (bytes, a multiple of 8) and its rows; from
which row on, and up to which, they are still to be had; their earliest and latest time (ns); its bytes."""
STRETCH_BITS = 10
STRETCH_ROWS = 1 << STRETCH_BITS
"""The most rows of a stretch."""
FILLED, COUNT = range(2)
"""Of the state of what stretches are stored in: where the next one goes (bytes), how many there are."""


class Shape(NamedTuple):
    """The columns of all kinds.

    Those of kind k are ``first[k]`` … ``first[k + 1]`` (i64) of ``fields`` i64[columns, 7], ``keep`` and
    ``lost`` u64 (as in :func:`hindsight.capture.conversion.gather.gather_rows`) and ``before`` i64: bytes of
    a row in the columns before. ``row_bytes`` i64[kinds]: of a row in all; ``payload`` i64[kinds]: ``before``
    of where payloads are, 0 when they are not held.
    """

    first: np.ndarray
    fields: np.ndarray
    keep: np.ndarray
    lost: np.ndarray
    before: np.ndarray
    row_bytes: np.ndarray
    payload: np.ndarray


class Sorting(NamedTuple):
    """Room to sort events by kind: ``rooms`` i64[kinds], zeros; ``present`` u16: some kinds; ``at`` u32 and
    ``ts`` i64, as in :func:`store_events`.
    """

    rooms: np.ndarray
    present: np.ndarray
    at: np.ndarray
    ts: np.ndarray

    @classmethod
    def room(cls, kinds: int) -> Sorting:
        """For STRETCH_ROWS events."""
        events = (np.empty(STRETCH_ROWS, dtype) for dtype in ("<u2", "<u4", "<i8"))
        return cls(np.zeros(kinds, np.int64), *events)


class Views(NamedTuple):
    """Memory, as unsigned numbers."""

    u8: np.ndarray
    u16: np.ndarray
    u32: np.ndarray
    u64: np.ndarray

    @classmethod
    def of(cls, memory: np.ndarray) -> Views:
        """Of an array of u8 that begins at a multiple of 8 and has a multiple of 8 bytes."""
        return cls(memory.view("u1"), memory.view("<u2"), memory.view("<u4"), memory.view("<u8"))


@compiled
def sort_rows(ts: Any, at: Any, begin: Any, stop: Any) -> None:
    """Sort ``ts`` (i64) from ``begin`` to ``stop``, and ``at`` with it, stably; few are out of order."""
    one = np.uint64(1)
    for i in range(np.uint64(begin) + one, np.uint64(stop)):
        there = np.uint64(i)
        when = ts[there]
        if when >= ts[there - one]:
            continue
        where = at[there]
        while there > np.uint64(begin) and ts[there - one] > when:
            ts[there] = ts[there - one]
            at[there] = at[there - one]
            there -= one
        ts[there] = when
        at[there] = where


@compiled
def store_stretch(
    words: Any, at: Any, ts: Any, begin: Any, stop: Any, kind: Any, cpu: Any, shape: Any, views: Any,
    stretches: Any, state: Any,
) -> None:  # fmt: skip
    """Store events ``begin`` … ``stop`` of ``ts`` (i64, ns) and ``at`` (u32, payloads in ``words``) as a
    stretch; there, too, they are sorted.

    ``stretches`` i64[n, 9] and ``state`` i64[2] say of it; both, and ``views``, have room for it.
    """
    sort_rows(ts, at, begin, stop)
    place = np.uint64(state[FILLED])
    rows = np.uint64(stop) - np.uint64(begin)
    three = np.uint64(3)
    begins = place >> three
    for i in range(rows):
        views.u64[begins + np.uint64(i)] = np.uint64(ts[np.uint64(begin) + np.uint64(i)])
    low = shape.first[kind]
    high = shape.first[kind + np.uint64(1)]
    for c in range(low, high):
        column = np.uint64(c)
        shape.fields[column, 6] = (
            np.int64(place + rows * np.uint64(shape.before[column])) // shape.fields[column, 5]
        )
    gather_rows(
        words, at, begin, stop, shape.fields[low:high], shape.keep[low:high], views.u8, views.u16, views.u32,
        views.u64, 0, shape.lost[low:high],
    )  # fmt: skip
    end = place + rows * np.uint64(shape.row_bytes[kind])
    if shape.payload[kind] > 0:
        wheres = (place + rows * np.uint64(shape.payload[kind])) >> np.uint64(2)
        to = (end + three) >> np.uint64(2)
        for i in range(rows):
            payload = np.uint64(at[np.uint64(begin) + np.uint64(i)]) - np.uint64(1)
            length = (np.uint64(words[payload]) + np.uint64(7)) >> np.uint64(2)
            views.u32[wheres + np.uint64(i)] = np.uint32(to + np.uint64(1))
            for j in range(length):
                views.u32[to + np.uint64(j)] = words[payload + np.uint64(j)]
            to += length
        end = to << np.uint64(2)
    end = (end + np.uint64(7)) & ~np.uint64(7)
    number = np.uint64(state[COUNT])
    stretches[number, KIND] = np.int64(kind)
    stretches[number, CPU] = np.int64(cpu)
    stretches[number, PLACE] = np.int64(place)
    stretches[number, ROWS] = np.int64(rows)
    stretches[number, BEGIN] = 0
    stretches[number, END] = np.int64(rows)
    stretches[number, LOW] = ts[np.uint64(begin)]
    stretches[number, HIGH] = ts[np.uint64(stop) - np.uint64(1)]
    stretches[number, SIZE] = np.int64(end - place)
    state[FILLED] = np.int64(end)
    state[COUNT] = np.int64(number + np.uint64(1))


@compiled
def store_events(
    words: Any, at: Any, lead: Any, ts: Any, kinds: Any, begin: Any, stop: Any, cpu: Any, sorting: Any,
    shape: Any, views: Any, stretches: Any, state: Any,
) -> None:  # fmt: skip
    """Store events ``begin`` … ``stop`` (STRETCH_ROWS at most) of one processor, a stretch for each kind.

    Payloads are ``lead`` words after ``at`` (u32, in ``words``); ``ts`` i64 (ns); ``kinds`` u16; the rest as
    in :func:`store_stretch`.
    """
    rooms, present = sorting.rooms, sorting.present
    distinct = np.uint64(0)
    for i in range(begin, stop):
        kind = np.uint64(kinds[i])
        if rooms[kind] == 0:
            present[distinct] = np.uint16(kind)
            distinct += np.uint64(1)
        rooms[kind] += 1
    target = np.int64(0)
    for j in range(distinct):
        kind = np.uint64(present[np.uint64(j)])
        size = rooms[kind]
        rooms[kind] = target
        target += size
    for i in range(begin, stop):
        kind = np.uint64(kinds[i])
        to = np.uint64(rooms[kind])
        rooms[kind] += 1
        sorting.at[to] = at[i] + np.uint32(lead)
        sorting.ts[to] = ts[i]
    first = np.uint64(0)
    for j in range(distinct):
        kind = np.uint64(present[np.uint64(j)])
        after = np.uint64(rooms[kind])
        rooms[kind] = 0
        store_stretch(words, sorting.at, sorting.ts, first, after, kind, cpu, shape, views, stretches, state)
        first = after


class StretchColumns:
    """Which columns stretches of some kinds have: ``shape``, and ``sources`` of each kind, in its order."""

    def __init__(self, kinds: Sequence[Kind]) -> None:
        self._kinds = kinds
        self._targets: dict[int, tuple[Rows, np.ndarray]] = {}
        self.sources = [_numbers(kind) for kind in kinds]
        fields, before, row_bytes, payload = [], [], [], []
        for kind, sources in zip(kinds, self.sources, strict=True):
            told = [number_field(kind.format, source) for source in sources]
            wide = 8 * (1 + sum(field[5] == 8 for field in told))
            held = 4 if any(s.column.dtype == "str" for s in kind.plan) else 0
            payload.append(wide if held else 0)
            at = 8
            for field in told:
                at += held if at == wide and field[5] < 8 else 0
                before.append(at)
                at += field[5]
            row_bytes.append(at + (held if at == wide else 0))
            fields += [(*field, 0) for field in told]
        counts = [len(sources) for sources in self.sources]
        keep = [source.keep for sources in self.sources for source in sources]
        self.shape = Shape(
            np.cumsum([0, *counts]).astype(np.int64),
            np.array(fields, np.int64).reshape(-1, 7),
            np.array(keep, np.uint64),
            np.zeros(len(keep), np.uint64),
            np.array(before, np.int64),
            np.array(row_bytes, np.int64),
            np.array(payload, np.int64),
        )

    def own(self) -> Shape:
        """The shape for one thread: who stores writes to ``lost`` and to the last of ``fields``."""
        return self.shape._replace(fields=self.shape.fields.copy(), lost=self.shape.lost.copy())

    def check(self, lost: np.ndarray) -> None:
        """Raises VerificationError when a value that was stored does not fit its column."""
        if lost.any():
            for number, kind in enumerate(self._kinds):
                check_lost(kind.format, self.sources[number], lost[slice(*self.shape.first[number:][:2])])

    def targets(self, kind: int, rows: Rows) -> np.ndarray:
        """Where the columns of a kind go in ``rows``, i64[n, 3], the times first: bytes of a row in the
        columns before, bytes of a value, where the column begins in ``rows``, in values.
        """
        known = self._targets.get(kind)
        if known is not None and known[0] is rows:
            return known[1]
        some = slice(*self.shape.first[kind:][:2])
        names = ["ts", *(source.column.name for source in self.sources[kind])]
        targets = np.empty((len(names), 3), np.int64)
        targets[0, :2] = 0, 8
        targets[1:, 0] = self.shape.before[some]
        targets[1:, 1] = self.shape.fields[some, 5]
        targets[:, 2] = [rows.begins[name] for name in names]
        self._targets[kind] = rows, targets
        return targets

    @property
    def with_payloads(self) -> list[int]:
        """The kinds whose payloads are held: the word before each is its size in bytes."""
        return np.flatnonzero(self.shape.payload).tolist()

    def room(self, raw_bytes: int, head: int) -> int:
        """Bytes that the stretches of so much raw trace take, at most; a multiple of 8.

        ``head``: what an event takes there without its payload, at least.
        """
        most = 1.0
        for kind, row, held in zip(self._kinds, self.shape.row_bytes, self.shape.payload, strict=True):
            payload = max((kind.format.payload_bytes + 3) // 4 * 4, 4)
            # What begins at a multiple of 8 takes so many; so do a payload and its size, of 4.
            most = max(most, (row + 8 + (payload + 8 if held else 0)) / (head + payload))
        return (int(raw_bytes * most) + 64) // 8 * 8


def _numbers(kind: Kind) -> list[Source]:
    """The sources of numbers, those of the widest columns first."""
    numbers = [source for source in kind.plan if source.column.dtype != "str"]
    return sorted(numbers, key=lambda source: -np.dtype(numpy_dtype(source.column)).itemsize)
