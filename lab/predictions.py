"""The file of predictions: for every workload, device and setting, what a run will come to.

It is made from recordings under stock, by :mod:`hindsight.lab.counterfactual`, and written before anything
runs under another setting; the journal and the result carry its hash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hindsight.errors import ConfigurationError, HindsightError
from hindsight.lab import counterfactual
from hindsight.lab.counterfactual import Blocks, Demand, Model, Outcome
from hindsight.lab.device import LabDevice
from hindsight.lab.extents import breaks
from hindsight.lab.rearm import EXACT
from hindsight.lab.requests import limits_of
from hindsight.lab.suites import STOCK, Scope, Setting
from hindsight.lab.workloads import WORKLOADS
from hindsight.pipeline.dataset import Capture, find_captures, read_table, read_tables
from hindsight.pipeline.demand import NoDemandError, read_demand
from hindsight.subsystems.contract import Label, Subsystem, load
from hindsight.subsystems.readahead import actions

FORMAT = 1

LEAST_FIDELITY = 0.99
"""Share of the recorded decisions that the factual replay must reproduce (params.yaml: evaluate.fidelity)."""

METRICS = ("pages_fetched", "pages_wasted", "requests", "throughput")
"""What is predicted; throughput in bytes per second of the program's wall time."""


@dataclass(frozen=True)
class Recorded:
    """One recording under stock: what it is of, and its demand, or why nothing can be predicted from it."""

    profile: str
    workload: str
    capture: Capture
    fidelity: float
    demand: Demand | None
    refusal: str = ""


def read_recording(subsystem: Subsystem, dataset: Path, capture_id: str, profile: str) -> Recorded:
    """The recording of that id, with its factual replay held against what was recorded."""
    (capture,) = [c for c in find_captures(dataset) if c.id == capture_id]

    def refused(reason: str, fidelity: float = 0.0) -> Recorded:
        return Recorded(profile, capture.workload, capture, fidelity, None, reason)

    try:
        demand = read_demand(subsystem, capture)
    except NoDemandError as error:
        return refused(error.message)
    streams = demand["streams"]
    read = np.asarray(streams["reads"]).astype(np.int64) > 0
    eligible = np.asarray(streams["eligible"], bool)
    without = sorted({subsystem.reasons[int(r)] for r in np.asarray(streams["reason"])[~eligible]})
    if not (read & eligible).any() or without:
        return refused(f"streams without a verdict: {'; '.join(without) or 'none was read'}")
    recorded = read_tables(capture, subsystem.decision_tables)
    fidelity = subsystem.compare(subsystem.replay(demand), recorded, demand).exact_share
    if fidelity < LEAST_FIDELITY:
        return refused(f"the replay reproduces {fidelity:.2%} of the recorded decisions", fidelity)
    return Recorded(profile, capture.workload, capture, fidelity, demand)


def load_model(package: Path, subsystem: Subsystem) -> Model:
    """The packaged model as a policy. Raises what ``models.package.verify`` raises; ConfigurationError if it
    is of another subsystem, or decides among other actions."""
    from hindsight.models import trees
    from hindsight.models.package import MODEL, read_package, verify
    from hindsight.pipeline.policies import ModelPolicy

    manifest = verify(package)
    names = [action.name for action in subsystem.actions]
    if manifest.subsystem != subsystem.name or [a.name for a in manifest.decision.actions] != names:
        raise ConfigurationError(
            f"{package} decides about {manifest.subsystem}, with other actions than this program has",
            "Package the model again: `dvc repro`.",
        )
    forest = trees.load(read_package(package).files[MODEL])
    bounds = manifest.bounds
    decision = {
        "epoch_ns": int(bounds["epoch_ns"][0]),
        "epoch_reads": int(bounds["epoch_reads"][0]),
        "advice_delay_ns": counterfactual.ADVICE_NS,
        "block_ns": 1_000_000_000,
    }
    policy = ModelPolicy(subsystem, forest, manifest.decision.minimum_gain)
    return Model(policy, len(subsystem.features), decision)


