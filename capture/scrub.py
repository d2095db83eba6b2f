"""Take page frame numbers out of raw sub-buffers, in place, before they are sealed.

The kernel writes ``pfn`` into the events that add folios to the page cache and remove them. It belongs to no
table, and nothing of the kind is to be kept at rest. Such events are recorded into ring buffers of their own
(:mod:`hindsight.capture.profiles`): nearly every sub-buffer there is an array of events of one length, in
which a field is a few slices. Other sub-buffers are walked event by event, many times slower, so that what
only looks like such an event is never taken for one.

Format of sub-buffers: kernel/trace/ring_buffer.c of Linux 6.18 (see :mod:`hindsight.capture.decode`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from hindsight.capture.formats import EventFormat

HIDDEN = frozenset({"pfn"})
"""Fields of events that are not kept, by name."""

Hidden = tuple[int, int, int]
"""A field to take out: id of the event, offset and size within its payload in bytes."""

_COMMIT, _DATA = 8, 16  # offsets in a sub-buffer's header (header_page)
_LENGTH = 0xFFFFF
_DISCARDED, _EXTEND = 29, 30
_LONGEST = 28  # words of a payload whose length stands in the event's header
_LENGTH_BITS = bytes(value & 31 for value in range(256))
_WINDOW_BYTES = 1 << 15  # so that no other thread waits long for the interpreter
_PAUSE_S = 50e-6


def hidden_fields(events: Iterable[EventFormat]) -> list[Hidden]:
    """The fields that :func:`scrub` is to take out of recordings of these events."""
    return [
        (event.id, field.offset, field.size)
        for event in events
        for name, field in event.fields.items()
        if name in HIDDEN
    ]


def scrub(path: Path, fields: Iterable[Hidden], page_bytes: int) -> int:
    """Zero ``fields`` in a file of sub-buffers of ``page_bytes``; returns how many events were changed.

    What the kernel's event filters discarded after it had been written is zeroed as well. Everything else
    stays as it is, to the byte; a page that cannot be walked to its end keeps what follows the damage. A file
    whose events have none of the fields is not looked at. Raises OSError, and ValueError for a field that
    would destroy the event's id.
    """
    hidden: dict[int, list[tuple[int, int]]] = {}
    for number, offset, size in fields:
        if offset < 2 or size < 1:
            raise ValueError(f"a field at {offset} of {size} bytes would destroy the event's id")
        hidden.setdefault(number, []).append((offset, size))
    if not hidden:
        return 0
    window = bytearray(max(_WINDOW_BYTES // page_bytes, 1) * page_bytes)
    changed = 0
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        at = 0
        while (count := os.preadv(descriptor, [window], at)) >= page_bytes:
            count -= count % page_bytes
            found = {
                start: _scrub_page(window, start, page_bytes, hidden) for start in range(0, count, page_bytes)
            }
            pages = [start for start, events in found.items() if events]
            if pages:
                first, last = min(pages), max(pages) + page_bytes
                with memoryview(window)[first:last] as view:
                    written = 0
                    while written < last - first:
                        written += os.pwrite(descriptor, view[written:], at + first + written)
            changed += sum(found.values())
            at += count
            time.sleep(_PAUSE_S)  # let go of the interpreter: another thread drains the ring buffers
    finally:
        os.close(descriptor)
    return changed


def _scrub_page(
    window: bytearray, start: int, page_bytes: int, hidden: dict[int, list[tuple[int, int]]]
) -> int:
    """Scrub one sub-buffer; returns how many events were changed."""
    length = int.from_bytes(window[start + _COMMIT : start + _COMMIT + 4], "little") & _LENGTH
    if not 0 < length <= page_bytes - _DATA:
        return 0
    at, end = start + _DATA, start + _DATA + length
    events = _scrub_array(window, at, end, hidden)
    return _walk(window, at, end, hidden) if events is None else events


def _scrub_array(
    window: bytearray, at: int, end: int, hidden: dict[int, list[tuple[int, int]]]
) -> int | None:
    """Scrub a sub-buffer that is an array of events of one kind; None when it is not."""
    words = window[at] & 31
    stride = 4 + 4 * words
    number = window[at + 4] | window[at + 5] << 8
    if not 1 <= words <= _LONGEST or (end - at) % stride or number not in hidden:
        return None
    count = (end - at) // stride
    same = (
        window[at:end:stride].translate(_LENGTH_BITS) == bytes([words]) * count
        and window[at + 4 : end : stride] == window[at + 4 : at + 5] * count
        and window[at + 5 : end : stride] == window[at + 5 : at + 6] * count
    )
    if not same:
        return None
    changed = False
    zeros = bytes(count)
    for offset, size in hidden[number]:
        for byte in range(at + 4 + offset, at + 4 + min(offset + size, 4 * words)):
            if window[byte:end:stride] != zeros:
                window[byte:end:stride] = zeros
                changed = True
    return count if changed else 0


def _walk(window: bytearray, at: int, end: int, hidden: dict[int, list[tuple[int, int]]]) -> int:
    """Scrub a sub-buffer event by event."""
    changed = 0
    for kind, payload, after in walk_events(window, at, end):
        if kind == _DISCARDED:
            places = [(payload + 4, after)]
        else:
            number = int.from_bytes(window[payload : payload + 2], "little")
            places = [(payload + offset, payload + offset + size) for offset, size in hidden.get(number, ())]
        here = 0
        for first, last in places:
            last = min(last, after)
            if first < last and any(window[first:last]):
                window[first:last] = bytes(last - first)
                here = 1
        changed += here
    return changed


def walk_events(data: bytes | bytearray, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Each event of a sub-buffer: length field of its header, where its payload begins and where it ends.

    Discarded events (29) are among them, with the word that holds their length as the beginning; time stamps
    are not. Ends at the first event that does not fit.
    """
    while at + 4 <= end:
        header = int.from_bytes(data[at : at + 4], "little")
        kind = header & 31
        if 1 <= kind <= _LONGEST:
            payload, after = at + 4, at + 4 + 4 * kind
        elif kind >= _EXTEND:
            at += 8
            continue
        elif kind == _DISCARDED and header >> 5 == 0:
            return
        else:  # the length stands in the next word: that of a long event counts this word too
            length = int.from_bytes(data[at + 4 : at + 8], "little")
            if kind == 0 and length < 4:
                return
            payload = at + 8 if kind == 0 else at + 4
            after = at + 4 + (length + 3 & ~3)
        if after > end or payload > after:
            return
        yield kind, payload, after
        at = after
