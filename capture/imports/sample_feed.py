"""The samples of a perf.data, read once: see :class:`hindsight.capture.conversion.stream.Feed`.

perf writes what it finds in one ring buffer after the other, in rounds, and says where a round ends: nothing
after it happened before the end of the round before it. So two rounds are held. That takes a file whose
samples can all be used. Any other is :class:`~hindsight.capture.conversion.stream.Unsuited`, and goes through
a copy (:mod:`hindsight.capture.imports.framing`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hindsight.capture.compiled import compiled
from hindsight.capture.conversion.decode import EARLIEST, LATEST
from hindsight.capture.conversion.events import Kind
from hindsight.capture.conversion.index import Advance, CpuCounts
from hindsight.capture.conversion.stream import Unsuited
from hindsight.capture.conversion.stretches import (
    COUNT,
    CPU,
    END,
    FILLED,
    HIGH,
    KIND,
    LOW,
    SIZE,
    STRETCH_ROWS,
    Shape,
    Sorting,
    StretchColumns,
    Views,
    store_events,
)
from hindsight.capture.conversion.walk import IDS, UNKNOWN
from hindsight.capture.imports import reframe as of
from hindsight.capture.imports.foreign import Foreign
from hindsight.capture.imports.perf_data import PerfData
from hindsight.capture.imports.perf_sample import Layouts
from hindsight.capture.imports.sample_reader import SMALLEST, SampleReader

_PIECE_BYTES = 512 << 10
"""What is read at once; it stays in the cache until its rows are stored."""
_HEAD_BYTES = 28
"""A sample without its record has a header, its time and its processor, and the size of the record."""
_ROOM_BYTES = 4 << 20
"""Of rows, stored before any are wanted, at least."""
_MIXED = 16
"""Changes of processor among the samples that are stored together, up to which they are left as they are."""

# The state of a feed, after that of what stretches are stored in.
_TOP, _BEFORE, _BOUND = range(2, 5)


class Found(NamedTuple):
    """Samples that were found and are stored together, at most STRETCH_ROWS of them.

    ``raw`` u32: where the size of the record is, in words; ``cpu`` and ``kind`` u16; ``ts`` i64 (ns).
    """

    raw: np.ndarray
    cpu: np.ndarray
    kind: np.ndarray
    ts: np.ndarray

    @classmethod
    def room(cls) -> Found:
        """For as many as there can be."""
        return cls(*(np.empty(STRETCH_ROWS, dtype) for dtype in ("<u4", "<u2", "<u2", "<i8")))


@compiled
def take_samples(
    words: Any, rows: Any, ids: Any, whose: Any, id_at: Any, id_back: Any, passed: Any, last: Any,
    place: Any, kind_of_id: Any, need: Any, notes: Any, tally: Any, found: Any, other: Any, places: Any,
    sorting: Any, shape: Any, views: Any, stretches: Any, state: Any,
) -> bool:  # fmt: skip
    """Store the samples of a piece.

    ``words`` … ``tally`` as in :func:`hindsight.capture.imports.reframe.find_samples` (``whose`` is its
    ``owner``); ``found`` and ``other``: room for samples (:class:`Found`); ``places`` i64[MAX_CPU], zeros;
    ``sorting`` … as in :func:`hindsight.capture.conversion.stretches.store_events`. False when a sample is of
    no kind or too short. ``state`` goes on with the latest sample so far, that at the end of the last round,
    that at the end of the round before it: nothing comes that happened before.
    """
    # Plain tuples are handed over in less time than named ones, and this is called for each piece.
    found, other, sorting = Found(*found), Found(*other), Sorting(*sorting)
    shape, views = Shape(*shape), Views(*views)
    going = True
    while going:
        of.find_samples(
            words, rows, ids, whose, id_at, id_back, passed, last, place, found.raw, found.cpu, found.ts,
            found.kind, kind_of_id, need, notes, tally, True,
        )  # fmt: skip
        count = np.uint64(tally[of.SAMPLES])
        if tally[of.CHANGES] > _MIXED:
            _by_processor(found, other, count, places, sorting.present)
            _store(words, other, count, sorting, shape, views, stretches, state)
        else:
            _store(words, found, count, sorting, shape, views, stretches, state)
        why = tally[of.WHY]
        if why == of.UNFIT:
            return False
        if why == of.ROUND:
            state[_BOUND] = state[_BEFORE]
            state[_BEFORE] = max(tally[of.TOP], state[_TOP])
        going = why == of.ROUND or (why == of.FULL and tally[of.NOTES] < notes.shape[0])
    state[_TOP] = max(tally[of.TOP], state[_TOP])
    return True


@compiled
def _by_processor(found: Any, other: Any, count: Any, places: Any, present: Any) -> None:
    """Sort samples by processor, stably, into ``other``."""
    one = np.uint64(1)
    distinct = np.uint64(0)
    for j in range(count):
        cpu = np.uint64(found.cpu[np.uint64(j)])
        if places[cpu] == 0:
            present[distinct] = np.uint16(cpu)
            distinct += one
        places[cpu] += 1
    target = np.int64(0)
    for j in range(distinct):
        cpu = np.uint64(present[np.uint64(j)])
        size = places[cpu]
        places[cpu] = target
        target += size
    for j in range(count):
        i = np.uint64(j)
        cpu = np.uint64(found.cpu[i])
        to = np.uint64(places[cpu])
        places[cpu] += 1
        other.raw[to] = found.raw[i]
        other.cpu[to] = found.cpu[i]
        other.kind[to] = found.kind[i]
        other.ts[to] = found.ts[i]
    for j in range(distinct):
        places[np.uint64(present[np.uint64(j)])] = 0


@compiled
def _store(
    words: Any, found: Any, count: Any, sorting: Any, shape: Any, views: Any, stretches: Any, state: Any
) -> None:
    """Store samples: those of one processor that follow each other together."""
    begin = np.uint64(0)
    while begin < count:
        cpu = found.cpu[begin]
        stop = begin + np.uint64(1)
        while stop < count and found.cpu[stop] == cpu:
            stop += np.uint64(1)
        store_events(
            words, found.raw, 1, found.ts, found.kind, begin, stop, cpu, sorting, shape, views, stretches,
            state,
        )  # fmt: skip
        begin = stop


@compiled
def count_stretches(stretches: Any, events: Any, low: Any, high: Any) -> None:
    """Add stretches to what processors have: ``events`` i64[cpus, kinds], ``low`` and ``high`` i64[cpus]:
    the earliest and the latest (ns).
    """
    for n in range(stretches.shape[0]):
        i = np.uint64(n)
        cpu = np.uint64(stretches[i, CPU])
        events[cpu, np.uint64(stretches[i, KIND])] += stretches[i, END]
        low[cpu] = min(low[cpu], stretches[i, LOW])
        high[cpu] = max(high[cpu], stretches[i, HIGH])


class SampleFeed(SampleReader):
    """Reads samples, some pieces at a time: see :class:`hindsight.capture.conversion.stream.Feed`."""

    def __init__(
        self, file: Foreign, data: PerfData, kinds: list[Kind], columns: StretchColumns, advance: Advance
    ) -> None:
        super().__init__(file, data, _PIECE_BYTES)
        self.bound = LATEST if self.ended else EARLIEST
        self._advance = advance
        self._columns = columns
        self._shape = tuple(columns.own())
        self._kind_of_id = np.full(IDS, UNKNOWN, np.uint16)
        self._need = np.zeros(max(len(kinds), 1), np.uint64)
        for kind in kinds:
            self._kind_of_id[kind.format.id] = kind.number
            self._need[kind.number] = max((kind.format.payload_bytes + 3) // 4, 1)
        self._piece_room = np.empty(self.piece_bytes, np.uint8)
        self._piece_most = columns.room(self.piece_bytes, _HEAD_BYTES)
        self.room = max(_ROOM_BYTES, self._piece_most)
        self._piece_samples = self.piece_bytes // SMALLEST + 1
        self._stretches = np.empty((4 * self._piece_samples, SIZE + 1), np.int64)
        self._place = np.empty(STRETCH_ROWS, np.uint32)
        self._found, self._other = tuple(Found.room()), tuple(Found.room())
        self._places, self._sorting = np.zeros(of.MAX_CPU, np.int64), tuple(Sorting.room(len(self._need)))
        self._state = np.array([0, 0, EARLIEST, EARLIEST, EARLIEST], np.int64)
        self._events = np.zeros((0, len(self._need)), np.int64)
        self._low = self._high = np.empty(0, np.int64)

    def read(self, views: Views, begin: int) -> np.ndarray:
        """The stretches of the next pieces. Raises what :meth:`step` does, VerificationError for values that
        do not fit their columns, Unsuited when it needs a copy.
        """
        self._views = tuple(views)
        self._state[[FILLED, COUNT]] = begin, 0
        used = 0
        while not self.ended and self._has_room(begin):
            used += self.step(self._piece_room)
        self._advance(used)
        self._columns.check(Shape(*self._shape).lost)
        self.bound = LATEST if self.ended else int(self._state[_BOUND])
        stretches = self._stretches[: int(self._state[COUNT])].copy()
        self._count(stretches)
        return stretches

    def _has_room(self, begin: int) -> bool:
        filled, count = int(self._state[FILLED]), int(self._state[COUNT])
        return filled - begin + self._piece_most <= self.room and count + self._piece_samples <= len(
            self._stretches
        )

    def look(self, words: np.ndarray, layout: Layouts) -> None:
        """Store the samples of a piece."""
        if not take_samples(
            words, layout.rows, layout.ids, layout.owner, layout.id_at, layout.id_back, self.passed,
            self.last, self._place, self._kind_of_id, self._need, self.notes, self.tally, self._found,
            self._other, self._places, self._sorting, self._shape, self._views, self._stretches,
            self._state,
        ):  # fmt: skip
            raise Unsuited

    def _count(self, stretches: np.ndarray) -> None:
        cpus = int(stretches[:, CPU].max(initial=-1)) + 1
        before = len(self._low)
        if cpus > before:
            self._events = np.concatenate(
                [self._events, np.zeros((cpus - before, self._events.shape[1]), np.int64)]
            )
            self._low = np.concatenate([self._low, np.full(cpus - before, LATEST)])
            self._high = np.concatenate([self._high, np.full(cpus - before, EARLIEST)])
        count_stretches(stretches, self._events, self._low, self._high)

    def counts(self) -> list[CpuCounts]:
        """What was read so far, by processor."""
        return [
            CpuCounts(cpu, self._low[cpu, None], self._high[cpu, None], self._events[cpu, None], 0, [])
            for cpu in np.flatnonzero(self._events.any(axis=1)).tolist()
        ]
