"""Take page frame numbers out of raw sub-buffers, in place, before they are sealed.

The kernel writes ``pfn`` into the events that add folios to the page cache and remove them. It belongs to no
table, and nothing of the kind is to be kept at rest. The standard library has no fast way to walk events, so
that pages without such an event are found by searching for its id, and the others are walked by a regular
expression that matches whole events, from the page's first to its last: what lies within an event and only
looks like another is never taken for one. A page that the expression does not match is walked event by event.

Format of sub-buffers: kernel/trace/ring_buffer.c of Linux 6.18 (see :mod:`hindsight.capture.decode`).
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from hindsight.capture.formats import EventFormat

HIDDEN = frozenset({"pfn"})
"""Fields of events that are not kept, by name."""

Hidden = tuple[int, int, int]
"""A field to take out: id of the event, offset and size within its payload in bytes."""

_COMMIT, _DATA = 8, 16  # offsets in a sub-buffer's header (header_page)
_LENGTH = 0xFFFFF
_DISCARDED, _EXTEND, _STAMP = 29, 30, 31
_LONGEST = 28  # words of a payload whose length stands in the event's header
_WINDOW_BYTES = 1 << 15  # so that no other thread waits long for the interpreter
_DECOYS = 6  # more false finds per page than this cost more than walking it
_PAUSE_S = 50e-6


def hidden_fields(events: Iterable[EventFormat]) -> list[Hidden]:
    """The fields that :func:`scrub` is to take out of recordings of these events."""
    return [
        (event.id, field.offset, field.size)
        for event in events
        for name, field in event.fields.items()
        if name in HIDDEN
    ]


def scrub(path: Path, fields: Iterable[Hidden], page_bytes: int, thorough: bool = False) -> int:
    """Zero ``fields`` in a file of sub-buffers of ``page_bytes``; returns how many events were changed.

    ``thorough`` also zeroes what the kernel's event filters discarded after it had been written (only buffers
    of events with a filter hold such remains); every page is walked then. Everything else stays as it is, to
    the byte; a page that cannot be walked to its end keeps what follows the damage. Raises OSError.
    """
    scrubber = _Scrubber(fields, page_bytes, thorough)
    if not scrubber.layouts and not thorough:
        return 0
    size = max(_WINDOW_BYTES // page_bytes, 1) * page_bytes
    window = bytearray(size)  # one buffer, used again: fresh memory costs more than reading into it
    changed = 0
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        at = 0
        while (count := os.preadv(descriptor, [window], at)) >= page_bytes:
            count -= count % page_bytes
            pages, events = scrubber.feed(window, count)
            changed += events
            if pages:
                first, last = min(pages), max(pages) + page_bytes
                with memoryview(window)[first:last] as view:
                    written = 0
                    while written < last - first:
                        written += os.pwrite(descriptor, view[written:], at + first + written)
            at += count
            time.sleep(_PAUSE_S)  # let go of the interpreter: another thread drains the ring buffers
    finally:
        os.close(descriptor)
    return changed


class _Layout:
    """Events whose hidden field lies at the same place."""

    def __init__(self, offset: int, size: int) -> None:
        self.offset = offset
        self.size = size
        self.ids: list[bytes] = []
        self.words = 0  # of the payload; known from the first that is seen
        self.pattern: re.Pattern[bytes] | None = None

    def learn(self, words: int, frequent: Iterable[int]) -> None:
        """Compile the expression: it matches from the end of one hidden field to the next, or to the end.

        ``words`` is the length of these events, the same for each of a tracepoint with fields of fixed size;
        ``frequent`` are the lengths of events, the most frequent one first. The alternatives exclude each
        other, so that there is no backtracking.
        """
        self.words = words
        head = rb"%s..." % _class([words])
        names = b"|".join(map(re.escape, self.ids))
        target = rb"%s(?:%s).{%d}" % (head, names, self.offset - 2)
        rest = 4 * words - self.offset - self.size
        lengths = sorted(range(1, _LONGEST + 1), key=([*frequent, *range(1, _LONGEST + 1)]).index)
        others = [
            self._other(words) if n == words else rb"%s.{%d}" % (_class([n]), 3 + 4 * n) for n in lengths
        ]
        others.insert(4, rb"%s.{7}" % _class([_EXTEND, _STAMP]))
        skip = rb"(?:%s)*" % b"|".join(others)
        self.pattern = re.compile(
            rb"(.{%d}%s(?:%s|\Z))(?:.{%d}|\Z)" % (rest, skip, target, self.size), re.DOTALL
        )

    def _other(self, words: int) -> bytes:
        """Any event of so many words but these."""
        by_low = defaultdict(set)
        for number in self.ids:
            by_low[number[:1]].add(number[1:])
        same = b"|".join(
            rb"%s[^%s]" % (re.escape(low), b"".join(map(_byte, highs))) for low, highs in by_low.items()
        )
        low = b"".join(map(_byte, by_low))
        head = _class([words])
        return rb"%s...[^%s].{%d}|%s...(?:%s).{%d}" % (head, low, 4 * words - 1, head, same, 4 * words - 2)


def _byte(value: bytes) -> bytes:
    return b"\\x%02x" % value[0]


def _class(lengths: Iterable[int]) -> bytes:
    """The first byte of an event header: five bits of length, three of the time delta."""
    return b"[%s]" % b"".join(b"\\x%02x" % (n | high << 5) for n in lengths for high in range(8))


class _Scrubber:
    def __init__(self, fields: Iterable[Hidden], page_bytes: int, thorough: bool) -> None:
        self._page = page_bytes
        self._thorough = thorough
        self.layouts: dict[tuple[int, int], _Layout] = {}
        self._layout_of: dict[int, _Layout] = {}
        for number, offset, size in fields:
            if offset < 2 or size < 1:
                raise ValueError(f"a field at {offset} of {size} bytes would destroy the event's id")
            layout = self.layouts.setdefault((offset, size), _Layout(offset, size))
            layout.ids.append(number.to_bytes(2, "little"))
            self._layout_of[number] = layout

    def feed(self, window: bytearray, count: int) -> tuple[list[int], int]:
        """Scrub whole sub-buffers; returns where the changed ones begin, and how many events were changed."""
        changed = []
        events = 0
        for start in self._suspects(window, count):
            found = self._scrub_page(window, start)
            if found:
                changed.append(start)
                events += found
        return changed, events

    def _suspects(self, window: bytearray, count: int) -> list[int]:
        """Sub-buffers in which an id occurs at a place where one can stand."""
        every = list(range(0, count, self._page))
        if self._thorough:
            return every
        pages: set[int] = set()
        decoys = 0
        find = window.find
        for number in self._layout_of:
            low, high = number & 0xFF, number >> 8
            at = find(low, 0, count)
            while at >= 0:
                if at & 3 or window[at + 1] != high:
                    decoys += 1
                    if decoys > _DECOYS * len(every):
                        return every
                    at = find(low, at + 1, count)
                else:
                    start = at - at % self._page
                    pages.add(start)
                    at = find(low, start + self._page, count)
        return sorted(pages)

    def _scrub_page(self, window: bytearray, start: int) -> int:
        length = int.from_bytes(window[start + _COMMIT : start + _COMMIT + 4], "little") & _LENGTH
        if length > self._page - _DATA:
            return 0
        at, end = start + _DATA, start + _DATA + length
        events = 0
        for layout in self.layouts.values():
            if layout.pattern is None:
                return self._walk(window, at, end)
            rest = 4 * layout.words - layout.offset - layout.size
            before = bytes(rest) + window[at:end]
            after = bytes(layout.size).join(parts := layout.pattern.findall(before))
            if len(after) != len(before):  # something else than plain events lies in between
                return self._walk(window, at, end)
            if len(parts) > 1 and after != before:
                window[at:end] = after[rest:]
                events += len(parts) - 1
        return events

    def _walk(self, window: bytearray, at: int, end: int) -> int:
        """The plain way, event by event; it also learns how long these events are."""
        events = 0
        seen = Counter(kind for kind, _, _ in walk_events(window, at, end) if kind in range(1, _LONGEST + 1))
        for kind, payload, after in walk_events(window, at, end):
            if kind == _DISCARDED:
                if any(window[payload + 4 : after]):
                    window[payload + 4 : after] = bytes(after - payload - 4)
                    events += 1
                continue
            layout = self._layout_of.get(int.from_bytes(window[payload : payload + 2], "little"))
            if layout is None:
                continue
            if layout.pattern is None and kind and 4 * kind >= layout.offset + layout.size:
                layout.learn(kind, [length for length, _ in seen.most_common()])
            first = min(payload + layout.offset, after)
            last = min(first + layout.size, after)
            if any(window[first:last]):
                window[first:last] = bytes(last - first)
                events += 1
        return events


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
