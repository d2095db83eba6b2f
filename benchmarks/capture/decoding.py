"""Decode, and decode + Parquet, against `trace-cmd report` on the same events, recorded at the same time.

Each side is a child process, its processor time that of wait4(2). Start-up (importing Python packages and
loading compiled code here, reading the formats there) is measured on a tiny recording and taken off both
sides; hindsight is given the recording several times over, in one process, because its start-up would
otherwise be much of what is measured; ratios that include start-up are in the details. Decoding verifies no
hashes, converting does; trace-cmd prints to /dev/null. Both must have the same number of events; hindsight
decodes those of its `devices` instance on top (block requests and removals from the page cache of the whole
host), which trace-cmd does not have: they do not count.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import children
import recorders
from figures import Figure, sample
from together import Both, record_both

from hindsight.capture.segments.segment import find_segments

HERE = Path(__file__).resolve().parent
NOT_OF_THREADS = ("block_rq_issue", "block_rq_complete", "mm_filemap_delete_from_page_cache")
BUFFER_KB = 131072
COPIES = 6
"""How many times hindsight is given the large recording."""


def workload(file: Path, cached: int, cold: int) -> list[str]:
    """The command that is recorded."""
    return [sys.executable, "-I", str(HERE / "workload.py"), str(file), str(cached), str(cold)]


def measure(directory: Path, file: Path, calls: int, repetitions: int) -> tuple[list[Figure], Both]:
    """The two figures, and the recording that they were measured on."""
    sizes = {"large": (calls, calls // 50), "tiny": (300, 10)}
    recordings = {}
    events: dict[str, int] = {}
    for name, (cached, cold) in sizes.items():
        where = directory / name
        where.mkdir()
        recordings[name] = record_both(where, workload(file, cached, cold), BUFFER_KB)
        events[name] = _same_events(recordings[name], where / "first")
    arms = ("decode", "convert", "report")
    cpu: dict[str, dict[str, list[float]]] = {arm: {name: [] for name in sizes} for arm in arms}
    for name, both in recordings.items():
        _copies(both.segments, directory / f"{name}-copies", COPIES if name == "large" else 1)
    for number in range(repetitions):
        for name, both in recordings.items():
            segments = directory / f"{name}-copies"
            cpu["decode"][name].append(children.run(_decode(segments)).cpu_s)
            cpu["report"][name].append(children.run(_report(both), sink=True).cpu_s)
            out = directory / f"{name}-out{number}"
            cpu["convert"][name].append(children.run(_convert(segments, out)).cpu_s)
            shutil.rmtree(out)
    return _figures(cpu, events), recordings["large"]


def _copies(segments: Path, target: Path, count: int) -> None:
    """The same segments under several names, as hard links."""
    for segment in find_segments([segments]):
        for number in range(count):
            copy = target / f"{segment.name}-{number}"
            shutil.copytree(segment, copy, copy_function=os.link)


def _decode(segments: Path) -> list[str]:
    return [sys.executable, str(HERE / "decode_segments.py"), str(segments)]


def _convert(segments: Path, out: Path) -> list[str]:
    # One thread: several take more processor time together, and are not what is compared.
    convert = [*recorders.HINDSIGHT, "capture", "convert", "--json", "--jobs", "1"]
    return [*convert, "-o", str(out), str(segments)]


def _report(both: Both) -> list[str]:
    return [recorders.program("trace-cmd"), "report", "-q", str(both.trace_dat)]


def _same_events(both: Both, out: Path) -> int:
    """Events of the threads; raises ChildFailed unless all three decoders have the same number of them."""
    converted = json.loads(children.run(_convert(both.segments, out)).output)
    decoded = int(children.run(_decode(both.segments)).output)
    if any(segment["lost"] for segment in converted):
        raise children.ChildFailed("events were lost: there is nothing to compare; try a smaller --calls")
    total = sum(segment["events"] for segment in converted)
    others = sum(segment["tables"].get(name, 0) for segment in converted for name in NOT_OF_THREADS)
    printed = children.lines_of(_report(both)) - 1  # the first line says how many processors there are
    if decoded != total or printed != total - others:
        raise children.ChildFailed(
            f"hindsight converted {total - others} events of the threads (decoded {decoded - others}), "
            f"trace-cmd printed {printed}"
        )
    return printed


def _figures(cpu: dict[str, dict[str, list[float]]], events: dict[str, int]) -> list[Figure]:
    samples = {arm: {name: sample(values) for name, values in of.items()} for arm, of in cpu.items()}

    def rate(arm: str, times: int) -> float:
        """Events per CPU-second beyond start-up."""
        of = samples[arm]
        seconds = of["large"].median - of["tiny"].median
        if seconds <= 0:
            raise children.ChildFailed("the workload is too small to be told from start-up: more --calls")
        return (times * events["large"] - events["tiny"]) / seconds

    report = rate("report", 1)
    figures = []
    for arm, name, least in (("decode", "decode, every field", 40), ("convert", "decode + Parquet", 20)):
        speed = rate(arm, COPIES)
        ratio = speed / report
        details = {
            "events": events["large"],
            "copies": COPIES,
            "events_per_cpu_second": speed,
            "trace_cmd_events_per_cpu_second": report,
            "ratio": ratio,
            "ratio_with_start_up": COPIES * samples["report"]["large"].median / samples[arm]["large"].median,
            "start_up_cpu_s": samples[arm]["tiny"].median,
            "cpu_s": {n: s.as_dict() for n, s in samples[arm].items()},
            "trace_cmd_cpu_s": {n: s.as_dict() for n, s in samples["report"].items()},
        }
        value = f"{ratio:.0f}× ({speed / 1e6:.1f} M events per CPU-second, trace-cmd {report / 1e6:.2f} M)"
        figures.append(
            Figure(f"{name}, against trace-cmd report", value, f"≥ {least}×", ratio >= least, details)
        )
    return figures
