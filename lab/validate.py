"""Predict, then run: recordings under stock, a file of predictions, then the runs that it is held against.

Steps, each journalled so that a validation that was killed goes on where it was: throttled devices and files;
a recording of each workload under stock; predictions, written to a file whose hash goes into the journal;
rounds of live runs, every workload in a random order, every setting in a random order beside stock; the
result.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hindsight import __version__
from hindsight.errors import HindsightError, NotPermittedError, UsageError, VerificationError
from hindsight.lab import device as devices
from hindsight.lab.cold import make_cold
from hindsight.lab.device import IMAGES, LabDevice, profile_named
from hindsight.lab.interruption import interruptible
from hindsight.lab.journal import Journal, begin, finished_blocks
from hindsight.lab.live import IDLE_SECONDS, run_live
from hindsight.lab.machine import machine_pseudonym
from hindsight.lab.measured import PREDICTIONS, write_result
from hindsight.lab.order import shuffled
from hindsight.lab.programs import require
from hindsight.lab.reclaim import discard, disturbed_share
from hindsight.lab.recording import Run, record_workload
from hindsight.lab.sample import ATTEMPTS, DISTURBED_SHARE, IMAGE_BYTES, write_files
from hindsight.lab.suites import STOCK, Part, Suite
from hindsight.lab.throttle_check import check_throttle
from hindsight.lab.workloads import Budget, Workload, file_sets, select
from hindsight.pipeline.store import read_json, write_json

JOURNAL = "journal.jsonl"

MARK = ".files-written"
"""On a device whose files are complete."""

_OVERHEAD_SECONDS = 0.3
"""Of a run, besides the program's: mounting, reading metadata, counting pages."""


@dataclass(frozen=True)
class ValidateOptions:
    """``work``: where the journal and the recordings are, and what is resumed; ``output``: of the result;
    ``package``: of the model, None if there is none."""

    suite: Suite
    work: Path
    output: Path
    seed: int = 1
    package: Path | None = None
    images: Path = IMAGES
    image_bytes: int = IMAGE_BYTES


def validate(options: ValidateOptions) -> dict[str, Any]:
    """All steps that are not done yet; returns the summary.

    Raises UsageError (unknown names), ConfigurationError (a program is missing, the journal is of another
    machine or plan), NotPermittedError (not root), VerificationError (the predictions were changed after they
    were made), HindsightError (a run failed).
    """
    suite = options.suite
    workloads = {name: _find(name) for part in suite.parts for name in part.workloads}
    if not suite.parts or not workloads or not suite.settings or suite.rounds < 1:
        raise UsageError("nothing to validate", "A suite has workloads, settings and at least one round.")
    if os.geteuid() != 0:
        raise NotPermittedError("throttled devices and recordings need root", "Run it with sudo.")
    require("nice", *(w.program for w in workloads.values()))
    options.work.mkdir(parents=True, exist_ok=True)
    with (
        contextlib.ExitStack() as stack,
        Journal(options.work / JOURNAL) as journal,
    ):
        plan = _plan(options)
        if begin(journal, plan) and not journal.of("predicted"):
            for name in ("raw", "dataset"):
                shutil.rmtree(options.work / name, ignore_errors=True)
        if finished(journal, suite):
            return _result(options, journal, plan)
        stack.enter_context(interruptible())
        journal.write("session", boot=Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8])
        made = {part.profile: _device(stack, options, part, journal) for part in suite.parts}
        _write_files(options, journal, list(workloads.values()), made)
        if not journal.of("predicted"):
            _predict(options, journal, workloads, made)
        _run_all(options, journal, workloads, made)
        return _result(options, journal, plan)


def finished(journal: Journal, suite: Suite) -> bool:
    """Whether every block of every round was run."""
    predicted = journal.of("predicted")
    if not predicted:
        return False
    done = finished_blocks(journal)
    return all(
        (*workload, number) in done
        for workload in map(tuple, predicted[-1]["workloads"])
        for number in range(1, suite.rounds + 1)
    )


def _find(name: str) -> Workload:
    return select([name])[0]


