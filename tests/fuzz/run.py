#!/usr/bin/env python3
"""Fuzz every parser of capture: never a crash, a hang, an unbounded allocation, or a silently wrong row.

    python tests/fuzz/run.py                               all targets, all cases
    python tests/fuzz/run.py --share 0.01 --jobs 1         a hundredth of them
    python tests/fuzz/run.py --target 'raw pages' --seed 1 --case 4711      one case again

A case follows from (target, seed, number). Each worker is a process whose memory is limited and which is
ended with a traceback when a batch takes too long. What failed is saved in build/fuzz/, the exit status is 1.
Compiled code runs with bounds checks (NUMBA_BOUNDSCHECK=1), and a part of the pages once more without.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import mmap
import os
import resource
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(1, str(ROOT / "tests" / "capture"))  # the slow decoder is there
FAILURES = ROOT / "build" / "fuzz"
ROOM_BYTES = 1 << 30
"""Address space that a worker may take beyond what it has when its first batch is done."""
RESIDENT_BYTES = 256 << 20
"""Memory by which a worker may grow after its first batch."""
UNCHECKED = "raw pages, as shipped"


def targets() -> list[Any]:
    """Every target, in the order in which they run."""
    from converted import Converted
    from foreign_files import ForeignFiles
    from foreign_loads import ForeignLoads
    from format_files import EventFormats, HeaderPages
    from perf_records import PerfRecords
    from proxy_records import ProxyRecords
    from raw_pages import RawPages
    from segment_files import Facts, Journal, Manifest
    from unit_texts import Units
    from unsealed_segments import Unsealed

    shipped = RawPages(UNCHECKED)
    shipped.cases //= 5
    found: list[Any] = [
        RawPages(),
        PerfRecords(),
        EventFormats(),
        HeaderPages(),
        Manifest(),
        Facts(),
        Journal(),
        Units(),
        ProxyRecords(),
    ]
    loads = [ForeignLoads("trace.dat, loaded", 1_000_000), ForeignLoads("perf.data, loaded", 1_000_000)]
    imports = [*loads, ForeignFiles("trace.dat files", 6000), ForeignFiles("perf.data files", 6000)]
    return [*found, Unsealed(), Converted(), *imports, shipped]


def batches(target: Any, share: float, jobs: int, job: int) -> Iterator[tuple[int, int]]:
    """(first, count) of the batches that are this job's."""
    cases = max(int(target.cases * share), min(target.batch, target.cases))
    for number, first in enumerate(range(0, cases, target.batch)):
        if number % jobs == job:
            yield first, min(target.batch, cases - first)


def resident() -> int:
    """The most memory that this process ever had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def limit_memory() -> None:
    """From now on allocations beyond ROOM_BYTES fail."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def work(args: argparse.Namespace) -> int:
    """A worker: its share of the batches of its targets; one line of JSON per target."""
    from target import Failed

    faulthandler.enable()
    progress = mmap.mmap(args.progress, 8)
    for index, target in enumerate(targets()):
        if target.name not in args.target:
            continue
        begin, cases, floor = time.monotonic(), 0, 0
        for first, count in batches(target, args.share, args.jobs, args.worker):
            progress[:] = struct.pack("<HxxI", index, first)
            # The first batch compiles.
            faulthandler.dump_traceback_later(target.seconds if cases else 300, exit=True)
            try:
                target.check(args.seed, first, count)
            except Failed as failed:
                report_failure(target.name, args.seed, failed.case, str(failed), failed.inputs)
                return 1
            cases += count
            if not floor:
                floor = resident()
                limit_memory()
            if resident() - floor > RESIDENT_BYTES:
                why = f"the memory of the process grew by {resident() - floor >> 20} MiB"
                report_failure(target.name, args.seed, first, why, {})
                return 1
        faulthandler.cancel_dump_traceback_later()
        line = {
            "target": target.name,
            "cases": cases,
            "seconds": time.monotonic() - begin,
            "seen": target.seen,
        }
        print(json.dumps(line), flush=True)
    return 0


