"""Run child processes and measure them: processor time and memory as wait4(2) tells, text that they print."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class ChildFailed(Exception):
    """A child did not end with status 0: there is nothing to compare."""


@dataclass(frozen=True)
class Measured:
    """A child that ended with status 0. ``cpu_s``: user and system time, its waited-for children included."""

    output: str
    wall_s: float
    cpu_s: float
    peak_rss_bytes: int


def start(command: Sequence[str | Path], **kwargs: Any) -> subprocess.Popen[bytes]:
    """Start a child; its messages go to a file that :func:`finish` quotes when it fails."""
    errors = os.memfd_create("errors")
    child = subprocess.Popen([str(word) for word in command], stderr=errors, **kwargs)
    child.errors = errors  # type: ignore[attr-defined]
    child.begun = time.monotonic()  # type: ignore[attr-defined]
    return child


def finish(child: subprocess.Popen[bytes], good: Sequence[int] = (0,)) -> Measured:
    """Wait for a child of :func:`start`. Raises :class:`ChildFailed` unless its status is a ``good`` one."""
    output = b""
    if child.stdout is not None:
        output = child.stdout.read()
        child.stdout.close()
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.monotonic() - child.begun  # type: ignore[attr-defined]
    child.returncode = os.waitstatus_to_exitcode(status)
    errors: int = child.errors  # type: ignore[attr-defined]
    text = os.pread(errors, 1 << 16, 0).decode(errors="replace")
    os.close(errors)
    if child.returncode not in good:
        raise ChildFailed(
            f"{' '.join(map(str, child.args))[:300]} … ended with {child.returncode}: {text[-2000:]}"
        )  # type: ignore[union-attr]
    return Measured(
        output.decode(errors="replace"), wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
    )


def run(
    command: Sequence[str | Path], environment: Mapping[str, str] | None = None, sink: bool = False
) -> Measured:
    """Run a child to its end; its standard output is kept, with ``sink`` thrown away."""
    out = subprocess.DEVNULL if sink else subprocess.PIPE
    return finish(start(command, stdout=out, env=dict(environment) if environment is not None else None))


def lines_of(command: Sequence[str | Path]) -> int:
    """How many lines a child prints, counted as they come. Raises :class:`ChildFailed`."""
    child = start(command, stdout=subprocess.PIPE)
    assert child.stdout is not None
    count = 0
    while chunk := child.stdout.read(1 << 20):
        count += chunk.count(b"\n")
    finish(child)
    return count
