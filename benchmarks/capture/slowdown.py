"""How much slower a workload gets while it is recorded: by nobody, hindsight, trace-cmd and perf, in turns.

The workload times itself. Cached reads are the worst case: nothing but system calls and events. Cold reads go
to the disk. All record the same tracepoints (those of block requests and of removals from the page cache: the
others in the workload's threads alone, hindsight in any); the order of the arms turns from round to round.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import children
import decoding
import recorders
from figures import Figure, Sample, sample

BUFFER_KB = 16384
KINDS = ("cached 4 KiB reads", "cold reads")


def measure(directory: Path, file: Path, calls: int, rounds: int) -> list[Figure]:
    """One figure for each kind of reads."""
    command = decoding.workload(file, calls, 2 * (file.stat().st_size >> 16))
    more = recorders.options_of(recorders.device_events())
    arms = {
        "none": lambda out: command,
        "hindsight": lambda out: recorders.hindsight(out, command, BUFFER_KB),
        "trace-cmd": lambda out: recorders.trace_cmd(out, command, BUFFER_KB, more),
        "perf": lambda out: recorders.perf(out, command, BUFFER_KB, more),
    }
    times: dict[str, list[tuple[int, int]]] = {arm: [] for arm in arms}
    for number in range(rounds):
        names = list(arms)
        for arm in names[number % 4 :] + names[: number % 4]:
            out = directory / f"{arm}-{number}"
            printed = children.run(arms[arm](out)).output.split()
            times[arm].append((int(printed[0]), int(printed[1])))
            if out.is_dir():
                shutil.rmtree(out)
            out.unlink(missing_ok=True)
    return [
        _figure(kind, {arm: sample([t[n] / 1e9 for t in of]) for arm, of in times.items()})
        for n, kind in enumerate(KINDS)
    ]


def _figure(kind: str, arms: dict[str, Sample]) -> Figure:
    slower = {arm: of.median / arms["none"].median for arm, of in arms.items()}
    best = min(("trace-cmd", "perf"), key=lambda arm: slower[arm])
    # What one measurement is off by, in either of the two that are compared.
    noise = arms["hindsight"].spread + arms[best].spread
    met = slower["hindsight"] <= slower[best] * (1 + noise)
    value = ", ".join(f"{arm} {slower[arm]:.2f}×" for arm in ("hindsight", "trace-cmd", "perf"))
    details = {"slowdown": slower, "noise": noise, "seconds": {arm: of.as_dict() for arm, of in arms.items()}}
    name = f"slowdown of a workload, {kind}"
    return Figure(name, f"{value} (noise {noise:.0%})", "≤ the lower of the two", met, details)
