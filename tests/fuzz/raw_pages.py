"""Ring-buffer pages: recorded ones, damaged, decoded by the compiled decoder and by the slow one.

Oracle: every value of every column of every row, their order, what was unusable, what was flagged as missed,
and which pages are damaged must agree. A batch is decoded in one call, as the streams of several CPUs.
"""

from __future__ import annotations

import random
import struct
import tempfile
from collections import Counter
from pathlib import Path

import mutation
import numpy as np
from reference import Decoded, Rows, Unfit, reference
from target import Failed, fixture, source

from hindsight.capture.conversion.columns import EventTable, Text
from hindsight.capture.conversion.decode import CpuEvents, decode_cpu
from hindsight.capture.formats import EventFormat, PageLayout, parse_event, parse_header_page
from hindsight.capture.schema import TABLES
from hindsight.capture.segments.segment import open_segment
from hindsight.errors import VerificationError

CPUS = 3


def boundaries(data: bytes | bytearray, layout: PageLayout) -> list[int]:
    """Where the events of a sound page begin."""
    at, found = layout.data_offset, []
    end = at + (mutation.u32(data, layout.commit_offset) & 0xFFFFF)
    while at + 4 <= min(end, len(data)):
        kind = mutation.u32(data, at) & 31
        found.append(at)
        if kind in (30, 31):
            at += 8
        elif 0 < kind < 29:
            at += 4 + 4 * kind
        elif at + 8 <= len(data):
            at += 4 + (mutation.u32(data, at + 4) + 3 & ~3)
        else:
            break
    return found


def headers(rng: random.Random, page: bytearray, starts: list[int]) -> None:
    """Edit the header of an event: its length, its time, its kind, its id; or put a time stamp over it."""
    at = rng.choice(starts)
    word = mutation.u32(page, at)
    how = rng.randrange(6)
    if how == 0:
        word = word & ~31 | rng.randrange(32)
    elif how == 1:
        word = word & 31 | rng.choice((0, 1, (1 << 27) - 1, rng.getrandbits(27))) << 5
    elif how == 2:
        word &= ~31
        struct.pack_into("<I", page, min(at + 4, len(page) - 4), rng.choice(mutation.NUMBERS) & 0xFFFFFFFF)
    elif how == 3 and at + 8 <= len(page):
        struct.pack_into("<I", page, at + 4, rng.choice((0, 1, 16, rng.getrandbits(10), rng.getrandbits(32))))
        word = word & ~31 | rng.choice((29, 30, 31))
    elif how == 4 and at + 6 <= len(page):
        other = rng.choice(starts)
        page[at + 4 : at + 6] = page[other + 4 : other + 6] if rng.randrange(3) else rng.randbytes(2)
    else:
        word ^= 1 << rng.randrange(32)
    struct.pack_into("<I", page, at, word)


def page_header(rng: random.Random, page: bytearray, layout: PageLayout) -> None:
    """Edit the time stamp, the length or the flags of a page."""
    how = rng.randrange(4)
    commit = mutation.u32(page, layout.commit_offset)
    if how == 0:
        (stamp,) = struct.unpack_from("<Q", page)
        stamp = stamp + rng.choice((-(1 << 40), -1, 1, 1 << 40, 1 << 59, 1 << 63)) & (1 << 64) - 1
        struct.pack_into("<Q", page, 0, rng.choice((stamp, rng.choice(mutation.NUMBERS) & (1 << 64) - 1)))
        return
    if how == 1:
        length = rng.choice(
            (0, 4, 8, 4080, 4076, 4081, 4084, 0xFFFFF, rng.randrange(1 << 20), rng.randrange(1021) * 4)
        )
        commit = commit & ~0xFFFFF | length
    elif how == 2:
        commit ^= rng.randint(1, 3) << 30
    else:
        commit = commit & 0xFFFFF | rng.getrandbits(12) << 20
    struct.pack_into("<I", page, layout.commit_offset, commit)


