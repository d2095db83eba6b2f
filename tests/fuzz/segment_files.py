"""The JSON files of a segment and its journal: recorded ones, damaged in their text or in their structure.

Oracle: what is accepted must say what independent code reads in the same bytes; a manifest must not pass for
files that it does not describe; of a journal exactly the lines that are whole must come back.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import random
import tempfile
import tracemalloc
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import mutation
from target import Failed, fixture, source

from hindsight.capture.segments import journal
from hindsight.capture.segments.checksum import checksum
from hindsight.capture.segments.facts import check_facts
from hindsight.capture.segments.segment import FACTS, FORMATS, MANIFEST, open_segment, read_manifest
from hindsight.errors import HindsightError

WORDS = (
    "{", "}", "[", "]", ",", ":", '"', "null", "true", "NaN", "Infinity", "-", "1e999", "\\u0000", "\\ud800",
    " ", '"bytes"', '"crc32"', '"files"', '"raw/tasks/cpu0.pages"', '"../x"', '"facts.json"', "[" * 100,
    '{"a":' * 100, "",
)  # fmt: skip
ROOM = 4 << 20
"""What a reader may allocate whatever it is given, besides 100 bytes for each byte."""


def traced_peak(work: Any) -> int:
    """The most memory that a call allocates, in bytes."""
    tracemalloc.start()
    try:
        work()
    except HindsightError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


class _Segment:
    """A copy of the recorded segment in memory-backed storage, in which one file at a time is damaged."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        shm = Path("/dev/shm")
        self._directory = tempfile.TemporaryDirectory(dir=shm if os.access(shm, os.W_OK) else None)
        self.path = fixture(Path(self._directory.name))
        self.content = {n: (self.path / n).read_bytes() for n in (MANIFEST, FACTS, FORMATS)}

    def damage(self, rng: random.Random, name: str) -> bytes:
        """A damaged version of one of the JSON files."""
        if rng.randrange(2):
            value = json.loads(self.content[name])
            mutation.structure(rng, value)
            return json.dumps(value).encode()
        data = bytearray(self.content[name])
        if rng.randrange(2):
            return mutation.text(rng, data.decode(), WORDS).encode("utf-8", "surrogatepass")
        for _ in range(rng.choice((1, 1, 3))):
            rng.choice((*mutation.BYTES, mutation.cut))(rng, data)
            data = data or bytearray(b"\0")
        return bytes(data)


class Manifest(_Segment):
    """``manifest.json``."""

    name = "manifest"
    cases = 100_000
    batch = 500
    seconds = 60.0

    def check(self, seed: int, first: int, count: int) -> None:
        """One manifest for each case; every 20th is held against all files of the segment."""
        for case in range(first, first + count):
            data = self.damage(source(self.name, seed, case), MANIFEST)
            (self.path / MANIFEST).write_bytes(data)
            try:
                self._read(data, case % 20 == 0)
                if case % 50 == 1:
                    peak = traced_peak(lambda: read_manifest(self.path))
                    assert peak <= ROOM + 100 * len(data), f"{peak} bytes for a manifest of {len(data)}"
            except Exception as error:
                raise Failed(case, f"{type(error).__name__}: {error}", {MANIFEST: data}) from error

    def _read(self, data: bytes, verify: bool) -> None:
        try:
            files = read_manifest(self.path)
        except HindsightError:
            self.seen["refused"] += 1
            return
        self.seen["accepted"] += 1
        manifest = json.loads(data)
        assert manifest["files"] == files and manifest["segment_version"] == 3
        for name in files:
            inside = os.path.normpath(self.path / name)
            assert inside.startswith(f"{self.path}/") and "\0" not in name, f"{name!r} is not in the segment"
        if not verify:
            return
        try:
            segment = open_segment(self.path)
        except HindsightError:
            return
        for name, entry in segment.files.items():
            content = (self.path / name).read_bytes()
            assert (entry["bytes"], entry["crc32"]) == (len(content), checksum(content))
        self.seen["verified"] += 1


