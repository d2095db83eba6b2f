"""Tables of events that :mod:`hindsight.capture.schema` does not define, derived from the event's own format.

The rule. The table is named ``<system>.<event>``: no defined table has a dot in its name. Its columns are
``ts``, ``cpu``, ``pid``, then one for each field of the event, in the order of the format, under the field's
own name (``event_<name>`` for a field named ts, cpu or pid):

- numbers of 1, 2, 4, 8 bytes: u8 … i64 by size and signedness; a ``dev_t``, or four bytes named ``dev`` or
  ``s_dev``, is split into ``_major`` and ``_minor`` (20 bits);
- ``char`` arrays, fixed, ``__data_loc``, ``__rel_loc`` or at the end of the event: text up to the first NUL;
  bytes that are no UTF-8 are written ``\\xNN``;
- anything else: its bytes as hexadecimal digits, in the order of memory.

Left out, and listed with the reason in the file's metadata: the kernel's ``common_`` fields but the thread's
number; pointers, except arguments of system calls (addresses of user space); page frame numbers, by name;
arrays of ``unsigned long`` outside system calls, which hold addresses (of stacks, of callers). A number as
wide as a pointer may be an address of the kernel though its type does not say so: values in the kernel's part
of the address space are replaced by a keyed hash of 62 bits (30 on 32-bit machines), equal ones by equal
ones.
"""

from __future__ import annotations

import hmac
import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from hindsight.capture.conversion.columns import MINOR_BITS, Source, sources
from hindsight.capture.conversion.spans import FIXED, LOCATED, RELATIVE, REST, Span
from hindsight.capture.formats import EventFormat, Field
from hindsight.capture.host import pseudonym
from hindsight.capture.schema import EVENT_COLUMNS, METADATA_GENERIC_KEY, Column, Table
from hindsight.errors import VerificationError

_SYSCALLS = ("syscalls", "raw_syscalls")
_PFN = re.compile(r"(?:.*_)?pfn(?:_.*)?")
_COMM = re.compile(r".*comm")
_GROUP_ROWS = 1 << 14
"""Rows in a row group of a table with bytes of any length: all of them may be distinct, and long."""
_KERNEL = {8: (0xFFFF << 48, (1 << 64) - (1 << 24)), 4: (0xC0000000, (1 << 32) - (1 << 16))}
"""Addresses of the kernel by their size, from … to: the upper half of what 48 bits address, or the last GiB;
without the small negative numbers at the end."""
_DTYPES = {1: "u8", 2: "u16", 4: "u32", 8: "u64"}


@dataclass(frozen=True)
class Generic:
    """A table made by rule; ``addresses``: its columns that may hold addresses, by their bytes.

    ``why``: why it is not the defined table of the event, empty when there is none.
    """

    table: Table
    sources: list[Source]
    dropped: dict[str, str]
    addresses: dict[str, int]
    why: str

    @property
    def sized(self) -> bool:
        """Whether the size of each payload must be known."""
        return any(source.span is not None for source in self.sources)

    @property
    def group_rows(self) -> int:
        """The most rows in a row group."""
        return _GROUP_ROWS if self.sized else 1 << 20

    @property
    def metadata(self) -> dict[str, str]:
        """What the table's file says about it."""
        told = {"event": self.table.tracepoint, "dropped": self.dropped, "addresses": sorted(self.addresses)}
        if self.why:
            told["why"] = self.why
        return {METADATA_GENERIC_KEY: json.dumps(told, sort_keys=True)}


def misfit(layout: EventFormat, table: Table) -> str:
    """Why an event cannot be rows of the defined table of its name; empty when it can."""
    try:
        plan = sources(layout, table)
    except VerificationError as error:
        return error.message
    for source in plan:
        field, column = source.field, source.column
        if column.dtype == "str":
            if not (field.array or field.data_loc) or field.ctype.startswith("__rel_loc"):
                return f"the field {field.name} is no text"
        elif column.dtype == "bool" or layout.system in _SYSCALLS or source.split:
            continue
        elif field.size * 8 > int(column.dtype[1:]):
            return f"the field {field.name} has {field.size} bytes"
    return ""


