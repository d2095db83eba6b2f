#!/usr/bin/env python3
"""How fast the readahead simulator is: factual replay of buffered reads, and a sweep over the sample.

The replay is that of the stock logic, driven by a demand alone, in demanded pages per CPU-second (user +
system, least of a few repetitions): reads of one task on a file of 4 GiB, in sizes and orders of which each
is a line, once from an empty cache, and once more over pages that are cached then. The sweep runs the timed
simulation of every capture that `dvc repro` ingested under thirteen settings (device-wide limits, and exact
reads), on all processors of this process; its time is that of the clock.

    .venv/bin/python benchmarks/readahead.py
    .venv/bin/python benchmarks/readahead.py --only replay --json
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from replay import cpu_seconds

from hindsight.pipeline.drive import drive, keep
from hindsight.pipeline.ingested import Ingested, load
from hindsight.pipeline.parallel import each, workers
from hindsight.pipeline.params import Layout
from hindsight.pipeline.params import load as load_params
from hindsight.pipeline.store import read_json
from hindsight.subsystems import contract

ROOT = Path(__file__).resolve().parent.parent
PAGE = 4096
FILE_BYTES = 4 << 30
LEAST_PAGES = 40_000_000
MOST_SECONDS = 10.0
LIMITS_KB = (4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
Columns = dict[str, np.ndarray]


def _demand(pos: np.ndarray, count: np.ndarray) -> dict[str, Columns]:
    """One task that reads one file on ext4 at these places (bytes), with the usual limits."""
    n = len(pos)
    i64, none = np.int64, np.zeros(0, np.int64)
    number = np.arange(n, dtype=i64)
    ops = {
        "ts": number * 1000,
        "end": number * 1000 + 900,
        "task": np.zeros(n, np.uint32),
        "stream": np.zeros(n, np.uint32),
        "kind": np.zeros(n, np.uint8),
        "pos": pos.astype(i64),
        "count": count.astype(i64),
        "ret": count.astype(i64),
        "advice": np.full(n, -1, np.int32),
        "together": np.full(n, -1, i64),
        "size": np.full(n, -1, i64),
    }
    return {
        "ops": ops,
        "streams": {
            "file_id": np.zeros(1, np.uint32),
            "ra_pages": np.full(1, 32, np.uint32),
            "io_pages": np.full(1, 320, np.uint32),
        },
        "files": {
            "size": np.full(1, FILE_BYTES, i64),
            "max_order": np.full(1, 9, np.uint8),
            "s_dev_major": np.full(1, 7, np.uint32),
            "s_dev_minor": np.zeros(1, np.uint32),
            "i_ino": np.full(1, 12, np.uint64),
        },
        "tasks": {"pid": np.ones(1, np.int32)},
        "captures": {"kernel_release": np.array(["6.18.0"], object)},
        "changes": {},
        "admitted": {},
        "steps": {name: none for name in ("group", "op", "kind", "page", "limit")},
    }


def _patterns(generator: np.random.Generator) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(places, sizes) in bytes of the reads of each line."""

    def sequential(size: int) -> tuple[np.ndarray, np.ndarray]:
        pos = np.arange(0, FILE_BYTES, size)
        return pos, np.full(len(pos), size)

    def scattered(size: int) -> tuple[np.ndarray, np.ndarray]:
        pos = generator.permutation(np.arange(0, FILE_BYTES, size))
        return pos, np.full(len(pos), size)

    mixed = generator.integers(1, 1 << 18, 20_000)
    begin = generator.integers(0, FILE_BYTES - (1 << 18), 20_000)
    follows = generator.random(20_000) < 0.7
    for i in range(1, len(begin)):
        if follows[i] and begin[i - 1] + mixed[i - 1] < FILE_BYTES - (1 << 18):
            begin[i] = begin[i - 1] + mixed[i - 1]
    return {
        "sequential, 4 KiB": sequential(4096),
        "sequential, 16 KiB": sequential(16384),
        "sequential, 128 KiB": sequential(131072),
        "sequential, 1 MiB": sequential(1 << 20),
        "runs of 1 B … 256 KiB, any place": (begin, mixed),
        "random, 64 KiB": scattered(65536),
        "random, 4 KiB": scattered(4096),
    }


def replay(repetitions: int) -> dict[str, dict[str, float | None]]:
    """Pages per CPU-second of each pattern, cold and cached."""
    subsystem = contract.load("readahead")
    found = {}
    for name, (pos, count) in _patterns(np.random.default_rng(1)).items():
        pages = int(((pos + count - 1) // PAGE - pos // PAGE + 1).sum())
        cold, twice = _demand(pos, count), _demand(np.tile(pos, 2), np.tile(count, 2))
        once = cpu_seconds(lambda demand=cold: subsystem.replay(demand), repetitions)
        both = cpu_seconds(lambda demand=twice: subsystem.replay(demand), repetitions)
        # Less than a twentieth more is lost in the noise of the two.
        more = both - once if both > 1.05 * once else None
        found[name] = {
            "reads": len(pos), "pages": pages, "cold_pages_per_cpu_s": pages / once,
            "cached_pages_per_cpu_s": None if more is None else pages / more,
        }  # fmt: skip
    return found


def sweep(root: Path) -> dict[str, Any]:
    """Seconds of the clock for all settings over all ingested captures."""
    params = load_params(root / "params.yaml")
    subsystem = contract.load("readahead")
    layout = Layout(root, subsystem.name)
    captures = load(layout)
    calibration = read_json(layout.featurize / "calibration.json")
    exact = [action.name for action in subsystem.actions].index("exact")

    def one(capture: Ingested) -> int:
        blocks = 0
        for limit in (*LIMITS_KB, None):
            demand = dict(capture.demand)
            if limit is not None:
                streams = dict(demand["streams"])
                streams["ra_pages"] = np.full_like(streams["ra_pages"], limit * 1024 // PAGE)
                demand["streams"] = streams
            # Nobody decides: an epoch that never ends.
            settings = {**params.decision, "epoch_ns": 1 << 60}
            simulation = subsystem.simulation(demand, calibration, settings)
            static = exact if limit is None else contract.KEEP
            counts = len(subsystem.features), len(subsystem.actions)
            blocks += len(drive(simulation, keep, *counts, static).blocks)
        return blocks

    each(one, captures[:1], "compile")
    before = time.monotonic()
    blocks = each(one, captures, "sweep")
    return {
        "captures": len(captures), "settings": len(LIMITS_KB) + 1, "blocks": sum(blocks),
        "workers": workers(), "seconds": time.monotonic() - before,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("replay", "sweep"))
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    result: dict[str, Any] = {}
    if args.only != "sweep":
        result["replay"] = replay(args.repetitions)
    if args.only != "replay":
        result["sweep"] = sweep(ROOT)
    if args.json:
        print(json.dumps(result))
        return 0
    for name, row in result.get("replay", {}).items():
        cold, cached = row["cold_pages_per_cpu_s"] / 1e6, row["cached_pages_per_cpu_s"]
        then = "not measurable" if cached is None else f"{cached / 1e6:7.1f} M"
        print(f"{name:<34} {cold:7.1f} M pages per CPU-second, {then} cached")
    if "replay" in result:
        print(f"{'(required, buffered reads)':<34} {LEAST_PAGES / 1e6:7.1f} M")
    if "sweep" in result:
        row = result["sweep"]
        print(
            f"sweep: {row['settings']} settings × {row['captures']} captures in {row['seconds']:.1f} s "
            f"on {row['workers']} processors (required: {MOST_SECONDS:.0f} s)"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
