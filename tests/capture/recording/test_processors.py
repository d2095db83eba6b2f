"""Live: what the profiles sched and cpuidle show, held against what the kernel itself counted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from taken import Taken, python

from hindsight.capture.perf import event

SWITCHING = """
import os, sys, threading, time
def counts():
    status = dict(line.split(":", 1) for line in open("/proc/thread-self/status"))
    switches = int(status["voluntary_ctxt_switches"]) + int(status["nonvoluntary_ctxt_switches"])
    return switches, *map(int, open("/proc/thread-self/schedstat").read().split())
def work(path):
    for _ in range(100):
        time.sleep(0.002)
        for _ in range(3000): pass
    text = f"{threading.get_native_id()} {' '.join(map(str, counts()))}"
    print(text, file=open(path, "w"), flush=True)
other = threading.Thread(target=work, args=(sys.argv[1] + ".thread",))
other.start()
work(sys.argv[1])
other.join()
"""


@pytest.mark.slow  # a busy machine moves what it compares
@pytest.mark.parametrize("whole_host", [False, True])
def test_sched_has_every_switch_of_a_thread(live: Path, tmp_path: Path, whole_host: bool) -> None:
    command = (*python(SWITCHING), str(tmp_path / "counts"))
    if whole_host:
        watched = subprocess.Popen(
            (sys.executable, "-c", "import time; time.sleep(1.0)\n" + command[2], *command[3:])
        )
        taken = Taken(tmp_path, "sched", duration=4.0)
        assert watched.wait() == 0
    else:
        taken = Taken(tmp_path, "sched", command)
    switches = taken.rows("sched_switch")
    wakeups = taken.rows("sched_wakeup")
    for path in (tmp_path / "counts", tmp_path / "counts.thread"):
        thread, counted, ran_ns, *_ = map(int, path.read_text().split())
        ends = [row for row in switches if row["prev_pid"] == thread]
        begins = [row for row in switches if row["next_pid"] == thread]
        told = int((path.name == "counts") and not whole_host)
        # The thread looked at its counters just before its last few switches.
        recorded = len(ends)
        slack = (
            12 if not whole_host or path.name != "counts" else 60
        )  # its beginning was before the recording
        assert recorded >= 100, "it slept a hundred times"
        assert abs(recorded - counted) <= slack
        on_cpu = sum(
            end["ts"] - begin["ts"] for begin, end in pairwise(
                sorted([*begins, *ends], key=lambda row: row["ts"])
            ) if begin["next_pid"] == thread and end["prev_pid"] == thread
        )  # fmt: skip
        if not whole_host:
            assert on_cpu <= 1.3 * ran_ns + 5_000_000 * told
        # On a processor whose idle thread fires no tracepoints, what begins after idling is not told.
        if not whole_host and len(begins) >= len(ends) - 2:
            assert 0.7 * ran_ns <= on_cpu
        woken = [row for row in wakeups if row["target_pid"] == thread]
        assert 95 <= len(woken) <= recorded + slack
    if not whole_host:
        mine = {row["pid"] for row in taken.rows("tasks")} | {
            row["child_pid"] for row in taken.rows("task_newtask")
        }
        assert all(row["prev_pid"] in mine or row["next_pid"] in mine for row in switches)
        assert all(row["target_pid"] in mine or row["pid"] in mine for row in wakeups)


# cpuidle


@pytest.fixture
def idle_events(live: Path) -> Iterator[Callable[[], list[int]]]:
    """How often perf has counted ``cpu_idle`` on each processor: not by way of a ring buffer."""
    number = int((live / "events/power/cpu_idle/id").read_text())
    attr = event.attribute(event.TYPE_TRACEPOINT, number, sampled=False, read_format=0, flags=0)
    opened = [event.open_event(attr, -1, cpu) for cpu in range(os.cpu_count() or 1)]
    yield lambda: [int.from_bytes(os.read(descriptor, 8), "little") for descriptor in opened]
    for descriptor in opened:
        os.close(descriptor)


@pytest.mark.slow  # a busy machine moves what it compares
def test_cpuidle_counts_entries_as_the_governor_does(
    live: Path, tmp_path: Path, idle_events: Callable[[], list[int]]
) -> None:
    if not any(Path("/sys/devices/system/cpu").glob("cpu*/cpuidle/state*/usage")):
        pytest.skip("this machine's processors have no idle states that are counted")
    before = idle_events()
    taken = Taken(tmp_path, "cpuidle", duration=3.0, counters=("cpuidle",), every_s=0.5)
    counted = [late - early for early, late in zip(before, idle_events(), strict=True)]
    usage = [r for r in taken.rows("counters") if r["name"] == "usage"]
    rows = taken.rows("cpu_idle")
    entered = [row for row in rows if row["state"] != 0xFFFFFFFF]
    assert entered and abs(2 * len(entered) - len(rows)) <= (os.cpu_count() or 1)
    assert all(row["cpu"] == row["cpu_id"] for row in rows)
    compared = 0
    for scope in {row["scope"] for row in usage}:
        samples = sorted((row["ts"], row["value"]) for row in usage if row["scope"] == scope)
        cpu, state = (int("".join(filter(str.isdigit, part))) for part in scope.split("/"))
        assert len([row for row in rows if row["cpu"] == cpu]) <= counted[cpu]
        if len(samples) < 2 or not counted[cpu]:
            continue  # never entered; or an idle thread that fires no tracepoints (docs/profiles.md)
        (begin, low), (end, high) = samples[0], samples[-1]
        mine = [r for r in entered if (r["cpu"], r["state"]) == (cpu, state) and begin <= r["ts"] <= end]
        # The time of a sample is when it begins to read; a busy host adds some entries until it has.
        assert abs(len(mine) - (high - low)) <= max(20, (high - low) // 50)
        compared += high - low
    assert compared > 50
