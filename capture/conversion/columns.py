"""From decoded order to columns: gather the fields that a table keeps out of the payloads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hindsight.capture.compiled import compiled
from hindsight.capture.conversion.decode import CpuEvents
from hindsight.capture.conversion.merge import Run, merge, ordered
from hindsight.capture.conversion.spans import Span, find_spans, number_spans
from hindsight.capture.formats import EventFormat, Field
from hindsight.capture.schema import Column, Table, numpy_dtype
from hindsight.errors import VerificationError

_LATER = frozenset({"ioprio", "group_dead"})
"""Columns that older kernels have no field for: 0 (false) there."""
_RENAMED = {"child_pid": "pid", "target_pid": "pid"}
MINOR_BITS = 20
_EVERY_BIT = (1 << 64) - 1
_TOGETHER = 1 << 13
"""Rows whose fields are gathered together."""
_TEXT_LIMIT = 256
"""Bytes of the longest text of variable length."""


@compiled
def gather(
    words: Any, at: Any, offset: Any, size: Any, signed: bool, shift: Any, keep: Any, out: Any, strict: Any
) -> Any:
    """Read a number of ``size`` bytes at byte ``offset`` of each payload into ``out`` (unsigned).

    ``words`` u32; ``at`` u32[n] payload positions in words. Signed numbers are extended. What is stored is
    ``value >> shift & keep``, cut to the width of ``out``. Returns the bits that were cut off from any value
    (u64); ``strict``: 0 = they may be, 1 = unless zero-extension, 2 = unless sign-extension gives them back.
    """
    skip = np.uint64(offset) >> np.uint64(2)
    move = np.uint64(shift)
    mask_out = np.uint64(keep)
    width = np.uint64(out.itemsize * 8)
    top = np.uint64(1) << (width - np.uint64(1))
    low = top | (top - np.uint64(1))
    lost = np.uint64(0)
    if size == 8:
        for i in range(at.size):
            w = np.uint64(at[i]) + skip
            value = np.uint64(words[w]) | np.uint64(words[w + np.uint64(1)]) << np.uint64(32)
            value = (value >> move) & mask_out
            out[i] = value
            if strict == 1:
                lost |= value & ~low
            elif strict == 2:
                lost |= (((value & low) ^ top) - top) ^ value
        return lost
    lean = (np.uint64(offset) & np.uint64(3)) * np.uint64(8)
    bits = np.uint64(size) * np.uint64(8)
    mask = (np.uint64(1) << bits) - np.uint64(1)
    sign = np.uint64(1) << (bits - np.uint64(1)) if signed else np.uint64(0)
    for i in range(at.size):
        value = (np.uint64(words[np.uint64(at[i]) + skip]) >> lean) & mask
        value = (((value ^ sign) - sign) >> move) & mask_out
        out[i] = value
        if strict == 1:
            lost |= value & ~low
        elif strict == 2:
            lost |= (((value & low) ^ top) - top) ^ value
    return lost


@compiled
def gather_bytes(words: Any, at: Any, offset: Any, width: Any, located: bool, limit: Any, out: Any) -> int:
    """Copy text of at most ``width`` bytes, up to its first NUL, into ``out`` (u8[n, width or more], zeroed).

    ``located`` says that the field at ``offset`` is a ``__data_loc`` word (low half: position, high half:
    length). Returns how many texts did not fit into ``width`` or lie beyond ``limit`` words.
    """
    bad = 0
    for i in range(at.size):
        payload = np.uint64(at[i])
        start = np.uint64(offset)
        length = np.uint64(width)
        if located:
            word = np.uint64(words[payload + (start >> np.uint64(2))])
            start = word & np.uint64(0xFFFF)
            length = word >> np.uint64(16)
            if (payload << np.uint64(2)) + start + length > np.uint64(limit) << np.uint64(2):
                bad += 1
                continue
        row = np.uint64(i)
        for j in range(length):
            position = start + np.uint64(j)
            word = np.uint64(words[payload + (position >> np.uint64(2))])
            byte = np.uint8(word >> ((position & np.uint64(3)) * np.uint64(8)))
            if byte == 0:
                break
            if j >= width:
                bad += 1
                break
            out[row, np.uint64(j)] = byte
    return bad


@compiled
def number_rows(rows: Any, slots: Any, first: Any, codes: Any) -> int:
    """Number the distinct rows of ``rows`` (u64[n, width]) in order of appearance; returns how many.

    ``slots`` i64[power of two > n], all -1: a hash table. ``first`` i64[n]: the first row of each number.
    """
    count = 0
    last = np.uint64(slots.size - 1)
    for i in range(rows.shape[0]):
        value = np.uint64(0)
        for j in range(rows.shape[1]):
            value = (value ^ rows[i, j]) * np.uint64(0x9E3779B97F4A7C15)
            value ^= value >> np.uint64(29)
        slot = value & last
        while True:
            known = slots[slot]
            if known < 0:
                slots[slot] = count
                first[count] = i
                codes[i] = count
                count += 1
                break
            same = True
            for j in range(rows.shape[1]):
                if rows[i, j] != rows[first[known], j]:
                    same = False
                    break
            if same:
                codes[i] = known
                break
            slot = (slot + np.uint64(1)) & last
    return count


@dataclass(frozen=True)
class Text:
    """A text column as codes (i32[n]) into distinct values (bytes)."""

    codes: np.ndarray
    values: list[bytes]


Values = np.ndarray | Text


def distinct_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of u64[n, width]: where each distinct row is first, and of each row its number among them."""
    count = len(rows)
    first, codes = np.empty(count, np.int64), np.empty(count, np.int32)
    slots = np.full(1 << (2 * count).bit_length(), -1, np.int64)
    return first[: number_rows(np.ascontiguousarray(rows), slots, first, codes)], codes


