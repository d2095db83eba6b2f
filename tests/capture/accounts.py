"""What a recording of ``counted.py`` must add up to; what was lost is held against what is missing."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from hindsight.capture.conversion.convert import convert
from hindsight.capture.profiles import TASKS, profile
from hindsight.capture.schema import TABLES
from hindsight.capture.segments.segment import open_segment

HERE = Path(__file__).parent


def counted(calls: int, every: int = 0, pause_s: float = 0.0, cpu: int | None = None) -> tuple[str, ...]:
    """The command."""
    words = [str(calls), str(every), str(pause_s)]
    return (sys.executable, str(HERE / "counted.py"), *words, *([str(cpu)] if cpu is not None else []))


@dataclass
class Account:
    """All segments of one directory of recordings, in order."""

    segments: list[Path]
    facts: list[dict[str, Any]]
    tables: dict[str, list[dict[str, Any]]]

    @classmethod
    def of(cls, raw: Path, out: Path) -> Account:
        """Verify every segment, convert them, read the tables."""
        segments = sorted(path for path in raw.iterdir() if not path.name.startswith("."))
        facts = [open_segment(path).facts for path in segments]
        convert(segments, out)
        tables: dict[str, list[dict[str, Any]]] = {}
        for path in sorted(out.glob("host=*/date=*/*/*.parquet")):
            tables.setdefault(path.parent.name, []).extend(pq.read_table(path).to_pylist())
        return cls(segments, facts, tables)

    @property
    def losses(self) -> list[dict[str, Any]]:
        """Rows of ``losses``."""
        return self.tables.get("losses", [])

    @property
    def events(self) -> int:
        """Decoded events of all tables."""
        return sum(len(rows) for name, rows in self.tables.items() if TABLES[name].tracepoint)

    @property
    def of_the_command(self) -> int:
        """Events of the command's threads that were recorded, and those that were lost."""
        names = {event.rpartition("/")[2] for event in profile("readahead").events[TASKS]}
        kept = sum(len(rows) for name, rows in self.tables.items() if name in names)
        lost = (row for facts in self.facts for row in facts["losses"] if row["instance"] == TASKS)
        return kept + sum(row["count_lower"] for row in lost)

    def calls(self) -> list[dict[str, Any]]:
        """The program's calls that were recorded, by time."""
        rows = [row for row in self.tables.get("sys_enter_pread64", []) if row["count"] == 1]
        return sorted(rows, key=lambda row: row["ts"])

    def counters(self, counter: str) -> int:
        """Sum over processors and instances at the end of the last segment."""
        return sum(
            s[counter] for i in self.facts[-1]["instances"].values() for s in i["stats_after"].values()
        )

    def check_counts(self, killed: bool = False) -> None:
        """Recorded + lost is what the kernel counted, exactly, at the end and in every segment.

        A recorder that was ``killed`` may have held events that it had read and not yet written: these are
        losses too.
        """
        read = self.counters("read events")
        dropped = sum(self.counters(c) for c in ("dropped events", "overrun", "commit overrun"))
        lost = sum(row["count_lower"] for row in self.losses if row["count_upper"] is not None)
        assert self.events + lost == read + dropped
        assert self.events <= read if killed else self.events == read
        for before, after in pairwise(self.facts):
            for name, instance in after["instances"].items():
                assert instance["stats_before"] == before["instances"][name]["stats_after"]
            assert before["tables"]["captures"][0]["end_ns"] <= after["tables"]["captures"][0]["start_ns"]
            stamps = [row["ts"] for facts in (before, after) for row in facts["tables"]["clock_anchors"]]
            assert stamps == sorted(stamps)

    def check_calls(self, calls: int, causes: Iterable[str] = ("ring full", "ring overrun")) -> int:
        """What is missing of the program's calls lies within losses; returns how many are missing."""
        rows = self.calls()
        numbers = [row["pos"] for row in rows]
        assert numbers == sorted(set(numbers)), "calls out of order, or twice"
        assert all(0 <= number < calls for number in numbers)
        bounds = [(-1, None), *((row["pos"], row["ts"]) for row in rows), (calls, None)]
        missing = 0
        for (before, since), (after, until) in pairwise(bounds):
            gap = after - before - 1
            if not gap:
                continue
            missing += gap
            overlapping = [
                row
                for row in self.losses
                if any(row["cause"].startswith(cause) for cause in causes)
                and (until is None or row["from_ns"] <= until)
                and (since is None or row["to_ns"] >= since)
            ]
            most = [row["count_upper"] for row in overlapping]
            assert overlapping, f"calls {before + 1} to {after - 1} are missing and no loss says so"
            assert None in most or sum(most) >= gap, (before, after, overlapping)
        return missing
