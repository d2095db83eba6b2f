"""Journals of an advisor, computed: the model advises in a simulation whose device is not the calibrated one.

Advice is applied by a coin, as in a trial; the rest is shadow. What it brought is what the replay of that
device says of the advice and of leaving things as they are, from the same state on: real differences, which
the model did not know of.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from datasets import DAY_NS, write_capture, write_table

from hindsight.models import trees
from hindsight.pipeline.dataset import Capture, find_captures, read_tables
from hindsight.pipeline.drive import drive
from hindsight.pipeline.policies import ModelPolicy, candidates
from hindsight.subsystems.contract import KEEP, Simulation, Subsystem

WINDOW_NS = 1_000_000_000
Rows = list[dict[str, Any]]


class Advisor:
    """Advises as the model does, and notes what each piece of advice was expected to bring and brought."""

    def __init__(self, subsystem: Subsystem, capture: Capture, model: Path, ops: Mapping[str, Any]) -> None:
        self.subsystem, self.capture, self.ops = subsystem, capture, ops
        self.forest = trees.load(model)
        self.policy = ModelPolicy(subsystem, self.forest, 0.01)
        self.candidates = candidates(subsystem)
        self.coin = np.random.Generator(np.random.PCG64(zlib.crc32(capture.id.encode())))
        self.stream = -1
        self.recommendations: Rows = []
        self.features: Rows = []
        self.efficiency: Rows = []

    def visit(self, stream: int, features: np.ndarray) -> None:
        self.stream = stream

    def __call__(self, simulation: Simulation, features: np.ndarray) -> int:
        action = self.policy(simulation, features)
        now = int(self.ops["ts"][simulation.at])
        if action == KEEP or now + WINDOW_NS > int(self.ops["ts"][-1]):
            return KEEP
        row = self.candidates[action].copy()
        row[: len(features)] = features
        gain = -float(trees.margins(self.forest, row[None])[0])
        arms = {"baseline": KEEP, "treated": action}
        spent = {name: simulation.rollout(arm, WINDOW_NS) for name, arm in arms.items()}
        n = int(np.count_nonzero((self.ops["ts"] >= now) & (self.ops["ts"] < now + WINDOW_NS)))
        applied = bool(self.coin.integers(2))
        self.note(now, action, gain, spent if applied else {}, n, features)
        return action if applied else KEEP

    def note(
        self, now: int, action: int, gain: float, spent: Mapping[str, int], n: int, features: np.ndarray
    ) -> None:
        subsystem, cost, applied = self.subsystem, self.subsystem.metrics[0], bool(spent)
        key = {"proxy": "p", "id": f"{self.capture.id}-{len(self.recommendations)}"}
        self.recommendations.append(
            key
            | {
                "ts": now, "subsystem": subsystem.name, "sequence": len(self.recommendations),
                "actuator": "window", "target": f"stream-{self.stream}", "value": action, "ttl_ns": WINDOW_NS,
                "confidence_ppm": 900_000, "model": f"{subsystem.name}-0.1.0",
                "action": subsystem.actions[action].name, "predicted_gain_ppm": round(gain * 1e6),
                "propensity_ppm": 500_000, "applied": applied, "answered_ns": now,
                "verdict": "accepted" if applied else "tested", "used": action if applied else None,
                "read_back": action if applied else None, "reason": None,
            }
        )  # fmt: skip
        bits = features.astype(np.float32).view(np.uint32).tolist()
        for feature, value in zip(subsystem.features, bits, strict=True):
            self.features.append(key | {"feature": feature.name, "bits": value})
        if not applied:
            return
        windows = {
            f"{name}_{part}": value
            for name, total in spent.items()
            for part, value in (("from_ns", now), ("to_ns", now + WINDOW_NS), ("n", n), ("total", total))
        }
        self.efficiency.append(
            key
            | windows
            | {
                "ts": now + WINDOW_NS, "metric": cost.name, "unit": cost.unit, "noise_ppm": 10_000,
                "verdict": "better" if spent["treated"] < spent["baseline"] else "worse",
                "effective_from_ns": now,
            }
        )  # fmt: skip


def advise(
    dataset: Path, capture: str, subsystem: Subsystem, model: Path, device: Mapping[str, int], decision: Any
) -> Advisor:
    """The advisor of one capture, after it advised on ``device`` to its end."""
    found = next(c for c in find_captures(dataset) if c.id == capture)
    demand = subsystem.demand(read_tables(found, subsystem.tables))
    advisor = Advisor(subsystem, found, model, demand["ops"])
    calibration = {str(demand["streams"]["device"][0]): dict(device)}
    simulation = subsystem.simulation(demand, calibration, decision)
    counts = len(subsystem.features), len(subsystem.actions)
    drive(simulation, advisor, *counts, visit=advisor.visit)
    return advisor


def write(dataset: Path, capture: str, tables: Mapping[str, Rows]) -> None:
    """The tables of a journal beside those of the capture."""
    for name, rows in tables.items():
        if rows:
            write_table(dataset, name, capture, {k: [row[k] for row in rows] for k in rows[0]}, len(rows))


def tables_of(advisor: Advisor) -> dict[str, Rows]:
    """Its journal."""
    return {
        "recommendations": advisor.recommendations,
        "recommendation_features": advisor.features,
        "efficiency": advisor.efficiency,
    }


LIVE = (
    ("scan", "reader", ("run",)),
    ("lookup", "db", ("jump", "pairs", "fours")),
    ("again", "db", ("jump", "jump", "pairs")),
    ("index", "tool", ("pairs", "fours")),
)


def write_passes(dataset: Path, passes: int = 4) -> list[list[str]]:
    """Three programs of several threads, once a day; the captures of each day."""
    days = []
    for day in range(passes):
        days.append([f"d{day}{i}" for i in range(len(LIVE))])
        for i, (workload, program, kinds) in enumerate(LIVE):
            start = 1_700_000_000_000_000_000 + day * DAY_NS + i * 60_000_000_000
            write_capture(dataset, days[-1][i], workload, program, start, kinds, seed=100 * day + i)
    return days
