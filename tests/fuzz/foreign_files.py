"""Whole trace.dat and perf.data files, damaged: refused, or imported without a row that is not in them.

A sound file (one case in eight) gives exactly the rows that the slow decoder finds. A damaged one ends in an
error of the program's own, or in tables: every event that came out, or is accounted for, was in the file.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import mutation
import pyarrow.parquet as pq
from raw_pages import RawPages
from reference import reference
from target import Failed, fixture, source

sys.path.insert(1, str(Path(__file__).resolve().parent.parent / "capture" / "imports"))
import built

from hindsight.capture.imports.importing import import_files
from hindsight.errors import HindsightError


class ForeignFiles:
    """Cases are files of one family: ``trace.dat`` or ``perf.data``."""

    batch = 16
    seconds = 120.0
    pages = 6
    """Of a processor in a file: so many that chunks follow each other, so few that a case is quick."""
    kinds = 1 << 16
    """How many events, of the most frequent ones, have their formats in a file."""

    def __init__(self, name: str, cases: int) -> None:
        self.name = name
        self.cases = cases
        self.seen: Counter[str] = Counter()
        pages = RawPages(name)
        with tempfile.TemporaryDirectory() as directory:
            recorded = built.Recorded(fixture(Path(directory)))
        recorded.pages = {cpu: data[: self.pages * built.PAGE] for cpu, data in recorded.pages.items()}
        events = []
        frequent = Counter(
            number
            for data in recorded.pages.values()
            for _, number, _ in reference(data, pages.layout, pages.need).events
        )
        ids = {number for number, _ in frequent.most_common(self.kinds)}
        if len(recorded.formats) > self.kinds:
            known = {f"{kind.system}/{kind.name}" for kind in pages.kinds if kind.id in ids}
            recorded.formats = {name: text for name, text in recorded.formats.items() if name in known}
        need = {number: size for number, size in pages.need.items() if number in ids}
        self.expected: Counter[str] = Counter()
        names = {kind.id: kind.name for kind in pages.kinds}
        for cpu, data in recorded.pages.items():
            for ts, number, at in reference(data, pages.layout, need).events:
                header = int.from_bytes(data[at - 4 : at], "little") & 31
                size = 4 * header if 0 < header < 29 else 0
                size = max(size, need[number])
                events.append((ts, cpu, number, data[at : at + size]))
                self.expected[names[number]] += 1
        numbers = sorted({number for _, _, number, _ in events})
        if name.startswith("trace.dat"):
            self.files = [
                built.version6(recorded),
                *(built.version7(recorded, how) for how in ("none", "zstd", "zlib")),
            ]
        else:
            data = built.samples(events, numbers)
            self.files = [built.perf_file(recorded, numbers, data), built.perf_pipe(recorded, numbers, data)]
        self.rows = sum(self.expected.values())
        shm = Path("/dev/shm")
        self._directory = tempfile.TemporaryDirectory(dir=shm if os.access(shm, os.W_OK) else None)
        self.path = Path(self._directory.name)

    def damaged(self, seed: int, case: int) -> tuple[bytes, bool]:
        """The file of a case, and whether it is sound."""
        rng = source(self.name, seed, case)
        file = rng.choice(self.files)
        if rng.randrange(8) == 0:
            return file, True
        data = bytearray(file)
        for _ in range(rng.choice((1, 1, 2, 4))):
            self._damage(rng, data)
            data = data or bytearray(8)
        return bytes(data), bytes(data) == file

    def _damage(self, rng: random.Random, data: bytearray) -> None:
        how = rng.randrange(8)
        if how == 0:
            del data[rng.randrange(len(data)) :]
        elif how == 1:
            mutation.cut(rng, data)
        elif how <= 4:  # what says where things are stands at both ends
            size = min(rng.choice((300, 3000)), len(data))
            begin = rng.choice((0, len(data) - size))
            part = data[begin : begin + size]
            rng.choice(mutation.BYTES)(rng, part)
            data[begin : begin + size] = part
        else:
            rng.choice(mutation.BYTES)(rng, data)

    def check(self, seed: int, first: int, count: int) -> None:
        """One file for each case."""
        for case in range(first, first + count):
            data, sound = self.damaged(seed, case)
            try:
                self._import(data, sound, 1 + case % 2)
            except Exception as error:
                raise Failed(case, f"{type(error).__name__}: {error}", {"file": data}) from error

    def _import(self, data: bytes, sound: bool, jobs: int) -> None:
        out = self.path / "out"
        shutil.rmtree(out, ignore_errors=True)
        (self.path / "file").write_bytes(data)
        try:
            results = import_files([self.path / "file"], out, jobs=jobs)
        except HindsightError as error:
            assert not sound, f"refused: {error}"
            assert not list(out.glob("host=*/date=*/captures/*")), "a refused file was imported"
            self.seen["refused"] += 1
            return
        finally:
            left = list(out.glob(".converting-*"))
        assert not left, f"left behind: {left}"
        self.seen["imported"] += 1
        rows = Counter(
            {
                path.parent.name: pq.read_metadata(path).num_rows
                for path in out.glob("host=*/date=*/*/*.parquet")
                if path.parent.name not in ("captures", "losses")
            }
        )
        self.seen["rows"] += sum(rows.values())
        assert sum(rows.values()) == sum(result.events for result in results)
        if sound:
            assert rows == self.expected, f"{rows} rows, not {self.expected}"
            return
        # No row can come of less than a word of payload.
        assert sum(rows.values()) <= len(data) * 16, "more events than the file has room for"