def report_failure(target: str, seed: int, case: int, why: str, inputs: dict[str, bytes]) -> None:
    """Save the input, say how to see it again."""
    FAILURES.mkdir(parents=True, exist_ok=True)
    base = f"{target.replace(' ', '-').replace(',', '')}-{seed}-{case}"
    for name, data in inputs.items():
        (FAILURES / f"{base}-{name}").write_bytes(data)
    print(f"FAILED {target}, seed {seed}, case {case}: {why}", file=sys.stderr)
    print(
        f"  again: python tests/fuzz/run.py --target '{target}' --seed {seed} --case {case}", file=sys.stderr
    )
    if inputs:
        print(f"  input: {FAILURES / base}-*", file=sys.stderr)
    sys.stderr.flush()


def environment(checked: bool) -> dict[str, str]:
    """Of a worker; code with bounds checks is kept apart from what the program uses itself."""
    if not checked:
        return dict(os.environ)
    return os.environ | {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(ROOT / "build" / "fuzz-checked")}


def run(args: argparse.Namespace, names: list[str], checked: bool) -> list[dict[str, Any]]:
    """Run the workers over these targets; raises SystemExit(1) when one fails."""
    children = []
    for worker in range(args.jobs):
        progress = os.memfd_create("progress")
        os.ftruncate(progress, 8)
        command = [sys.executable, __file__, "--worker", str(worker), "--progress", str(progress)]
        command += ["--share", str(args.share), "--jobs", str(args.jobs), "--seed", str(args.seed)]
        for name in names:
            command += ["--target", name]
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, pass_fds=[progress], env=environment(checked)
        )
        children.append((child, progress))
    watch(children)
    lines = []
    failed = False
    for child, progress in children:
        output, _ = child.communicate()
        lines += [json.loads(line) for line in output.splitlines()]
        if child.returncode not in (0, 1):
            index, first = struct.unpack("<HxxI", os.pread(progress, 8, 0))
            why = f"a worker ended with status {child.returncode} in the batch that begins here"
            report_failure(targets()[index].name, args.seed, first, why, {})
        failed |= child.returncode != 0
    if failed:
        raise SystemExit(1)
    return lines


def watch(children: list[tuple[subprocess.Popen[str], int]]) -> None:
    """Until all workers have ended, say every half minute where each of them is."""
    names = [target.name for target in targets()]
    begin = said = time.monotonic()
    while any(child.poll() is None for child, _ in children):
        time.sleep(0.1)
        if time.monotonic() - said < 30:
            continue
        said = time.monotonic()
        places = (struct.unpack("<HxxI", os.pread(progress, 8, 0)) for _, progress in children)
        where = "; ".join(f"{names[index]}, case {first}" for index, first in places)
        print(f"{said - begin:6.0f} s   {where}", file=sys.stderr, flush=True)


def again(args: argparse.Namespace) -> int:
    """Check one case, in its batch, in this process."""
    (name,) = args.target
    target = next(target for target in targets() if target.name == name)
    first = args.case // target.batch * target.batch
    target.check(args.seed, first, target.batch)
    print(f"{name}, seed {args.seed}, case {args.case}: nothing wrong")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--share", type=float, default=1.0, help="of each target's cases (default: all)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--target", action="append", help="only this one; repeatable")
    parser.add_argument("--quick", action="store_true", help="no bounds checks: nothing is compiled for them")
    parser.add_argument("--case", type=int, help="check the batch of this case again, in this process")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--progress", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker is not None:
        return work(args)
    if args.case is not None:
        return again(args)
    known = [target.name for target in targets()]
    wanted = args.target or known
    if unknown := set(wanted) - set(known):
        parser.error(f"unknown target {sorted(unknown)}; known: {', '.join(known)}")
    begin = time.monotonic()
    lines = []
    for checked in (True, False):
        names = [name for name in wanted if (name != UNCHECKED and not args.quick) == checked]
        if names:
            lines += run(args, names, checked)
    total = 0
    for name in wanted:
        mine = [line for line in lines if line["target"] == name]
        cases, seconds = sum(line["cases"] for line in mine), max(line["seconds"] for line in mine)
        seen = sum((Counter(line["seen"]) for line in mine), Counter())
        facts = ", ".join(f"{count} {what}" for what, count in sorted(seen.items()))
        print(f"{name:24} {cases:9} cases {seconds:7.1f} s   {facts}")
        total += cases
    print(f"{'all':24} {total:9} cases {time.monotonic() - begin:7.1f} s   seed {args.seed}, nothing wrong")
    return 0


if __name__ == "__main__":
    sys.exit(main())
