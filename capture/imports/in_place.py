"""Samples of a perf.data that are decoded where they are, without a copy in the layout of native captures.

That takes a file in which the samples of a processor follow each other for tens of KiB, as perf writes what
it finds in one ring buffer after the other, and in which all of them can be used. Any other goes through a
copy (:class:`hindsight.capture.imports.samples.Framer`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hindsight.capture.compiled import compiled
from hindsight.capture.conversion.decode import IDS, UNKNOWN
from hindsight.capture.conversion.index import RawIndex
from hindsight.capture.formats import EventFormat
from hindsight.capture.imports import reframe as of
from hindsight.capture.imports.perf_sample import TIME_AT, Layouts

_BLOCK_WORDS = 128 << 10 >> 2
_SHORTEST = 32 << 10
"""Bytes that follow each other of one processor, at least, on the average."""
_PIECE_WORDS = 1 << 18
_SMALLEST_WORDS = 8


@compiled
def find_blocks(
    words: Any, rows: Any, place: Any, raw: Any, cpu: Any, event: Any, kind_of_id: Any, need: Any,
    block_words: Any, owner: Any, begin: Any, end: Any, low: Any, high: Any, counts: Any,
) -> int:  # fmt: skip
    """Blocks of samples of one processor that follow each other; returns how many, -1 when it cannot be done.

    ``rows``, ``place`` … ``event`` as in :func:`hindsight.capture.imports.reframe.find_samples`,
    ``kind_of_id`` u16[65536], ``need`` u64[kinds] (words). Of each block: ``owner`` i64 (processor),
    ``begin`` and ``end`` i64 (words), ``low`` and ``high`` i64 (ns), ``counts`` u32[blocks, kinds], zeroed.
    It cannot be done when a sample is of no kind or too short, or there are more blocks than room.
    """
    one = np.uint64(1)
    block = -1
    for i in range(place.size):
        at = np.uint64(place[i])
        where = np.uint64(raw[i])
        stop = np.int64(at + (np.uint64(words[at + one]) >> np.uint64(18)))
        kind = np.uint64(kind_of_id[np.uint64(words[where + one]) & np.uint64(0xFFFF)])
        if kind == np.uint64(UNKNOWN) or np.uint64(words[where]) >> np.uint64(2) < need[kind]:
            return -1
        ts = np.int64(of.long_at(words, at + np.uint64(2) + np.uint64(rows[np.uint64(event[i]), TIME_AT])))
        if block < 0 or owner[block] != np.int64(cpu[i]) or stop - begin[block] > block_words:
            block += 1
            if block >= owner.size:
                return -1
            owner[block] = np.int64(cpu[i])
            begin[block] = np.int64(at)
            low[block] = ts
            high[block] = ts
        end[block] = stop
        low[block] = min(low[block], ts)
        high[block] = max(high[block], ts)
        counts[np.uint64(block), kind] += np.uint32(1)
    return block + 1


@compiled
def fill_samples(
    words: Any, rows: Any, place: Any, raw: Any, cpu: Any, event: Any, number: Any, kind_of_id: Any,
    need: Any, origin: Any, earliest: Any, latest: Any, cursor: Any, limit: Any, ts_out: Any, at_out: Any,
) -> None:  # fmt: skip
    """Write down the samples of processor ``number`` of ``earliest`` … ``latest`` (ns); the rest as in
    :func:`find_blocks` and :func:`hindsight.capture.perf.records.fill_records`.
    """
    one = np.uint64(1)
    for i in range(place.size):
        at = np.uint64(place[i])
        where = np.uint64(raw[i])
        kind = np.uint64(kind_of_id[np.uint64(words[where + one]) & np.uint64(0xFFFF)])
        if np.int64(cpu[i]) != number or kind == np.uint64(UNKNOWN):
            continue
        if np.uint64(words[where]) >> np.uint64(2) < need[kind]:
            continue
        ts = np.int64(of.long_at(words, at + np.uint64(2) + np.uint64(rows[np.uint64(event[i]), TIME_AT])))
        if earliest <= ts <= latest:
            slot = cursor[kind]
            if slot < limit[kind]:
                ts_out[np.uint64(slot)] = ts
                at_out[np.uint64(slot)] = np.uint32(np.uint64(origin) + where + one)
            cursor[kind] = slot + 1


class Kinds:
    """What is looked for in samples: the kind of each tracepoint, the words that its record must have."""

    def __init__(self, formats: list[EventFormat]) -> None:
        self.count = len(formats)
        self.of_id = np.full(IDS, UNKNOWN, np.uint16)
        self.need = np.zeros(max(len(formats), 1), np.uint64)
        for number, kind in enumerate(formats):
            self.of_id[kind.id] = number
            self.need[number] = max((kind.payload_bytes + 3) // 4, 1)


class Blocks:
    """The blocks of each processor, as they are found piece by piece."""

    def __init__(self, kinds: Kinds) -> None:
        self._kinds = kinds
        self._found: list[tuple[np.ndarray, ...]] = []

    def add(self, words: np.ndarray, offset: int, layout: Layouts, samples: tuple[np.ndarray, ...]) -> bool:
        """Take in the ``samples`` (place, raw, cpu, event) of words that are at byte ``offset`` of the file.

        False: they cannot be decoded in place.
        """
        room = words.size * 4 // _SHORTEST + 64
        owner, begin, end, low, high = (np.empty(room, np.int64) for _ in range(5))
        counts = np.zeros((room, self._kinds.count), np.uint32)
        count = find_blocks(
            words, layout.rows, *samples, self._kinds.of_id, self._kinds.need, _BLOCK_WORDS,
            owner, begin, end, low, high, counts,
        )  # fmt: skip
        if count < 0:
            return False
        places = (offset + begin * 4, offset + end * 4)
        self._found.append(tuple(part[:count].copy() for part in (owner, *places, low, high, counts)))
        return True

    def indexes(self, path: Path, filler: Callable[[int], InPlace]) -> list[RawIndex]:
        """The index of each processor."""
        if not self._found:
            return []
        owner, *parts = (np.concatenate(part) for part in zip(*self._found, strict=True))
        found = []
        for cpu in np.unique(owner).tolist():
            begin, end, low, high, counts = (part[owner == cpu] for part in parts)
            offset = np.append(begin, end[-1])
            found.append(RawIndex(cpu, path, filler(cpu), offset, low, high, counts, 0, [], end))
        return found


class InPlace:
    """Decodes whole blocks of the samples of one processor."""

    def __init__(self, cpu: int, layout: Layouts, passed: np.ndarray, kinds: Kinds) -> None:
        self._cpu = cpu
        self._layout = layout
        self._passed = passed
        self._kinds = kinds

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
        layout = self._layout
        room = min(words.size, _PIECE_WORDS) // _SMALLEST_WORDS + 1
        place, raw = (np.empty(room, np.uint32) for _ in range(2))
        cpu, event = (np.empty(room, np.uint16) for _ in range(2))
        notes, tally = np.empty((room, 5), np.int64), np.zeros(5, np.int64)
        last, size_of = (np.zeros(of.MAX_CPU, np.int64) for _ in range(2))
        done = 0
        while done < words.size:
            some = words[done : done + _PIECE_WORDS]
            of.find_samples(
                some, layout.rows, layout.ids, layout.owner, layout.id_at, layout.id_back, self._passed,
                last, size_of, place, raw, cpu, event, notes, tally,
            )  # fmt: skip
            count = int(tally[of.SAMPLES])
            fill_samples(
                some, layout.rows, place[:count], raw[:count], cpu[:count], event[:count], self._cpu,
                self._kinds.of_id, self._kinds.need, origin + done, earliest, latest, cursor, limit, ts, at,
            )  # fmt: skip
            if not tally[of.AT] or tally[of.WHY] != of.END:
                break  # the file was changed: what is missing is noticed
            done += int(tally[of.AT])