def _plan(options: ValidateOptions) -> dict[str, Any]:
    suite = options.suite
    package = options.package
    manifest = (package / "manifest.json").read_bytes() if package else b""
    return {
        "suite": suite.name,
        "parts": [[part.profile, list(part.workloads), part.seconds] for part in suite.parts],
        "settings": [setting.name for setting in suite.settings],
        "rounds": suite.rounds,
        "seed": options.seed,
        "machine": machine_pseudonym(options.work),
        "kernel": os.uname().release,
        "processors": os.cpu_count(),
        "tool_version": __version__,
        "model": hashlib.sha256(manifest).hexdigest() if package else "",
    }


def _device(stack: contextlib.ExitStack, options: ValidateOptions, part: Part, journal: Journal) -> LabDevice:
    """The part's device: what a killed session has left of it, else a new one. It is removed in the end."""
    key = hashlib.sha256(str(options.work.resolve()).encode()).hexdigest()[:8]
    name = f"validate-{key}-{part.profile}"
    profile = profile_named(part.profile)
    for left in (one for one in devices.existing()[0] if one.name == name):
        if left.profile == profile and devices.is_attached(left):
            stack.callback(devices.remove, left)
            left.throttle.empty()  # a program that outlived the session reads on, and keeps the mount busy
            devices.remount_cold(left)
            if _mark(left) in {entry["mark"] for entry in journal.of("files")}:
                devices.set_read_ahead(left, devices.READ_AHEAD_KB)
                say(f"{profile.name} is {left.node}, as it was left")
                return left
        devices.remove(left)
    made = stack.enter_context(devices.throttled_device(name, profile, options.image_bytes, options.images))
    check = check_throttle(made)
    say(f"{profile.name} is {made.node}: {check.iops:.0f} reads/s (limit {check.limit})")
    if not check.effective:
        raise HindsightError(
            f"the throttle of {made.node} is not in force: {check.iops:.0f} reads/s, limit {check.limit}"
        )
    return made


def _mark(device: LabDevice) -> str:
    """What :func:`_write_files` left on the device when it was done; empty if it was not."""
    try:
        return (device.mount_point / MARK).read_text()
    except FileNotFoundError:
        return ""


def _write_files(
    options: ValidateOptions, journal: Journal, workloads: list[Workload], made: Mapping[str, LabDevice]
) -> None:
    """Write the files of all workloads unless they are there."""
    known = {entry["mark"] for entry in journal.of("files")}
    if all(_mark(device) in known for device in made.values()):
        return
    write_files(file_sets(workloads), list(made.values()), options.seed)
    mark = secrets.token_hex(8)
    for device in made.values():
        (device.mount_point / MARK).write_text(mark)
        os.sync()
    journal.write("files", mark=mark)


def _predict(
    options: ValidateOptions,
    journal: Journal,
    workloads: Mapping[str, Workload],
    made: Mapping[str, LabDevice],
) -> None:
    """Record every workload under stock, and write down what it will come to under the other settings."""
    from hindsight.lab import predictions
    from hindsight.subsystems.contract import load

    subsystem = load("readahead")
    raw, dataset = options.work / "raw", options.work / "dataset"
    for directory in (raw, dataset):
        directory.mkdir()
    recordings = []
    for part in options.suite.parts:
        for name in part.workloads:
            run = _record(options, part, workloads[name], made[part.profile], raw, dataset)
            capture = run.segment.name.rsplit("-", 1)[0]
            journal.write(
                "recorded", profile=part.profile, workload=name, capture=capture, events=run.events,
                device_reads=run.device_reads, attempts=run.attempts,
            )  # fmt: skip
            recordings.append(predictions.read_recording(subsystem, dataset, capture, part.profile))
    model, reason = None, "no package: make one with `dvc repro`, or name it: --package DIR"
    if options.package:
        model, reason = predictions.load_model(options.package, subsystem), ""
    made_of = predictions.predict_all(recordings, options.suite.settings, model, reason, made)
    path = options.work / PREDICTIONS
    write_json(path, made_of)
    journal.write(
        "predicted", sha256=_sha256(path),
        workloads=[[w["profile"], w["workload"]] for w in made_of["workloads"]],
    )  # fmt: skip


