"""The samples of a perf.data, read once: see :class:`hindsight.capture.conversion.stream.Feed`.

perf writes what it finds in one ring buffer after the other, in rounds, and says where a round ends: nothing
after it happened before the end of the round before it. So two rounds are held. That takes a file in which
the samples of a processor follow each other for tens of KiB, and in which all of them can be used. Any other
is :class:`~hindsight.capture.conversion.stream.Unsuited`, and goes through a copy
(:mod:`hindsight.capture.imports.framing`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hindsight.capture.compiled import compiled
from hindsight.capture.conversion.decode import EARLIEST, IDS, LATEST, UNKNOWN
from hindsight.capture.conversion.index import Advance, CpuCounts
from hindsight.capture.conversion.stream import Block, Unsuited
from hindsight.capture.formats import EventFormat
from hindsight.capture.imports import reframe as of
from hindsight.capture.imports.foreign import Foreign
from hindsight.capture.imports.perf_data import PerfData
from hindsight.capture.imports.perf_sample import TIME_AT, Layouts
from hindsight.capture.imports.sample_reader import SampleReader

_PIECE_BYTES = 1 << 20
"""As much as stays in a processor's cache while it is looked at three times."""
_PIECES = 4
"""What is kept of so many pieces is kept together, at least."""
_SHORTEST = 32 << 10
"""Bytes that follow each other of one processor, at least, on the average."""


@compiled
def split_samples(
    words: Any, longs: Any, rows: Any, place: Any, raw: Any, cpu: Any, event: Any, kind_of_id: Any,
    need: Any, out: Any, filled: Any, ts: Any, at: Any, kinds: Any, owner: Any, first: Any, begin: Any,
    low: Any, high: Any, counts: Any, marks: Any, tops: Any,
) -> Any:  # fmt: skip
    """Copy the records of ``ts.size`` samples, and find blocks of one processor's that follow each other.

    ``rows``, ``place`` … ``event`` as in :func:`hindsight.capture.imports.reframe.find_samples`;
    ``longs``: the words as u64; ``kind_of_id`` u16[65536]; ``need`` u64[kinds] (words). ``out`` u64: the
    size of each record (u32) and the record, from word ``filled`` (u32, even) on. Of each sample: ``ts`` i64
    (ns), ``at`` u32 (words in ``out`` to its record), ``kinds`` u16. Of each block: ``owner`` i64
    (processor), ``first`` i64 (its first sample), ``begin`` i64 (words in ``out``; one more: where the last
    ends), ``low`` and ``high`` i64 (ns), ``counts`` u32[blocks, kinds], zeroed. ``tops`` i64[n]: the latest
    time (ns) up to now, then that before each of the samples of ``marks`` i64[n - 1], in order. Returns how
    many blocks there are; -1 when a sample is of no kind, too short or at no multiple of 8 bytes, or there
    are more than room.
    """
    one = np.uint64(1)
    block = np.int64(-1)
    whose = np.int64(-1)
    early = np.int64(0)
    late = np.int64(0)
    to = np.uint64(filled)
    top = tops[0]
    mark = np.uint64(0)
    for j in range(ts.size):
        i = np.uint64(j)
        while mark < np.uint64(marks.size) and marks[mark] == np.int64(j):
            mark += one
            tops[mark] = top
        where = np.uint64(raw[i])
        size = np.uint64(words[where])
        kind = np.uint64(kind_of_id[np.uint64(words[where + one]) & np.uint64(0xFFFF)])
        if kind == np.uint64(UNKNOWN) or size >> np.uint64(2) < need[kind] or where & one:
            return -1
        stamp = np.uint64(place[i]) + np.uint64(2) + np.uint64(rows[np.uint64(event[i]), TIME_AT])
        when = np.int64(of.long_at(words, stamp))
        if whose != np.int64(cpu[i]):
            if block >= 0:
                low[block] = early
                high[block] = late
            block += 1
            if block >= owner.size:
                return -1
            whose = np.int64(cpu[i])
            owner[block] = whose
            first[block] = np.int64(j)
            begin[block] = np.int64(to)
            early = when
            late = when
        early = min(early, when)
        late = max(late, when)
        top = max(top, when)
        ts[i] = when
        kinds[i] = np.uint16(kind)
        counts[np.uint64(block), kind] += np.uint32(1)
        at[i] = np.uint32(to + one)
        # One word more than the record, at most: of the same sample, whose size is a multiple of 8.
        source = where >> one
        target = to >> one
        length = (size + np.uint64(11)) >> np.uint64(3)
        for k in range(length):
            out[target + np.uint64(k)] = longs[source + np.uint64(k)]
        to += length << one
    if block >= 0:
        low[block] = early
        high[block] = late
        begin[block + 1] = np.int64(to)
    while mark < np.uint64(marks.size):
        mark += one
        tops[mark] = top
    tops[0] = top
    return np.int64(block + 1)