class RawPages:
    """Damaged pages. Each case is a page; one case in eight is left as it was recorded."""

    cases = 400_000
    batch = 256
    seconds = 30.0

    def __init__(self, name: str = "raw pages") -> None:
        self.name = name
        self.seen: Counter[str] = Counter()
        self._load()

    def _load(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            segment = open_segment(fixture(Path(directory)))
            self.layout = parse_header_page(segment.formats["header_page"])
            names = [event for i in segment.facts["instances"].values() for event in i["events"]]
            self.kinds = [parse_event(event.split("/")[0], segment.formats[event]) for event in names]
            raw = b"".join(
                (segment.path / name).read_bytes()
                for name in sorted(segment.files)
                if name.endswith(".pages")
            )
        size = self.layout.page_bytes
        self.pages = [raw[at : at + size] for at in range(0, len(raw), size)]
        self.starts = [boundaries(page, self.layout) for page in self.pages]
        self._prepare()

    def _prepare(self) -> None:
        self.need = {kind.id: (kind.payload_bytes + 3) // 4 * 4 for kind in self.kinds}
        self.number = {kind.id: n for n, kind in enumerate(self.kinds)}
        self.rows = [Rows(kind, TABLES[kind.name]) for kind in self.kinds]

    def page(self, seed: int, case: int) -> bytes:
        """The page of a case."""
        rng = source(self.name, seed, case)
        which = rng.randrange(len(self.pages))
        page = bytearray(self.pages[which])
        if rng.randrange(8) == 0:
            return bytes(page)
        for _ in range(rng.choice((1, 1, 1, 2, 3, 10))):
            how = rng.randrange(8)
            if how <= 2:
                headers(rng, page, self.starts[which])
            elif how == 3:
                page_header(rng, page, self.layout)
            elif how == 4:
                other = rng.randrange(len(self.pages))
                mine, theirs = rng.choice(self.starts[which]), rng.choice(self.starts[other])
                page[mine:] = self.pages[other][theirs : theirs + len(page) - mine].ljust(
                    len(page) - mine, b"\0"
                )
            else:
                mutation.BYTES[how - 5 if how < 7 else rng.choice((2, 3))](rng, page)
        return bytes(page)

    def check(self, seed: int, first: int, count: int) -> None:
        """Decode the pages of a batch as several CPUs' streams; some pages come twice or out of order."""
        pages = [self.page(seed, case) for case in range(first, first + count)]
        rng = source(f"{self.name} order", seed, first)
        order = list(range(count))
        for _ in range(count // 8):
            a, b = rng.randrange(count), rng.randrange(count)
            order[a], order[b] = (order[b], order[a]) if rng.randrange(2) else (order[a], order[a])
        streams = [order[n::CPUS] for n in range(CPUS)]
        data = [b"".join(pages[n] for n in stream) for stream in streams]
        try:
            self.compare(data)
        except AssertionError as why:
            where = self.narrow(pages)
            kept = {f"cpu{n}.pages": stream for n, stream in enumerate(data)}
            if where is not None:
                kept["page"] = pages[where]
            raise Failed(first + (where or 0), str(why), kept) from why

    def narrow(self, pages: list[bytes]) -> int | None:
        """The first page that fails alone."""
        for number, page in enumerate(pages):
            try:
                self.compare([page])
            except AssertionError:
                return number
        return None

    def compare(self, data: list[bytes]) -> None:
        """Raises AssertionError where the decoders differ."""
        expected, found = self.decode(data)
        places: dict[int, list[tuple[int, int, int]]] = {kind.id: [] for kind in self.kinds}
        for cpu, slow in enumerate(expected):
            for ts, event, at in slow.events:
                places[event].append((ts, cpu, at))
        for number, kind in enumerate(self.kinds):
            self._table(number, kind, sorted(places[kind.id]), found, data)

    def decode(self, data: list[bytes]) -> tuple[list[Decoded], list[CpuEvents]]:
        """By the slow decoder and by the compiled one; what isn't rows is held against each other."""
        expected = [reference(stream, self.layout, self.need) for stream in data]
        words = [np.frombuffer(stream, "<u4") for stream in data]
        found = [decode_cpu(n, of, self.layout, self.kinds) for n, of in enumerate(words)]
        for slow, fast, stream in zip(expected, found, data, strict=True):
            self._account(slow, fast, len(stream) // self.layout.page_bytes)
        return expected, found

    def _account(self, slow: Decoded, fast: CpuEvents, pages: int) -> None:
        assert fast.events == len(slow.events), f"{fast.events} events, not {len(slow.events)}"
        assert fast.unusable == slow.unusable, f"{fast.unusable} unusable, not {slow.unusable}"
        flagged = [problem for problem in fast.problems if problem.cause == "ring overrun"]
        damaged = [problem for problem in fast.problems if problem.cause == "decode error"]
        counts = [slow.missed[page] for page in sorted(slow.missed)]
        assert [signed_or_unknown(c) for c in counts] == [p.count for p in flagged], "missed events"
        assert len(damaged) == len(slow.damaged), f"{len(damaged)} damaged pages, not {len(slow.damaged)}"
        assert all(p.from_ns <= p.to_ns for p in fast.problems), "an interval that ends before it begins"
        exact = sum(p.count for p in damaged if p.count is not None)
        assert exact <= slow.unusable, "more events in the account than could not be decoded"
        assert all(p.count is None or p.count > 0 for p in fast.problems), "a loss of nothing"
        self.seen["pages"] += pages
        self.seen["damaged pages"] += len(slow.damaged)
        self.seen["rows"] += len(slow.events)

    def _table(
        self,
        number: int,
        kind: EventFormat,
        places: list[tuple[int, int, int]],
        found: list[CpuEvents],
        data: list[bytes],
    ) -> None:
        try:
            rows = [(ts, cpu, *self.rows[number].read(data[cpu], at)) for ts, cpu, at in places]
        except Unfit:
            rows = None
        table = EventTable(number, kind, found)
        assert table.rows == len(places), f"{kind.name}: {table.rows} rows, not {len(places)}"
        if not places:
            return
        try:
            columns = table.columns(TABLES[kind.name])
        except VerificationError as error:
            assert rows is None, f"{kind.name}: {error.message}"
            self.seen["refused tables"] += 1
            return
        assert rows is not None, f"{kind.name}: a value that does not fit its column was accepted"
        lists = [
            [v.values[code] for code in v.codes.tolist()] if isinstance(v, Text) else v.tolist()
            for v in columns.values()
        ]
        for row, slow_row in zip(zip(*lists, strict=True), rows, strict=True):
            assert row == slow_row, f"{kind.name}: {row}, not {slow_row}"


def signed_or_unknown(count: int) -> int | None:
    """How the program tells a stored count of missed events: a count that cannot be is an unknown one."""
    return count if 0 < count < 1 << 63 else None
