"""Decode a recording in one pass: what is read becomes stretches of rows (in columns, see
:mod:`hindsight.capture.conversion.stretches`) while it is still in the cache.

That needs processors whose trace goes on in order of time, and room for what has to be held until nothing
that is still unread can come before it. What lacks either is :class:`Unsuited`: it is indexed first and then
read again (:mod:`hindsight.capture.conversion.slices`). The rows, and the bytes of the tables, are the same
either way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from hindsight.capture.conversion.decode import EARLIEST, LATEST
from hindsight.capture.conversion.events import Kind, Slices
from hindsight.capture.conversion.index import CpuCounts
from hindsight.capture.conversion.scratch import Scratch
from hindsight.capture.conversion.slices import SLICE_BYTES
from hindsight.capture.conversion.stretch_table import StretchTable
from hindsight.capture.conversion.stretches import (
    BEGIN,
    CPU,
    END,
    HIGH,
    KIND,
    LOW,
    PLACE,
    SIZE,
    STRETCH_BITS,
    StretchColumns,
    Views,
)
from hindsight.capture.conversion.workers import NONE, Workers

MOST_BYTES = 128 << 20
"""Rows that are held, at most: what is in more disorder than that is indexed first."""
_MOST_SLOTS = 1 << 12
"""However small they are."""
_MOST_STRETCHES = 1 << (32 - STRETCH_BITS)
"""As their rows have numbers of 32 bits."""


class Unsuited(Exception):
    """The recording cannot be decoded in one pass."""


class Feed(Protocol):
    """Raw trace that is read from front to back.

    ``bound``: nothing that was not read yet happened before (ns); LATEST when all was read. ``room``: bytes
    that what is read at once takes, at most.
    """

    @property
    def bound(self) -> int:
        """See above."""

    @property
    def room(self) -> int:
        """See above."""

    def read(self, views: Views, begin: int) -> np.ndarray:
        """Read some more, and store its stretches from byte ``begin`` (a multiple of 8) of ``views`` on.

        Returns these, i64[n, 9], those of a processor in order.
        """


@dataclass(frozen=True)
class StreamedTrace:
    """The raw trace of one instance that is read once.

    ``columns`` of the stretches of all ``feeds``. ``facts``: as those of
    :class:`hindsight.capture.conversion.convert.Recording`, at any time; complete when all slices were had.
    So are ``counts``: what each processor's trace held.
    """

    name: str
    kinds: list[Kind]
    columns: StretchColumns
    feeds: Sequence[Feed]
    facts: Callable[[], dict[str, Any]]
    counts: Callable[[], list[CpuCounts]]

    def slices(
        self, workers: Workers = NONE, slice_bytes: int = SLICE_BYTES, scratch: Scratch | None = None
    ) -> Slices:
        """The events of each slice of time; and 0, as feeds themselves tell of the bytes that they read.

        Events are valid until the next slice is asked for. Raises :class:`Unsuited` when more would have to
        be held than :data:`MOST_BYTES`, or an event comes when those after it are gone; what feeds raise.
        """
        feeds = self.feeds
        memory = _Memory(max((feed.room for feed in feeds), default=0), scratch or Scratch())
        held = np.empty((0, SIZE + 1), np.int64)
        earliest = EARLIEST
        while True:
            while True:
                latest = min((feed.bound - 1 for feed in feeds), default=LATEST)
                if latest >= LATEST - 1:
                    latest = LATEST
                    break
                ready = int(held[held[:, HIGH] <= latest, SIZE].sum())
                unread = sorted((f for f in feeds if f.bound < LATEST), key=lambda feed: feed.bound)
                first = unread[: min(workers.threads, memory.free)]
                if ready >= slice_bytes or (ready and not first):
                    break
                if not first:
                    raise Unsuited
                read = _read(first, memory, workers)
                if (read[:, LOW] < earliest).any() or len(held) + len(read) > _MOST_STRETCHES:
                    raise Unsuited
                held = np.concatenate([held, read])
            now, held = _split(held, latest, memory.views)
            yield StretchSlice(self.kinds, self.columns, now, memory.views), 0
            if latest == LATEST:
                return
            memory.keep(held)
            earliest = latest + 1


class StretchSlice:
    """The events of a slice: see :class:`hindsight.capture.conversion.events.EventSlice`."""

    def __init__(
        self, kinds: list[Kind], columns: StretchColumns, stretches: np.ndarray, views: Views
    ) -> None:
        self._columns, self._views = columns, views
        # By kind and processor; those of both as they came.
        order = np.lexsort((stretches[:, CPU], stretches[:, KIND]))
        self._stretches = stretches[order]
        self._cuts = np.searchsorted(self._stretches[:, KIND], np.arange(len(kinds) + 1))
        rows = np.concatenate([[0], np.cumsum(self._stretches[:, END] - self._stretches[:, BEGIN])])
        self.counts = np.diff(rows[self._cuts])

    def table(self, kind: Kind) -> StretchTable:
        """The rows of one kind."""
        some = slice(*self._cuts[kind.number :][:2])
        return StretchTable(kind, self._columns, self._stretches[some], self._views)


class _Memory:
    """Room for what is read, in slots that are used again; ``views`` take what was touched of it alone."""

    def __init__(self, room: int, scratch: Scratch) -> None:
        self._slot = max(room + 7, 8) // 8 * 8
        count = min(max(MOST_BYTES // self._slot, 1), _MOST_SLOTS)
        self.views = Views.of(scratch.take("held", count * self._slot, "u1"))
        self._free = list(range(count))[::-1]
        self._used: set[int] = set()

    @property
    def free(self) -> int:
        """Slots that nothing is held in."""
        return len(self._free)

    def take(self) -> int:
        """Where a free slot begins; the one that was used last, as it may be in the cache."""
        number = self._free.pop()
        self._used.add(number)
        return number * self._slot

    def keep(self, stretches: np.ndarray) -> None:
        """Only these are held any more."""
        held = set(np.unique(stretches[:, PLACE] // self._slot).tolist())
        self._free += sorted(self._used - held, reverse=True)
        self._used = held


def _read(feeds: list[Feed], memory: _Memory, workers: Workers) -> np.ndarray:
    places = [(feed, memory.take()) for feed in feeds]
    return np.concatenate(workers.each(lambda place: place[0].read(memory.views, place[1]), places))


def _split(held: np.ndarray, latest: int, views: Views) -> tuple[np.ndarray, np.ndarray]:
    """The rows up to ``latest`` (ns), and those after it."""
    now, later = held[held[:, LOW] <= latest], held[held[:, HIGH] > latest]
    both = zip(np.flatnonzero(now[:, HIGH] > latest), np.flatnonzero(later[:, LOW] <= latest), strict=True)
    for here, there in both:
        place, begin, end = now[here, [PLACE, BEGIN, END]].tolist()
        ts = views.u64[place // 8 : place // 8 + end].view("<i8")
        cut = begin + int(np.searchsorted(ts[begin:], latest, "right"))
        now[here, [END, HIGH]] = cut, ts[cut - 1]
        later[there, [BEGIN, LOW]] = cut, ts[cut]
    return now, later
