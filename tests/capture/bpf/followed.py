"""Programs that the BPF programs follow, and the rows that they record of them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
from forked import Forked

from hindsight.capture import schema
from hindsight.capture.bpf import records
from hindsight.capture.conversion.columns import EventTable
from hindsight.capture.formats import parse_event
from hindsight.capture.perf.records import decode_records

FORMATS = [parse_event(records.SYSTEM, text) for text in records.formats().values()]
KINDS = {kind.name: number for number, kind in enumerate(FORMATS)}
LINES = {name: schema.TABLES[name] for name in KINDS}


class Reader(Forked):
    """A process that, when it is let go, opens a file and reads of it ``reads`` times and once more."""

    def __init__(self, path: Path, reads: int, pause_s: float = 0.0) -> None:
        def read() -> None:
            pread = os.pread
            fd = os.open(path, os.O_RDONLY)
            os.pread(fd, 1, 0)
            time.sleep(pause_s)
            for number in range(reads):
                pread(fd, 1, number)

        super().__init__(read)


def total(stats: dict[int, dict[str, int]], counter: str) -> int:
    return sum(counters[counter] for counters in stats.values())


def decoded(directory: Path) -> dict[str, dict[str, np.ndarray]]:
    """The rows of each table in the files of a directory."""
    cpus = []
    for path in sorted(directory.glob("cpu*.perf")):
        events = decode_records(int(path.stem[3:]), np.fromfile(path, "<u4"), FORMATS)
        assert not events.problems
        cpus.append(events)
    return {
        name: EventTable(number, FORMATS[number], cpus).columns(LINES[name]) for name, number in KINDS.items()
    }


def count(rows: dict[str, dict[str, np.ndarray]]) -> dict[str, int]:
    return {name: len(columns["ts"]) for name, columns in rows.items()}


def read_ahead_pages(path: Path) -> int:
    device = path.stat().st_dev
    return int(Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb").read_text()) // 4
