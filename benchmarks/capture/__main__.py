#!/usr/bin/env python3
"""Every figure that capture is measured by, next to trace-cmd and perf on the same events, in one run.

    sudo .venv/bin/python benchmarks/capture                    the table
    sudo .venv/bin/python benchmarks/capture --json             all samples
    sudo .venv/bin/python benchmarks/capture --only decoding --calls 200000

Needs root, trace-cmd and perf; what cannot be measured here is listed with the reason. Both sides of a
comparison are child processes that must end with status 0 and hold the same events; medians of repetitions in
turns. See the docstrings of the modules beside this file for what is compared how. Exit status: 0, 1 when a
figure is not met, 3 when one could not be measured.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import children
import decoding
import importing
import memory
import recorders
import recording
import size
import slowdown
import starting
from figures import Figure

PARTS = ("decoding", "importing", "size", "recording", "slowdown", "memory", "starting")
FILE_BYTES = 256 << 20


def file_to_read(directory: Path) -> Path:
    """A file of real extents: pages that were never written are read without a device."""
    path = directory / "file"
    piece = os.urandom(1 << 20)
    with open(path, "wb") as file:
        for _ in range(FILE_BYTES >> 20):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return path


def measure(args: argparse.Namespace, directory: Path) -> tuple[list[Figure], dict[str, str]]:
    """The figures, and for parts without one the reason."""
    figures: list[Figure] = []
    reasons: dict[str, str] = {}
    file = file_to_read(directory)
    segments: list[Path] = []

    def decode(where: Path) -> list[Figure]:
        found, both = decoding.measure(where, file, args.calls, args.repetitions)
        segments.append(both.segments)
        return found

    def repeat(where: Path) -> list[Figure]:
        if not segments:
            children.run(
                recorders.hindsight(where / "raw", decoding.workload(file, 300_000, 6000), 65536), sink=True
            )
            segments.append(where / "raw")
        return memory.measure(where, segments[0])

    parts: dict[str, Callable[[Path], list[Figure]]] = {
        "decoding": decode,
        "importing": lambda where: importing.measure(where, file, args.calls, args.repetitions),
        "size": lambda where: size.measure(where, file),
        "recording": lambda where: recording.measure(where, file, args.calls, max(args.repetitions, 7)),
        "slowdown": lambda where: slowdown.measure(where, file, args.calls // 5, args.rounds),
        "memory": repeat,
        "starting": lambda where: starting.measure(where, args.starts),
    }
    for name in args.only or PARTS:
        where = directory / name
        where.mkdir()
        begin = time.monotonic()
        try:
            figures += parts[name](where)
        except (recorders.Absent, children.ChildFailed) as reason:
            reasons[name] = str(reason)
        print(f"{name}: {time.monotonic() - begin:.0f} s", file=sys.stderr)
    return figures, reasons


def show(figures: list[Figure], reasons: dict[str, str]) -> None:
    """Print the table, as Markdown."""
    rows = [("figure", "measured", "required", "")]
    rows += [(f.name, f.value, f.required, {True: "met", False: "NOT MET", None: ""}[f.met]) for f in figures]
    widths = [max(len(row[n]) for row in rows) for n in range(4)]
    rows.insert(1, ("-" * widths[0], "-" * widths[1], "-" * widths[2], "-" * widths[3]))
    for row in rows:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
    for name, reason in reasons.items():
        print(f"not measured: {name}: {reason}")
    uname = os.uname()
    print(f"Linux {uname.release}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} at the end")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=PARTS, help="repeatable")
    parser.add_argument(
        "--calls", type=int, default=1_200_000, help="reads of the workload (default: %(default)s)"
    )
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=9, help="of the slowdown of a workload")
    parser.add_argument("--starts", type=int, default=15)
    parser.add_argument(
        "--directory", type=Path, help="where to work, on the disk to be measured (default: TMPDIR)"
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hindsight-benchmark-", dir=args.directory) as name:
        try:
            recorders.private_tracing(Path(name))
            with recorders.top_level_restored():
                figures, reasons = measure(args, Path(name))
        except recorders.Absent as reason:
            figures, reasons = [], {"everything": str(reason)}
    if args.json:
        print(json.dumps({"figures": [asdict(f) for f in figures], "not_measured": reasons}, indent=1))
    else:
        show(figures, reasons)
    return 3 if reasons else int(any(f.met is False for f in figures))


if __name__ == "__main__":
    sys.exit(main())