def intern(raw: np.ndarray) -> Text:
    """Distinct NUL-padded texts of a u8[n, width] array, sorted, and the code of each row."""
    rows, width = raw.shape
    if rows == 0 or width == 0:
        return Text(np.zeros(rows, np.int32), [b""] if rows else [])
    if width % 8:
        raw = np.pad(raw, ((0, 0), (0, -width % 8)))
    first, codes = distinct_rows(np.ascontiguousarray(raw).view(np.uint64))
    values = [bytes(raw[row]).rstrip(b"\0") for row in first.tolist()]
    order = sorted(range(len(values)), key=values.__getitem__)
    place = np.empty(len(values), np.int32)
    place[order] = np.arange(len(values), dtype=np.int32)
    return Text(place[codes], [values[i] for i in order])


@dataclass(frozen=True)
class Source:
    """Where a column comes from: its field, and what of the field's value is kept.

    A text column without a ``span`` is a text of at most 256 bytes.
    """

    column: Column
    field: Field
    shift: int = 0
    keep: int = _EVERY_BIT
    span: Span | None = None

    @property
    def split(self) -> bool:
        """It is a part of the field's value."""
        return self.keep != _EVERY_BIT or self.shift != 0


def sources(kind: EventFormat, table: Table) -> list[Source]:
    """The source of each column of ``table`` but ``ts`` and ``cpu``.

    Raises VerificationError when this kernel's event lacks a field, or has it in a form that is not known.
    """
    found = []
    for column in table.columns:
        if column.name in ("ts", "cpu"):
            continue
        source = _source(kind, column)
        field = source.field
        if column.dtype != "str" and (
            field.size not in (1, 2, 4, 8) or field.offset % min(field.size, 4) or field.array
        ):
            raise VerificationError(f"{kind.name}: the field {field.name} cannot be decoded as a number")
        found.append(source)
    return found


def _source(kind: EventFormat, column: Column) -> Source:
    fields = kind.fields
    name, _, part = column.name.rpartition("_")
    if column.name == "pid":
        return Source(column, fields["common_pid"])
    if part in ("major", "minor") and column.name not in fields and name in fields:
        if part == "major":
            return Source(column, fields[name], MINOR_BITS)
        return Source(column, fields[name], 0, (1 << MINOR_BITS) - 1)
    field = fields.get(_RENAMED.get(column.name, column.name))
    if field is None and column.name in _LATER:
        return Source(column, fields["common_pid"], 0, 0)
    if field is None:
        raise VerificationError(
            f"this kernel's {kind.name} has no field {column.name}",
            "This release of hindsight does not know the tracepoint in that form.",
        )
    return Source(column, field)


