"""From decoded order to columns: merge the CPUs by time and gather the fields that a table keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from hindsight.capture.decode import CpuEvents
from hindsight.capture.formats import EventFormat, Field
from hindsight.capture.schema import Column, Table, numpy_dtype
from hindsight.errors import VerificationError

_RENAMED = {"child_pid": "pid", "target_pid": "pid"}
_MINOR_BITS = 20


@njit(cache=True, nogil=True)
def gather(words: Any, at: Any, place: Any, offset: Any, size: Any, signed: bool, out: Any) -> None:
    """Read a number of ``size`` bytes at byte ``offset`` of each payload into ``out[place]`` (u64).

    ``words`` u32; ``at`` u32[n] payload positions in words; ``place`` i64[n]. Signed numbers are extended.
    """
    skip = np.uint64(offset) >> np.uint64(2)
    if size == 8:
        for i in range(at.size):
            w = np.uint64(at[i]) + skip
            out[np.uint64(place[i])] = np.uint64(words[w]) | np.uint64(words[w + np.uint64(1)]) << np.uint64(
                32
            )
        return
    shift = (np.uint64(offset) & np.uint64(3)) * np.uint64(8)
    bits = np.uint64(size) * np.uint64(8)
    mask = (np.uint64(1) << bits) - np.uint64(1)
    sign = np.uint64(1) << (bits - np.uint64(1)) if signed else np.uint64(0)
    for i in range(at.size):
        value = (np.uint64(words[np.uint64(at[i]) + skip]) >> shift) & mask
        out[np.uint64(place[i])] = (value ^ sign) - sign


@njit(cache=True, nogil=True)
def gather_bytes(
    words: Any, at: Any, place: Any, offset: Any, width: Any, located: bool, limit: Any, out: Any
) -> int:
    """Copy text of at most ``width`` bytes, up to its first NUL, into ``out[place]`` (u8[n, width], zeroed).

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
        row = np.uint64(place[i])
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


@dataclass(frozen=True)
class Text:
    """A text column as codes (i32[n]) into distinct values (bytes)."""

    codes: np.ndarray
    values: list[bytes]


Values = np.ndarray | Text


class EventTable:
    """The rows of one kind of event, all CPUs merged by (ts, cpu, position)."""

    def __init__(self, number: int, kind: EventFormat, cpus: list[CpuEvents]) -> None:
        self._kind = kind
        self._parts: list[tuple[CpuEvents, slice]] = []
        for cpu in sorted(cpus, key=lambda c: c.cpu):
            rows = slice(int(cpu.first[number]), int(cpu.first[number + 1]))
            if rows.stop > rows.start:
                self._parts.append((cpu, rows))
        ts = [cpu.ts[rows] for cpu, rows in self._parts]
        joined = np.concatenate(ts) if ts else np.empty(0, np.int64)
        self.rows = int(joined.size)
        # Stable: equal times stay in the order (cpu, position) in which they were joined.
        order = np.argsort(joined, kind="stable")
        self.ts = joined[order]
        place = np.empty(self.rows, np.int64)
        place[order] = np.arange(self.rows)
        self._places = []
        self.cpu = np.empty(self.rows, np.uint16)
        start = 0
        for cpu, rows in self._parts:
            here = place[start : start + rows.stop - rows.start]
            self._places.append(here)
            self.cpu[here] = cpu.cpu
            start += here.size

    def number(self, field: Field) -> np.ndarray:
        """A numeric field as u64 (signed values sign-extended), one per row."""
        if field.size not in (1, 2, 4, 8) or field.offset % min(field.size, 4) or field.array:
            raise VerificationError(
                f"{self._kind.name}: the field {field.name} cannot be decoded as a number"
            )
        out = np.empty(self.rows, np.uint64)
        for (cpu, rows), place in zip(self._parts, self._places, strict=True):
            gather(cpu.words, cpu.at[rows], place, field.offset, field.size, field.signed, out)
        return out

    def text(self, field: Field, width: int = 256) -> Text:
        """A text field, as codes into its distinct values. ``width`` limits texts of variable length."""
        width = width if field.data_loc else field.size
        raw = np.zeros((self.rows, width), np.uint8)
        for (cpu, rows), place in zip(self._parts, self._places, strict=True):
            bad = gather_bytes(
                cpu.words, cpu.at[rows], place, field.offset, width, field.data_loc, cpu.words.size, raw
            )
            if bad:
                raise VerificationError(
                    f"{self._kind.name}: {bad} values of {field.name} are damaged or too long"
                )
        return intern(raw)

    def columns(self, table: Table) -> dict[str, Values]:
        """The columns of ``table`` (see :mod:`hindsight.capture.schema`), in its order.

        Raises VerificationError when this kernel's event lacks a field or holds values that do not fit.
        """
        fields = self._kind.fields
        devices: dict[str, np.ndarray] = {}
        result: dict[str, Values] = {}
        for column in table.columns:
            if column.name == "ts":
                result["ts"] = self.ts
            elif column.name == "cpu":
                result["cpu"] = self.cpu
            elif column.name == "pid":
                result["pid"] = self.number(fields["common_pid"]).astype(np.int32)
            else:
                result[column.name] = self._column(column, fields, devices)
        return result

    def _column(self, column: Column, fields: dict[str, Field], devices: dict[str, np.ndarray]) -> Values:
        name, _, part = column.name.rpartition("_")
        if part in ("major", "minor") and column.name not in fields and name in fields:
            if name not in devices:
                devices[name] = self.number(fields[name])
            value = devices[name]
            value = (
                value >> np.uint64(_MINOR_BITS)
                if part == "major"
                else value & np.uint64((1 << _MINOR_BITS) - 1)
            )
            return value.astype(np.uint32)
        field = fields.get(_RENAMED.get(column.name, column.name))
        if field is None:
            raise VerificationError(
                f"this kernel's {self._kind.name} has no field {column.name}",
                "This release of hindsight does not know the tracepoint in that form.",
            )
        if column.dtype == "str":
            return self.text(field)
        values = self.number(field)
        if column.dtype == "bool":
            return values != 0
        dtype = np.dtype(numpy_dtype(column))
        # An argument of a system call fills a register, of which the kernel uses what its type has (mmap's
        # descriptor is an unsigned long, -1 comes in both widths). Elsewhere nothing may be cut off.
        if self._kind.system != "syscalls" and field.size > dtype.itemsize:
            back = values.astype(dtype).astype(np.int64 if field.signed else np.uint64)
            if not np.array_equal(back.view(np.uint64), values):
                raise VerificationError(
                    f"{self._kind.name}: values of {column.name} do not fit {column.dtype}"
                )
        return values.astype(dtype)


def intern(raw: np.ndarray) -> Text:
    """Distinct NUL-padded texts of a u8[n, width] array, sorted, and the code of each row."""
    rows, width = raw.shape
    if rows == 0 or width == 0:
        return Text(np.zeros(rows, np.int32), [b""] if rows else [])
    padded = np.zeros((rows, (width + 7) // 8 * 8), np.uint8)
    padded[:, :width] = raw
    # Sorting machine words is many times faster than sorting byte strings.
    words = padded.view(">u8").astype(np.uint64)
    codes = np.zeros(rows, np.int64)
    for column in range(words.shape[1]):
        _, step = np.unique(words[:, column], return_inverse=True)
        codes = codes * (int(step.max()) + 1) + step
        _, codes = np.unique(codes, return_inverse=True)
    _, first = np.unique(codes, return_index=True)
    return Text(codes.astype(np.int32), [bytes(raw[row]).rstrip(b"\0") for row in first])
