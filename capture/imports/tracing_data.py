"""The description of events that trace.dat (version 6) begins with and that perf.data carries in one piece.

Format: trace-cmd.dat.v6(5) of trace-cmd 3.1; perf's tools/perf/util/trace-event-read.c of Linux 6.18 reads
the same. trace.dat of version 7 holds the same parts in sections of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hindsight.capture.formats import EventFormat, PageLayout, parse_event, parse_header_page
from hindsight.capture.imports.foreign import Cursor, as_text
from hindsight.errors import VerificationError

MAGIC = b"\x17\x08\x44tracing"
MAX_EVENTS = 1 << 16
"""Ids of events have 16 bits."""


@dataclass
class Description:
    """What a file says of its events. ``damaged``: formats that cannot be parsed, with the reason."""

    long_bytes: int = 8
    page_bytes: int = 4096
    header_page: str = ""
    events: dict[int, EventFormat] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)

    @property
    def layout(self) -> PageLayout:
        """Of the sub-buffers. Raises VerificationError when it is none."""
        return parse_header_page(self.header_page)

    def add(self, system: str, text: str) -> None:
        """Add the format of one event; what cannot be parsed is noted, its events will be unknown ones."""
        try:
            event = parse_event(system, text)
        except VerificationError as error:
            if len(self.damaged) < MAX_EVENTS:
                first = text.partition("\n")[0]
                self.damaged[f"{system}/{first.removeprefix('name:').strip()[:80]}"] = error.message
            return
        known = self.events.get(event.id)
        if known is not None and (known.system, known.name) != (event.system, event.name):
            raise VerificationError(
                f"two events have the id {event.id}: {known.system}/{known.name}, {event.system}/{event.name}"
            )
        self.events[event.id] = event
        self.texts[event.id] = text


def read_start(cursor: Cursor) -> tuple[str, Description]:
    """The magic number, and what follows it: the version, byte order, size of a long and of a page.

    Raises VerificationError for big-endian files, and for what is none.
    """
    if cursor.take(len(MAGIC)) != MAGIC:
        raise cursor.source.damaged("it does not begin as trace.dat does")
    version = cursor.text()
    if cursor.number(1) != 0:
        raise VerificationError(
            f"{cursor.source.path} was recorded on a big-endian machine",
            "Only little-endian recordings can be imported.",
        )
    long_bytes, page_bytes = cursor.number(1), cursor.number(4)
    if long_bytes not in (4, 8):
        raise cursor.source.damaged(f"a long of {long_bytes} bytes")
    return version, Description(long_bytes, page_bytes)


def read_headers(cursor: Cursor, about: Description) -> None:
    """``header_page`` and ``header_event``."""
    for name in ("header_page", "header_event"):
        if cursor.text() != name:
            raise cursor.source.damaged(f"{name} is not where it belongs")
        text = as_text(cursor.take(cursor.number(8)))
        if name == "header_page":
            about.header_page = text


def read_ftrace_formats(cursor: Cursor, about: Description) -> None:
    """The formats of ftrace's own events: ``print`` and others."""
    for _ in range(_count(cursor)):
        about.add("ftrace", as_text(cursor.take(cursor.number(8))))


def read_event_formats(cursor: Cursor, about: Description) -> None:
    """The formats of all other events, by system."""
    for _ in range(_count(cursor)):
        system = cursor.text()
        for _ in range(_count(cursor)):
            about.add(system, as_text(cursor.take(cursor.number(8))))


def _count(cursor: Cursor) -> int:
    count = cursor.number(4)
    if count > min(MAX_EVENTS, cursor.left):
        raise cursor.source.damaged(f"{count} formats")
    return count


def read_description(cursor: Cursor, names: bool) -> Description:
    """All of it. Symbols, format strings and (``names``) names of threads are passed over.

    perf's versions 0.5 and trace.dat's 6 have the same order; names came with 0.6.
    """
    version, about = read_start(cursor)
    read_headers(cursor, about)
    read_ftrace_formats(cursor, about)
    read_event_formats(cursor, about)
    cursor.skip(cursor.number(4))  # kallsyms
    cursor.skip(cursor.number(4))  # printk formats
    if names or version >= "0.6":
        cursor.skip(cursor.number(8))
    return about