@compiled
def fill_samples(
    ts: Any, at: Any, kinds: Any, back: Any, earliest: Any, latest: Any, cursor: Any, limit: Any,
    ts_out: Any, at_out: Any,
) -> None:  # fmt: skip
    """Write down samples of ``earliest`` … ``latest`` (ns); the rest as in
    :func:`hindsight.capture.perf.records.fill_records`, ``back`` is what places are too large by (words).
    """
    for j in range(ts.size):
        i = np.uint64(j)
        when = ts[i]
        if earliest <= when <= latest:
            kind = np.uint64(kinds[i])
            slot = cursor[kind]
            if slot < limit[kind]:
                ts_out[np.uint64(slot)] = when
                at_out[np.uint64(slot)] = np.uint32(np.int64(at[i]) - back)
            cursor[kind] = slot + 1


class _Samples:
    """The samples of one block; places are counted from where it was read to."""

    def __init__(self, ts: np.ndarray, at: np.ndarray, kinds: np.ndarray, begin: int) -> None:
        self._ts, self._at, self._kinds, self._begin = ts, at, kinds, begin

    def fill(
        self,
        words: np.ndarray,
        origin: int,
        earliest: int,
        latest: int,
        cursor: np.ndarray,
        limit: np.ndarray,
        ts: np.ndarray,
        at: np.ndarray,
    ) -> None:
        """Write down the events of ``earliest`` … ``latest`` (ns); ``cursor`` (i64[kinds]) moves on."""
        back = self._begin - origin
        fill_samples(self._ts, self._at, self._kinds, back, earliest, latest, cursor, limit, ts, at)


class SampleFeed(SampleReader):
    """Reads samples, some pieces at a time: see :class:`hindsight.capture.conversion.stream.Feed`."""

    def __init__(self, file: Foreign, data: PerfData, formats: list[EventFormat], advance: Advance) -> None:
        super().__init__(file, data, _PIECE_BYTES)
        self.bound = LATEST if self.ended else EARLIEST
        self.room = _PIECES * self.piece_bytes
        self._advance = advance
        self._kinds = len(formats)
        self._kind_of_id = np.full(IDS, UNKNOWN, np.uint16)
        self._need = np.zeros(max(self._kinds, 1), np.uint64)
        for number, kind in enumerate(formats):
            self._kind_of_id[kind.id] = number
            self._need[number] = max((kind.payload_bytes + 3) // 4, 1)
        self._piece_room = np.empty(self.piece_bytes, np.uint8)
        most = self.piece_bytes // _SHORTEST + 64
        self._owner, self._first, self._begin, self._low, self._high = np.empty((5, most), np.int64)
        self._marks, self._tops = np.empty(2, np.int64), np.full(3, EARLIEST, np.int64)
        self._before = EARLIEST
        self._filled = 0
        self._counted: list[tuple[np.ndarray, ...]] = []

    def read(self, into: np.ndarray) -> list[Block]:
        """The blocks of the next pieces. Raises what :meth:`step` does, Unsuited when it needs a copy."""
        self._out, self._filled = into[: into.size // 8 * 8].view("<u8"), 0
        self._blocks: list[Block] = []
        while not self.ended and self._filled * 4 + self.piece_bytes <= into.size:
            self._advance(self.step(self._piece_room))
        if self.ended:
            self.bound = LATEST
        return self._blocks

    def keep(self, words: np.ndarray, layout: Layouts, count: int, rounds: list[int]) -> None:
        """Make blocks of the samples of a piece."""
        longs = words[: words.size // 2 * 2].view("<u8")
        ts, at, kinds = np.empty(count, np.int64), np.empty(count, np.uint32), np.empty(count, np.uint16)
        counts = np.zeros((self._owner.size - 1, self._kinds), np.uint32)
        marks, tops = self._marks[: len(rounds)], self._tops[: len(rounds) + 1]
        marks[:] = rounds
        number = split_samples(
            words, longs, layout.rows, self.place, self.raw, self.cpu, self.event, self._kind_of_id,
            self._need, self._out, self._filled, ts, at, kinds, self._owner[:-1], self._first, self._begin,
            self._low, self._high, counts, marks, tops,
        )  # fmt: skip
        if number < 0:
            raise Unsuited
        # After a round nothing comes that happened before the end of the round before it.
        for top in tops[1:].tolist():
            self.bound, self._before = self._before, top
        if not number:
            return
        cpus, lows, highs = (part[:number].copy() for part in (self._owner, self._low, self._high))
        self._counted.append((cpus, lows, highs, counts[:number]))
        begins, firsts = self._begin[: number + 1].tolist(), [*self._first[:number].tolist(), count]
        self._filled = begins[-1]
        for block, (cpu, low, high) in enumerate(
            zip(cpus.tolist(), lows.tolist(), highs.tolist(), strict=True)
        ):
            some = slice(firsts[block], firsts[block + 1])
            begin, size = begins[block], begins[block + 1] - begins[block]
            filler = _Samples(ts[some], at[some], kinds[some], begin)
            self._blocks.append(Block(cpu, begin * 4, size * 4, low, high, counts[block], filler))

    def counts(self) -> list[CpuCounts]:
        """What was read so far, by processor."""
        if not self._counted:
            return []
        owner, low, high, counts = (np.concatenate(part) for part in zip(*self._counted, strict=True))
        cpus = np.unique(owner).tolist()
        return [
            CpuCounts(cpu, low[owner == cpu], high[owner == cpu], counts[owner == cpu], 0, []) for cpu in cpus
        ]
