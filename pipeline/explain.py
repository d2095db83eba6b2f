"""What drives the advice of a model, where it is on unknown ground, and where it helped and hurt most.

All of it on the held-out captures of *tomorrow*, with the model in the loop.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hindsight.pipeline.drive import Outcome, Policy, drive, keep
from hindsight.pipeline.ingested import Calibration, Ingested
from hindsight.pipeline.parallel import each
from hindsight.pipeline.policies import ModelPolicy
from hindsight.subsystems.contract import Columns, Simulation, Subsystem

if TYPE_CHECKING:
    from hindsight.models.trees import Forest

EXAMPLES = 3
"""Streams that are drawn of those that were helped, and of those that were hurt."""
DRAWN = 150
"""Rows that are drawn of one table of one stream, in order of time."""


@dataclass(frozen=True)
class HeldOut:
    """One capture of the evaluation, with what stock and the model came to there."""

    capture: Ingested
    stock: Outcome
    model: Outcome


class Shuffled:
    """The model, to which one feature tells the value of some other held-out decision.

    Breiman (2001), *Random Forests*, 10: what a variable is worth is what is lost when it is permuted.
    """

    def __init__(
        self, policy: Policy, feature: int, pool: NDArray[np.float32], seed: int, capture: str
    ) -> None:
        self.policy, self.feature, self.pool = policy, feature, pool
        self.generator = np.random.Generator(np.random.PCG64([seed, feature, zlib.crc32(capture.encode())]))

    def __call__(self, simulation: Simulation, features: NDArray[np.float32]) -> int:
        """The decision; ``features`` stay as they are."""
        told = features.copy()
        told[self.feature] = self.pool[int(self.generator.integers(len(self.pool)))]
        return self.policy(simulation, told)


@dataclass(frozen=True)
class Explainer:
    """What all captures have in common."""

    subsystem: Subsystem
    calibration: Calibration
    decision: Mapping[str, Any]
    forest: Forest
    seed: int

    def policy(self) -> ModelPolicy:
        """The model."""
        return ModelPolicy(self.subsystem, self.forest, self.decision["min_gain"])

    def simulation(self, capture: Ingested) -> Simulation:
        """A simulation at its beginning."""
        return capture.simulation(self.subsystem, self.calibration, self.decision)

    def run(self, simulation: Simulation, policy: Policy, visit: Any = None) -> Outcome:
        """The whole capture under a policy."""
        counts = len(self.subsystem.features), len(self.subsystem.actions)
        return drive(simulation, policy, *counts, visit=visit)

    def visited(self, capture: Ingested) -> NDArray[np.float32]:
        """The features of every decision of the model, (decisions, features)."""
        rows: list[NDArray[np.float32]] = []
        self.run(self.simulation(capture), self.policy(), lambda stream, values: rows.append(values.copy()))
        return np.array(rows, np.float32).reshape(len(rows), len(self.subsystem.features))

    def shuffled_costs(self, capture: Ingested, pool: NDArray[np.float32]) -> list[int]:
        """The cost of the capture with each feature shuffled."""
        simulation = self.simulation(capture)
        return [
            self.run(simulation, Shuffled(self.policy(), i, pool[:, i], self.seed, capture.id)).cost
            for i in range(pool.shape[1])
        ]

    def course(self, capture: Ingested, stream: int, policy: Policy) -> dict[str, Columns]:
        """What one stream did under a policy."""
        simulation = self.simulation(capture)
        self.run(simulation, policy)
        return simulation.course(stream)


def explain(
    explainer: Explainer, held_out: Sequence[HeldOut], support: Mapping[str, Sequence[float]]
) -> dict[str, Any] | None:
    """``context["explanations"]``; None if the model decided nothing. ``support``: feature -> least and
    greatest value that it learned from.
    """
    captures = [h.capture for h in held_out]
    visited = each(explainer.visited, captures, "decisions")
    pool = np.concatenate(visited) if visited else np.zeros((0, 0), np.float32)
    if len(pool) == 0:
        return None
    busy = [c for c, rows in zip(captures, visited, strict=True) if len(rows)]
    costs = each(lambda capture: explainer.shuffled_costs(capture, pool), busy, "features")
    total = np.array(costs, np.int64).sum(axis=0)
    decided = {c.id for c in busy}
    model = sum(h.model.cost for h in held_out if h.capture.id in decided)
    outside = beyond(pool, [support.get(f.name, ()) for f in explainer.subsystem.features])
    return {
        "decisions": len(pool),
        "outside": int(outside.any(axis=1).sum()),
        "stock_cost": sum(h.stock.cost for h in held_out),
        "features": [
            {
                "feature": feature.name,
                "outside": int(outside[:, i].sum()),
                "lost": int(total[i]) - model,
            }
            for i, feature in enumerate(explainer.subsystem.features)
        ],
        "unit": explainer.subsystem.course_unit,
        "examples": [_example(explainer, *chosen) for chosen in choose(held_out)],
    }


def beyond(values: NDArray[np.float32], support: Sequence[Sequence[float]]) -> NDArray[np.bool_]:
    """Which values (decisions, features) lie outside of what was learned from; NaN is no value."""
    result = np.zeros(values.shape, np.bool_)
    for i, ends in enumerate(support):
        known = ~np.isnan(values[:, i])
        if len(ends) == 2:
            result[:, i] = known & ((values[:, i] < ends[0]) | (values[:, i] > ends[1]))
        else:
            result[:, i] = known
    return result


def choose(held_out: Sequence[HeldOut]) -> list[tuple[HeldOut, int]]:
    """The streams that the model saved most of the cost, then those that it cost most; at most
    :data:`EXAMPLES` of each, the greatest difference first."""
    rows = []
    for number, h in enumerate(held_out):
        saved = h.stock.streams[:, 0] - h.model.streams[:, 0]
        rows += [(int(value), number, stream) for stream, value in enumerate(saved.tolist()) if value]
    helped = sorted((row for row in rows if row[0] > 0), key=lambda row: (-row[0], row[1:]))
    hurt = sorted(row for row in rows if row[0] < 0)
    return [(held_out[n], stream) for _, n, stream in helped[:EXAMPLES] + hurt[:EXAMPLES]]


def _example(explainer: Explainer, held: HeldOut, stream: int) -> dict[str, Any]:
    facts, streams = held.capture.facts, held.capture.demand["streams"]
    arms: dict[str, Policy] = {"stock": keep, "model": explainer.policy()}
    courses = {arm: explainer.course(held.capture, stream, policy) for arm, policy in arms.items()}
    asked = courses["stock"]["asked"]
    began = int(asked["ts"].min()) if len(asked["ts"]) else 0
    return {
        "capture": held.capture.id,
        "workload": str(facts["workload"]),
        "device": str(facts["device"]),
        "program": str(streams["program"][stream]),
        "costs": {"stock": int(held.stock.streams[stream, 0]), "model": int(held.model.streams[stream, 0])},
        "asked": _rows(joined(asked), began),
        "fetched": {arm: _rows(joined(course["fetched"]), began) for arm, course in courses.items()},
    }


def joined(rows: Columns) -> dict[str, NDArray[np.int64]]:
    """Accesses, or what was fetched, in order of time; those that follow each other in the file as one:
    ``ts``, ``begin``, and where and when the last of them was (``end``, ``until``). ``used``, where it is
    there, is added up; what was used in whole is not joined with what was not.
    """
    columns = {name: np.asarray(column, np.int64) for name, column in rows.items()}
    ts, begin, end = (columns[name] for name in ("ts", "begin", "end"))
    used = columns.get("used")
    if len(ts) == 0:
        return {**columns, "until": ts}
    follows = (begin[1:] >= begin[:-1]) & (begin[1:] <= end[:-1]) & (end[1:] >= end[:-1])
    if used is not None:
        whole = used == end - begin
        follows &= (whole[1:] == whole[:-1]) & (begin[1:] == end[:-1])
    first = np.flatnonzero(np.append(True, ~follows))
    last = np.append(first[1:], len(ts)) - 1
    result = {"ts": ts[first], "until": ts[last], "begin": begin[first], "end": end[last]}
    return result if used is None else {**result, "used": np.add.reduceat(used, first)}


def _rows(columns: Columns, began: int) -> dict[str, Any]:
    """The first rows, with times from the first access on; ``of``: how many there are."""
    kept = {name: np.asarray(column)[:DRAWN] for name, column in columns.items()}
    for name in ("ts", "until"):
        if name in kept:
            kept[name] = kept[name] - began
    return {"of": len(columns["ts"]), **{name: column.tolist() for name, column in kept.items()}}
