"""From decoded order to columns: gather the fields that a table keeps out of the payloads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from hindsight.capture.compiled import compiled
from hindsight.capture.conversion.decode import CpuEvents
from hindsight.capture.conversion.gather import CUT, SIGNS, TRUTH, ZEROS, gather_bytes, gather_rows
from hindsight.capture.conversion.merge import Run, merge, ordered
from hindsight.capture.conversion.scratch import Scratch
from hindsight.capture.conversion.spans import Span, find_spans, number_spans
from hindsight.capture.formats import EventFormat, Field
from hindsight.capture.schema import Column, Table, numpy_dtype
from hindsight.errors import VerificationError

_LATER = frozenset({"ioprio", "group_dead"})
"""Columns that older kernels have no field for: 0 (false) there."""
_RENAMED = {"child_pid": "pid", "target_pid": "pid"}
MINOR_BITS = 20
_EVERY_BIT = (1 << 64) - 1
_ALIGNED = 64
_TEXT_LIMIT = 256
"""Bytes of the longest text of variable length."""


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


class Rows:
    """Columns of numbers in one piece of memory: ``numbers`` by name, of the columns' dtypes.

    ``begins``: where each begins, in values of its own; ``views``: all memory as u8, u16, u32, u64. The
    memory is that of ``name`` in ``scratch``.
    """

    def __init__(self, columns: Sequence[Column], count: int, scratch: Scratch, name: object) -> None:
        dtypes = {c.name: np.dtype(numpy_dtype(c)) for c in columns if c.dtype != "str"}
        # Not all at the same place of a page: they are written to together.
        sizes = [(d.itemsize * count // _ALIGNED + 2) * _ALIGNED for d in dtypes.values()]
        starts = dict(zip(dtypes, np.cumsum([0, *sizes]).tolist(), strict=False))
        memory = scratch.take(("rows", name), sum(sizes), "u1")
        self.views = tuple(memory.view(dtype) for dtype in ("u1", "<u2", "<u4", "<u8"))
        self.begins = {name: starts[name] // dtype.itemsize for name, dtype in dtypes.items()}
        self.numbers = {
            name: memory[starts[name] : starts[name] + dtype.itemsize * count].view(dtype)
            for name, dtype in dtypes.items()
        }

    def at(self, rows: slice) -> dict[str, np.ndarray]:
        """Some rows of all columns."""
        return {name: numbers[rows] for name, numbers in self.numbers.items()}


class Layout:
    """How the fields of one kind of event go to the columns of ``rows``.

    ``numbers`` and ``texts``: the sources of either; ``fields``, ``kept``, ``lost`` as in
    :func:`hindsight.capture.conversion.gather.gather_rows`.
    """

    def __init__(self, kind: EventFormat, plan: list[Source], rows: Rows) -> None:
        self.rows = rows
        self.numbers = [source for source in plan if source.column.dtype != "str"]
        self.texts = [source for source in plan if source.column.dtype == "str"]
        fields = [(*number_field(kind, s), rows.begins[s.column.name]) for s in self.numbers]
        self.fields = np.array(fields, np.int64).reshape(-1, 7)
        self.kept = np.array([source.keep for source in self.numbers], np.uint64)
        self.lost = np.zeros(len(self.numbers), np.uint64)


def number_field(kind: EventFormat, source: Source) -> tuple[int, int, bool, int, int, int]:
    """A row of ``fields`` of :func:`hindsight.capture.conversion.gather.gather_rows`, but its last."""
    field, column = source.field, source.column
    width = np.dtype(numpy_dtype(column)).itemsize
    # An argument of a system call fills a register, of which the kernel uses what its type has (mmap's
    # descriptor is an unsigned long, -1 comes in both widths). Elsewhere nothing may be cut off.
    if column.dtype == "bool":
        strict = TRUTH
    elif kind.system == "syscalls" or field.size <= width:
        strict = CUT
    else:
        strict = ZEROS if column.dtype[0] == "u" else SIGNS
    return field.offset, field.size, field.signed, source.shift, strict, width


def check_lost(kind: EventFormat, numbers: Sequence[Source], lost: np.ndarray) -> None:
    """Raises VerificationError when ``lost`` (u64, of each of ``numbers``) says that a value does not fit."""
    for number in np.flatnonzero(lost).tolist():
        column = numbers[number].column
        raise VerificationError(f"{kind.name}: values of {column.name} do not fit {column.dtype}")


def texts_of(
    kind: EventFormat, wanted: Sequence[Source], words: np.ndarray, at: np.ndarray
) -> dict[str, Text]:
    """Text columns of some rows: ``at`` u32 are their payloads in ``words`` (u32).

    Raises VerificationError for a text that is too long, or is not where it is said to be.
    """
    return {
        s.column.name: text_of(kind, s.field, words, at)
        if s.span is None
        else bytes_of(kind, s.field, s.span, words, at)
        for s in wanted
    }


def text_of(kind: EventFormat, field: Field, words: np.ndarray, at: np.ndarray) -> Text:
    """A text field of some rows, as codes into its distinct values.

    Raises VerificationError for a text that is longer than 256 bytes or lies beyond the words.
    """
    width = _TEXT_LIMIT if field.data_loc else field.size
    raw = np.zeros((at.size, (width + 7) // 8 * 8), np.uint8)
    bad = gather_bytes(words, at, field.offset, width, field.data_loc, words.size, raw)
    if bad:
        raise VerificationError(f"{kind.name}: {bad} values of {field.name} are damaged or too long")
    return intern(raw)


def bytes_of(kind: EventFormat, field: Field, span: Span, words: np.ndarray, at: np.ndarray) -> Text:
    """Bytes of any length of some rows, as codes into the distinct ones.

    The word before each payload holds its size. Raises VerificationError when bytes lie beyond it.
    """
    start, size = np.empty(at.size, np.uint64), np.empty(at.size, np.uint64)
    if find_spans(words, at, field.offset, field.size, span.where, span.text, start, size):
        raise VerificationError(f"{kind.name}: values of {field.name} lie beyond their event")
    first, codes = np.empty(at.size, np.int64), np.empty(at.size, np.int32)
    slots = np.full(1 << (2 * at.size).bit_length(), -1, np.int64)
    data = words.view(np.uint8)
    count = number_spans(data, start, size, slots, first, codes)
    values = []
    for row in first[:count].tolist():
        begin = int(start[row])
        value = data[begin : begin + int(size[row])].tobytes()
        values.append(value if span.text else value.hex().encode())
    return Text(codes, values)


class EventRows(Protocol):
    """The rows of one kind of event, in order of (ts, cpu, position)."""

    @property
    def rows(self) -> int:
        """How many there are."""

    def into(self, layout: Layout, rows: slice, place: int) -> dict[str, Text]:
        """See :meth:`EventTable.into`."""


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

    def into(self, layout: Layout, rows: slice, place: int) -> dict[str, Text]:
        """Store the columns of some rows: numbers in those of ``layout``, from row ``place`` on; texts are
        returned.

        Raises VerificationError when a value does not fit its column.
        """
        stop = place + rows.stop - rows.start
        layout.rows.numbers["ts"][place:stop] = self.ts[rows]
        layout.rows.numbers["cpu"][place:stop] = self.cpu[rows]
        gather_rows(
            self._words, self._run.at, rows.start, rows.stop, layout.fields, layout.kept, *layout.rows.views,
            place, layout.lost,
        )  # fmt: skip
        check_lost(self._kind, layout.numbers, layout.lost)
        return texts_of(self._kind, layout.texts, self._words, self._run.at[rows])

    def columns(self, table: Table) -> dict[str, Values]:
        """The columns of ``table`` (see :mod:`hindsight.capture.schema`), in its order.

        Raises VerificationError when this kernel's event lacks a field or holds values that do not fit.
        """
        rows = Rows(table.columns, self.rows, Scratch(), table.name)
        layout = Layout(self._kind, sources(self._kind, table), rows)
        texts = self.into(layout, slice(0, self.rows), 0)
        return {c.name: texts[c.name] if c.dtype == "str" else rows.numbers[c.name] for c in table.columns}
