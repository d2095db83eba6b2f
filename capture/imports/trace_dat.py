"""Read the structure of trace.dat, versions 6 and 7: what it says of its events, and where its pages are.

Format: trace-cmd.dat.v6(5) and trace-cmd.dat.v7(5) of trace-cmd 3.1. The pages themselves, as the kernel
wrote them, are read later, by the decoder of native captures.
"""

from __future__ import annotations

from dataclasses import dataclass

from hindsight.capture.imports import options as of
from hindsight.capture.imports.compression import Compression
from hindsight.capture.imports.foreign import MAX_META, Cursor, FileCursor, Foreign
from hindsight.capture.imports.options import Options
from hindsight.capture.imports.tracing_data import (
    Description,
    read_description,
    read_event_formats,
    read_ftrace_formats,
    read_headers,
    read_start,
)
from hindsight.errors import VerificationError

_MAX_CPUS = 1 << 14
_COMPRESSED = 1
_LATENCY = "It holds a latency trace, which is text: record events (trace-cmd record)."


@dataclass(frozen=True)
class CpuPages:
    """Where the pages of one processor are: bytes in the file; ``compressed``: in chunks."""

    cpu: int
    offset: int
    size: int
    compressed: bool


@dataclass(frozen=True)
class Buffer:
    """One ring buffer; the top one has no name. ``clock`` empty: the file does not say."""

    name: str
    clock: str
    page_bytes: int
    cpus: list[CpuPages]


@dataclass(frozen=True)
class TraceDat:
    """A trace.dat: its version, description, options, buffers."""

    version: int
    about: Description
    options: Options
    buffers: list[Buffer]
    compression: Compression


def read_trace_dat(file: Foreign) -> TraceDat:
    """Read all but the pages.

    Raises VerificationError for what is damaged, cut off, big-endian, of another version or compression.
    """
    cursor = FileCursor(file, 0, file.size, "the description")
    version, about = read_start(cursor)
    if version == "7":
        return _Seven(file, cursor, about).read()
    if version == "6":
        return _six(file)
    raise VerificationError(
        f"{file.path} is trace.dat of version {version[:20]!r}; versions 6 and 7 can be imported",
        "Convert it: trace-cmd convert --file-version 7 -i FILE -o NEW.",
    )


def _six(file: Foreign) -> TraceDat:
    cursor = FileCursor(file, 0, file.size, "the description")
    about = read_description(cursor, names=True)
    count = _cpus(file, cursor.number(4))
    found = Options()
    kind = cursor.take(10)
    if kind.startswith(b"options"):
        while number := cursor.number(2):
            found.add(number, cursor.take(cursor.number(4)), cursor)
        kind = cursor.take(10)
    buffers = [Buffer("", found.clock, about.page_bytes, _flyrecord(cursor, kind, count))]
    for data in found.buffers:
        inside = Cursor(file, data, "a buffer")
        at, name = inside.number(8), inside.text()
        there = FileCursor(file, at, file.size, "a buffer")
        pages = _flyrecord(there, there.take(10), found.cpus if found.cpus is not None else count)
        buffers.append(Buffer(name, found.clock, about.page_bytes, pages))
    return TraceDat(6, about, found, _sound(file, buffers), Compression("none"))


def _flyrecord(cursor: Cursor, kind: bytes, count: int) -> list[CpuPages]:
    if kind.startswith(b"latency"):
        raise VerificationError(f"{cursor.source.path} holds no ring buffers", _LATENCY)
    if not kind.startswith(b"flyrecord"):
        raise cursor.source.damaged("no ring buffers where they belong")
    _cpus(cursor.source, count)
    return [CpuPages(cpu, cursor.number(8), cursor.number(8), False) for cpu in range(count)]


def _cpus(file: Foreign, count: int) -> int:
    if count > _MAX_CPUS:
        raise file.damaged(f"{count} processors")
    return count


class _Seven:
    """Version 7: sections, found through a chain of options."""

    def __init__(self, file: Foreign, cursor: FileCursor, about: Description) -> None:
        self.file = file
        self.about = about
        name = cursor.text()
        cursor.text()  # the version of the library
        self.compression = Compression(name)
        self.first = cursor.number(8)

    def read(self) -> TraceDat:
        found = Options()
        seen: set[int] = set()
        at = self.first
        while at:
            if at in seen or len(seen) > 1 << 12:
                raise self.file.damaged("its options follow each other in a circle")
            seen.add(at)
            at = self._options(at, found)
        for number, reader in (
            (of.HEADERS, read_headers),
            (of.FTRACE_FORMATS, read_ftrace_formats),
            (of.EVENT_FORMATS, read_event_formats),
        ):
            if number not in found.sections:
                raise self.file.damaged(f"it has no section {number}")
            reader(self._section(found.sections[number], number), self.about)
        buffers = [self._buffer(data) for data in found.buffers]
        return TraceDat(7, self.about, found, _sound(self.file, buffers), self.compression)

    def _header(self, at: int, number: int) -> tuple[FileCursor, bool, int]:
        cursor = FileCursor(self.file, at, self.file.size, "a section")
        if cursor.number(2) != number:
            raise self.file.damaged(f"at {at} is no section {number}")
        flags = cursor.number(2)
        cursor.skip(4)  # of its description
        size = cursor.number(8)
        return cursor, bool(flags & _COMPRESSED), size

    def _section(self, at: int, number: int) -> Cursor:
        cursor, compressed, size = self._header(at, number)
        if not compressed:
            return Cursor(self.file, cursor.take(size), "a section")
        packed, plain = cursor.number(4), cursor.number(4)
        if plain > MAX_META:
            raise self.file.damaged(f"a section of {plain} bytes")
        data = self.compression.unpack(self.file, cursor.take(packed), plain)
        return Cursor(self.file, bytes(data), "a section")

    def _options(self, at: int, found: Options) -> int:
        cursor = self._section(at, of.DONE)
        while True:
            number, size = cursor.number(2), cursor.number(4)
            data = cursor.take(size)
            if number == of.DONE:
                return int.from_bytes(data[:8], "little") if len(data) >= 8 else 0
            found.add(number, data, cursor)

    def _buffer(self, data: bytes) -> Buffer:
        inside = Cursor(self.file, data, "a buffer")
        at, name, clock = inside.number(8), inside.text(), inside.text()
        page_bytes, count = inside.number(4), _cpus(self.file, inside.number(4))
        _, compressed, _ = self._header(at, of.BUFFER)
        cpus = [
            CpuPages(inside.number(4), inside.number(8), inside.number(8), compressed) for _ in range(count)
        ]
        return Buffer(name, clock, page_bytes, cpus)


def _sound(file: Foreign, buffers: list[Buffer]) -> list[Buffer]:
    """Raises VerificationError when pages lie beyond the file, or two processors share some."""
    placed = sorted((pages.offset, pages.size) for buffer in buffers for pages in buffer.cpus if pages.size)
    end = 0
    for offset, size in placed:
        if offset < end:
            raise file.damaged("the pages of two processors overlap")
        end = offset + size
    if end > file.size:
        raise file.damaged(f"pages up to byte {end}, of a file of {file.size}")
    if len(buffers) != len({buffer.name for buffer in buffers}):
        raise file.damaged("two buffers have the same name")
    for buffer in buffers:
        numbers = [pages.cpu for pages in buffer.cpus]
        if len(numbers) != len(set(numbers)) or any(number >= _MAX_CPUS for number in numbers):
            raise file.damaged("processors are numbered twice, or impossibly")
    return buffers
