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
from hindsight.capture.imports.perf_sample import Layouts
from hindsight.capture.imports.sample_reader import SMALLEST, SampleReader

_PIECE_BYTES = 512 << 10
"""What is read at once; it stays in the cache until it is copied."""
_PIECES = 8
"""What is kept of so many pieces is kept together, at least."""
_SHORTEST = 32 << 10
"""Bytes that follow each other of one processor, at least, on the average."""
_TOGETHER = 1024
"""Samples that are found, then copied while they are in the cache; of these, those of one kind together."""
_KEPT_MEAN = 32
"""Bytes that are kept of a sample, on the average. Of smaller ones fewer pieces are kept together."""

# The state of a feed.
_BLOCK, _WHOSE, _EARLY, _LATE, _FILLED, _TAKEN, _TOP, _BEFORE, _BOUND = range(9)


@compiled
def take_samples(
    words: Any, longs: Any, rows: Any, ids: Any, whose: Any, id_at: Any, id_back: Any, passed: Any,
    last: Any, size_of: Any, place: Any, raw: Any, cpu: Any, when: Any, notes: Any, tally: Any,
    kind_of_id: Any, need: Any, out: Any, ts: Any, at: Any, kinds: Any, owner: Any, first: Any, begin: Any,
    low: Any, high: Any, counts: Any, room: Any, state: Any,
) -> bool:  # fmt: skip
    """Copy the records of the samples of a piece, and find blocks of one processor's that follow each other.

    ``words`` … ``tally`` as in :func:`hindsight.capture.imports.reframe.find_samples` (``whose`` is its
    ``owner``, ``when`` its ``ts``), with room for some samples; the rest as in :func:`_copy_samples`. False
    when that cannot be done. ``state`` i64[9]: the last block, its processor, its earliest and latest sample;
    words (u32) of ``out`` and samples that are taken; the latest sample so far, that at the end of the last
    round, that at the end of the round before it: nothing comes that happened before.
    """
    going = True
    while going:
        of.find_samples(
            words, rows, ids, whose, id_at, id_back, passed, last, size_of, place, raw, cpu, when, notes,
            tally, True,
        )  # fmt: skip
        if not _copy_samples(
            words, longs, raw, cpu, when, tally[of.SAMPLES], kind_of_id, need, out, ts, at, kinds, owner,
            first, begin, low, high, counts, room, state,
        ):  # fmt: skip
            return False
        why = tally[of.WHY]
        if why == of.ROUND:
            state[_BOUND] = state[_BEFORE]
            state[_BEFORE] = state[_TOP]
        going = why == of.ROUND or (why == of.FULL and tally[of.NOTES] < notes.shape[0])
    block = state[_BLOCK]
    if block >= 0:
        low[block] = state[_EARLY]
        high[block] = state[_LATE]
    first[block + 1] = state[_TAKEN]
    begin[block + 1] = state[_FILLED]
    return True