def generic_table(layout: EventFormat, why: str = "") -> Generic:
    """The table of an event, by the rule above."""
    pid = Column("pid", "i32", EVENT_COLUMNS[2].meaning)
    columns: list[Column] = [*EVENT_COLUMNS]
    plan = [Source(pid, layout.fields["common_pid"])]
    dropped: dict[str, str] = {}
    addresses: dict[str, int] = {}
    taken = {column.name for column in columns}
    for field in layout.fields.values():
        if field.name.startswith("common_"):
            continue
        reason = _unwanted(layout, field)
        if reason:
            dropped[field.name] = reason
            continue
        made = _sources(field, taken)
        for source in made:
            taken.add(source.column.name)
            columns.append(source.column)
        wide = field.size == 8 or (field.size == 4 and ("long" in field.ctype or "*" in field.ctype))
        if made[0].span is None and not made[0].split and wide and not field.signed:
            addresses[made[0].column.name] = field.size
        plan += made
    name = f"{layout.system}.{layout.name}"
    table = Table(name, tuple(columns), "", f"{layout.system}/{layout.name}")
    return Generic(table, plan, dropped, addresses, why)


def _unwanted(layout: EventFormat, field: Field) -> str:
    if _PFN.fullmatch(field.name):
        return "a page frame number"
    if layout.system not in _SYSCALLS:
        base = field.ctype.removeprefix("__data_loc").removeprefix("__rel_loc").replace("[]", "").strip()
        scalar = not (field.array or _located(field) or field.size == 0)
        if base.endswith("*"):
            return "a pointer" if scalar else "pointers"
        if not scalar and base.removeprefix("const ") in ("unsigned long", "long unsigned int"):
            return "an array of unsigned long: it may hold addresses of the kernel"
    if _located(field) and (field.size != 4 or field.offset % 4):
        return "a position that is no aligned word"
    return ""


def _located(field: Field) -> bool:
    return field.ctype.startswith(("__data_loc", "__rel_loc"))


def _sources(field: Field, taken: set[str]) -> list[Source]:
    name = f"event_{field.name}" if field.name in ("ts", "cpu", "pid") else field.name
    while name in taken or f"{name}_major" in taken:
        name += "_"
    array = field.array or _located(field) or field.size == 0
    device = field.ctype == "dev_t" or field.name in ("dev", "s_dev")
    if device and not array and field.size == 4 and field.offset % 4 == 0:
        major = Column(f"{name}_major", "u32", "")
        minor = Column(f"{name}_minor", "u32", "")
        low = (1 << MINOR_BITS) - 1
        return [Source(major, field, MINOR_BITS, low), Source(minor, field, 0, low)]
    if not array and field.size in _DTYPES and field.offset % min(field.size, 4) == 0:
        dtype = _DTYPES[field.size]
        return [Source(Column(name, "i" + dtype[1:] if field.signed else dtype, ""), field)]
    text = re.search(r"\bchar\b", field.ctype) is not None and "unsigned" not in field.ctype
    where = FIXED
    if _located(field):
        where = LOCATED if field.data_loc else RELATIVE
    elif field.size == 0:
        where = REST
    return [Source(Column(name, "str", ""), field, span=Span(where, text))]


def generic_renaming(key: bytes | None) -> Callable[[str, bytes], str]:
    """As :func:`hindsight.capture.conversion.facttables.renaming`, for any event: nothing of a text is lost.

    Columns whose name ends in ``comm`` hold names of programs.
    """

    def rename(column: str, value: bytes) -> str:
        text = value.decode("utf-8", "backslashreplace")
        return pseudonym(key, text) if key is not None and _COMM.fullmatch(column) else text

    return rename


class Addresses:
    """Replaces addresses of the kernel by keyed hashes. Thread-safe."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._known: dict[tuple[int, int], int] = {}
        self._lock = threading.Lock()

    def of(self, columns: Mapping[str, int]) -> Callable[[Mapping[str, np.ndarray]], None]:
        """A function that replaces them in these columns (their bytes by name) of some rows."""

        def mask(numbers: Mapping[str, np.ndarray]) -> None:
            for name, size in columns.items():
                low, high = _KERNEL[size]
                values = numbers[name]
                where = np.flatnonzero((values >= low) & (values < high))
                if where.size:
                    distinct, places = np.unique(values[where], return_inverse=True)
                    hashes = [self._hash(value, size) for value in distinct.tolist()]
                    values[where] = np.array(hashes, values.dtype)[places]

        return mask

    def _hash(self, value: int, size: int) -> int:
        with self._lock:
            found = self._known.get((value, size))
            if found is None:
                if len(self._known) > 1 << 16:
                    self._known.clear()
                digest = hmac.new(self._key, b"address:%x" % value, "sha256").digest()
                found = self._known[value, size] = int.from_bytes(digest[:size], "little") >> 2
            return found
