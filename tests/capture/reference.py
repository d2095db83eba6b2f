"""An independent slow decoder of ring-buffer pages, in plain Python: what the compiled one must agree with.

Written from kernel/trace/ring_buffer.c and Documentation/trace/ring-buffer-design.rst (Linux 6.18); it shares
with the program only the parsed layouts (:mod:`hindsight.capture.formats`) and the table definitions.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hindsight.capture.formats import EventFormat, Field, PageLayout
from hindsight.capture.schema import Table

MASK = (1 << 64) - 1
RENAMED = {"child_pid": "pid", "target_pid": "pid"}


@dataclass
class Decoded:
    """What is on the pages of one CPU.

    ``events`` are (ts in ns, id, position of the payload in bytes); ``unusable`` counts what could not be
    decoded; ``damaged`` are pages with damage; ``missed`` maps pages that flag missed events to how many (0 =
    the page doesn't say).
    """

    events: list[tuple[int, int, int]] = field(default_factory=list)
    unusable: int = 0
    damaged: set[int] = field(default_factory=set)
    missed: dict[int, int] = field(default_factory=dict)


def signed(value: int) -> int:
    """A 64-bit number as a signed one."""
    return value - (1 << 64) if value >> 63 else value


def reference(data: bytes, layout: PageLayout, need: dict[int, int]) -> Decoded:
    """Decode pages event by event. ``need``: for each known event id, the least bytes of its payload."""
    result = Decoded()
    u32 = struct.Struct("<I").unpack_from
    u16 = struct.Struct("<H").unpack_from
    for page in range(len(data) // layout.page_bytes):
        start = page * layout.page_bytes
        (clock,) = struct.unpack_from("<Q", data, start)
        (commit,) = u32(data, start + layout.commit_offset)
        length = commit & 0xFFFFF
        if length > layout.data_size or length % 4:
            result.damaged.add(page)
            result.unusable += 1
            continue
        at = start + layout.data_offset
        end = at + length
        if commit >> 30:
            stored = commit >> 30 & 1 and length + 8 <= layout.data_size
            result.missed[page] = struct.unpack_from("<Q", data, end)[0] if stored else 0
        while at < end:
            (header,) = u32(data, at)
            kind, delta = header & 31, header >> 5
            if kind == 29 and delta == 0:
                break
            if 0 < kind < 29:
                payload, after = at + 4, at + 4 + 4 * kind
            else:
                if at + 8 > end:
                    result.damaged.add(page)
                    result.unusable += 1
                    break
                (second,) = u32(data, at + 4)
                if kind == 29:
                    at += 4 + (second + 3) // 4 * 4
                    if at > end:
                        result.damaged.add(page)
                        result.unusable += 1
                    continue
                if kind == 30:
                    clock = clock + delta + (second << 27) & MASK
                    at += 8
                    continue
                if kind == 31:
                    top = clock >> 59 << 59
                    stamp = (delta + (second << 27)) % (1 << 59) | top
                    clock = stamp + (1 << 59) & MASK if top and stamp < clock else stamp
                    at += 8
                    continue
                payload, after = at + 8, at + 4 + (second + 3) // 4 * 4
                if second < 4:
                    after = end + 1
            if after > end:
                result.damaged.add(page)
                result.unusable += 1
                break
            clock = clock + delta & MASK
            at = after
            number = u16(data, payload)[0] if after > payload else -1
            if after - payload < need.get(number, after):
                result.damaged.add(page)
                result.unusable += 1
            else:
                result.events.append((signed(clock), number, payload))
    return result


class Unfit(Exception):
    """A value does not fit the column that it belongs to: the program must refuse it."""


class Rows:
    """Reads the columns of one table, from ``pid`` on, out of payloads of one kind of event."""

    def __init__(self, kind: EventFormat, table: Table) -> None:
        wanted = []
        for column in table.columns[2:]:
            name, part = RENAMED.get(column.name, column.name), ""
            if column.name == "pid":
                name = "common_pid"
            elif name not in kind.fields and name.endswith(("_major", "_minor")):
                name, part = name[:-6], name[-5:]
            wanted.append((kind.fields[name], column.dtype, part))
        sources = sorted({field.offset: field for field, _, _ in wanted}.values(), key=lambda f: f.offset)
        code, at = "<", 0
        for source in sources:
            number = dict(zip((1, 2, 4, 8), "bhiq" if source.signed else "BHIQ", strict=True))
            code += f"{source.offset - at}x" + (f"{source.size}s" if source.array else number[source.size])
            at = source.offset + source.size
        self._unpack = struct.Struct(code).unpack_from
        where = {source.offset: number for number, source in enumerate(sources)}
        strict = kind.system != "syscalls"
        self._steps = [(where[f.offset], _conversion(f, dtype, part, strict)) for f, dtype, part in wanted]

    def read(self, data: bytes, payload: int) -> tuple[object, ...]:
        """The values of one row. Raises :class:`Unfit`."""
        raw = self._unpack(data, payload)
        return tuple([raw[n] if step is None else step(raw[n]) for n, step in self._steps])


def _conversion(source: Field, dtype: str, part: str, strict: bool) -> Callable[[Any], object] | None:
    """From a value of the kernel's field to one of the column; None where they are the same."""
    if dtype == "str":
        return _until_nul
    if part:
        return _major if part == "major" else _minor
    if dtype == "bool":
        return bool
    bits = int(dtype[1:])
    if source.size * 8 == bits and source.signed == (dtype[0] == "i"):
        return None

    def fit(value: int) -> int:
        wrapped = value & (1 << bits) - 1
        if dtype[0] == "i" and wrapped >> bits - 1:
            wrapped -= 1 << bits
        if wrapped != value and strict and source.size * 8 > bits:
            raise Unfit(f"{value} in {dtype}")
        return wrapped

    return fit


def _until_nul(raw: bytes) -> bytes:
    return raw.split(b"\0", 1)[0]


def _major(value: int) -> int:
    return (value & MASK) >> 20


def _minor(value: int) -> int:
    return value & 0xFFFFF


@dataclass
class DecodedRecords:
    """What is in the perf records of one CPU.

    ``events`` as in :class:`Decoded`; ``used`` bytes are whole records; ``damaged``: what follows is none.
    """

    events: list[tuple[int, int, int]] = field(default_factory=list)
    unusable: int = 0
    used: int = 0
    damaged: bool = False


def reference_records(data: bytes, need: dict[int, int]) -> DecodedRecords:
    """Decode perf records (include/uapi/linux/perf_event.h, Linux 6.18) one by one."""
    result = DecodedRecords()
    at, end = 0, len(data) // 4 * 4
    while at + 8 <= end:
        record, _, size = struct.unpack_from("<IHH", data, at)
        if size < 8 or size % 8:
            result.damaged = True
            break
        if at + size > end:
            break
        if record == 9:  # PERF_RECORD_SAMPLE: identifier, time, size of the raw data, raw data
            raw = struct.unpack_from("<QI", data, at + 16) if size >= 32 else (0, 0)
            payload = raw[1] // 4 * 4
            number = struct.unpack_from("<H", data, at + 28)[0] if size >= 32 else -1
            fits = 0 < payload <= size - 28 and payload >= need.get(number, 1 << 32)
            if fits and raw[0] < 1 << 63:
                result.events.append((raw[0], number, at + 28))
            else:
                result.unusable += 1
        at += size
        result.used = at
    return result
