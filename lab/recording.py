"""One run of one workload, recorded: cold caches, the throttled cgroup, the capture room's own recorder.

The recorder runs in a process of its own, a member of the throttled group: so is the program that it starts,
and it notes the group's limits. Run as ``python -m hindsight.lab.recording FD OPTIONS`` this module is that
process; it writes what came out, as JSON, to the descriptor FD.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hindsight.errors import HindsightError
from hindsight.lab.device import LabDevice, remount_cold
from hindsight.lab.programs import require
from hindsight.lab.quiet import processor_waits
from hindsight.lab.workloads import Budget, Workload
from hindsight.lab.workloads.run import ENVIRONMENT

LIMIT_SECONDS = 120.0
"""A run that takes longer is ended: something hangs."""

BUFFER_KB = 32768
"""Ring buffer per CPU. A whole run fits in it, so that no event is lost however late the recorder runs."""

NICE = -10
"""Of the recorder and its program: what else runs on the machine should not decide what is recorded."""


@dataclass(frozen=True)
class Run:
    """What was run, and what the device did meanwhile."""

    workload: str
    program: str
    profile: str
    number: int
    """Of the pass, from 1."""
    seed: int
    argv: tuple[str, ...]
    """With the directory of the files as ``$FILES``."""
    segment: Path
    events: int
    lost: int
    elapsed_ns: int
    """From the start of the recorder to the sealed recording."""
    device_reads: int
    """Read requests that the device completed, by its own counter."""
    processor_pressure: int
    """Time during which some task of the machine waited for a processor, 1/1000 of the run."""
    attempts: int = 1
    """Recordings that were made of it; the least disturbed one was kept."""


def record_workload(
    workload: Workload,
    device: LabDevice,
    number: int,
    seed: int,
    budget: Budget,
    raw: Path,
    make_cold: Callable[[LabDevice], None] = remount_cold,
) -> Run:
    """Run ``workload`` on ``device`` from dropped caches and record it into a new segment under ``raw``.

    ``make_cold`` drops the caches.
    Raises ConfigurationError if its program is not installed, HindsightError if the program or the recorder
    fails.
    """
    require(workload.program)
    files = device.mount_point / workload.files.name
    argv = workload.command(files, seed, budget)
    make_cold(device)
    reads = device.completed_reads()
    waits = processor_waits()
    begin = time.monotonic_ns()
    major, minor = map(int, device.number.split(":"))
    outcome = run_recorder(
        device.command,
        {"out": str(raw.resolve()), "command": argv, "label": workload.name, "devices": [[major, minor]],
         "user": "root", "buffer_kb": BUFFER_KB, "duration": LIMIT_SECONDS},
    )  # fmt: skip
    elapsed = time.monotonic_ns() - begin
    if outcome["status"] not in workload.ok_statuses:
        raise HindsightError(f"{workload.name} ended with status {outcome['status']}: {outcome['said']}")
    return Run(
        workload=workload.name,
        program=workload.program,
        profile=device.profile.name,
        number=number,
        seed=seed,
        argv=tuple(word.replace(str(files), "$FILES") for word in argv),
        segment=Path(outcome["path"]),
        events=outcome["events"],
        lost=outcome["lost"],
        elapsed_ns=elapsed,
        device_reads=device.completed_reads() - reads,
        processor_pressure=round(1e6 * (processor_waits() - waits) / elapsed),
    )


def run_recorder(wrap: Callable[[list[str]], list[str]], options: dict[str, Any]) -> dict[str, Any]:
    """Record in a process of its own, started by the command line that ``wrap`` makes of its own.

    ``options``: out, command, label, devices ([major, minor]), user, buffer_kb, duration (s), open_files
    (whether BPF programs tell open files apart; default: no), profile (default: readahead). Returns the
    outcome: path, events, lost, status of the program, and the last line that it said. Raises HindsightError
    if the recorder fails.
    """
    read, write = os.pipe2(os.O_CLOEXEC)
    argv = [sys.executable, "-m", "hindsight.lab.recording", str(write), json.dumps(options)]
    try:
        process = subprocess.Popen(
            wrap(argv), env=ENVIRONMENT, cwd="/", stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, pass_fds=(write,),
        )  # fmt: skip
        os.close(write)
        write = -1
        try:
            _, said = process.communicate(timeout=2 * LIMIT_SECONDS)
        except BaseException:
            process.terminate()
            process.communicate()
            raise
        with os.fdopen(read) as pipe:
            read = -1
            text = pipe.read()
    finally:
        for descriptor in (read, write):
            if descriptor >= 0:
                os.close(descriptor)
    last = said.strip().splitlines()[-1] if said.strip() else ""
    if process.returncode != 0 or not text:
        raise HindsightError(f"the recorder failed with {process.returncode}: {said.strip()}")
    outcome: dict[str, Any] = json.loads(text) | {"said": last}
    return outcome


def _main(descriptor: int, options: dict[str, Any]) -> None:
    from hindsight.capture.recording.record import RecordOptions, record

    os.set_inheritable(descriptor, False)  # the program must not hold it open
    os.setpriority(os.PRIO_PROCESS, 0, NICE)
    recording = record(
        RecordOptions(
            out=Path(options["out"]),
            command=tuple(options["command"]),
            profile=options.get("profile", "readahead"),
            label=options["label"],
            devices=tuple((major, minor) for major, minor in options["devices"]),
            user=options["user"],
            buffer_kb=options["buffer_kb"],
            duration=options["duration"],
            rotate_bytes=None,
            open_files=options.get("open_files", False),
            comm=True,  # programs of the laboratory: nobody's secret, and reports name them
        )
    )
    with os.fdopen(descriptor, "w") as pipe:
        json.dump(
            {"path": str(recording.path), "events": recording.events, "lost": recording.lost,
             "status": recording.status}, pipe,
        )  # fmt: skip


if __name__ == "__main__":
    try:
        _main(int(sys.argv[1]), json.loads(sys.argv[2]))
    except HindsightError as error:
        sys.exit(str(error))
