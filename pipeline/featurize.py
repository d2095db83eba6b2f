"""Stage featurize: the split, the calibration on its earlier side, the labelled states of stock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hindsight.errors import ConfigurationError
from hindsight.pipeline import labels
from hindsight.pipeline.drive import keep
from hindsight.pipeline.evidence.splits import check_tomorrow
from hindsight.pipeline.ingested import Ingested, load
from hindsight.pipeline.labels import Labeller, States
from hindsight.pipeline.parallel import each
from hindsight.pipeline.params import Layout, Params
from hindsight.pipeline.split import split, tomorrow
from hindsight.pipeline.store import concatenate, read_columns, write_columns, write_json
from hindsight.subsystems.contract import Columns, Subsystem


def featurize(params: Params, subsystem: Subsystem) -> dict[str, Any]:
    """Split, calibrate, and label every epoch of every capture under the stock policy.

    Returns counts. Raises ConfigurationError if no stream may carry a verdict, VerificationError on a leak.
    """
    layout = Layout(params.root, subsystem.name)
    captures = [capture for capture in load(layout) if capture.facts["eligible_streams"]]
    if not captures:
        raise ConfigurationError(
            f"no capture of {params.dataset} has a stream that may carry a verdict",
            f"build/{subsystem.name}/ingest/manifest.json lists the reasons",
        )
    facts = [capture.facts for capture in captures]
    division = split(facts, params["split"]["purge_ns"])
    train, test = tomorrow(facts, division)
    if test:
        check_tomorrow(train, test, params["split"]["purge_ns"])
    write_json(layout.featurize / "split.json", division.as_json())

    calibration = subsystem.calibrate([c.demand for c in captures if c.id in division.earlier])
    write_json(layout.featurize / "calibration.json", calibration)

    def label(capture: Ingested) -> States:
        simulation = capture.simulation(subsystem, calibration, params["decision"])
        return Labeller(subsystem, simulation, params["labels"]["horizon_ns"]).label(keep)

    states = each(label, captures, "label the stock policy")
    rows = [columns(subsystem, capture.id, s) for capture, s in zip(captures, states, strict=True)]
    write_columns(layout.featurize / "decisions.parquet", concatenate(rows))
    return {
        "captures": len(captures),
        "earlier": len(division.earlier),
        "later": len(division.later),
        "decisions": sum(len(s) for s in states),
    }


def columns(subsystem: Subsystem, capture: str, states: States) -> Columns:
    """States as a table: capture, epoch, stream, one column per feature (f32) and per cost (i64)."""
    return {
        "capture": np.full(len(states), capture, dtype=object),
        "epoch": states.epoch,
        "stream": states.stream,
        **{feature.name: states.features[:, i] for i, feature in enumerate(subsystem.features)},
        **{name: states.costs[:, i] for i, name in enumerate(labels.names(subsystem))},
    }


def read_decisions(layout: Layout, subsystem: Subsystem) -> Mapping[str, States]:
    """The labelled states of the stock policy by capture."""
    rows = read_columns(layout.featurize / "decisions.parquet")
    features = np.column_stack([rows[f.name] for f in subsystem.features]).astype(np.float32)
    values = np.column_stack([rows[name] for name in labels.names(subsystem)]).astype(np.int64)
    found = {}
    for capture in dict.fromkeys(rows["capture"]):
        mine = rows["capture"] == capture
        found[str(capture)] = States(rows["epoch"][mine], rows["stream"][mine], features[mine], values[mine])
    return found
