#!/usr/bin/env python3
"""Replay the demand of a dataset, and compare its speed with a cache simulator on the same pages.

hindsight: the kernel's whole readahead logic (windows, marks, folios, page-cache walks), factual replay, in
events (reads and advice) and demanded pages per CPU-second. The alternative of the field, libCacheSim (its
Python package, `pip install libcachesim`), knows no readahead: it is given the same demanded pages as single
requests, and only looks them up in an LRU cache that holds them all. CPU time is user + system; best of a few
repetitions.

    .venv/bin/python benchmarks/replay.py
    .venv/bin/python benchmarks/replay.py captures --json
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hindsight.pipeline.dataset import find_captures, read_tables
from hindsight.subsystems import contract

ROOT = Path(__file__).resolve().parent.parent
PAGE_SHIFT = 12


def cpu_seconds(work: Callable[[], object], repetitions: int) -> float:
    """The least CPU time of several runs of ``work``, after one that does not count."""
    work()
    best = float("inf")
    for _ in range(repetitions):
        before = resource.getrusage(resource.RUSAGE_SELF)
        work()
        after = resource.getrusage(resource.RUSAGE_SELF)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return best


def demanded_pages(demand: dict[str, contract.Columns]) -> np.ndarray:
    """The pages that the reads of a capture ask for, in order, as (file << 32) + page: u64."""
    ops, files = demand["ops"], demand["streams"]["file_id"]
    parts = []
    reads = (ops["kind"] == 0) & (ops["pos"] >= 0) & (ops["ret"] > 0)
    for stream, pos, got in zip(ops["stream"][reads], ops["pos"][reads], ops["ret"][reads], strict=True):
        pages = np.arange(pos >> PAGE_SHIFT, (pos + got - 1 >> PAGE_SHIFT) + 1, dtype=np.uint64)
        parts.append((np.uint64(files[stream]) << np.uint64(32)) + pages)
    return np.concatenate(parts) if parts else np.zeros(0, np.uint64)


def libcachesim_seconds(pages: np.ndarray, repetitions: int) -> float | None:
    """CPU time of libCacheSim's LRU over these pages; None where it is not installed."""
    try:
        import libcachesim as lcs
    except ImportError:
        return None
    # Its fastest input: the binary oracleGeneral format {u32 time, u64 id, u32 size, i64 next access}.
    record = np.dtype([("time", "<u4"), ("id", "<u8"), ("size", "<u4"), ("next", "<i8")])
    requests = np.zeros(len(pages), record)
    requests["id"], requests["size"], requests["next"] = pages, 1, -1
    with tempfile.NamedTemporaryFile(suffix=".oracleGeneral.bin") as file:
        requests.tofile(file.name)

        def run() -> object:
            reader = lcs.TraceReader(trace=file.name, trace_type=lcs.TraceType.ORACLE_GENERAL_TRACE)
            return lcs.LRU(cache_size=len(pages)).process_trace(reader)

        return cpu_seconds(run, repetitions)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", nargs="?", type=Path, default=ROOT / "data/sample")
    parser.add_argument("--subsystem", default=contract.names()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    subsystem = contract.load(args.subsystem)
    demands = []
    for capture in find_captures(args.dataset):
        try:
            demands.append(subsystem.demand(read_tables(capture, subsystem.tables)))
        except contract.ConfigurationError:
            continue
    events = sum(len(d["ops"]["ts"]) for d in demands)
    # Inodes of different captures are different pages.
    pages = np.concatenate(
        [demanded_pages(d) + (np.uint64(i) << np.uint64(48)) for i, d in enumerate(demands)]
    )
    decisions = 0

    def replay() -> None:
        nonlocal decisions
        decisions = sum(len(next(iter(subsystem.replay(d).values()))) for d in demands)

    ours = cpu_seconds(replay, args.repetitions)
    theirs = libcachesim_seconds(pages, args.repetitions)
    result = {
        "captures": len(demands),
        "events": events,
        "demanded_pages": len(pages),
        "decisions": decisions,
        "replay_cpu_s": round(ours, 4),
        "events_per_cpu_s": round(events / ours),
        "pages_per_cpu_s": round(len(pages) / ours),
        "libcachesim_pages_per_cpu_s": round(len(pages) / theirs) if theirs else None,
        "ratio_pages": round(theirs / ours, 1) if theirs else None,
    }
    if args.json:
        print(json.dumps(result))
        return 0
    print(f"{len(demands)} captures, {events:,} events, {len(pages):,} pages, {decisions:,} decisions")
    print(f"replay             {result['events_per_cpu_s']:>14,} events per CPU-second")
    print(f"                   {result['pages_per_cpu_s']:>14,} demanded pages per CPU-second")
    if theirs:
        theirs_pages = result["libcachesim_pages_per_cpu_s"]
        print(f"libCacheSim, LRU   {theirs_pages:>14,} pages per CPU-second (no readahead)")
        print(f"ratio              {result['ratio_pages']:>14} ×")
    else:
        print("libCacheSim is not installed (pip install libcachesim): no ratio")
    return 0


if __name__ == "__main__":
    sys.exit(main())
