#!/usr/bin/env python3
"""Decode the ring buffers of one recording with hindsight and with trace-cmd, and compare CPU time.

Both decode the same bytes. hindsight: every field of every table as arrays; then the whole conversion, with
hashes verified and Parquet files on disk. trace-cmd: `trace-cmd report` to text, out of a trace.dat that
`trace-cmd restore` builds from the same pages. CPU time is user + system; the best of a few repetitions.

As root it records a workload of its own (system calls and buffered reads); else it repeats the pages of the
recording in tests/capture/fixtures, which trace-cmd cannot read (it would need this kernel's event ids).

    sudo .venv/bin/python benchmarks/decode.py
    sudo .venv/bin/python benchmarks/decode.py --segment raw/20261123T022506Z-df29c709-0000 --json
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FIXTURE = Path(__file__).resolve().parent.parent / "tests/capture/fixtures/segment.tar.xz"


def record_workload(directory: Path, calls: int) -> Path:
    """Record single-byte copies and buffered 4 KiB reads of a file; returns the segment."""
    from hindsight.capture.record import RecordOptions, record

    file = directory / "file"
    file.write_bytes(os.urandom(1 << 20) * 32)
    script = (
        f"dd if=/dev/zero of=/dev/null bs=1 count={calls} status=none;"
        f"for i in 1 2 3 4 5 6 7 8; do dd if={file} of=/dev/null bs=4k status=none; done"
    )
    recording = record(RecordOptions(directory / "raw", ("sh", "-c", script), buffer_kb=65536))
    return recording.path


def repeat_fixture(directory: Path, repetitions: int) -> Path:
    """A segment whose pages are those of the fixture, repeated; its manifest says so."""
    from hindsight.capture.segment import FORMATS, SegmentWriter, open_segment

    with tarfile.open(FIXTURE) as archive:
        archive.extractall(directory / "fixture", filter="data")
    (source,) = (directory / "fixture").iterdir()
    segment = open_segment(source)
    writer = SegmentWriter(directory / "raw", segment.name)
    for name in segment.files:
        if name.endswith(".pages"):
            target = writer.path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((source / name).read_bytes() * repetitions)
    for instance in segment.facts["instances"].values():
        for stats in instance["stats_after"].values():
            stats["read events"] *= repetitions
    writer.add(FORMATS, segment.formats)
    return writer.seal(segment.facts)


def decode(segment_path: Path) -> int:
    """Decode every field of every table; returns the number of events."""
    from hindsight.capture.columns import EventTable
    from hindsight.capture.decode import decode_cpu, load_words
    from hindsight.capture.formats import parse_event, parse_header_page
    from hindsight.capture.schema import TABLES
    from hindsight.capture.segment import open_segment

    segment = open_segment(segment_path, verify=False)
    layout = parse_header_page(segment.formats["header_page"])
    events = 0
    for name, instance in segment.facts["instances"].items():
        kinds = [parse_event(e.split("/")[0], segment.formats[e]) for e in instance["events"]]
        cpus = []
        for cpu in map(int, instance["stats_after"]):
            path = segment.raw(name, cpu)
            if path is not None:
                cpus.append(decode_cpu(cpu, load_words(path, layout)[0], layout, kinds))
        for number, kind in enumerate(kinds):
            table = EventTable(number, kind, cpus)
            if table.rows:
                table.columns(TABLES[kind.name])
                events += table.rows
    return events


def cpu_seconds(work: Callable[[], object], repetitions: int) -> float:
    """The least CPU time (user + system, this process) of a few repetitions, after one that warms up."""
    work()
    best = float("inf")
    for _ in range(repetitions):
        begin = time.process_time()
        work()
        best = min(best, time.process_time() - begin)
    return best


def child_cpu(command: list[str], sink: Callable[[bytes], None]) -> float:
    """CPU time of a child alone; its standard output goes to ``sink``."""
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert child.stdout is not None
    while chunk := child.stdout.read(1 << 20):
        sink(chunk)
    child.stdout.close()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed with {child.returncode}")
    return usage.ru_utime + usage.ru_stime


def trace_cmd(segment_path: Path, directory: Path) -> dict[str, float]:
    """CPU time and events of `trace-cmd report` on the pages of the segment's instance of threads."""
    from hindsight.capture.segment import open_segment

    segment = open_segment(segment_path, verify=False)
    head, data = directory / "head.dat", directory / "trace.dat"
    files = sorted(name for name in segment.files if name.startswith("raw/tasks/"))
    quiet: dict[str, Any] = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(["trace-cmd", "restore", "-c", "-o", head], **quiet)
    subprocess.run(
        ["trace-cmd", "restore", "-i", head, "-o", data, *(segment.path / f for f in files)], **quiet
    )
    lines = 0

    def count(chunk: bytes) -> None:
        nonlocal lines
        lines += chunk.count(b"\n")

    seconds = child_cpu(["trace-cmd", "report", str(data)], count)
    return {"events": lines - 1, "cpu_seconds": seconds}  # the first line says how many CPUs there are


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--segment", type=Path, help="a sealed segment to decode, instead of recording one")
    parser.add_argument(
        "--calls", type=int, default=300_000, help="size of the workload (default: %(default)s)"
    )
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    from hindsight.capture.convert import convert

    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        live = os.geteuid() == 0 or args.segment is not None
        if args.segment is not None:
            segment = args.segment
        elif live:
            segment = record_workload(directory, args.calls)
        else:
            segment = repeat_fixture(directory, 1000)
        out = directory / "out"
        (converted,) = convert([segment], out, force=True)
        seconds = cpu_seconds(lambda: decode(segment), args.repetitions)
        events = decode(segment)
        assert events == converted.events
        whole = cpu_seconds(lambda: convert([segment], out, force=True), args.repetitions)
        size = sum(path.stat().st_size for path in out.rglob("*.parquet"))
        raw = sum(path.stat().st_size for path in segment.rglob("*.pages"))
        result: dict[str, Any] = {
            "events": events,
            "raw_bytes_per_event": raw / events,
            "parquet_bytes_per_event": size / events,
            "decode_events_per_cpu_second": events / seconds,
            "convert_events_per_cpu_second": events / whole,
        }
        if shutil.which("trace-cmd") is None:
            result["trace_cmd"] = "not installed"
        elif not live or os.geteuid() != 0:
            result["trace_cmd"] = "not run: needs root and a recording of this boot"
        else:
            report = trace_cmd(segment, directory)
            if not 0 <= events - report["events"] <= events // 10:  # it reads the threads' buffers alone
                raise SystemExit(f"trace-cmd printed {report['events']:.0f} of {events} events")
            rate = report["events"] / report["cpu_seconds"]
            result["trace_cmd"] = {
                "events": report["events"],
                "events_per_cpu_second": rate,
                "decode_ratio": result["decode_events_per_cpu_second"] / rate,
                "convert_ratio": result["convert_events_per_cpu_second"] / rate,
            }
    if args.json:
        print(json.dumps(result, indent=1))
        return 0
    print(f"{events} events, {raw / events:.1f} bytes raw and {size / events:.2f} bytes Parquet each")
    other = result["trace_cmd"]
    print(f"decode, all fields   {events / seconds / 1e6:8.2f} M events per CPU-second")
    print(f"convert to Parquet   {events / whole / 1e6:8.2f} M events per CPU-second")
    if isinstance(other, str):
        print(f"trace-cmd report     {other}")
    else:
        print(f"trace-cmd report     {other['events_per_cpu_second'] / 1e6:8.2f} M events per CPU-second")
        print(f"  ratio, decode      {other['decode_ratio']:8.1f}")
        print(f"  ratio, convert     {other['convert_ratio']:8.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
