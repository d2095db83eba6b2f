"""What telling open files apart by BPF programs costs a program that reads, and what it tells.

A program reads 4 KiB that are cached, over and over: unrecorded, with the BPF programs alone, recorded, and
recorded with --open-files, in turns; CPU time (user and system) of the program for a read, medians of paired
rounds. Another opens and closes a file that nobody records: the programs look at each memory that is freed.
Then descriptors change hands in every way, and each read is held against what the program says. Needs root.
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from hindsight.capture.bpf import records
from hindsight.capture.bpf.tracer import OpenFilesTracer
from hindsight.capture.profiles import FILES
from hindsight.capture.recording.record import RecordOptions, record
from hindsight.capture.schema import openfiles
from hindsight.subsystems.readahead import identity

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/subsystems/readahead"))
from games import judge, play

READS = 300_000
ROUNDS = 9
READ = f"""
import os, sys
fd, pread = os.open(sys.executable, os.O_RDONLY), os.pread
for _ in range({READS}):
    pread(fd, 4096, 0)
"""
OPENS = 50_000
OPEN = f"""
import os
for _ in range({OPENS}):
    os.close(os.open("/etc/passwd", 0))
"""
ALONE, RECORDED, TOLD = "BPF programs alone", "recorded", "recorded --open-files"


def spent_ns() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (used.ru_utime + used.ru_stime) * 1e9


def plain(program: str) -> None:
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-S", "-c", program]) == 0


def alone(program: str, directory: Path, follow: bool) -> None:
    """With the BPF programs: the program's reads are told, or those of nobody."""
    directory.mkdir()
    tracer = OpenFilesTracer(FILES, 65536, records.EVENTS)
    try:
        tracer.open(directory)
        tracer.follow([os.getpid()] if follow else [1 << 21])
        tracer.on()
        plain(program)
        tracer.off()
        assert sum(counters["dropped events"] for counters in tracer.stats().values()) == 0
    finally:
        tracer.close()


def recorded(program: str, directory: Path, told: bool) -> None:
    options = RecordOptions(
        directory, (sys.executable, "-S", "-c", program), buffer_kb=65536, open_files=told
    )
    done = record(options, lambda text: None)
    assert done.status == 0 and done.lost == 0


def measure(ways: dict[str, Callable[[Path], None]], base: Path, count: int) -> dict[str, list[float]]:
    """CPU time of the program by way and round, ns for each of ``count``."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(ROUNDS):
        for place, (name, way) in enumerate(ways.items()):
            before = spent_ns()
            way(base / f"{number}-{count}-{place}")
            times[name].append((spent_ns() - before) / count)
    return times


def show(times: dict[str, list[float]], name: str, without: str) -> None:
    extra = [a - b for a, b in zip(times[name], times[without], strict=True)]
    low, high = sorted(extra)[1], sorted(extra)[-2]
    print(f"  {name} − {without}: {statistics.median(extra):+.0f} ns ({low:+.0f} … {high:+.0f})")


def main() -> None:
    """Print the costs, then what is told."""
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        times = measure(
            {
                "unrecorded": lambda directory: plain(READ),
                ALONE: lambda directory: alone(READ, directory, True),
                RECORDED: lambda directory: recorded(READ, directory, False),
                TOLD: lambda directory: recorded(READ, directory, True),
            },
            base,
            READS,
        )
        print(f"a cached pread of 4 KiB: {statistics.median(times['unrecorded']):.0f} ns unrecorded; load "
              f"{os.getloadavg()[0]:.1f}")  # fmt: skip
        show(times, ALONE, "unrecorded")
        show(times, RECORDED, "unrecorded")
        show(times, TOLD, RECORDED)
        times = measure(
            {
                "unrecorded": lambda directory: plain(OPEN),
                ALONE: lambda directory: alone(OPEN, directory, False),
            },
            base,
            OPENS,
        )
        base_ns = statistics.median(times["unrecorded"])
        print(f"open and close, of a program that is not recorded: {base_ns:.0f} ns")
        show(times, ALONE, "unrecorded")
        (base / "games").mkdir()
        told(base / "games")


def told(directory: Path) -> None:
    played = play(directory, 12)
    history = played.history
    of_call = identity.of_calls(played.tables, history.calls, history.pids)
    by_calls = identity.of_descriptions(history)
    for what, numbers in (("BPF programs", of_call), ("system calls alone", by_calls)):
        verdicts = judge(numbers.tolist(), played.labels)
        print(f"{what}: of {verdicts.total()} reads {verdicts['right']} right"
              f" ({verdicts['right'] / verdicts.total():.1%}), {verdicts['not told']} ambiguous, "
              f"{verdicts['wrong']} wrong")  # fmt: skip
    found = identity.agreement(of_call, by_calls)
    print(f"both know {found.calls} calls and disagree on {found.apart}")
    for kind in openfiles.READAHEAD_KINDS:
        decisions = identity.of_decisions(played.tables, kind)
        print(f"{kind}: {len(decisions)} decisions, {int((decisions > 0).sum())} with their open file")


if __name__ == "__main__":
    main()
