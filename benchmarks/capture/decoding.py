"""Decode, and decode + Parquet, against `trace-cmd report` on the same events, recorded at the same time.

Each side is a child process, its processor time that of wait4(2). Start-up (importing Python packages and
loading compiled code here, reading the formats there) is measured on a tiny recording and taken off both
sides; ratios that include it are in the details. trace-cmd prints to /dev/null. Both must have the same
number of events; hindsight decodes those of its `devices` instance on top (block requests and removals from the
page cache of the whole host), which trace-cmd does not have: they do not count.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import children
import recorders
from figures import Figure, Sample, sample
from together import Both, record_both

HERE = Path(__file__).resolve().parent
NOT_OF_THREADS = ("block_rq_issue", "block_rq_complete", "mm_filemap_delete_from_page_cache")
BUFFER_KB = 131072


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
    cpu: dict[str, dict[str, list[float]]] = {
        arm: {n: [] for n in sizes} for arm in ("decode", "convert", "report")
    }
    for number in range(repetitions):
        for name, both in recordings.items():
            cpu["decode"][name].append(children.run(_decode(both)).cpu_s)
            cpu["report"][name].append(children.run(_report(both), sink=True).cpu_s)
            out = directory / name / f"out{number}"
            cpu["convert"][name].append(children.run(_convert(both, out)).cpu_s)
            shutil.rmtree(out)
    return _figures(cpu, events), recordings["large"]


def _decode(both: Both) -> list[str]:
    return [sys.executable, str(HERE / "decode_segments.py"), str(both.segments)]


def _convert(both: Both, out: Path) -> list[str]:
    return [*recorders.HINDSIGHT, "capture", "convert", "--json", "-o", str(out), str(both.segments)]


def _report(both: Both) -> list[str]:
    return [recorders.program("trace-cmd"), "report", "-q", str(both.trace_dat)]


def _same_events(both: Both, out: Path) -> int:
    """Events of the threads; raises ChildFailed unless all three decoders have the same number of them."""
    converted = json.loads(children.run(_convert(both, out)).output)
    decoded = int(children.run(_decode(both)).output)
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
    count = events["large"] - events["tiny"]

    def rate(of: dict[str, Sample]) -> float:
        return count / (of["large"].median - of["tiny"].median)

    report = rate(samples["report"])
    figures = []
    for arm, name, least in (("decode", "decode, every field", 40), ("convert", "decode + Parquet", 20)):
        ratio = rate(samples[arm]) / report
        whole = samples["report"]["large"].median / samples[arm]["large"].median
        details = {
            "events": events["large"],
            "events_per_cpu_second": rate(samples[arm]),
            "trace_cmd_events_per_cpu_second": report,
            "ratio": ratio,
            "ratio_with_start_up": whole,
            "start_up_cpu_s": samples[arm]["tiny"].median,
            "cpu_s": {n: s.as_dict() for n, s in samples[arm].items()},
            "trace_cmd_cpu_s": {n: s.as_dict() for n, s in samples["report"].items()},
        }
        speeds = f"{rate(samples[arm]) / 1e6:.1f} M events per CPU-second, trace-cmd {report / 1e6:.2f} M"
        value = f"{ratio:.0f}× ({speeds})"
        figures.append(
            Figure(f"{name}, against trace-cmd report", value, f"≥ {least}×", ratio >= least, details)
        )
    return figures
