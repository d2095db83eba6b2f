"""Processor time of the recorder for each event, against `trace-cmd record` of the same workload and events.

The workload is an orphan that this process adopts (PR_SET_CHILD_SUBREAPER), so that its time is not in what
wait4(2) tells of a recorder; what a launcher of a few lines takes is in both. Counted is everything until the
recorder has ended: for hindsight hashing and fsync of the sealed segment, for trace-cmd its final file, not
compressed (as hindsight's is not). Start-up is measured on a tiny workload and taken off both sides.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from pathlib import Path

import children
import decoding
import recorders
from figures import Figure, sample

from hindsight.capture.profiles import FOLLOWING
from hindsight.capture.segments.segment import find_segments, open_segment

_PR_SET_CHILD_SUBREAPER = 36
BUFFER_KB = 16384
LAUNCHER = """
import os, sys
alive, end = os.pipe()
if os.fork() == 0:
    if os.fork() == 0:
        os.close(alive)
        os.set_inheritable(end, True)
        os.execv(sys.argv[1], sys.argv[1:])
    os._exit(0)
os.wait()
os.close(end)
os.read(alive, 1)
"""


def adopt_orphans() -> None:
    """Descendants whose parent ended become children of this process."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _reap() -> None:
    while True:
        try:
            os.wait4(-1, 0)
        except ChildProcessError:
            return


def measure(directory: Path, file: Path, calls: int, repetitions: int) -> list[Figure]:
    """The figure."""
    adopt_orphans()
    sizes = {"large": calls, "tiny": 300}
    arms = {
        "hindsight": recorders.hindsight,
        "trace-cmd": lambda out, command, size: recorders.trace_cmd(
            out, command, size, ("--compression", "none")
        ),
    }
    cpu: dict[str, dict[str, list[float]]] = {arm: {name: [] for name in sizes} for arm in arms}
    events: dict[str, dict[str, int]] = {arm: {} for arm in arms}
    for number in range(repetitions):
        for name, cached in sizes.items():
            command = [
                sys.executable,
                "-I",
                "-S",
                "-c",
                LAUNCHER,
                *decoding.workload(file, cached, cached // 50),
            ]
            for arm, record in arms.items():
                out = directory / f"{arm}-{name}-{number}"
                cpu[arm][name].append(children.run(record(out, command, BUFFER_KB), sink=True).cpu_s)
                _reap()
                if number == 0:
                    events[arm][name] = _ours(out) if arm == "hindsight" else _theirs(out)
                shutil.rmtree(out) if out.is_dir() else out.unlink()
    return [_figure(cpu, events)]


def _ours(out: Path) -> int:
    count = 0
    for path in find_segments([out]):
        facts = open_segment(path, verify=False).facts
        if facts["losses"]:
            raise children.ChildFailed("hindsight lost events: there is nothing to compare")
        for name in sorted(set(FOLLOWING) & set(facts["instances"])):
            group = facts["instances"][name]
            count += sum(
                after["read events"] - group["stats_before"].get(cpu, {}).get("read events", 0)
                for cpu, after in group["stats_after"].items()
            )
    return count


def _theirs(out: Path) -> int:
    return children.lines_of([recorders.program("trace-cmd"), "report", "-q", str(out)]) - 1


def _figure(cpu: dict[str, dict[str, list[float]]], events: dict[str, dict[str, int]]) -> Figure:
    samples = {arm: {name: sample(values) for name, values in of.items()} for arm, of in cpu.items()}
    numbers = [of["large"] for of in events.values()]
    if max(numbers) - min(numbers) > max(numbers) // 200:
        raise children.ChildFailed(f"not the same events: {events}")
    per_event = {
        arm: (of["large"].median - of["tiny"].median) / (events[arm]["large"] - events[arm]["tiny"])
        for arm, of in samples.items()
    }
    ratio = per_event["hindsight"] / per_event["trace-cmd"]
    whole = samples["hindsight"]["large"].median / samples["trace-cmd"]["large"].median
    details = {
        "events": events,
        "ns_per_event": {arm: value * 1e9 for arm, value in per_event.items()},
        "ratio": ratio,
        "ratio_with_start_up": whole,
        "start_up_cpu_s": {arm: of["tiny"].median for arm, of in samples.items()},
        "cpu_s": {arm: {name: s.as_dict() for name, s in of.items()} for arm, of in samples.items()},
    }
    ours, theirs = (per_event[arm] * 1e9 for arm in ("hindsight", "trace-cmd"))
    value = f"{ratio:.2f}× ({ours:.0f} ns, trace-cmd {theirs:.0f} ns)"
    return Figure("recorder CPU per event, against trace-cmd record", value, "≤ 0.7×", ratio <= 0.7, details)