def _record(
    options: ValidateOptions, part: Part, workload: Workload, device: LabDevice, raw: Path, dataset: Path
) -> Run:
    """Record a run under stock; again, a few times, if pages were taken from it; the last one is kept."""
    from hindsight.capture.conversion.convert import convert

    files = device.mount_point / workload.files.name
    for attempt in range(1, ATTEMPTS + 1):
        run = record_workload(
            workload, device, 1, options.seed, _budget(part, device), raw, lambda one: make_cold(one, files)
        )
        if run.lost:
            raise HindsightError(f"{run.lost} events of {run.workload} were lost", "Use a less busy machine.")
        convert([run.segment], dataset, comm=True)
        share = disturbed_share(dataset, run.segment.name)
        say(f"recorded {part.profile} {workload.name}: {run.elapsed_ns / 1e9:.1f} s, {run.events} events")
        if share <= DISTURBED_SHARE or attempt == ATTEMPTS:
            break
        discard(dataset, run.segment.name)
        shutil.rmtree(run.segment)
    return replace(run, attempts=attempt)


def _budget(part: Part, device: LabDevice) -> Budget:
    return Budget(part.seconds, device.profile.read_iops, whole=True)


def _run_all(
    options: ValidateOptions,
    journal: Journal,
    workloads: Mapping[str, Workload],
    made: Mapping[str, LabDevice],
) -> None:
    """The rounds that are missing."""
    known = _predictions(options, journal)
    suite = options.suite
    parts = {(part.profile, name): part for part in suite.parts for name in part.workloads}
    predicted = {(w["profile"], w["workload"]): w["settings"] for w in known["workloads"]}
    done = set(finished_blocks(journal))
    left = [(*pair, number) for number in range(1, suite.rounds + 1) for pair in predicted]
    left = [key for key in left if key not in done]
    say(f"{len(left)} blocks to run, about {_minutes(left, predicted):.0f} minutes")
    for number in range(1, suite.rounds + 1):
        for profile, name in shuffled(list(predicted), options.seed, number):
            if (profile, name, number) in done:
                continue
            settings = predicted[profile, name]
            arms = [one for one in (STOCK, *suite.settings) if one.name in settings]
            budget = _budget(parts[profile, name], made[profile])
            begin_ns = time.monotonic_ns()
            for setting in shuffled(arms, options.seed, number, profile, name):
                measured = run_live(
                    workloads[name], made[profile], options.seed, budget, setting,
                    settings[setting.name].get("choices"),
                )  # fmt: skip
                journal.write(
                    "run", profile=profile, workload=name, round=number, setting=setting.name,
                    **measured.facts(),
                )  # fmt: skip
            journal.write("block", profile=profile, workload=name, round=number)
            took = (time.monotonic_ns() - begin_ns) / 1e9
            say(f"round {number} of {suite.rounds}: {profile} {name}, {len(arms)} runs, {took:.1f} s")


def _minutes(left: Sequence[tuple[str, str, int]], predicted: Mapping[tuple[str, str], Any]) -> float:
    """How long these blocks will take, by the predictions."""
    runs = [s for profile, name, _ in left for s in predicted[profile, name].values()]
    return sum(s["elapsed_ns"] / 1e9 + IDLE_SECONDS + _OVERHEAD_SECONDS for s in runs) / 60


def _predictions(options: ValidateOptions, journal: Journal) -> dict[str, Any]:
    """The predictions, if they are those that were made; VerificationError if not."""
    path = options.work / PREDICTIONS
    if not path.exists() or _sha256(path) != journal.of("predicted")[-1]["sha256"]:
        raise VerificationError(
            f"{path} is not what was written before the runs", "Start again with another --work DIR."
        )
    predictions: dict[str, Any] = read_json(path)
    return predictions


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _result(options: ValidateOptions, journal: Journal, plan: Mapping[str, Any]) -> dict[str, Any]:
    known = _predictions(options, journal)
    kinds = [entry["kind"] for entry in journal.entries]
    if "run" in kinds and kinds.index("run") < kinds.index("predicted"):
        raise VerificationError(f"{journal.path} holds a run that came before the predictions")
    sha256 = journal.of("predicted")[-1]["sha256"]
    result = write_result(options.output, plan, sha256, known, finished_blocks(journal))
    shutil.copyfile(options.work / PREDICTIONS, options.output / PREDICTIONS)
    return result


def say(message: str) -> None:
    """Progress, on standard error."""
    print(f"hindsight: {message}", file=sys.stderr, flush=True)