class EventTable:
    """The rows of one kind of event, all CPUs merged by (ts, cpu, position)."""

    def __init__(self, number: int, kind: EventFormat, cpus: list[CpuEvents]) -> None:
        self._kind = kind
        parts = [cpu for cpu in sorted(cpus, key=lambda c: c.cpu) if cpu.rows(number)]
        runs = [ordered(cpu.ts[cpu.span(number)], cpu.at[cpu.span(number)], cpu.cpu) for cpu in parts]
        self._words = parts[0].words if parts else np.empty(0, "<u4")
        if any(cpu.words is not self._words for cpu in parts):
            starts = np.cumsum([0, *(cpu.words.size for cpu in parts)])
            self._words = np.concatenate([cpu.words for cpu in parts])
            runs = [
                Run(r.ts, (r.at + start).astype(np.uint32), r.cpu)
                for r, start in zip(runs, starts, strict=False)
            ]
        self._run = merge(runs)
        self.rows = int(self._run.ts.size)
        self.ts = self._run.ts
        self.cpu = self._run.cpu

    def number(self, source: Source, rows: slice, out: np.ndarray) -> None:
        """Store the numbers of some rows in ``out``, an array of the column's dtype.

        Raises VerificationError when a value does not fit the column.
        """
        field, column = source.field, source.column
        # An argument of a system call fills a register, of which the kernel uses what its type has (mmap's
        # descriptor is an unsigned long, -1 comes in both widths). Elsewhere nothing may be cut off.
        may_cut = self._kind.system == "syscalls" or field.size <= out.itemsize
        strict = 0 if may_cut else 1 if column.dtype[0] == "u" else 2
        at = self._run.at[rows]
        lost = gather(
            self._words, at, field.offset, field.size, field.signed, source.shift,
            np.uint64(source.keep), out.view(f"u{out.itemsize}"), strict,
        )  # fmt: skip
        if lost:
            raise VerificationError(f"{self._kind.name}: values of {column.name} do not fit {column.dtype}")

    def text(self, field: Field, rows: slice = slice(None)) -> Text:
        """A text field of some rows, as codes into its distinct values.

        Raises VerificationError for a text that is longer than 256 bytes or lies beyond the pages.
        """
        width = _TEXT_LIMIT if field.data_loc else field.size
        at = self._run.at[rows]
        raw = np.zeros((at.size, (width + 7) // 8 * 8), np.uint8)
        bad = gather_bytes(self._words, at, field.offset, width, field.data_loc, self._words.size, raw)
        if bad:
            raise VerificationError(
                f"{self._kind.name}: {bad} values of {field.name} are damaged or too long"
            )
        return intern(raw)

    def spans(self, field: Field, span: Span, rows: slice = slice(None)) -> Text:
        """Bytes of any length of some rows, as codes into the distinct ones.

        The word before each payload holds its size. Raises VerificationError when bytes lie beyond it.
        """
        at = self._run.at[rows]
        start, size = np.empty(at.size, np.uint64), np.empty(at.size, np.uint64)
        if find_spans(self._words, at, field.offset, field.size, span.where, span.text, start, size):
            raise VerificationError(f"{self._kind.name}: values of {field.name} lie beyond their event")
        first, codes = np.empty(at.size, np.int64), np.empty(at.size, np.int32)
        slots = np.full(1 << (2 * at.size).bit_length(), -1, np.int64)
        data = self._words.view(np.uint8)
        count = number_spans(data, start, size, slots, first, codes)
        values = []
        for row in first[:count].tolist():
            begin = int(start[row])
            value = data[begin : begin + int(size[row])].tobytes()
            values.append(value if span.text else value.hex().encode())
        return Text(codes, values)

    def into(self, plan: list[Source], rows: slice, out: Mapping[str, np.ndarray]) -> dict[str, Text]:
        """Store the columns of some rows: numbers in the arrays ``out`` (by name), texts are returned."""
        out["ts"][:] = self.ts[rows]
        out["cpu"][:] = self.cpu[rows]
        numbers = [source for source in plan if source.column.dtype != "str"]
        # All fields of some payloads while they are in the cache, not all payloads for each field.
        for begin in range(rows.start, rows.stop, _TOGETHER):
            some = slice(begin, min(begin + _TOGETHER, rows.stop))
            for source in numbers:
                target = out[source.column.name][some.start - rows.start : some.stop - rows.start]
                if source.column.dtype == "bool":
                    wide = np.empty(target.size, np.uint64)
                    self.number(source, some, wide)
                    target[:] = wide != 0
                else:
                    self.number(source, some, target)
        return {
            s.column.name: self.text(s.field, rows) if s.span is None else self.spans(s.field, s.span, rows)
            for s in plan
            if s.column.dtype == "str"
        }

    def columns(self, table: Table) -> dict[str, Values]:
        """The columns of ``table`` (see :mod:`hindsight.capture.schema`), in its order.

        Raises VerificationError when this kernel's event lacks a field or holds values that do not fit.
        """
        numbers = {c.name: np.empty(self.rows, numpy_dtype(c)) for c in table.columns if c.dtype != "str"}
        texts = self.into(sources(self._kind, table), slice(0, self.rows), numbers)
        return {c.name: texts[c.name] if c.dtype == "str" else numbers[c.name] for c in table.columns}
