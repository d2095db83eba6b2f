"""Stage package: the model, the evidence for it and what it takes to check both, as one directory."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hindsight.errors import ConfigurationError
from hindsight.pipeline import inputs
from hindsight.pipeline.featurize import read_decisions
from hindsight.pipeline.labels import join
from hindsight.pipeline.model_card import model_card
from hindsight.pipeline.params import Layout, Params
from hindsight.pipeline.policies import candidates
from hindsight.pipeline.store import canonical_json, encode, read_columns, read_json, rounded, sha256
from hindsight.pipeline.train import input_names
from hindsight.subsystems.contract import Columns, Subsystem

GOLDEN_STATES = 64
"""So many labelled states, spread over all of them, are the golden inputs (with every candidate each)."""

CODE = (
    "capture/schema",
    "hindsight/errors.py",
    "models/apart.py",
    "models/forest.py",
    "models/loader.py",
    "models/manifest.py",
    "models/package.py",
    "models/trees.py",
    "pipeline",
    "subsystems",
)
"""The code that makes a package. ``dvc.yaml`` names the same for this stage: the hash cannot go stale."""

_SOURCES = (".py", ".j2", ".css")


def package(params: Params, subsystem: Subsystem) -> Path:
    """Write models/exported/NAME-VERSION; returns the directory.

    Raises ConfigurationError if an earlier stage is missing, VerificationError if the compiled trees do not
    reproduce the model.
    """
    from hindsight.models.package import write_package
    from hindsight.pipeline import block_costs
    from hindsight.pipeline.report import render

    layout = Layout(params.root, subsystem.name)
    report = read_json(layout.evaluate / "report.json")
    try:
        model = (layout.train / "model.ubj").read_bytes()
    except OSError as error:
        raise ConfigurationError(f"the model cannot be read: {error}", "run `dvc repro`") from error
    fields = manifest_fields(params, subsystem, layout, report)
    with tempfile.TemporaryDirectory() as scratch:
        render(report, Path(scratch))
        page = (Path(scratch) / "report.html").read_bytes()
    files = {
        "model.ubj": model,
        "report.json": canonical_json(report),
        "report.html": page,
        "MODEL_CARD.md": model_card(subsystem, report, fields).encode(),
        "golden.parquet": encode(golden(subsystem, layout, model)),
        block_costs.FILE: block_costs.block_costs(
            read_columns(layout.evaluate / "blocks.parquet"), subsystem.metrics[0].name
        ),
        inputs.FILE: canonical_json(inputs.inputs(params, layout)),
    }
    directory = layout.package(params["package"]["version"])
    write_package(directory, fields, files)
    return directory


def manifest_fields(
    params: Params, subsystem: Subsystem, layout: Layout, report: Mapping[str, Any]
) -> dict[str, Any]:
    """What the maker of a package states (:data:`hindsight.models.manifest.GIVEN`)."""
    captures = {c["capture"]: c for c in read_json(layout.ingest / "manifest.json")["captures"]}
    trained = read_json(layout.train / "training.json")["model"]["captures"]
    cost = subsystem.metrics[0]
    version = params["package"]["version"]
    return {
        "name": subsystem.name,
        "version": version,
        "subsystem": subsystem.name,
        "features": [
            {
                "name": feature.name,
                "dtype": "float32",
                "unit": feature.unit,
                "low": rounded(float(feature.low)),
                "high": rounded(float(feature.high)),
            }
            for feature in subsystem.features
        ],
        "decision": {
            "actions": [
                {"name": action.name, "encoding": [rounded(float(v)) for v in action.encoding]}
                for action in subsystem.actions
            ],
            "keep_encoding": [rounded(float(v)) for v in subsystem.keep_encoding],
            "minimum_gain": rounded(float(params["decision"]["min_gain"])),
        },
        # Looked at more often, or advised later, than was evaluated: nothing is known about that.
        "bounds": {
            "advice_delay_ns": [0, max(params["evaluate"]["delays_ns"], default=0)],
            "epoch_ns": [params["decision"]["epoch_ns"], 10**18],
            "epoch_reads": [params["decision"]["epoch_reads"], 10**18],
        },
        "objective": {"metric": cost.name, "unit": cost.unit, "loss": "reg:squarederror"},
        "inputs": {
            **report["provenance"],
            **inputs.measured_sha256(params.root, subsystem.name),
            "code": code_sha256(Path(__file__).resolve().parents[1]),
        },
        "mode": report["verdict"]["mode"],
        "expiry": {
            "newest_data_ns": max(int(captures[name]["end_ns"]) for name in trained),
            "valid_days": params["package"]["validity_days"],
        },
    }


def golden(subsystem: Subsystem, layout: Layout, model: bytes) -> Columns:
    """Inputs, one column each, and the margin that the model must give, bit for bit (float32)."""
    from hindsight.models import trees

    states = join(list(read_decisions(layout, subsystem).values()))
    chosen = np.unique(np.linspace(0, len(states) - 1, min(GOLDEN_STATES, len(states))).astype(np.int64))
    rows = np.tile(candidates(subsystem), (len(chosen), 1))
    per_state = len(subsystem.actions) + 1
    rows[:, : len(subsystem.features)] = np.repeat(states.features[chosen], per_state, axis=0)
    inputs = {name: rows[:, i].copy() for i, name in enumerate(input_names(subsystem))}
    return inputs | {"margin": trees.margins(trees.load(model), rows)}


def code_sha256(root: Path) -> str:
    """Hash over the paths and contents of the sources in :data:`CODE`, by path."""
    paths = [
        path
        for name in CODE
        for path in ([root / name] if (root / name).is_file() else sorted((root / name).rglob("*")))
        if path.suffix in _SOURCES
    ]
    lines = [f"{sha256(path.read_bytes())}  {path.relative_to(root).as_posix()}\n" for path in sorted(paths)]
    return sha256("".join(lines).encode())
