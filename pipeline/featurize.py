"""Stage featurize: the split, the calibration on its earlier side, the labelled states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hindsight.errors import ConfigurationError
from hindsight.pipeline import labels
from hindsight.pipeline.drive import Policy, keep
from hindsight.pipeline.evidence.splits import check_tomorrow
from hindsight.pipeline.ingested import Ingested, load
from hindsight.pipeline.labels import Labeller, States
from hindsight.pipeline.parallel import each
from hindsight.pipeline.params import Layout, Params
from hindsight.pipeline.policies import RandomPolicy, RulePolicy
from hindsight.pipeline.split import split, tomorrow
from hindsight.pipeline.store import concatenate, read_columns, write_columns, write_json
from hindsight.subsystems.contract import Columns, Subsystem


def featurize(params: Params, subsystem: Subsystem) -> dict[str, Any]:
    """Split, calibrate, and label: of every capture the states of the stock policy, of the earlier ones also
    states that only advice leads to (:func:`explorers`).

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

    def label(capture: Ingested) -> list[Columns]:
        simulation = capture.simulation(subsystem, calibration, params.decision)
        labeller = Labeller(subsystem, simulation, params["labels"]["horizon_ns"])
        policies: dict[str, Policy] = {"stock": keep}
        if capture.id in division.earlier:
            policies |= explorers(subsystem, params, capture.id)
        reached = {name: labeller.label(policy) for name, policy in policies.items()}
        return [columns(subsystem, capture.id, name, s.where(s.fresh)) for name, s in reached.items()]

    rows = [part for parts in each(label, captures, "label") for part in parts]
    decisions = concatenate(rows)
    write_columns(layout.featurize / "decisions.parquet", decisions)
    return {
        "captures": len(captures),
        "earlier": len(division.earlier),
        "later": len(division.later),
        "labelled states": len(decisions["capture"]),
    }


def explorers(subsystem: Subsystem, params: Params, capture: str) -> dict[str, Policy]:
    """Policies that lead a training capture to states that stock never sees: the rule, and ``labels.explore``
    random walks."""
    seed, walks = params["train"]["seed"], params["labels"]["explore"]
    random = {f"random:{i}": RandomPolicy(subsystem, seed + i, capture) for i in range(walks)}
    return {"rule": RulePolicy(subsystem), **random}


def columns(subsystem: Subsystem, capture: str, policy: str, states: States) -> Columns:
    """States as a table: capture, policy, epoch, stream, a column per feature (f32) and per cost (i64)."""
    return {
        "capture": np.full(len(states), capture, dtype=object),
        "policy": np.full(len(states), policy, dtype=object),
        "epoch": states.epoch,
        "stream": states.stream,
        **{feature.name: states.features[:, i] for i, feature in enumerate(subsystem.features)},
        **{name: states.costs[:, i] for i, name in enumerate(labels.names(subsystem))},
    }


def read_decisions(layout: Layout, subsystem: Subsystem) -> Mapping[str, States]:
    """The labelled states by capture."""
    rows = read_columns(layout.featurize / "decisions.parquet")
    features = np.column_stack([rows[f.name] for f in subsystem.features]).astype(np.float32)
    values = np.column_stack([rows[name] for name in labels.names(subsystem)]).astype(np.int64)
    found = {}
    for capture in dict.fromkeys(rows["capture"]):
        mine = rows["capture"] == capture
        found[str(capture)] = States(
            rows["epoch"][mine],
            rows["stream"][mine],
            features[mine],
            values[mine],
            np.ones(int(mine.sum()), np.bool_),
        )
    return found
