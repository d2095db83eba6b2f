"""Decode raw perf records: compiled, in two passes, into the same arrays as ftrace's pages.

The first pass counts the events of each kind, block by block; the second writes down when each event
happened and where the tracepoint's record lies, whose layout is that of ftrace. Format:
include/uapi/linux/perf_event.h of Linux 6.18 (``struct perf_event_header``, PERF_RECORD_SAMPLE with the
sample type of :mod:`hindsight.capture.perf.event`). Records are multiples of 8 bytes; positions are in
32-bit words.

The time of a sample is read before its place in the ring buffer is taken. An interrupt in between puts its
own samples first, so that records of one processor can be slightly out of order; who merges them sorts by
time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from isal.isal_zlib import crc32

from hindsight.capture.compiled import compiled
from hindsight.capture.conversion.decode import EARLIEST, LATEST, CpuEvents, Problem
from hindsight.capture.conversion.index import RawIndex, read_exactly
from hindsight.capture.conversion.walk import IDS, SHORT_PAYLOAD, UNKNOWN, UNKNOWN_ID
from hindsight.capture.formats import EventFormat
from hindsight.capture.segments.checksum import Checksum
from hindsight.capture.segments.segment import open_raw
from hindsight.errors import VerificationError

BLOCK_BYTES = 128 << 10
_PIECE_BYTES = 2 << 20
_SAMPLE, _LOST = 9, 2
_BAD_TIME = 32
_DETAILS = {
    UNKNOWN_ID: "events of unknown kind",
    SHORT_PAYLOAD: "events shorter than their layout",
    _BAD_TIME: "events at an impossible time",
}
_DAMAGED = "records are damaged"
_CUT = "the last record is incomplete"

# What the tally of a pass counts.
_BLOCKS, _REPORTED, _DAMAGE = range(3)


@compiled
def count_records(
    words: Any, kind_of_id: Any, need: Any, block_words: Any,
    ends: Any, low: Any, high: Any, state: Any, bad: Any, counts: Any, tally: Any,
) -> Any:  # fmt: skip
    """Count the events in whole records from the beginning of ``words`` (u32); returns the words of these.

    ``kind_of_id`` u16[65536] maps event ids to kinds, ``need`` u64[kinds] is their payload in words. A block
    ends with the first record that makes it ``block_words`` long. Per block: ``ends`` i64 in words, ``low``
    and ``high`` i64 (earliest and latest usable event, ns; low > high when there is none), ``state`` u8
    (flags), ``bad`` i64 (events that cannot be used), ``counts`` i64[blocks, kinds]. ``tally`` i64[3]:
    blocks, events that the kernel reported as lost, 1 when what follows is no record. The arrays have room
    for ``words.size // block_words + 2`` blocks.
    """
    size = np.uint64(words.size)
    at = np.uint64(0)
    begin = np.uint64(0)
    block = np.uint64(0)
    two = np.uint64(2)
    low[block] = LATEST
    high[block] = EARLIEST
    while at + two <= size:
        length = np.uint64(words[at + np.uint64(1)]) >> np.uint64(16)
        if length < np.uint64(8) or length & np.uint64(7):
            tally[_DAMAGE] = 1
            break
        length >>= np.uint64(2)
        if at + length > size:
            break
        kind_of_record = words[at]
        if kind_of_record == _SAMPLE:
            flag, kind, ts = _sample(words, at, length, kind_of_id, need)
            if flag:
                state[block] |= np.uint8(flag)
                bad[block] += 1
            else:
                counts[block, np.uint64(kind)] += 1
                low[block] = min(low[block], ts)
                high[block] = max(high[block], ts)
        elif kind_of_record == _LOST and length >= np.uint64(6):
            tally[_REPORTED] += np.int64(words[at + np.uint64(4)])
        at += length
        if at - begin >= np.uint64(block_words):
            ends[block] = np.int64(at)
            begin = at
            block += np.uint64(1)
            low[block] = LATEST
            high[block] = EARLIEST
    if at > begin:
        ends[block] = np.int64(at)
        block += np.uint64(1)
    tally[_BLOCKS] = np.int64(block)
    return np.int64(at)


@compiled
def _sample(words: Any, at: Any, length: Any, kind_of_id: Any, need: Any) -> Any:
    """A sample of ``length`` words: what is wrong (a flag, 0 if nothing), its kind, its time in ns."""
    if length < np.uint64(8):
        return SHORT_PAYLOAD, 0, np.int64(0)
    stamp = np.uint64(words[at + np.uint64(4)]) | np.uint64(words[at + np.uint64(5)]) << np.uint64(32)
    payload = np.uint64(words[at + np.uint64(6)]) >> np.uint64(2)
    if payload == 0 or payload > length - np.uint64(7):
        return SHORT_PAYLOAD, 0, np.int64(0)
    kind = kind_of_id[np.uint64(words[at + np.uint64(7)]) & np.uint64(0xFFFF)]
    if kind == UNKNOWN:
        return UNKNOWN_ID, 0, np.int64(0)
    if payload < need[np.uint64(kind)]:
        return SHORT_PAYLOAD, 0, np.int64(0)
    if stamp >> np.uint64(63):
        return _BAD_TIME, 0, np.int64(0)
    return 0, np.int64(kind), np.int64(stamp)


@compiled
def fill_records(
    words: Any, kind_of_id: Any, need: Any, origin: Any, earliest: Any, latest: Any,
    cursor: Any, limit: Any, ts_out: Any, at_out: Any,
) -> None:  # fmt: skip
    """Write down the events of ``earliest`` … ``latest`` (ns) in the whole records of ``words`` (u32).

    ``cursor`` i64[kinds] says where the next event of each kind goes in ``ts_out`` (i64, ns) and ``at_out``
    (u32, ``origin`` + payload position in words), up to ``limit`` i64[kinds]; beyond it it moves on alone.
    """
    size = np.uint64(words.size)
    at = np.uint64(0)
    while at + np.uint64(2) <= size:
        length = np.uint64(words[at + np.uint64(1)]) >> np.uint64(16)
        if length < np.uint64(8) or length & np.uint64(7):
            break
        length >>= np.uint64(2)
        if at + length > size:
            break
        if words[at] == _SAMPLE:
            flag, kind, ts = _sample(words, at, length, kind_of_id, need)
            if flag == 0 and earliest <= ts <= latest:
                slot = cursor[kind]
                if slot < limit[kind]:
                    ts_out[slot] = ts
                    at_out[slot] = np.uint32(np.uint64(origin) + at + np.uint64(7))
                cursor[kind] = slot + 1
        at += length


@dataclass(frozen=True)
class Counted:
    """What the first pass found in consecutive records.

    Per block: ``ends`` (words), ``low`` and ``high`` (ns), ``state``, ``bad``; ``counts`` i64[blocks, kinds].
    ``used``: words of whole records; ``reported``: events that the kernel says were lost; ``damaged``: what
    follows is no record.
    """

    ends: np.ndarray
    low: np.ndarray
    high: np.ndarray
    state: np.ndarray
    bad: np.ndarray
    counts: np.ndarray
    used: int
    reported: int
    damaged: bool

    def problems(self, last_ns: int) -> list[Problem]:
        """Events that cannot be used; ``last_ns`` is the time of the last event before these records."""
        found = []
        for block in np.flatnonzero(self.state).tolist():
            empty = self.low[block] > self.high[block]
            low, high = (last_ns, last_ns) if empty else (int(self.low[block]), int(self.high[block]))
            last_ns = max(last_ns, high)
            detail = "; ".join(text for flag, text in _DETAILS.items() if int(self.state[block]) & flag)
            found.append(Problem(low, high, int(self.bad[block]), "decode error", detail))
        return found


class RecordDecoder:
    """Walks perf records in which events of the ``kinds`` are expected."""

    def __init__(self, kinds: list[EventFormat]) -> None:
        self.kinds = len(kinds)
        self._kind_of_id = np.full(IDS, UNKNOWN, np.uint16)
        self._need = np.zeros(max(len(kinds), 1), np.uint64)
        for number, kind in enumerate(kinds):
            self._kind_of_id[kind.id] = number
            self._need[number] = max((kind.payload_bytes + 3) // 4, 1)

    def count(self, words: np.ndarray, block_bytes: int = BLOCK_BYTES) -> Counted:
        """Count the events of each kind in blocks of about ``block_bytes``."""
        block_words = max(block_bytes // 4, 2)
        room = words.size // block_words + 2
        ends, low, high, bad = (np.zeros(room, np.int64) for _ in range(4))
        state = np.zeros(room, np.uint8)
        counts = np.zeros((room, self.kinds), np.int64)
        tally = np.zeros(3, np.int64)
        used = count_records(
            words, self._kind_of_id, self._need, block_words, ends, low, high, state, bad, counts, tally
        )
        cut = slice(0, int(tally[_BLOCKS]))
        return Counted(
            ends[cut], low[cut], high[cut], state[cut], bad[cut], counts[cut],
            int(used), int(tally[_REPORTED]), bool(tally[_DAMAGE]),
        )  # fmt: skip

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
        fill_records(words, self._kind_of_id, self._need, origin, earliest, latest, cursor, limit, ts, at)


def decode_records(cpu: int, words: np.ndarray, kinds: list[EventFormat]) -> CpuEvents:
    """Decode the records of one CPU (``words``: u32) at once. ``kinds`` are the events to expect.

    Damage never raises: it is listed in ``problems``; what follows damaged records cannot be found.
    """
    decoder = RecordDecoder(kinds)
    found = decoder.count(words)
    first = np.zeros(len(kinds) + 1, np.int64)
    np.cumsum(found.counts.sum(axis=0), out=first[1:])
    ts, at = np.empty(first[-1], np.int64), np.empty(first[-1], np.uint32)
    decoder.fill(words, 0, EARLIEST, LATEST, first[:-1].copy(), first[1:], ts, at)
    problems = found.problems(0)
    if found.used < words.size:
        end = max([0, *found.high.tolist()])
        problems.append(Problem(end, end, None, "decode error", _DAMAGED if found.damaged else _CUT))
    return CpuEvents(cpu, words, first, ts, at, int(found.bad.sum()), problems)


def index_records(
    cpu: int,
    root: Path,
    name: str,
    expected: dict[str, object],
    decoder: RecordDecoder,
    advance: Callable[[int], None] = lambda count: None,
    verify: bool = True,
) -> RawIndex:
    """Index the file of records ``name`` of the segment ``root`` whose manifest says ``expected``.

    As :func:`hindsight.capture.conversion.index.index_pages` for pages. Raises VerificationError when size or
    checksum differ, or the file cannot be read.
    """
    path = root / name
    digest = Checksum(crc32)
    descriptor, size = open_raw(root, name, expected)
    try:
        index = index_open_records(
            cpu, path, descriptor, size, decoder, advance, digest.update if verify else None
        )
    finally:
        os.close(descriptor)
    if verify and digest.hexdigest() != expected["crc32"]:
        raise VerificationError(f"{path} does not have the checksum of its manifest: it was altered")
    return index


def index_open_records(
    cpu: int,
    path: Path,
    descriptor: int,
    size: int,
    decoder: RecordDecoder,
    advance: Callable[[int], None] = lambda count: None,
    look: Callable[[memoryview], object] | None = None,
) -> RawIndex:
    """Index the records in the first ``size`` bytes of an open file; ``look`` sees all bytes once.

    Raises VerificationError when the file cannot be read.
    """
    buffer = np.empty(_PIECE_BYTES, np.uint8)
    offsets, parts = [0], []
    problems: list[Problem] = []
    unusable, last, at, kept, damaged = 0, 0, 0, 0, False
    while at < size:
        piece = buffer[kept : min(buffer.size, kept + size - at)]
        read_exactly(descriptor, piece, at, path)
        if look is not None:
            look(piece.data)
        at += piece.size
        advance(piece.size)
        if damaged:
            continue  # no record can be told from the bytes that follow
        held = kept + piece.size
        found = decoder.count(buffer[: held // 4 * 4].view("<u4"))
        used = found.used * 4
        parts.append(found)
        offsets += (at - held + found.ends * 4).tolist()
        problems += found.problems(last)
        usable = found.high >= found.low
        last = max([last, *found.high[usable].tolist()])
        unusable += int(found.bad.sum())
        damaged = found.damaged
        kept = 0 if damaged else held - used
        buffer[:kept] = buffer[used : used + kept].copy()
    if damaged or kept:
        problems.append(Problem(last, last, None, "decode error", _DAMAGED if damaged else _CUT))
    low, high = (_joined([getattr(part, field) for part in parts]) for field in ("low", "high"))
    empty = low > high  # a block without usable events: it may be decoded with any slice
    return RawIndex(
        cpu,
        path,
        decoder,
        np.array(offsets, np.int64),
        np.where(empty, last, low),
        np.where(empty, last, high),
        np.concatenate(
            [part.counts.astype(np.uint32) for part in parts] or [np.zeros((0, decoder.kinds), np.uint32)]
        ),
        unusable,
        problems,
    )


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.empty(0, np.int64)
