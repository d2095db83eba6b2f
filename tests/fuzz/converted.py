"""Whole conversions of damaged recordings: slices of time, merging, the account of losses, Parquet files.

Pages are damaged as in :mod:`raw_pages`, times go backwards, and blocks, pieces and slices are made so small
that a few pages are many of them. In one case of four the facts or a format are damaged as well (with a
manifest that fits): then all that is asked for is an error of the program's own, or tables of sound shape.

Oracle: each table has exactly the rows of the slow decoder, sorted by (time, processor, position); rows +
losses = what the kernel counted, for every processor, unless the damage made events out of nothing.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import mutation
import pyarrow.parquet as pq
from raw_pages import RawPages
from reference import Unfit, reference
from target import Failed, fixture, source

from hindsight.capture.conversion import index
from hindsight.capture.conversion.convert import convert
from hindsight.capture.schema import TABLES, arrow_schema
from hindsight.capture.segments.checksum import checksum
from hindsight.capture.segments.segment import FACTS, FORMATS, MANIFEST, SEGMENT_VERSION, open_segment
from hindsight.errors import HindsightError

CPUS = 3
NAME = "tasks"


class Converted:
    """Segments that verify, and hold damaged pages."""

    name = "conversions"
    cases = 400
    batch = 5
    seconds = 120.0

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.source = RawPages("conversions")
        shm = Path("/dev/shm")
        self._directory = tempfile.TemporaryDirectory(dir=shm if os.access(shm, os.W_OK) else None)
        self.path = Path(self._directory.name)
        segment = open_segment(fixture(self.path / "fixture"))
        self.facts, self.formats = segment.facts, segment.formats
        events = [event for i in self.facts["instances"].values() for event in i["events"]]
        (self.facts["instances"],) = ({NAME: {**self.facts["instances"]["tasks"], "events": events}},)
        self.facts["losses"] = []

    def check(self, seed: int, first: int, count: int) -> None:
        """One recording for each case."""
        index.BLOCK_BYTES, index._PIECE_BYTES = (
            self.source.layout.page_bytes,
            2 * self.source.layout.page_bytes,
        )
        for case in range(first, first + count):
            rng = source(self.name, seed, case)
            pages = [
                b"".join(self.source.page(seed, case * 64 + cpu * 16 + n) for n in range(rng.randint(0, 8)))
                for cpu in range(CPUS)
            ]
            for name in ("segment", "out"):
                shutil.rmtree(self.path / name, ignore_errors=True)
            facts, formats = json.loads(json.dumps(self.facts)), dict(self.formats)
            counted = [self._count(rng, stream) for stream in pages]
            stats = {str(cpu): {"read events": count, "entries": 0} for cpu, count in enumerate(counted)}
            facts["instances"][NAME] |= {"stats_after": stats, "stats_before": {}}
            sound = case % 4 != 3
            if not sound:
                self._damage(rng, facts, formats)
            files = {f"raw/{NAME}/cpu{cpu}.pages": stream for cpu, stream in enumerate(pages)}
            files |= {FACTS: json.dumps(facts).encode(), FORMATS: json.dumps(formats).encode()}
            self._seal(self.path / "segment", files)
            try:
                self._convert(rng, pages, counted, sound)
            except Exception as error:
                kept = {name.replace("/", "-"): data for name, data in files.items()}
                raise Failed(case, f"{type(error).__name__}: {error}", kept) from error

    def _count(self, rng: random.Random, stream: bytes) -> int:
        """What the kernel could have counted: what can be decoded, or more."""
        slow = reference(stream, self.source.layout, self.source.need)
        return len(slow.events) + slow.unusable + rng.choice((0, 0, 5))

    def _damage(self, rng: random.Random, facts: dict[str, Any], formats: dict[str, str]) -> None:
        if rng.randrange(3):
            mutation.structure(rng, facts)
        else:
            name = rng.choice(sorted(formats))
            formats[name] = mutation.text(rng, formats[name], ("field:", "offset:8;", "size:4;", "\n", ""))

    def _seal(self, path: Path, files: dict[str, bytes]) -> None:
        listed = {}
        for name, data in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
            listed[name] = {"bytes": len(data), "crc32": checksum(data)}
        (path / MANIFEST).write_text(json.dumps({"segment_version": SEGMENT_VERSION, "files": listed}))

    def _convert(self, rng: random.Random, pages: list[bytes], counted: list[int], sound: bool) -> None:
        size = self.source.layout.page_bytes * rng.choice((1, 2, 5, 1000))
        expected = self._expected(pages) if sound else None
        try:
            convert(
                [self.path / "segment"],
                self.path / "out",
                comm=True,
                jobs=rng.choice((1, 2)),
                slice_bytes=size,
            )
        except HindsightError as error:
            assert not sound or expected is None, f"refused: {error}"
            assert not list(self.path.glob("out/host=*/date=*/captures/*")), (
                "a refused recording was converted"
            )
            self.seen["refused"] += 1
            return
        self.seen["converted"] += 1
        found = {
            path.parent.name: pq.read_table(path) for path in self.path.glob("out/host=*/date=*/*/*.parquet")
        }
        for name, table in found.items():
            names = arrow_schema(name).names
            assert table.schema.names == names, f"{name}: columns {table.schema.names}"
        if not sound:
            return
        assert expected is not None, "a value that does not fit its column was accepted"
        assert expected.keys() == {name for name in found if TABLES[name].tracepoint}
        for name, rows in expected.items():
            columns = [column.to_pylist() for column in found[name].columns]
            told = [
                tuple(v.encode() if isinstance(v, str) else v for v in row)
                for row in zip(*columns, strict=True)
            ]
            assert told == rows, f"{name}: rows differ"
            self.seen["rows"] += len(rows)
        self._account(pages, counted, found)

    def _expected(self, pages: list[bytes]) -> dict[str, list[tuple[object, ...]]] | None:
        rows: dict[str, list[Any]] = {}
        of = self.source
        try:
            for cpu, stream in enumerate(pages):
                for ts, event, at in reference(stream, of.layout, of.need).events:
                    number = of.number[event]
                    values = of.rows[number].read(stream, at)
                    rows.setdefault(of.kinds[number].name, []).append((ts, cpu, at, values))
        except Unfit:
            return None
        return {
            name: [
                (ts, cpu, *(_text(v) for v in values))
                for ts, cpu, _, values in sorted(of, key=lambda r: r[:3])
            ]
            for name, of in rows.items()
        }

    def _account(self, pages: list[bytes], counted: list[int], found: dict[str, Any]) -> None:
        losses = found["losses"].to_pylist() if "losses" in found else []
        for cpu, stream in enumerate(pages):
            slow = reference(stream, self.source.layout, self.source.need)
            mine = [row for row in losses if row["cpu"] == cpu and row["cause"] == "decode error"]
            lost = sum(row["count_lower"] for row in mine)
            assert len(slow.events) + lost == counted[cpu], (
                f"CPU {cpu}: {len(slow.events)} + {lost} ≠ {counted[cpu]}"
            )
            assert bool(mine) == (len(slow.events) != counted[cpu] or bool(slow.damaged)), (
                "damage that no loss tells"
            )
            overrun = [row for row in losses if row["cpu"] == cpu and row["cause"] == "ring overrun"]
            assert len(overrun) == len(slow.missed), "missed events that no loss tells"
            assert all(row["from_ns"] <= row["to_ns"] for row in mine + overrun)


def _text(value: object) -> object:
    """As Parquet has it: text that is not UTF-8 has replacement characters."""
    return value.decode("utf-8", "replace").encode() if isinstance(value, bytes) else value
