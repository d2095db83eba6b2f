"""Read what perf.data says of itself: its events, their formats, the machine, the clock.

Format: tools/perf/Documentation/perf.data-file-format.txt and include/uapi/linux/perf_event.h of Linux 6.18.
``perf record -o FILE`` writes a header with sections; ``perf record -o -`` writes a stream, in which the same
things are records. The samples are read later (:mod:`hindsight.capture.imports.samples`).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from hindsight.capture.imports.foreign import MAX_META, Cursor, Foreign, as_text
from hindsight.capture.imports.perf_sample import Attribute, parse_attribute
from hindsight.capture.imports.tracing_data import Description, read_description
from hindsight.errors import VerificationError

_MAGIC = b"PERFILE2"
_OLD = (b"PERFFILE",)
_BIG = (b"2ELIFREP",)
_FILE_HEADER, _PIPE_HEADER = 104, 16
TRACING_DATA, HOSTNAME, OSRELEASE, VERSION, ARCH = 1, 3, 4, 5, 6
CLOCKID, COMPRESSED, CLOCK_DATA = 23, 27, 29
_STRINGS = {HOSTNAME: "node", OSRELEASE: "release", VERSION: "tool", ARCH: "machine"}
HEADER_ATTR, HEADER_TRACING_DATA, HEADER_FEATURE = 64, 66, 80
MAX_ATTRIBUTES, MAX_IDS = 1 << 14, 1 << 20
_UNPACK = "Record without -z: perf record -o FILE …"


@dataclass
class PerfData:
    """What the file says; ``begin`` and ``end``: where its records are, in bytes; ``end`` is open in a
    stream."""

    pipe: bool
    begin: int
    end: int
    attributes: list[Attribute] = field(default_factory=list)
    about: Description | None = None
    strings: dict[str, str] = field(default_factory=dict)
    clock_data: tuple[int, int, int] | None = None
    cut: bool = False
    _ids: int = 0

    def add(self, file: Foreign, attribute: Attribute) -> None:
        """Take in one event."""
        self._ids += len(attribute.ids)
        if len(self.attributes) >= MAX_ATTRIBUTES or self._ids > MAX_IDS:
            raise file.damaged("more events than a kernel can have")
        self.attributes.append(attribute)

    def feature(self, file: Foreign, number: int, data: bytes) -> None:
        """Take in a feature of the header; those that are not known are passed over."""
        cursor = Cursor(file, data, "a feature")
        if number in _STRINGS:
            text = as_text(cursor.take(cursor.number(4))).partition("\0")[0]
            self.strings[_STRINGS[number]] = text[:256]
        elif number == TRACING_DATA:
            self.about = read_description(cursor, names=False)
        elif number == COMPRESSED:
            raise compressed(file)
        elif number == CLOCK_DATA:
            cursor.skip(4)
            self.clock_data = cursor.number(4), cursor.number(8), cursor.number(8)


def compressed(file: Foreign) -> VerificationError:
    """The error for samples that perf compressed."""
    return VerificationError(f"{file.path}: its samples are compressed", _UNPACK)


def is_perf_data(start: bytes) -> bool:
    """Whether a file that begins like this is perf.data, of any kind."""
    return start[:8] in (_MAGIC, *_OLD, *_BIG)


def read_perf_data(file: Foreign) -> PerfData:
    """Read all but the records.

    Raises VerificationError for what is damaged, cut off, big-endian, compressed or of the first version.
    """
    start = Cursor(file, file.read(0, min(file.size, _FILE_HEADER), "the header"), "the header")
    magic = start.take(8)
    if magic in _BIG:
        raise VerificationError(
            f"{file.path} was recorded on a big-endian machine",
            "Only little-endian recordings can be imported.",
        )
    if magic != _MAGIC:
        raise VerificationError(
            f"{file.path} is perf.data of a version before Linux 3.2", "Record with a newer perf."
        )
    size = start.number(8)
    if size == _PIPE_HEADER:
        return PerfData(True, _PIPE_HEADER, file.size)
    if size != _FILE_HEADER:
        raise file.damaged(f"a header of {size} bytes")
    attr_size = start.number(8)
    attrs, data = (start.number(8), start.number(8)), (start.number(8), start.number(8))
    start.skip(16)  # where an old perf kept names of event types
    features = int.from_bytes(start.take(32), "little")
    if not data[1]:
        raise file.damaged("perf was killed before it wrote the header: it has no size and no formats")
    found = PerfData(False, data[0], data[0] + data[1])
    if found.begin < _FILE_HEADER:
        raise file.damaged(f"records at {found.begin}")
    _attributes(file, found, attrs, attr_size)
    if found.end > file.size:
        # Without its end the file has no formats.
        raise file.damaged(f"records up to byte {found.end}, of a file of {file.size}")
    numbers = [number for number in range(256) if features >> number & 1]
    table = Cursor(file, file.read(found.end, 16 * len(numbers), "the list of features"), "features")
    for number in numbers:
        at, length = table.number(8), table.number(8)
        if number in (*_STRINGS, TRACING_DATA, COMPRESSED, CLOCK_DATA):
            if number == TRACING_DATA and length > MAX_META:
                length = MAX_META
            found.feature(file, number, file.read(at, length, "a feature"))
    return found


def _attributes(file: Foreign, found: PerfData, section: tuple[int, int], size: int) -> None:
    """Events and their ids. Each entry is an attribute and a place (offset, bytes) of its ids."""
    at, length = section
    if not 64 + 16 <= size <= 4096 or length % size or length // size > MAX_ATTRIBUTES:
        raise file.damaged(f"{length} bytes of events, each of {size}")
    entries = file.read(at, length, "the events")
    for begin in range(0, length, size):
        entry = entries[begin : begin + size]
        ids_at, ids_bytes = struct.unpack_from("<QQ", entry, size - 16)
        if ids_bytes % 8 or ids_bytes > 8 * MAX_IDS:
            raise file.damaged(f"{ids_bytes} bytes of ids")
        ids = struct.unpack(f"<{ids_bytes // 8}Q", file.read(ids_at, ids_bytes, "ids"))
        found.add(file, parse_attribute(file, entry[: size - 16], ids))


def take_record(file: Foreign, found: PerfData, kind: int, at: int, size: int) -> int:
    """Take in a record that perf itself wrote into the stream; returns how many bytes follow it, beyond it.

    Raises VerificationError when it is damaged.
    """
    body = file.read(at + 8, size - 8, "a record")
    if kind == HEADER_ATTR:
        if len(body) < 64:
            raise file.damaged("an event that is cut off")
        (length,) = struct.unpack_from("<I", body, 4)
        length = length or 64
        if not 64 <= length <= len(body) or (len(body) - length) % 8:
            raise file.damaged(f"an event of {length} bytes")
        ids = struct.unpack_from(f"<{(len(body) - length) // 8}Q", body, length)
        found.add(file, parse_attribute(file, body[:length], ids))
    elif kind == HEADER_TRACING_DATA:
        if len(body) < 4:
            raise file.damaged("a description that is cut off")
        (length,) = struct.unpack_from("<I", body)
        if found.about is not None:
            raise file.damaged("two descriptions of the events")
        where = at + size
        part = min(length, MAX_META)
        cursor = Cursor(file, file.read(where, part, "the description"), "the description")
        found.about = read_description(cursor, names=False)
        return (length + 7) // 8 * 8
    elif kind == HEADER_FEATURE and len(body) >= 8:
        found.feature(file, int.from_bytes(body[:8], "little"), body[8:])
    return 0
