"""One live run under one setting, from cold data, and what came of it by independent counters.

Requests and sectors are those of the device (/sys/block/loopN/stat), time is the program's wall time, pages
in the cache are counted by the kernel (:mod:`hindsight.lab.cached`). Nothing is traced.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hindsight.errors import HindsightError
from hindsight.lab.cached import cached_pages, files_below
from hindsight.lab.cold import make_cold
from hindsight.lab.device import READ_AHEAD_KB, LabDevice, mount, set_read_ahead, unmount
from hindsight.lab.quiet import processor_waits
from hindsight.lab.rearm import Advice, Rearming, Schedule, every_file
from hindsight.lab.recording import NICE
from hindsight.lab.suites import Scope, Setting
from hindsight.lab.workloads import Budget, Workload
from hindsight.lab.workloads.run import ENVIRONMENT

IDLE_SECONDS = 0.25
"""Before a run: the throttle's window of an earlier one has ended."""

LIMIT_SECONDS = 300.0
"""A run that takes longer is ended: something hangs."""

Choices = Mapping[str, Sequence[Sequence[int]]]
"""Path below the files' directory -> (ns from when it was first seen open, KiB or EXACT) …: a model's."""


@dataclass(frozen=True)
class Measured:
    """Counts of one run; pages of 4 KiB.

    ``requests``: what was queued to the device, ``requests_completed``: what was left after neighbours were
    merged; ``cached`` and ``evicted``: pages of the files in the cache afterwards, and gone from it by then;
    ``pressure``: time during which some task of the machine waited for a processor, 1/1000 of the run;
    ``advised``, ``late_ns``: of advice to open files, how many and the worst delay.
    """

    elapsed_ns: int
    requests: int
    requests_completed: int
    pages_fetched: int
    cached: int
    evicted: int
    pressure: int
    advised: int = 0
    late_ns: int = 0

    def facts(self) -> dict[str, int]:
        """As a journal keeps it."""
        return asdict(self)


def run_live(
    workload: Workload,
    device: LabDevice,
    seed: int,
    budget: Budget,
    setting: Setting,
    choices: Choices | None = None,
) -> Measured:
    """Run ``workload`` once; the device's limit is stock again afterwards.

    Raises HindsightError if the program fails, or files were cached before it began.
    """
    files = device.mount_point / workload.files.name
    argv = workload.command(files, seed, budget)
    set_read_ahead(device, READ_AHEAD_KB)
    make_cold(device, files)
    paths = files_below(files)
    if setting.scope is Scope.DEVICE:
        set_read_ahead(device, setting.kilobytes)
    time.sleep(IDLE_SECONDS)
    queued, completed, sectors = _counters(device)
    waits = processor_waits()
    rearming = Rearming(device, _schedule(setting, paths, files, choices), {path.parent for path in paths})
    with contextlib.ExitStack() as stack:
        stack.callback(set_read_ahead, device, READ_AHEAD_KB)
        begin = time.monotonic_ns()
        process = subprocess.Popen(
            device.command(["nice", "-n", str(NICE), *argv]), env=ENVIRONMENT, cwd="/",
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        stack.callback(_end, process)
        stack.enter_context(rearming)
        try:
            _, said = process.communicate(timeout=LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            raise HindsightError(f"{workload.name} ran for more than {LIMIT_SECONDS:.0f} s") from None
        elapsed = time.monotonic_ns() - begin
    if process.returncode not in workload.ok_statuses:
        raise HindsightError(f"{workload.name} ended with status {process.returncode}: {said.strip()[-300:]}")
    pressure = round(1e6 * (processor_waits() - waits) / elapsed)
    cached, evicted = cached_pages(paths)
    # What was read ahead and never waited for is still under way; unmounting waits for it.
    unmount(device)
    queued_after, completed_after, sectors_after = _counters(device)
    mount(device)
    return Measured(
        elapsed_ns=elapsed,
        requests=queued_after - queued,
        requests_completed=completed_after - completed,
        pages_fetched=(sectors_after - sectors) // 8,
        cached=cached,
        evicted=evicted,
        pressure=pressure,
        advised=rearming.advised,
        late_ns=rearming.late_ns,
    )


def _counters(device: LabDevice) -> tuple[int, int, int]:
    """(requests queued, requests completed, sectors read) since the device was attached."""
    fields = (Path("/sys/block") / Path(device.node).name / "stat").read_text().split()
    completed, merged, sectors = (int(field) for field in fields[:3])
    return completed + merged, completed, sectors


def _schedule(setting: Setting, paths: Sequence[Path], directory: Path, choices: Choices | None) -> Schedule:
    """What open files are told. Under stock and limits of the device, nothing; but they are looked at all
    the same, as the looking takes processor time from the program."""
    if setting.scope is Scope.FILE:
        return every_file(paths, setting.kilobytes)
    if setting.scope is Scope.MODEL:
        chosen = (choices or {}).items()
        return {
            (directory / path).stat().st_ino: [Advice(int(after), int(size)) for after, size in advice]
            for path, advice in chosen
        }
    return {path.stat().st_ino: [] for path in paths}


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.kill()
        process.communicate()
