"""Build trace.dat and perf.data files out of a recorded segment: of any version, without privileges.

Written from trace-cmd.dat.v6(5), trace-cmd.dat.v7(5) and perf.data-file-format.txt; shares nothing with the
importers but the recorded bytes.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pyarrow as pa

from hindsight.capture.segments.segment import open_segment

MAGIC = b"\x17\x08\x44tracing"
PAGE = 4096
CHUNK_PAGES = 3
ATTR_BYTES = 112


class Recorded:
    """A segment: its formats by ``system/event``, the pages of each processor, of all instances."""

    def __init__(self, path: Path) -> None:
        segment = open_segment(path)
        self.header_page = segment.formats["header_page"].encode()
        self.formats = {k: v.encode() for k, v in segment.formats.items() if "/" in k}
        self.pages: dict[int, bytes] = {}
        for name in sorted(segment.files):
            if name.endswith(".pages"):
                cpu = int(name.rsplit("cpu", 1)[1].removesuffix(".pages"))
                self.pages[cpu] = self.pages.get(cpu, b"") + (path / name).read_bytes()

    def headers(self) -> bytes:
        """The sections of the header."""
        page = self.header_page
        return (
            b"header_page\0" + struct.pack("<Q", len(page)) + page + b"header_event\0" + struct.pack("<Q", 0)
        )

    def events(self) -> bytes:
        """The formats of the events, by system."""
        systems: dict[str, list[bytes]] = {}
        for event, text in self.formats.items():
            systems.setdefault(event.split("/")[0], []).append(text)
        out = struct.pack("<I", len(systems))
        for system, texts in systems.items():
            out += system.encode() + b"\0" + struct.pack("<I", len(texts))
            out += b"".join(struct.pack("<Q", len(text)) + text for text in texts)
        return out


def option(number: int, data: bytes) -> bytes:
    """One option."""
    return struct.pack("<HI", number, len(data)) + data


def start(version: bytes) -> bytes:
    """What every trace.dat begins with."""
    return MAGIC + version + b"\0" + struct.pack("<BBI", 0, 8, PAGE)


def described(recorded: Recorded, version: bytes) -> bytes:
    """All of the description of version 6, without names of threads."""
    return (
        start(version)
        + recorded.headers()
        + struct.pack("<I", 0)
        + recorded.events()
        + struct.pack("<II", 0, 0)
    )


def version6(recorded: Recorded) -> bytes:
    """A trace.dat of version 6."""
    cpus = sorted(recorded.pages)
    out = described(recorded, b"6") + struct.pack("<QI", 0, max(cpus) + 1)
    out += b"options  \0" + option(4, b"local [mono] boot") + option(5, b"Linux host 6.18.1 x86_64")
    out += struct.pack("<H", 0) + b"flyrecord\0"
    at = -(-(len(out) + 16 * (max(cpus) + 1)) // PAGE) * PAGE
    table, data = b"", b""
    for cpu in range(max(cpus) + 1):
        pages = recorded.pages.get(cpu, b"")
        table += struct.pack("<QQ", at + len(data), len(pages))
        data += pages
    return (out + table).ljust(at, b"\0") + data


def pack(data: bytes, how: str) -> bytes:
    """Compressed."""
    if how == "zstd":
        return bytes(pa.compress(data, codec="zstd", asbytes=True))
    return zlib.compress(data)


def version7(recorded: Recorded, how: str) -> bytes:
    """A trace.dat of version 7; ``how``: none, zstd or zlib."""
    out = bytearray(start(b"7") + how.encode() + b"\0" + b"1.0\0")
    hole = len(out)
    out += bytes(8)

    def section(number: int, data: bytes, packed: bool) -> int:
        at = len(out)
        if packed:
            small = pack(data, how)
            data = struct.pack("<II", len(small), len(data)) + small
        out.extend(struct.pack("<HHIQ", number, packed, 0, len(data)) + data)
        return at

    packed = how != "none"
    places = [
        (16, section(16, recorded.headers(), packed)),
        (17, section(17, struct.pack("<I", 0), packed)),
        (18, section(18, recorded.events(), packed)),
    ]
    data = section(3, b"", False)
    struct.pack_into("<H", out, data + 2, packed)
    cpus = b""
    for cpu, pages in sorted(recorded.pages.items()):
        out.extend(bytes(-len(out) % PAGE))
        at = len(out)
        if packed:
            chunks = [pages[n : n + CHUNK_PAGES * PAGE] for n in range(0, len(pages), CHUNK_PAGES * PAGE)]
            out.extend(struct.pack("<I", len(chunks)))
            for chunk in chunks:
                small = pack(chunk, how)
                out.extend(struct.pack("<II", len(small), len(chunk)) + small)
        else:
            out.extend(pages)
        size = len(out) - at - (4 if packed else 0)
        cpus += struct.pack("<IQQ", cpu, at, size)
    buffer = struct.pack("<Q", data) + b"\0mono\0" + struct.pack("<II", PAGE, len(recorded.pages)) + cpus
    options = b"".join(option(number, struct.pack("<Q", at)) for number, at in places)
    options += option(4, b"local [mono] boot") + option(5, b"Linux host 6.18.1 x86_64")
    second = len(out)
    section(0, option(3, buffer) + option(0, struct.pack("<Q", 0)), False)
    first = len(out)
    section(0, options + option(0, struct.pack("<Q", second)), False)
    struct.pack_into("<Q", out, hole, first)
    return bytes(out)


def attribute(config: int) -> bytes:
    """Of a tracepoint: sampled with identifier, thread, time, processor and record; CLOCK_MONOTONIC."""
    kind = 1 << 16 | 1 << 1 | 1 << 2 | 1 << 7 | 1 << 10
    head = struct.pack("<IIQQQQQ", 2, ATTR_BYTES, config, 1, kind, 0, 1 << 18 | 1 << 25)
    return (head.ljust(92, b"\0") + struct.pack("<i", 1)).ljust(ATTR_BYTES, b"\0")


def record(kind: int, body: bytes) -> bytes:
    """A record, padded to 8 bytes."""
    body += bytes(-len(body) % 8)
    return struct.pack("<IHH", kind, 0, 8 + len(body)) + body


def samples(events: list[tuple[int, int, int, bytes]], numbers: list[int]) -> bytes:
    """Samples of (ts, cpu, tracepoint id, record); the identifier of an event is 100 + its place."""
    out = []
    for ts, cpu, event, raw in events:
        raw += bytes(-(4 + len(raw)) % 8)
        body = struct.pack("<QIIQII", 100 + numbers.index(event), 0, 0, ts, cpu, 0)
        out.append(record(9, body + struct.pack("<I", len(raw)) + raw))
    return b"".join(out)


def perf_file(recorded: Recorded, numbers: list[int], data: bytes) -> bytes:
    """A perf.data as a file: header, identifiers, attributes, records, features."""
    ids = b"".join(struct.pack("<Q", 100 + n) for n in range(len(numbers)))
    attrs = b"".join(
        attribute(number) + struct.pack("<QQ", 104 + 8 * n, 8) for n, number in enumerate(numbers)
    )
    attrs_at = 104 + len(ids)
    data_at = attrs_at + len(attrs)
    tracing = described(recorded, b"0.5")
    host = struct.pack("<I", 64) + b"host".ljust(64, b"\0")
    features_at = data_at + len(data)
    table = struct.pack("<QQ", features_at + 32, len(tracing))
    table += struct.pack("<QQ", features_at + 32 + len(tracing), len(host))
    header = b"PERFILE2" + struct.pack(
        "<QQQQQQQQ", 104, ATTR_BYTES + 16, attrs_at, len(attrs), data_at, len(data), 0, 0
    )
    header += struct.pack("<4Q", 1 << 1 | 1 << 3, 0, 0, 0)
    return header + ids + attrs + data + table + tracing + host


def perf_pipe(recorded: Recorded, numbers: list[int], data: bytes) -> bytes:
    """A perf.data as a stream: attributes and formats are records."""
    out = b"PERFILE2" + struct.pack("<Q", 16)
    for n, number in enumerate(numbers):
        out += record(64, attribute(number) + struct.pack("<Q", 100 + n))
    tracing = described(recorded, b"0.5")
    out += record(66, struct.pack("<I", len(tracing))) + tracing + bytes(-len(tracing) % 8)
    return out + data