@compiled
def _copy_samples(
    words: Any, longs: Any, raw: Any, cpu: Any, when: Any, count: Any, kind_of_id: Any, need: Any,
    out: Any, ts: Any, at: Any, kinds: Any, owner: Any, first: Any, begin: Any, low: Any, high: Any,
    counts: Any, room: Any, state: Any,
) -> bool:  # fmt: skip
    """Copy the records of ``count`` samples that were found, those of one kind together: who reads them later
    reads one kind after the other.

    ``longs``: the words as u64; ``kind_of_id`` u16[65536]; ``need`` u64[kinds] (words). ``out`` u64: the
    size of each record (u32) and the record. Of each sample: ``ts`` i64 (ns), ``at`` u32 (words in ``out`` to
    its record), ``kinds`` u16. Of each block: ``owner`` i64 (processor), ``first`` i64 (its first sample),
    ``begin`` i64 (words in ``out``, about), ``low`` and ``high`` i64 (ns), ``counts`` u32[blocks, kinds],
    zeroed. ``room`` u64[kinds], zeroed, as it is afterwards. False when a sample is of no kind, too short or
    at no multiple of 8 bytes, or there are more blocks than room.
    """
    one = np.uint64(1)
    block = state[_BLOCK]
    whose = state[_WHOSE]
    early = state[_EARLY]
    late = state[_LATE]
    top = state[_TOP]
    to = np.uint64(state[_FILLED])
    taken = np.uint64(state[_TAKEN])
    for j in range(np.uint64(count)):
        where = np.uint64(raw[np.uint64(j)])
        size = np.uint64(words[where])
        kind = np.uint64(kind_of_id[np.uint64(words[where + one]) & np.uint64(0xFFFF)])
        if kind == np.uint64(UNKNOWN) or size >> np.uint64(2) < need[kind] or where & one:
            return False
        kinds[taken + np.uint64(j)] = np.uint16(kind)
        # One word more than the record, at most: of the same sample, whose size is a multiple of 8.
        room[kind] += (size + np.uint64(11)) >> np.uint64(3)
    target = to >> one
    for j in range(room.size):
        size = room[np.uint64(j)]
        room[np.uint64(j)] = target
        target += size
    for j in range(np.uint64(count)):
        i = np.uint64(j)
        where = np.uint64(raw[i])
        kind = np.uint64(kinds[taken])
        stamp = when[i]
        if whose != np.int64(cpu[i]):
            if block >= 0:
                low[block] = early
                high[block] = late
            block += 1
            if block >= owner.size:
                return False
            whose = np.int64(cpu[i])
            owner[block] = whose
            first[block] = np.int64(taken)
            begin[block] = np.int64(to)
            early = stamp
            late = stamp
        early = min(early, stamp)
        late = max(late, stamp)
        top = max(top, stamp)
        ts[taken] = stamp
        counts[np.uint64(block), kind] += np.uint32(1)
        there = room[kind]
        at[taken] = np.uint32((there << one) + one)
        taken += one
        source = where >> one
        length = (np.uint64(words[where]) + np.uint64(11)) >> np.uint64(3)
        for k in range(length):
            out[there + np.uint64(k)] = longs[source + np.uint64(k)]
        room[kind] = there + length
    for j in range(room.size):
        room[np.uint64(j)] = 0
    to = target << one
    state[_BLOCK] = block
    state[_WHOSE] = whose
    state[_EARLY] = early
    state[_LATE] = late
    state[_TOP] = top
    state[_FILLED] = np.int64(to)
    state[_TAKEN] = np.int64(taken)
    return True


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
    """Reads samples, some pieces at a time: see :class:`hindsight.capture.conversion.stream.Feed`.

    What is kept of them comes first in what it is given, then their times, places and kinds.
    """

    def __init__(self, file: Foreign, data: PerfData, formats: list[EventFormat], advance: Advance) -> None:
        super().__init__(file, data, _PIECE_BYTES)
        self.bound = LATEST if self.ended else EARLIEST
        self._advance = advance
        self._kept_bytes = _PIECES * self.piece_bytes // 64 * 64
        self._piece_most = self.piece_bytes // SMALLEST + 1
        self._most = max(self._kept_bytes // _KEPT_MEAN, self._piece_most) // 8 * 8 + 8
        self.room = self._kept_bytes + self._most * (8 + 4 + 2)
        self._kinds = len(formats)
        self._kind_of_id = np.full(IDS, UNKNOWN, np.uint16)
        self._need = np.zeros(max(self._kinds, 1), np.uint64)
        for number, kind in enumerate(formats):
            self._kind_of_id[kind.id] = number
            self._need[number] = max((kind.payload_bytes + 3) // 4, 1)
        self._placing = np.zeros(max(self._kinds, 1), np.uint64)
        self._piece_room = np.empty(self.piece_bytes, np.uint8)
        self._place, self._raw = np.empty((2, _TOGETHER), np.uint32)
        self._cpu, self._when = np.empty(_TOGETHER, np.uint16), np.empty(_TOGETHER, np.int64)
        self._size_of = np.zeros(of.MAX_CPU, np.int64)
        most = _PIECES * (self.piece_bytes // _SHORTEST + 64)
        self._owner, self._low, self._high = np.empty((3, most), np.int64)
        self._first, self._begin = np.empty((2, most + 1), np.int64)
        self._state = np.array([-1, -1, 0, 0, 0, 0, EARLIEST, EARLIEST, EARLIEST], np.int64)
        self._counted: list[tuple[np.ndarray, ...]] = []

    def read(self, into: np.ndarray) -> list[Block]:
        """The blocks of the next pieces. Raises what :meth:`step` does, Unsuited when it needs a copy."""
        cuts = np.cumsum([self._kept_bytes, *(self._most * size for size in (8, 4, 2))]).tolist()
        self._out = into[: cuts[0]].view("<u8")
        views = zip(("<i8", "<u4", "<u2"), cuts[:-1], cuts[1:], strict=True)
        self._ts, self._at, self._kind = (into[begin:end].view(dtype) for dtype, begin, end in views)
        self._counts = np.zeros((self._owner.size, self._kinds), np.uint32)
        self._state[:_TOP] = (-1, -1, 0, 0, 0, 0)
        while not self.ended and self._has_room():
            self._advance(self.step(self._piece_room))
        self.bound = LATEST if self.ended else int(self._state[_BOUND])
        return self._blocks()

    def _has_room(self) -> bool:
        filled, taken = self._state[[_FILLED, _TAKEN]].tolist()
        return bool(
            filled * 4 + self.piece_bytes <= self._kept_bytes and taken + self._piece_most <= self._most
        )

    def look(self, words: np.ndarray, layout: Layouts) -> None:
        """Take the samples of a piece."""
        longs = words[: words.size // 2 * 2].view("<u8")
        if not take_samples(
            words, longs, layout.rows, layout.ids, layout.owner, layout.id_at, layout.id_back, self.passed,
            self.last, self._size_of, self._place, self._raw, self._cpu, self._when, self.notes, self.tally,
            self._kind_of_id, self._need, self._out, self._ts, self._at, self._kind, self._owner, self._first,
            self._begin, self._low, self._high, self._counts, self._placing, self._state,
        ):  # fmt: skip
            raise Unsuited

    def _blocks(self) -> list[Block]:
        number = int(self._state[_BLOCK]) + 1
        if not number:
            return []
        counts = self._counts[:number]
        cpus, lows, highs = (part[:number].copy() for part in (self._owner, self._low, self._high))
        self._counted.append((cpus, lows, highs, counts))
        begins, firsts = self._begin[: number + 1].tolist(), self._first[: number + 1].tolist()
        blocks = []
        for block, (cpu, low, high) in enumerate(
            zip(cpus.tolist(), lows.tolist(), highs.tolist(), strict=True)
        ):
            some = slice(firsts[block], firsts[block + 1])
            begin, size = begins[block], begins[block + 1] - begins[block]
            filler = _Samples(self._ts[some], self._at[some], self._kind[some], begin)
            blocks.append(Block(cpu, begin * 4, size * 4, low, high, counts[block], filler))
        return blocks

    def counts(self) -> list[CpuCounts]:
        """What was read so far, by processor."""
        if not self._counted:
            return []
        owner, low, high, counts = (np.concatenate(part) for part in zip(*self._counted, strict=True))
        cpus = np.unique(owner).tolist()
        return [
            CpuCounts(cpu, low[owner == cpu], high[owner == cpu], counts[owner == cpu], 0, []) for cpu in cpus
        ]
