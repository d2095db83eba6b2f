"""Record one run of a workload with hindsight and with trace-cmd at the same time: the same events, twice.

hindsight starts the command stopped. It is held (SIGSTOP) there until trace-cmd follows the same thread; then
both see all that the thread does, from before its execve to its exit.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import children
import recorders
from recorders import Absent

from hindsight.capture.ftrace import tracefs

_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Both:
    """A recording of each; ``segments`` is a directory of segments, ``trace_dat`` a file."""

    segments: Path
    trace_dat: Path


def record_both(directory: Path, command: list[str], buffer_kb: int) -> Both:
    """Record ``command`` with both. Raises :class:`Absent` or ChildFailed when one of them can't."""
    both = Both(directory / "raw", directory / "trace.dat")
    ours = children.start(recorders.hindsight(both.segments, command, buffer_kb), stdout=-3)
    try:
        pid = _child_of(ours.pid)
        os.kill(ours.pid, signal.SIGSTOP)
        other = children.start(recorders.trace_cmd_thread(both.trace_dat, pid, buffer_kb), stdout=-3)
        try:
            _until_followed(pid)
        finally:
            os.kill(ours.pid, signal.SIGCONT)
        children.finish(ours)
    finally:
        if ours.returncode is None:
            ours.kill()
    # send_signal would take the exit status of one that has ended: its thread may have.
    os.kill(other.pid, signal.SIGINT)
    children.finish(other)
    return both


def _child_of(pid: int) -> int:
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            if found := (thread / "children").read_text().split():
                return int(found[0])
        time.sleep(0.001)
    raise Absent("the recorder did not start its command")


def _until_followed(pid: int) -> None:
    root = tracefs.locate()
    until = time.monotonic() + _PATIENCE_S
    events = [root / "events" / event / "enable" for event in recorders.task_events()]
    while time.monotonic() < until:
        if (
            str(pid) in (root / "set_event_pid").read_text().split()
            and (root / "tracing_on").read_text().strip() == "1"
            and all(event.read_text().startswith("1") for event in events)
        ):
            time.sleep(0.3)
            return
        time.sleep(0.02)
    raise Absent("trace-cmd did not begin to record")
