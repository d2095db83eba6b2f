"""What a dead recorder left, damaged in one or more of its files, and its recovery.

Oracle: recovery never raises and never deletes: the directory is sealed, moved aside, or left with a
reason. What was sealed verifies, has sound facts, and holds nothing but whole sub-buffers of what was there.
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
from target import Failed, fixture, source

from hindsight.capture.owner import Owner, own
from hindsight.capture.segments.facts import check_facts
from hindsight.capture.segments.recover import recover_all
from hindsight.capture.segments.segment import FORMATS, SEGMENT_VERSION, open_segment
from hindsight.capture.segments.unsealed import JOURNAL, OPENING, OpenSegment

_KEPT = ("source", "events", "filters", "buffer_kb", "overwrite", "subbuffer_bytes", "stats_before")


class Unsealed:
    """A ``.recording-`` directory."""

    name = "unsealed segments"
    cases = 3_000
    batch = 50
    seconds = 120.0

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        shm = Path("/dev/shm")
        self._directory = tempfile.TemporaryDirectory(dir=shm if os.access(shm, os.W_OK) else None)
        self.path = Path(self._directory.name)
        segment = open_segment(fixture(self.path / "fixture"))
        self.page_bytes = 4096
        left = OpenSegment(self.path / "left", segment.name, self._opening(segment.facts), segment.formats)
        (capture,) = segment.facts["tables"]["captures"]
        stats = {name: instance["stats_after"] for name, instance in segment.facts["instances"].items()}
        raw = {name: (segment.path / name).read_bytes() for name in segment.files if name.startswith("raw/")}
        for name, data in raw.items():
            (left.path / name).parent.mkdir(parents=True, exist_ok=True)
            (left.path / name).write_bytes(data[: self.page_bytes])
        left.note({"kind": "look", "ts": capture["start_ns"] + 10, "stats": stats})
        left.sync()
        for name, data in raw.items():
            (left.path / name).write_bytes(data)
        left.note({"kind": "look", "ts": capture["end_ns"], "stats": stats})
        left.note({"kind": "anchor", "row": segment.facts["tables"]["clock_anchors"][-1]})
        left.abandon()
        self.template = left.path
        self.files = [*sorted(raw), OPENING, JOURNAL, FORMATS]

    def _opening(self, facts: dict[str, Any]) -> dict[str, Any]:
        (capture,) = facts["tables"]["captures"]
        instances = {
            name: {key: instance[key] for key in _KEPT} | {"path": "none"}
            for name, instance in facts["instances"].items()
        }
        tables = {name: facts["tables"][name] for name in ("devices", "descriptors", "tasks")}
        tables["captures"] = [{**capture, "end_ns": capture["start_ns"]}]
        tables["clock_anchors"] = facts["tables"]["clock_anchors"][:1]
        kept = ("capture", "date", "schema_version", "byteorder", "comm", "comm_key")
        copied = {key: facts[key] for key in kept}
        # A process that started before this one could: it is dead.
        owner = Owner(own().namespace, os.getpid(), 1).as_dict()
        known = {"segment_version": SEGMENT_VERSION, "segment": 0, "owner": owner}
        known |= {"boot": "another boot", "losses": []}
        return {
            **known,
            **copied,
            "instances": instances,
            "tables": tables,
            "out_device": [0, 0],
            "threads": [1],
        }

    def check(self, seed: int, first: int, count: int) -> None:
        """One directory for each case."""
        for case in range(first, first + count):
            where = self.path / "case"
            shutil.rmtree(where, ignore_errors=True)
            path = where / self.template.name
            shutil.copytree(self.template, path)
            rng = source(self.name, seed, case)
            damaged = {}
            for name in rng.sample(self.files, rng.choice((1, 1, 2, 4))):
                damaged[name] = self._damage(rng, name, (path / name).read_bytes())
                (path / name).write_bytes(damaged[name])
            sizes = {name: (path / name).stat().st_size for name in self.files if name.startswith("raw/")}
            try:
                self._recover(where, sizes)
            except Exception as error:
                kept = {name.replace("/", "-"): data for name, data in damaged.items()}
                raise Failed(case, f"{type(error).__name__}: {error}", kept) from error

    def _damage(self, rng: random.Random, name: str, data: bytes) -> bytes:
        if name.endswith(".json") and rng.randrange(2):
            value = json.loads(data)
            mutation.structure(rng, value)
            return json.dumps(value).encode()
        changed = bytearray(data)
        how = rng.randrange(4)
        if how == 0:
            del changed[rng.randrange(len(changed)) :]
        elif how == 1:  # what a power loss leaves of blocks that were allocated and not written
            at = rng.randrange(len(changed))
            changed[at:] = bytes(len(changed) - at)
        else:
            for _ in range(rng.choice((1, 2, 5))):
                rng.choice((*mutation.BYTES, mutation.cut))(rng, changed)
                changed = changed or bytearray(b"\0")
        return bytes(changed)

    def _recover(self, where: Path, sizes: dict[str, int]) -> None:
        said: list[str] = []
        done = recover_all(where, said.append)
        (only,) = [path for path in where.iterdir() if path.name != ".lock"]
        if only in done.sealed:
            segment = open_segment(only)
            check_facts(only, segment.facts)
            for name, entry in segment.files.items():
                if name.startswith("raw/"):
                    assert entry["bytes"] <= sizes[name] and entry["bytes"] % self.page_bytes == 0, name
            self.seen["sealed"] += 1
        elif only in done.aside:
            assert said, "it was moved aside without a word"
            self.seen["moved aside"] += 1
        else:
            assert done.left or done.failed, f"{only.name} was left without a reason"
            self.seen["left"] += 1
