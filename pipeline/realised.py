"""What applied recommendations really changed, as the stage ingest left it, and as rows to learn from."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.pipeline.params import Layout, Params
from hindsight.pipeline.policies import candidates
from hindsight.pipeline.store import read_columns
from hindsight.subsystems.contract import Columns, Subsystem

PPM = 1_000_000
HALF_WIDTH = 1.959963984540054
"""Standard errors in half of a 95 % interval."""
LEAST_GAIN = 0.01
"""Gains below matter to nobody, even where all of them are acted on."""


@dataclass(frozen=True)
class Realised:
    """Recommendations, one a row, as :func:`hindsight.pipeline.journal.blank` names the columns."""

    columns: Columns

    def __len__(self) -> int:
        return len(self.columns["capture"])

    def where(self, rows: NDArray[np.bool_]) -> Realised:
        """The rows at which ``rows`` is true."""
        return Realised({name: values[rows] for name, values in self.columns.items()})

    def measured(self) -> Realised:
        """Those with a realised figure."""
        return self.where(np.asarray(self.columns["measured"], np.bool_))

    def of(self, captures: Collection[str]) -> Realised:
        """Those of these captures."""
        return self.where(np.array([c in captures for c in self.columns["capture"].tolist()], np.bool_))

    def features(self, subsystem: Subsystem) -> NDArray[np.float32]:
        """What the model saw: (n, n_features) f32."""
        columns = [self.columns[feature.name] for feature in subsystem.features]
        return np.column_stack(columns).astype(np.float32)

    def captures(self) -> list[str]:
        """The captures that they come from, sorted."""
        return sorted({str(name) for name in self.columns["capture"].tolist()})


def load(layout: Layout) -> Realised:
    """The rows of all captures; ConfigurationError if the stage ingest has not run."""
    return Realised(read_columns(layout.realised))


def as_predicted(rows: Realised, labels: Mapping[str, Any]) -> NDArray[np.int64]:
    """What was realised in the terms of a label, and so of a prediction: (n,) i64, ppm, negative = gain.

    (treated - baseline) / (baseline + ``scale``) with the baseline's cost of as many operations, and
    ``scale``, which is meant for ``horizon_ns``, for as long as the treated window. Exact integers, divided
    once.
    """
    horizon, scale = int(labels["horizon_ns"]), int(labels["scale"])
    names = ("baseline_total", "baseline_n", "treated_total", "treated_n", "treated_ns")
    changes = []
    for base, base_n, treated, treated_n, length in zip(
        *(rows.columns[n].tolist() for n in names), strict=True
    ):
        change = (treated * base_n - base * treated_n) * horizon
        whole = base * treated_n * horizon + scale * length * base_n
        changes.append((2 * PPM * change + whole) // (2 * whole))
    return np.array(changes, np.int64)


def weights(rows: Realised, params: Params) -> NDArray[np.float64]:
    """What a row weighs, (n,): ``train.realised_weight`` x worth x t²/(t² + s²).

    Worth: as of a state, the root of what the treated operations would have cost without the advice. s: the
    standard error of the realised change, from the noise of the baseline and, as errors fall with the root of
    n, that of the treated window. t: ``decision.min_gain``, one per cent at least. So a row that is as
    uncertain as the least gain that is acted on weighs half, and one that is ten times as uncertain a
    hundredth.
    """
    scale = int(params["labels"]["scale"])
    n, treated = (rows.columns[name].astype(np.float64) for name in ("baseline_n", "treated_n"))
    cost = rows.columns["baseline_total"].astype(np.float64) * (treated / n)
    noise = rows.columns["noise_ppm"].astype(np.float64) / PPM / HALF_WIDTH
    variance = noise * noise * (1.0 + n / treated)
    least = max(float(params["decision"]["min_gain"]), LEAST_GAIN) ** 2
    trust = least / (least + variance)
    result: NDArray[np.float64] = (
        float(params["train"]["realised_weight"]) * np.sqrt((cost + scale) / scale) * trust
    )
    return result


def rows_to_learn(
    subsystem: Subsystem, rows: Realised, params: Params
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """(inputs, targets, weights) f32 as a regressor sees them: per row the action that was taken with what it
    really changed, at most ``labels.clip``, and KEEP with 0."""
    options = candidates(subsystem)
    n, n_features = len(rows), len(subsystem.features)
    chosen = (
        np.column_stack([rows.columns["action"], np.full(n, len(options) - 1)]).astype(np.intp).reshape(-1)
    )
    inputs = options[chosen]
    inputs[:, :n_features] = np.repeat(rows.features(subsystem), 2, axis=0)
    targets = np.zeros((n, 2), np.float64)
    targets[:, 0] = np.minimum(as_predicted(rows, params["labels"]) / PPM, float(params["labels"]["clip"]))
    weight = np.repeat(weights(rows, params), 2)
    return inputs, targets.astype(np.float32).reshape(-1), weight.astype(np.float32)


def summary(rows: Realised) -> dict[str, Any]:
    """What training.json says of them: {} for none, so that nothing changes without a journal."""
    return {"realised": {"rows": len(rows), "captures": rows.captures()}} if len(rows) else {}


def learned_from(model: Mapping[str, Any]) -> list[str]:
    """The captures that a model of training.json learned from, by replay or by what was realised there."""
    captures = [str(name) for name in model["captures"]]
    more = (model.get("realised") or {}).get("captures", ())
    return captures + [str(name) for name in more if name not in captures]
