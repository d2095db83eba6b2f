"""Take out of raw sub-buffers, in place, what is not to be kept, before they are sealed.

What that is says :mod:`hindsight.capture.hiding`. The standard library has no fast way to walk events, so
that those that hold such fields are recorded into ring buffers in which there is little else
(:mod:`hindsight.capture.profiles`): events of one kind that follow each other are an array, in which a field
is a few slices. Every event is stepped over by its own length: what only looks like such an event is never
taken for one.

Format of sub-buffers: kernel/trace/ring_buffer.c of Linux 6.18.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from hindsight.capture.hiding import ZERO, Hidden, Places, hide, places_of

_COMMIT, _DATA = 8, 16  # offsets in a sub-buffer's header (header_page)
_LENGTH = 0xFFFFF
_DISCARDED, _EXTEND = 29, 30
_LONGEST = 28  # words of a payload whose length stands in the event's header
_LENGTH_BITS = bytes(value & 31 for value in range(256))
_WINDOW_BYTES = 1 << 15  # so that no other thread waits long for the interpreter
_PAUSE_S = 50e-6


def scrub(path: Path, fields: Iterable[Hidden], page_bytes: int, names: Callable[[bytes], bytes]) -> int:
    """Hide ``fields`` in a file of sub-buffers of ``page_bytes``; returns how many events were changed.

    ``names`` replaces the name of a thread by another text of the same size.

    What the kernel's event filters discarded after it had been written is zeroed as well. Everything else
    stays as it is, to the byte; a page that cannot be walked to its end keeps what follows the damage. A file
    whose events have none of the fields is not looked at. Raises OSError, and ValueError for a field that
    would destroy the event's id.
    """
    hidden = places_of(fields)
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
                start: _scrub_page(window, start, page_bytes, hidden, names)
                for start in range(0, count, page_bytes)
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
    window: bytearray, start: int, page_bytes: int, hidden: Places, names: Callable[[bytes], bytes]
) -> int:
    """Scrub one sub-buffer; returns in how many events something was changed."""
    length = int.from_bytes(window[start + _COMMIT : start + _COMMIT + 4], "little") & _LENGTH
    if length > page_bytes - _DATA:
        return 0
    at, end = start + _DATA, start + _DATA + length
    changed = 0
    while at + 4 <= end:
        kind = window[at] & 31
        if 1 <= kind <= _LONGEST:
            stride = 4 + 4 * kind
            if at + stride > end:
                break
            places = hidden.get(window[at + 4] | window[at + 5] << 8)
            if places is None:
                at += stride
            else:
                count = _run(window, at, end, stride)
                changed += _scrub_run(window, at, count, stride, places, names)
                at += count * stride
            continue
        if kind >= _EXTEND:
            at += 8
            continue
        # The length stands in the next word: that of a long event counts this word too.
        size = int.from_bytes(window[at + 4 : at + 8], "little")
        after = at + 4 + (size + 3 & ~3)
        padding = kind == _DISCARDED and not (window[at] >> 5 or any(window[at + 1 : at + 4]))
        if padding or after > end or (kind == 0 and size < 4):
            break
        if kind == _DISCARDED:
            changed += _zero(window, at + 8, after)
        else:
            number = int.from_bytes(window[at + 8 : at + 10], "little")
            changed += hide(window, at + 8, after, hidden.get(number, ()), names)
        at = after
    return changed


def _run(window: bytearray, at: int, end: int, stride: int) -> int:
    """How many events follow each other that are of the kind and length of the one at ``at``."""
    whole = at + (end - at) // stride * stride
    alike = (
        window[at:whole:stride].translate(_LENGTH_BITS),
        window[at + 4 : whole : stride],
        window[at + 5 : whole : stride],
    )
    return min(len(column) - len(column.lstrip(column[:1])) for column in alike)


def _scrub_run(
    window: bytearray,
    at: int,
    count: int,
    stride: int,
    places: list[Hidden],
    names: Callable[[bytes], bytes],
) -> int:
    """Scrub a run of events; returns how many may have changed."""
    end = at + count * stride
    zeros = bytes(count)
    changed = 0
    others = [place for place in places if place.how != ZERO]
    if others:
        for one in range(at, end, stride):
            changed += hide(window, one + 4, one + stride, others, names)
    for _, offset, size, how in places:
        if how == ZERO:
            for byte in range(at + 4 + offset, at + min(4 + offset + size, stride)):
                if window[byte:end:stride] != zeros:
                    window[byte:end:stride] = zeros
                    changed = count
    return changed


def _zero(window: bytearray, first: int, last: int) -> int:
    if last <= first or not any(window[first:last]):
        return 0
    window[first:last] = bytes(last - first)
    return 1
