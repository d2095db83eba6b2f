"""Raw perf records: recorded events as samples, damaged; the compiled decoder against the slow one."""

from __future__ import annotations

import random
import struct
from typing import Any

import mutation
import numpy as np
from raw_pages import RawPages
from reference import DecodedRecords, reference, reference_records
from target import Failed, source

from hindsight.capture.perf.records import decode_records

SAMPLE, LOST, THROTTLE = 9, 2, 5


def record(kind: int, body: bytes) -> bytes:
    """One record; its size is a multiple of 8."""
    body += b"\0" * (-len(body) % 8)
    return struct.pack("<IHH", kind, 1, 8 + len(body)) + body


class PerfRecords(RawPages):
    """Each case is the stream of a CPU of some 40 records; a batch is decoded as that many CPUs."""

    cases = 100_000
    batch = 128

    def __init__(self) -> None:
        super().__init__("perf records")

    def _prepare(self) -> None:
        super()._prepare()
        data = b"".join(self.pages)
        self.records = []
        for ts, _, at in reference(data, self.layout, self.need).events:
            header = struct.unpack_from("<I", data, at - 4)[0] & 31
            raw = data[at : at + 4 * header]
            if 0 < header < 29 and at - 4 in self._event_starts():
                raw += b"\0" * (-(28 + len(raw)) % 8)
                self.records.append(record(SAMPLE, struct.pack("<QQI", 77, ts, len(raw)) + raw))

    def _event_starts(self) -> set[int]:
        if not hasattr(self, "_starts"):
            size = self.layout.page_bytes
            self._starts = {n * size + at for n, page in enumerate(self.starts) for at in page}
        return self._starts

    def page(self, seed: int, case: int) -> bytes:
        """The stream of a case."""
        rng = source(self.name, seed, case)
        begin = rng.randrange(len(self.records) - 40)
        stream = self.records[begin : begin + rng.randint(1, 40)]
        for _ in range(rng.randrange(3)):
            lost = struct.pack("<QQ", 77, rng.getrandbits(rng.choice((3, 40))))
            other = (
                record(LOST, lost) if rng.randrange(2) else record(rng.choice((THROTTLE, 6, 77)), b"x" * 24)
            )
            stream.insert(rng.randrange(len(stream) + 1), other)
        data = bytearray(b"".join(stream))
        for _ in range(rng.choice((0, 0, 1, 1, 2, 4))):
            how = rng.randrange(5)
            if how == 0:
                self._edit(rng, data)
            elif how == 1:
                mutation.cut(rng, data)
            else:
                rng.choice(mutation.BYTES)(rng, data)
            data = data or bytearray(8)
        return bytes(data)

    def _edit(self, rng: random.Random, data: bytearray) -> None:
        """Edit the header, the time or the size of one record."""
        starts, at = [], 0
        while at + 8 <= len(data) and (size := struct.unpack_from("<H", data, at + 6)[0]) >= 8:
            starts.append(at)
            at += size
        if not starts or len(data) < 40:
            return
        at = min(rng.choice(starts), len(data) - 40)
        place, code = rng.choice(((0, "<I"), (6, "<H"), (16, "<Q"), (24, "<I"), (28, "<H")))
        width = struct.calcsize(code) * 8
        value = rng.choice((*mutation.NUMBERS, rng.getrandbits(64), rng.randrange(256), SAMPLE, LOST))
        struct.pack_into(code, data, at + place, value & (1 << width) - 1)

    def check(self, seed: int, first: int, count: int) -> None:
        """Decode a batch, each case as a CPU of its own."""
        data = [self.page(seed, case) for case in range(first, first + count)]
        try:
            self.compare(data)
        except AssertionError as why:
            where = self.narrow(data)
            kept = (
                {"cpu.perf": data[where]} if where is not None else {f"cpu{n}": d for n, d in enumerate(data)}
            )
            raise Failed(first + (where or 0), str(why), kept) from why

    def decode(self, data: list[bytes]) -> tuple[list[Any], list[Any]]:
        """By the slow decoder and by the compiled one, which are held against each other."""
        expected = [reference_records(stream, self.need) for stream in data]
        words = [np.frombuffer(stream[: len(stream) // 4 * 4], "<u4") for stream in data]
        found = [decode_records(n, of, self.kinds) for n, of in enumerate(words)]
        for slow, fast, stream in zip(expected, found, data, strict=True):
            self._hold(slow, fast, len(stream) // 4 * 4)
        return expected, found

    def _hold(self, slow: DecodedRecords, fast: Any, size: int) -> None:
        assert fast.events == len(slow.events), f"{fast.events} events, not {len(slow.events)}"
        assert fast.unusable == slow.unusable, f"{fast.unusable} unusable, not {slow.unusable}"
        unknown = [problem for problem in fast.problems if problem.count is None]
        assert len(unknown) == (slow.used < size), "records that are no records, or cut"
        assert sum(p.count or 0 for p in fast.problems) == slow.unusable, "the account of unusable events"
        assert all(p.from_ns <= p.to_ns for p in fast.problems), "an interval that ends before it begins"
        self.seen["rows"] += len(slow.events)
        self.seen["damaged streams"] += slow.damaged
