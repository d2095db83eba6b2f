"""Import of trace.dat and perf.data into Parquet, against `trace-cmd report` and `perf script` on the same
file.

The workload of decoding.py is recorded by trace-cmd (as it does by default, which may compress; and once more
without compression) and by perf. Each side is a child process, its processor time that of wait4(2),
printing to
/dev/null; start-up is measured on a tiny recording and taken off both sides, as decoding.py does. hindsight
imports a file several times over in one process (--force), the large one and the tiny one. Both must have the
same number of events.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import children
import decoding
import recorders
from figures import Figure, sample

BUFFER_KB = 131072
PERF_BUFFER_KB = 65536
COPIES = 16
"""How many times hindsight imports a file: reading its formats is start-up, as it is of the other side."""


@dataclass(frozen=True)
class Arm:
    """One kind of file: how it is recorded, how its own tool prints it, and what is required."""

    name: str
    least: int
    file: str

    def record(self, out: Path, command: list[str]) -> None:
        """Record a command."""
        if self.name == "perf.data":
            child = recorders.perf(out, command, PERF_BUFFER_KB)
        else:
            options = ["--compression", "none"] if "none" in self.name else []
            child = recorders.trace_cmd(out, command, BUFFER_KB, options)
        children.run(child, sink=True)

    def show(self, file: Path) -> list[str]:
        """Print all events as text."""
        if self.name == "perf.data":
            return [recorders.program("perf"), "script", "-i", str(file)]
        return [recorders.program("trace-cmd"), "report", "-q", str(file)]

    def printed(self, file: Path) -> int:
        """Lines of events that its own tool prints."""
        # trace-cmd's first line says how many processors there are.
        return children.lines_of(self.show(file)) - int(self.name != "perf.data")


ARMS = (
    Arm("trace.dat", 20, "trace.dat"),
    Arm("trace.dat, compression none", 20, "trace-none.dat"),
    Arm("perf.data", 15, "perf.data"),
)


def _import(file: Path, out: Path, copies: int) -> list[str]:
    # One thread: several take more processor time together, and are not what is compared.
    verb = [*recorders.HINDSIGHT, "capture", "import", "--json", "--jobs", "1", "--force"]
    return [*verb, "-o", str(out), *[str(file)] * copies]


def measure(directory: Path, file: Path, calls: int, repetitions: int) -> list[Figure]:
    """A figure for each kind of file."""
    sizes = {"large": (calls, calls // 50), "tiny": (300, 10)}
    files: dict[tuple[str, str], Path] = {}
    events: dict[tuple[str, str], int] = {}
    for size, (cached, cold) in sizes.items():
        where = directory / size
        where.mkdir()
        for arm in ARMS:
            recorded = files[arm.name, size] = where / arm.file
            arm.record(recorded, decoding.workload(file, cached, cold))
            events[arm.name, size] = _same_events(arm, recorded, where / "first")
    ours: dict[tuple[str, str], list[float]] = {key: [] for key in files}
    theirs: dict[tuple[str, str], list[float]] = {key: [] for key in files}
    for number in range(repetitions):
        for arm in ARMS:
            for size in sizes:
                recorded = files[arm.name, size]
                out = directory / f"out{number}"
                ours[arm.name, size].append(children.run(_import(recorded, out, COPIES)).cpu_s)
                shutil.rmtree(out)
                theirs[arm.name, size].append(children.run(arm.show(recorded), sink=True).cpu_s)
    return [_figure(arm, ours, theirs, events) for arm in ARMS]


def _same_events(arm: Arm, recorded: Path, out: Path) -> int:
    """Events of a file; raises ChildFailed unless both have the same number of them, and none was lost."""
    (result,) = json.loads(children.run(_import(recorded, out, 1)).output)
    printed = arm.printed(recorded)
    if result["lost"]:
        raise children.ChildFailed("events were lost: there is nothing to compare; try a smaller --calls")
    if result["events"] != printed:
        raise children.ChildFailed(
            f"{arm.name}: hindsight imported {result['events']} events, its own tool printed {printed}"
        )
    return printed


def _figure(
    arm: Arm,
    ours: dict[tuple[str, str], list[float]],
    theirs: dict[tuple[str, str], list[float]],
    events: dict[tuple[str, str], int],
) -> Figure:
    large, tiny = (arm.name, "large"), (arm.name, "tiny")
    samples = {size: sample(ours[arm.name, size]) for size in ("large", "tiny")}
    others = {size: sample(theirs[arm.name, size]) for size in ("large", "tiny")}
    seconds = samples["large"].median - samples["tiny"].median
    other_seconds = others["large"].median - others["tiny"].median
    if min(seconds, other_seconds) <= 0:
        raise children.ChildFailed("the workload is too small to be told from start-up: more --calls")
    speed = COPIES * (events[large] - events[tiny]) / seconds
    other = (events[large] - events[tiny]) / other_seconds
    ratio = speed / other
    tool = "perf script" if arm.name == "perf.data" else "trace-cmd report"
    details = {
        "events": events[large],
        "copies": COPIES,
        "events_per_cpu_second": speed,
        "other_events_per_cpu_second": other,
        "ratio": ratio,
        "ratio_with_start_up": COPIES * others["large"].median / samples["large"].median,
        "ratio_of_one_file_with_start_up": others["large"].median
        / (samples["tiny"].median + seconds / COPIES),
        "start_up_cpu_s": samples["tiny"].median,
        "other_start_up_cpu_s": others["tiny"].median,
        "cpu_s": {n: s.as_dict() for n, s in samples.items()},
        "other_cpu_s": {n: s.as_dict() for n, s in others.items()},
    }
    value = (
        f"{ratio:.0f}× ({speed / 1e6:.1f} M events per CPU-second, {tool} {other / 1e6:.2f} M; "
        f"with start-up {details['ratio_of_one_file_with_start_up']:.0f}×)"
    )
    return Figure(
        f"import of {arm.name}, against {tool}", value, f"≥ {arm.least}×", ratio >= arm.least, details
    )
