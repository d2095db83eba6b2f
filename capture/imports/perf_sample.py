"""Where a sample of perf has what: its identifier, time, processor and raw data, by the attributes of its
event.

Layout: PERF_RECORD_SAMPLE and struct sample_id in include/uapi/linux/perf_event.h of Linux 6.18.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from hindsight.capture.imports.foreign import Foreign
from hindsight.errors import VerificationError

TYPE_TRACEPOINT = 2
IP, TID, TIME, ADDR, READ, CALLCHAIN, ID, CPU, PERIOD, STREAM_ID, RAW = (1 << n for n in range(11))
IDENTIFIER = 1 << 16
_BEFORE_READ = (IDENTIFIER, IP, TID, TIME, ADDR, ID, STREAM_ID, CPU, PERIOD)
"""What a sample begins with, in this order, 8 bytes each."""
_TRAILER = (TID, TIME, ID, STREAM_ID, CPU, IDENTIFIER)
"""What every other record ends with, if SAMPLE_ID_ALL is set."""
_FREQ, _SAMPLE_ID_ALL, _USE_CLOCKID = 1 << 10, 1 << 18, 1 << 25
_READ_ENABLED, _READ_RUNNING, _READ_ID, _READ_GROUP, _READ_LOST = (1 << n for n in range(5))
_CLOCKS = {0: "realtime", 1: "mono", 4: "mono_raw", 7: "boot", 11: "tai"}
_CLOCK_OF_PERF = "perf"


@dataclass(frozen=True)
class Attribute:
    """One event that was recorded: ``config`` is the tracepoint's id; ``period`` 0: sampled by frequency."""

    kind: int
    config: int
    sample_type: int
    read_format: int
    period: int
    id_all: bool
    clock: str
    ids: tuple[int, ...]

    @property
    def traced(self) -> bool:
        """Whether its samples hold records of a tracepoint."""
        return self.kind == TYPE_TRACEPOINT and bool(self.sample_type & RAW)


def parse_attribute(file: Foreign, data: bytes, ids: tuple[int, ...]) -> Attribute:
    """Of ``struct perf_event_attr`` (64 bytes or more)."""
    kind, _, config, period, sample_type, read_format, flags = struct.unpack_from("<IIQQQQQ", data)
    clock = _CLOCK_OF_PERF
    if flags & _USE_CLOCKID:
        if len(data) < 96:
            raise file.damaged("an event with a clock that it does not name")
        (number,) = struct.unpack_from("<i", data, 92)
        clock = _CLOCKS.get(number, f"clock {number}")
    return Attribute(
        kind, config, sample_type, read_format, 0 if flags & _FREQ else period,
        bool(flags & _SAMPLE_ID_ALL), clock, ids,
    )  # fmt: skip


def _place(sample_type: int, bit: int) -> int:
    """Words before a member of a sample, from the end of the record's header; -1: it has none."""
    if not sample_type & bit:
        return -1
    return 2 * sum(bool(sample_type & other) for other in _BEFORE_READ[: _BEFORE_READ.index(bit)])


def _back(sample_type: int, bit: int) -> int:
    """Words from a member of the trailer to the end of the record; -1: it has none."""
    if not sample_type & bit:
        return -1
    return 2 * sum(bool(sample_type & other) for other in _TRAILER[_TRAILER.index(bit) :])


TIME_AT, CPU_AT, READ_AT, READ_BY, READ_EACH, CHAIN, RAW_AT, TIME_BACK, CPU_BACK, CONFIG = range(10)
"""Columns of the array of layouts."""


@dataclass(frozen=True)
class Layouts:
    """How samples are read: ``rows`` i64[events, 10]; ``ids`` u64 sorted, ``owner`` i64: the event of each.

    ``id_at``, ``id_back``: where every sample, and every other record, has the identifier (words; -1:
    nowhere:
    then there is but one event).
    """

    rows: np.ndarray
    ids: np.ndarray
    owner: np.ndarray
    id_at: int
    id_back: int


def layouts(file: Foreign, attributes: list[Attribute]) -> Layouts:
    """The layouts of the samples of these events.

    Raises VerificationError when there is no telling which event a sample is of, or where or when it was.
    """
    if not any(attribute.traced for attribute in attributes):
        raise VerificationError(
            f"{file.path} holds no samples of tracepoints with their records",
            "Record tracepoints: perf record -e SYSTEM:EVENT …",
        )
    rows = np.full((len(attributes), 10), -1, np.int64)
    for number, of in enumerate(attributes):
        kind = of.sample_type
        if of.traced and not (kind & TIME and kind & CPU):
            raise VerificationError(
                f"{file.path}: samples have no {'processor' if kind & TIME else 'time'}",
                "Record with both: perf record -T --sample-cpu …",
            )
        fixed = 2 * sum(bool(kind & bit) for bit in _BEFORE_READ)
        by, each = _read_words(of.read_format)
        rows[number] = (
            _place(kind, TIME), _place(kind, CPU), fixed if kind & READ else -1, by, each,
            bool(kind & CALLCHAIN), fixed if of.traced else -1,
            _back(kind, TIME) if of.id_all else -1, _back(kind, CPU) if of.id_all else -1, of.config & 0xFFFF,
        )  # fmt: skip
    identified = all(of.sample_type & IDENTIFIER for of in attributes)
    types = {of.sample_type for of in attributes}
    if identified:
        id_at, id_back = 0, 2 if all(of.id_all for of in attributes) else -1
    elif len(types) == 1 and min(types) & ID:
        id_at = _place(min(types), ID)
        id_back = _back(min(types), ID) if attributes[0].id_all else -1
    elif len(attributes) == 1:
        id_at = id_back = -1
    else:
        raise VerificationError(
            f"{file.path}: nothing tells of which event a sample is", "Record with a newer perf."
        )
    pairs = sorted((number, owner) for owner, of in enumerate(attributes) for number in set(of.ids))
    ids = np.array([number for number, _ in pairs], np.uint64)
    if (ids[1:] == ids[:-1]).any():
        raise file.damaged("two events have the same identifier")
    return Layouts(rows, ids, np.array([owner for _, owner in pairs], np.int64), id_at, id_back)


def _read_words(read_format: int) -> tuple[int, int]:
    """Words of what PERF_SAMPLE_READ holds: those that are always there, and (of groups) of each member."""
    each = 2 * (1 + bool(read_format & _READ_ID) + bool(read_format & _READ_LOST))
    times = 2 * (bool(read_format & _READ_ENABLED) + bool(read_format & _READ_RUNNING))
    if read_format & _READ_GROUP:
        return 2 + times, each
    return each + times, 0