def predict_all(
    recordings: Sequence[Recorded],
    settings: Sequence[Setting],
    model: Model | None,
    no_model: str,
    devices: Mapping[str, LabDevice],
) -> dict[str, Any]:
    """Predictions of all settings for all recordings, and what is skipped and why.

    The model of time is calibrated on these recordings, all under stock. ``no_model``: why there is none;
    ``devices``: by profile, with the files that were recorded.
    """
    subsystem = load("readahead")
    usable = [r for r in recordings if r.demand is not None]
    calibration = subsystem.calibrate([r.demand for r in usable if r.demand is not None])
    pairs, skipped = [], []
    for recording in recordings:
        if recording.demand is None:
            skipped.append(_skip(recording, "*", recording.refusal))
            continue
        device = devices[recording.profile]
        files = device.mount_point / WORKLOADS[recording.workload].files.name
        paths = _paths(recording.demand, device, files)
        blocks = Blocks(limits_of(device), {file: breaks(path) for file, path in paths.items()})
        base = _workload(recording, calibration, subsystem, blocks)
        outside, stock = base.pop("outside"), base.pop("outcome")
        base["settings"] = {STOCK.name: _predicted(base["bytes"], stock, STOCK)}
        for setting in settings:
            if setting.scope is Scope.MODEL and model is None:
                skipped.append(_skip(recording, setting.name, no_model))
                continue
            outcome = counterfactual.predict(recording.demand, calibration, setting, outside, blocks, model)
            predicted = _predicted(base["bytes"], outcome, setting)
            if setting.scope is Scope.MODEL:
                choices = _choices(recording.demand, outcome, paths, files)
                if not choices:
                    skipped.append(_skip(recording, setting.name, "the model leaves every file alone"))
                    continue
                predicted["choices"] = choices
            base["settings"][setting.name] = predicted
        pairs.append(base)
    return {
        "format": FORMAT,
        "calibration": calibration,
        "least_fidelity": LEAST_FIDELITY,
        "workloads": pairs,
        "skipped": skipped,
    }


def _workload(
    recording: Recorded,
    calibration: Mapping[str, Mapping[str, int]],
    subsystem: Subsystem,
    blocks: Blocks,
) -> dict[str, Any]:
    demand, capture = recording.demand, recording.capture
    assert demand is not None
    begin, end = _program(capture)
    outside = counterfactual.outside_ns(demand, begin, end)
    pages, size = counterfactual.demanded(demand)
    modelled, recorded = subsystem.calibration_error(demand, calibration)
    outcome = counterfactual.predict(demand, calibration, STOCK, outside, blocks)
    return {
        "profile": recording.profile,
        "workload": recording.workload,
        "capture": capture.id,
        "fidelity": round(recording.fidelity, 6),
        "pages_demanded": pages,
        "bytes": size,
        "recorded_ns": end - begin,
        "reads_modelled_ns": modelled,
        "reads_recorded_ns": recorded,
        "outside": outside,
        "outcome": outcome,
    }


def _program(capture: Capture) -> tuple[int, int]:
    """When the recorded program began and ended (CLOCK_MONOTONIC, ns)."""
    begun, ended = (read_table(capture, name) for name in ("sched_process_exec", "sched_process_exit"))
    if begun is None or ended is None:
        raise HindsightError(f"capture {capture.id} does not show when its program began and ended")
    return int(begun["ts"].min()), int(ended["ts"].max())


def _predicted(size: int, outcome: Outcome, setting: Setting) -> dict[str, Any]:
    later = setting.scope in (Scope.FILE, Scope.MODEL)
    exact = Label.MODELLED.value if later else Label.EXACT.value
    return {
        "pages_fetched": outcome.pages_fetched,
        "pages_wasted": outcome.pages_wasted,
        "requests": outcome.requests,
        "elapsed_ns": outcome.elapsed_ns,
        "throughput": size * 1_000_000_000 // max(outcome.elapsed_ns, 1),
        "labels": {
            "pages_fetched": exact,
            "pages_wasted": exact,
            "requests": Label.MODELLED.value,
            "throughput": Label.MODELLED.value,
        },
    }


def _paths(demand: Demand, device: LabDevice, directory: Path) -> dict[int, Path]:
    """File of the demand (its ordinal) -> where it is now, of those below ``directory``."""
    inodes = {path.stat().st_ino: path for path in directory.rglob("*") if path.is_file()}
    files = demand["files"]
    number = tuple(map(int, device.number.split(":")))
    found = {}
    for ordinal, inode in enumerate(np.asarray(files["i_ino"]).tolist()):
        at = (int(files["s_dev_major"][ordinal]), int(files["s_dev_minor"][ordinal]))
        if at == number and inode in inodes:
            found[ordinal] = inodes[inode]
    return found


def _choices(
    demand: Demand, outcome: Outcome, paths: Mapping[int, Path], directory: Path
) -> dict[str, list[tuple[int, int]]]:
    """Path below ``directory`` -> (ns, KiB or EXACT) of the model's decisions, in order of time."""
    choices: dict[str, list[tuple[int, int]]] = {}
    for stream, after, action in outcome.advice:
        path = paths.get(int(demand["streams"]["file_id"][stream]))
        if path is not None:
            size = EXACT if action == actions.EXACT else actions.RA_PAGES[action] * 4
            choices.setdefault(str(path.relative_to(directory)), []).append((after, size))
    return {path: sorted(choices[path]) for path in sorted(choices)}


def _skip(recording: Recorded, setting: str, reason: str) -> dict[str, str]:
    return {
        "profile": recording.profile,
        "workload": recording.workload,
        "setting": setting,
        "reason": reason,
    }
