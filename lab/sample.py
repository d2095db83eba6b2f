"""Recording a dataset of real workloads on throttled devices, with a record of how it was done."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hindsight.errors import ConfigurationError, HindsightError, UsageError
from hindsight.lab.device import IMAGES, LabDevice, profile_named, throttled_device
from hindsight.lab.interruption import interruptible
from hindsight.lab.programs import path_of, require
from hindsight.lab.provenance import PROVENANCE, write_provenance
from hindsight.lab.quiet import QUIET_PERMILLE, Patience
from hindsight.lab.reclaim import discard, disturbed_share
from hindsight.lab.recording import Run, record_workload
from hindsight.lab.throttle_check import ThrottleCheck, check_throttle
from hindsight.lab.workloads import Budget, FileSet, Workload, file_sets, select

IMAGE_BYTES = 2 << 30
ATTEMPTS = 4
"""Recordings of a run, until one is not disturbed."""

DISTURBED_SHARE = 0.2
"""Of a run's accesses, on files that lost cached pages, up to which it is kept."""

FAST_IOPS = 1000
"""Reads per second from which a read takes less than waiting for a processor may."""


@dataclass(frozen=True)
class SampleOptions:
    """What to record.

    ``only`` = names of workloads (None: those of the sample); pass ``n`` has seed ``seed + n - 1``;
    ``patience`` = seconds that may be spent waiting for a quiet machine.
    """

    output: Path
    profiles: tuple[str, ...] = ("P1", "P2")
    passes: int = 2
    seconds: float = 8.0
    only: tuple[str, ...] | None = None
    seed: int = 1
    patience: float = 0.0
    keep_raw: Path | None = None
    images: Path = IMAGES
    image_bytes: int = IMAGE_BYTES


def record_sample(options: SampleOptions) -> int:
    """Record, convert and write the dataset; returns its size in bytes.

    All devices exist from the beginning to the end, so that one profile is one device in every capture. A
    pass writes new files (its own seed), then runs every workload once on each device.
    Raises UsageError (unknown names), ConfigurationError (a program is missing; the output is something
    else), NotPermittedError (not root), HindsightError (a run failed, events were lost, no throttle).
    """
    workloads = select(None if options.only is None else list(options.only))
    profiles = [profile_named(name) for name in options.profiles]
    if not profiles or options.passes < 1 or not options.seconds > 0:
        raise UsageError("nothing to record", "Name a profile, at least one pass, and a positive time.")
    require(*(w.program for w in workloads), *(p for files in file_sets(workloads) for p in files.programs))
    _check_output(options.output)
    output = options.output.absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        stack.enter_context(interruptible())
        # Beside the output, so that putting it in its place is a rename.
        work = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent))
        )
        fresh = work / "dataset"
        fresh.mkdir()
        raw = options.keep_raw or work / "raw"
        raw.mkdir(parents=True, exist_ok=True)
        devices = [
            stack.enter_context(
                throttled_device(f"sample-{profile.name}", profile, options.image_bytes, options.images)
            )
            for profile in profiles
        ]
        checks = [_checked(device) for device in devices]
        runs: list[Run] = []
        patience = Patience(options.patience)
        for number in range(1, options.passes + 1):
            seed = options.seed + number - 1
            write_files(file_sets(workloads), devices, seed)
            for device in devices:
                for workload in workloads:
                    runs.append(_run(workload, device, number, seed, options, raw, fresh, patience))
        write_provenance(fresh, workloads, devices, checks, runs, options.seconds)
        _publish(fresh, output, work)
    return sum(path.stat().st_size for path in output.rglob("*") if path.is_file())


def write_files(sets: Sequence[FileSet], devices: Sequence[LabDevice], seed: int) -> None:
    """Write the file sets anew: made on the first device, copied to the others, on disk at the end."""
    first, *others = [device.mount_point for device in devices]
    for files in sets:
        _say(f"writing {files.name}, seed {seed}")
        for mount_point in (first, *others):
            shutil.rmtree(mount_point / files.name, ignore_errors=True)
        files.prepare(first / files.name, seed)
        for mount_point in others:
            # Copied by cp, not sparsely: a hole would be read without I/O.
            subprocess.run(
                [path_of("cp") or "cp", "-a", "--sparse=never", "--reflink=never",
                 str(first / files.name), str(mount_point / files.name)], check=True,
            )  # fmt: skip
    for mount_point in (first, *others):
        subprocess.run([path_of("sync") or "sync", "-f", str(mount_point)], check=True)


def _run(
    workload: Workload,
    device: LabDevice,
    number: int,
    seed: int,
    options: SampleOptions,
    raw: Path,
    dataset: Path,
    patience: Patience,
) -> Run:
    """Record a run and convert it into ``dataset``; again, a few times, if it was disturbed; keep the best.

    Disturbed: pages were taken from files that it went on to read; or, on a device so fast that it matters
    and while there is patience left, other work kept it waiting.
    """
    from hindsight.capture.conversion.convert import convert

    fast = device.profile.read_iops >= FAST_IOPS
    budget = Budget(options.seconds, device.profile.read_iops)
    takes: list[tuple[float, int, Run]] = []
    while len(takes) < ATTEMPTS:
        if fast:
            patience.wait()
        run = record_workload(workload, device, number, seed, budget, raw)
        # Names of programs are public here: they are what the workloads are.
        convert([run.segment], dataset, comm=True)
        share = disturbed_share(dataset, run.segment.name)
        remark = f"; {share:.0%} of it on files that lost cached pages" if share else ""
        _say(
            f"pass {number} {run.profile} {run.workload:24} {run.elapsed_ns / 1e9:6.1f} s "
            f"{run.events:7} events {run.device_reads:6} device reads, "
            f"processor pressure {run.processor_pressure / 10:.0f} %{remark}"
        )
        if run.lost:
            raise HindsightError(f"{run.lost} events of {run.workload} were lost", "Use a less busy machine.")
        pressure = run.processor_pressure if fast else 0
        takes.append((share, pressure, run))
        busy = patience.left > 0 and pressure > 2 * QUIET_PERMILLE
        if share <= DISTURBED_SHARE and not busy:
            break
    best = min(takes, key=lambda take: take[:2])[2]
    for _, _, run in takes:
        if run is not best:
            discard(dataset, run.segment.name)
            shutil.rmtree(run.segment)
    return replace(best, attempts=len(takes))


def _checked(device: LabDevice) -> ThrottleCheck:
    check = check_throttle(device)
    _say(f"{device.profile.name} is {device.node}: {check.iops:.0f} reads/s (limit {check.limit})")
    if not check.effective:
        raise HindsightError(
            f"the throttle of {device.node} is not in force: {check.iops:.0f} reads/s, limit {check.limit}"
        )
    return check


def _check_output(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise ConfigurationError(f"{output} is not a directory", "Name another: -o DIR.")
    if output.is_dir() and any(output.iterdir()) and not (output / PROVENANCE).exists():
        raise ConfigurationError(
            f"{output} is not empty and holds no dataset of the lab", "Name another: -o DIR."
        )


def _publish(fresh: Path, output: Path, work: Path) -> None:
    """Put the new dataset in the output's place, readable by everybody."""
    for path in [fresh, *fresh.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    if output.exists():
        output.rename(work / "previous")
    fresh.rename(output)


def _say(message: str) -> None:
    print(f"hindsight: {message}", file=sys.stderr, flush=True)
