"""What a recording is not to keep, and how a field of an event is made unreadable in place.

Page frame numbers and the addresses of probed functions are zeroed. Names of threads become keyed hashes of
the same length, unless they were asked for; the path of an executed program is zeroed, unless paths were.
This is done when a segment is sealed (:mod:`hindsight.capture.ftrace.scrub`,
:mod:`hindsight.capture.perf.scrub`), and may be done twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from hindsight.capture.formats import EventFormat
from hindsight.capture.host import pseudonym

ZERO, NAME, TEXT = "zero", "name", "text"
"""What is done to a field: zeroed; hashed (a name of fixed size); zeroed where a ``__data_loc`` points."""

NUMBERS = frozenset({"pfn", "__probe_ip", "__probe_func", "__probe_ret_ip"})
"""Fields of events that are never kept, by name."""
NAMES = frozenset({"comm", "oldcomm", "newcomm", "prev_comm", "next_comm"})
"""Fields that hold the name of a thread, up to a NUL."""
PATHS = frozenset({"filename"})
"""Fields that hold a path, where the event holds its text."""

_HASHED = 1
"""The last byte of a hashed name. The kernel's own always end in NUL there (``TASK_COMM_LEN``)."""
_MOST_NAMES = 1 << 16


class Hidden(NamedTuple):
    """A field to be hidden: id of the event, offset and size within its payload in bytes, and how."""

    event: int
    offset: int
    size: int
    how: str = ZERO


Places = Mapping[int, list[Hidden]]
"""The fields by id of the event."""


def hidden_fields(events: Iterable[EventFormat], names: bool = False, paths: bool = False) -> list[Hidden]:
    """The fields to hide in recordings of these events; ``names`` and ``paths`` are kept if asked for."""
    found = []
    for event in events:
        for name, field in event.fields.items():
            if name in NUMBERS:
                found.append(Hidden(event.id, field.offset, field.size))
            elif name in NAMES and not names:
                found.append(Hidden(event.id, field.offset, field.size, TEXT if field.data_loc else NAME))
            elif name in PATHS and field.data_loc and not paths:  # (else it is a pointer)
                found.append(Hidden(event.id, field.offset, field.size, TEXT))
    return found


def places_of(fields: Iterable[Hidden]) -> dict[int, list[Hidden]]:
    """The same by id of the event. Raises ValueError for a field that would destroy the id."""
    places: dict[int, list[Hidden]] = {}
    for field in fields:
        if field.offset < 2 or field.size < 1 or (field.how == TEXT and field.size != 4):
            raise ValueError(f"a field at {field.offset} of {field.size} bytes would destroy the event's id")
        places.setdefault(field.event, []).append(field)
    return places


class NameHash:
    """Replaces names by keyed hashes of the same size: as tables have them, then a mark that it is one."""

    def __init__(self, key: str) -> None:
        self._key = key.encode("ascii")
        self._known: dict[bytes, bytes] = {}

    def text(self, name: str) -> str:
        """The hash of a name: 12 hexadecimal digits."""
        return pseudonym(self._key, name)

    def field(self, raw: bytes) -> bytes:
        """What a field that holds ``raw`` is to hold; a hash stays as it is."""
        found = self._known.get(raw)
        if found is None:
            if raw[-1] == _HASHED:
                return raw
            digits = self.text(raw.partition(b"\0")[0].decode("utf-8", "replace")).encode()
            found = digits[: len(raw) - 1].ljust(len(raw) - 1, b"\0") + bytes([_HASHED])
            if len(self._known) >= _MOST_NAMES:
                self._known.clear()
            self._known[raw] = found
        return found


def hide(
    window: bytearray, at: int, end: int, fields: Iterable[Hidden], names: Callable[[bytes], bytes]
) -> int:
    """Hide the fields of the event whose payload is ``window[at:end]``; returns 1 if anything changed."""
    changed = 0
    for _, offset, size, how in fields:
        first, last = at + offset, min(at + offset + size, end)
        if last - first < size:
            continue  # damaged: no decoder reads it either
        if how == TEXT:
            word = int.from_bytes(window[first:last], "little")
            first = at + (word & 0xFFFF)
            last = min(first + (word >> 16), end)
            if first < at + 2 or last <= first:
                continue
        before = bytes(window[first:last])
        after = names(before) if how == NAME else bytes(last - first)
        if after != before:
            window[first:last] = after
            changed = 1
    return changed