class Facts(_Segment):
    """``facts.json`` (its shape) and ``formats.json``."""

    name = "facts"
    cases = 100_000
    batch = 500
    seconds = 60.0

    def __init__(self) -> None:
        super().__init__()
        formats = json.loads(self.content[FORMATS])
        few = {name: formats[name] for name in sorted(formats)[::20]}
        self.content[FORMATS] = json.dumps(few).encode()
        (self.path / FORMATS).write_bytes(self.content[FORMATS])

    def check(self, seed: int, first: int, count: int) -> None:
        """One file for each case; what is accepted has the shape on which conversion relies."""
        for case in range(first, first + count):
            rng = source(self.name, seed, case)
            name = FORMATS if case % 10 == 0 else FACTS
            data = self.damage(rng, name)
            (self.path / name).write_bytes(data)
            try:
                self._read(name, data)
                if case % 100 == 1:
                    peak = traced_peak(functools.partial(self._read, name, data))
                    assert peak <= ROOM + 100 * len(data), f"{peak} bytes for {len(data)}"
            except Exception as error:
                raise Failed(case, f"{type(error).__name__}: {error}", {name: data}) from error
            finally:
                (self.path / name).write_bytes(self.content[name])

    def _read(self, name: str, data: bytes) -> None:
        try:
            segment = open_segment(self.path, verify=False)
            check_facts(self.path, segment.facts)
        except HindsightError:
            self.seen["refused"] += 1
            return
        self.seen["accepted"] += 1
        told = {FACTS: segment.facts, FORMATS: segment.formats}[name]
        assert told == json.loads(data)
        for instance in segment.facts["instances"].values():
            for stats in (*instance["stats_before"].values(), *instance["stats_after"].values()):
                assert stats is None or 0 <= stats["read events"] < 1 << 64
        for row in segment.facts["losses"]:
            assert row["count_upper"] is None or 0 <= row["count_lower"] <= row["count_upper"]


class Journal:
    """``journal.jsonl``: lines with checksums."""

    name = "journal"
    cases = 100_000
    batch = 500
    seconds = 60.0

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        shm = Path("/dev/shm")
        self._directory = tempfile.TemporaryDirectory(dir=shm if os.access(shm, os.W_OK) else None)
        self.path = Path(self._directory.name) / "journal.jsonl"
        stats = {"read events": 5021, "dropped events": 3, "overrun": 0, "entries": 12, "bytes": 812}
        self.entries: list[dict[str, Any]] = [
            {"kind": "anchor", "row": {"ts": 10**12, "realtime_ns": 17 * 10**17, "boottime_ns": 10**12}},
            *(
                {"kind": "look", "ts": 10**12 + n, "stats": {"tasks": {"0": stats, "1": stats}}}
                for n in range(5)
            ),
            {"kind": "synced", "ts": 10**12, "bytes": {"raw/tasks/cpu0.pages": 40960}},
            {"kind": "loss", "row": {"instance": "tasks", "cpu": 1, "cause": "ring full", "count_lower": 7}},
        ]

    def check(self, seed: int, first: int, count: int) -> None:
        """One journal for each case."""
        for case in range(first, first + count):
            data = self._journal(source(self.name, seed, case))
            self.path.write_bytes(data)
            try:
                found = list(journal.read(self.path))
                expected = self._whole(data)
                assert found == expected, f"{len(found)} entries, not {len(expected)}"
                self.seen["entries"] += len(found)
                if case % 100 == 1:
                    peak = traced_peak(lambda: list(journal.read(self.path)))
                    assert peak <= ROOM + 100 * len(data), f"{peak} bytes for {len(data)}"
            except Exception as error:
                raise Failed(case, f"{type(error).__name__}: {error}", {"journal.jsonl": data}) from error

    def _journal(self, rng: random.Random) -> bytes:
        entries = copy.deepcopy([rng.choice(self.entries) for _ in range(rng.randrange(12))])
        if entries and rng.randrange(4) == 0:  # a sound checksum of something odd
            mutation.structure(rng, entries)
        data = bytearray(b"".join(_line(entry) for entry in entries)) or bytearray(b"\n")
        for _ in range(rng.choice((0, 1, 1, 2, 4))):
            rng.choice((*mutation.BYTES, mutation.cut, mutation.cut))(rng, data)
            data = data or bytearray(b"\n")
        return bytes(data)

    def _whole(self, data: bytes) -> list[Any]:
        found = []
        for line in data.split(b"\n")[:-1]:
            checksum, blank, text = line[:8], line[8:9], line[9:]
            if blank != b" " or not checksum.isalnum() or checksum.lower() != b"%08x" % zlib.crc32(text):
                continue
            entry = json.loads(text)
            if isinstance(entry, dict):
                found.append(entry)
            else:
                self.seen["entries that are none"] += 1
        return found


def _line(entry: Any) -> bytes:
    text = json.dumps(entry).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)
