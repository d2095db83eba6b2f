"""The recorders that are compared, each as a command that records another command and the same tracepoints.

trace-cmd 3.1.6 writes /proc/sys/kernel/ftrace_enabled and the set_ftrace_* files even when it records events
alone, and gives up where that is not permitted (locked-down kernels, some containers). The benchmark
therefore enters a mount namespace of its own, in which these files are bind-mounted dummies: event tracing
does not use them. Nothing of that is seen outside.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from hindsight.capture.ftrace import tracefs
from hindsight.capture.profiles import FOLLOWING, profile

_CLONE_NEWNS = 0x20000
_MS_BIND, _MS_REC, _MS_PRIVATE = 1 << 12, 1 << 14, 1 << 18
_SETTINGS = ("set_event_pid", "options/event-fork", "trace_clock", "buffer_size_kb", "tracing_on")
HINDSIGHT = (sys.executable, "-m", "hindsight")


class Absent(Exception):
    """Something that a comparison needs is not here; the reason."""


def private_tracing(directory: Path) -> None:
    """Enter a private mount namespace in which trace-cmd can start. Raises :class:`Absent`."""
    if os.geteuid() != 0:
        raise Absent("recording needs root")
    libc = ctypes.CDLL(None, use_errno=True)

    def check(result: int, what: str) -> None:
        if result != 0:
            raise Absent(f"{what}: {os.strerror(ctypes.get_errno())}")

    root = tracefs.locate()
    check(libc.unshare(_CLONE_NEWNS), "a private mount namespace is not permitted")
    check(libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None), "mounts cannot be made private")
    dummy = directory / "dummy"
    dummy.write_text("0\n")
    for path in (Path("/proc/sys/kernel/ftrace_enabled"), *sorted(root.glob("set_ftrace_*"))):
        if path.exists():
            check(
                libc.mount(os.fsencode(dummy), os.fsencode(path), None, _MS_BIND, None), f"bind over {path}"
            )


@contextlib.contextmanager
def top_level_restored() -> Iterator[None]:
    """trace-cmd leaves the top-level instance changed: give it its settings back."""
    root = tracefs.locate()
    before = {name: (root / name).read_text() for name in _SETTINGS}
    clock = re.search(r"\[(\S+)\]", before.pop("trace_clock"))
    # "7 (expanded: 1408)" is a buffer that nobody used yet: 7 would be written as a size.
    size = re.search(r"\d+(?=\)?$)", before.pop("buffer_size_kb").strip())
    try:
        yield
    finally:
        (root / "set_event").write_text("")
        (root / "trace").write_text("")
        if size is not None:
            (root / "buffer_size_kb").write_text(size[0])
        if clock is not None:
            (root / "trace_clock").write_text(clock[1])
        for name, text in before.items():
            (root / name).write_text("\n".join(text.split()))


def program(name: str) -> str:
    """Where a program is. Raises :class:`Absent`."""
    found = shutil.which(name)
    if found is None:
        raise Absent(f"{name} is not installed")
    return found


def task_events() -> list[str]:
    """The tracepoints that follow threads, those of the readahead profile that this kernel has."""
    root = tracefs.locate()
    events = profile("readahead").events
    wanted = [event for group in FOLLOWING for event in events.get(group, ())]
    return [event for event in wanted if (root / "events" / event / "enable").exists()]


def device_events() -> list[str]:
    """The other tracepoints of the readahead profile: block requests, removals from the page cache."""
    root = tracefs.locate()
    events = profile("readahead").events
    wanted = [event for group in events if group not in FOLLOWING for event in events[group]]
    return [event for event in wanted if (root / "events" / event / "enable").exists()]


def options_of(events: list[str]) -> list[str]:
    """The options of trace-cmd and perf that record these tracepoints."""
    return [word for event in events for word in ("-e", event.replace("/", ":"))]


def hindsight(out: Path, command: list[str], buffer_kb: int) -> list[str]:
    """`hindsight capture record`: the readahead profile."""
    record = [*HINDSIGHT, "capture", "record", "-o", str(out), "--buffer-kb", str(buffer_kb)]
    return [*record, "--", *command]


def trace_cmd(out: Path, command: list[str], buffer_kb: int, options: Sequence[str] = ()) -> list[str]:
    """`trace-cmd record`: the same tracepoints, threads, clock and ring buffers."""
    return [*_trace_cmd(out, buffer_kb), *options, "-F", "-c", *command]


def trace_cmd_thread(out: Path, pid: int, buffer_kb: int) -> list[str]:
    """`trace-cmd record` of a thread that exists already, and its children; ends at SIGINT."""
    return [*_trace_cmd(out, buffer_kb), "-P", str(pid), "-c"]


def _trace_cmd(out: Path, buffer_kb: int) -> list[str]:
    record = [program("trace-cmd"), "record", "-q", "-C", "mono", "-b", str(buffer_kb), "-o", str(out)]
    return [*record, *options_of(task_events())]


def perf(out: Path, command: list[str], buffer_kb: int, options: Sequence[str] = ()) -> list[str]:
    """`perf record`: the same tracepoints, inherited by children; every event is a sample with its record."""
    events = [*options_of(task_events()), *options]
    size = ["-m", f"{buffer_kb}K"]
    record = [program("perf"), "record", "-q", "-o", str(out), "-k", "CLOCK_MONOTONIC", "-c", "1"]
    return [*record, *size, *events, "--", *command]
