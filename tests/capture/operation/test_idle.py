"""Doctor's word on idle threads against what `perf stat` counts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hindsight.capture.operation.check import OK, WARN
from hindsight.capture.operation.check_idle import idle
from hindsight.capture.perf.rings import online_cpus
from hindsight.capture.profiles import profile


def by_perf(cpu: int) -> tuple[int, int]:
    """How many switches of a processor fired the tracepoint, and how many there were, as perf says."""
    sleeper = f"import os, time\nos.sched_setaffinity(0, {{{cpu}}})\nfor _ in range(200): time.sleep(0.002)"
    events = ("-e", "sched:sched_switch", "-e", "context-switches")
    command = ("perf", "stat", "-x,", "-C", str(cpu), *events, sys.executable, "-c", sleeper)
    text = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}).stderr
    found = {name: int(count) for count, name in re.findall(r"^(\d+),,([^,]+),", text, re.MULTILINE)}
    return found["sched:sched_switch"], found["context-switches"]


def test_what_doctor_says_is_what_perf_counts(live: Path) -> None:
    if shutil.which("perf") is None:
        pytest.skip("perf is not installed")
    for _ in range(4):  # (one after the other: what else ran meanwhile may have kept a processor from idling)
        silent = []
        for cpu in online_cpus()[:16]:
            fired, switched = by_perf(cpu)
            assert switched > 100
            if fired < 0.8 * switched:
                silent.append(cpu)
            elif fired < 0.95 * switched:
                pytest.skip(f"processor {cpu} is too busy to tell: {fired} of {switched}")
        (check,) = idle(profile("sched"))
        named = f" {', '.join(map(str, silent))}"
        if check.state == (WARN if silent else OK) and (not silent or check.why.endswith(named)):
            return
    raise AssertionError(f"doctor: {check.state}, {check.why}; perf: {silent}")


def test_only_profiles_with_such_events_ask(live: Path) -> None:
    before = os.sched_getaffinity(0)
    assert list(idle(profile("damon"))) == []
    assert len(list(idle(profile("cpuidle")))) == 1
    assert os.sched_getaffinity(0) == before
