"""Blocks with known effects: to try the rules of evidence on data whose truth is known.

Nothing here comes from a kernel. Costs are lognormal with a memory from block to block, like the stall of a
program that passes through phases; an arm multiplies the cost of stock by its effect and by noise of mean 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from hindsight.pipeline.evidence.panel import BEST_KNOWN, MODEL, NULL, RANDOM, RULE, STATIC, STOCK

EVALUATIONS = ("new_workload", "tomorrow")


@dataclass(frozen=True)
class Workload:
    """``gains``: arm → planted gain (fraction) where it differs from the arm's own."""

    name: str
    program: str
    device: str = "disk"
    host: str = "host-a"
    blocks: int = 40
    cost: float = 4e8
    gains: Mapping[str, float] = field(default_factory=dict)


DEFAULT_GAINS: dict[str, float] = {
    f"{STATIC}small": -0.35,
    f"{STATIC}medium": 0.05,
    f"{STATIC}large": 0.12,
    f"{STATIC}exact": -0.6,
    RULE: 0.10,
    NULL: -0.08,
    RANDOM: -0.25,
    MODEL: 0.24,
    BEST_KNOWN: 0.38,
}


def blocks(
    workloads: Sequence[Workload],
    seed: int,
    gains: Mapping[str, float] = DEFAULT_GAINS,
    evaluations: Sequence[str] = EVALUATIONS,
    noise: float = 0.25,
    memory: float = 0.5,
) -> pl.DataFrame:
    """A blocks table of ``cost_ns`` and ``fetched_pages``; ``noise``: sigma of the log of an arm's noise."""
    rng = np.random.Generator(np.random.PCG64(seed))
    rows: list[pl.DataFrame] = []
    for evaluation in evaluations:
        for workload in workloads:
            n = workload.blocks
            stock = workload.cost * np.exp(_autoregressive(rng, n, 0.6, memory))
            for arm, gain in {STOCK: 0.0, **gains}.items():
                effect = 1.0 - workload.gains.get(arm, gain)
                blur = 0.0 if arm == STOCK else noise
                wobble = np.exp(_autoregressive(rng, n, blur, memory) - blur * blur / 2.0)
                cost = np.maximum(0, np.rint(stock * effect * wobble)).astype(np.int64)
                rows.append(_frame(evaluation, arm, workload, cost))
    return pl.concat(rows)


def _frame(evaluation: str, arm: str, workload: Workload, cost: np.ndarray[Any, Any]) -> pl.DataFrame:
    n = len(cost)
    return pl.DataFrame(
        {
            "evaluation": [evaluation] * n,
            "arm": [arm] * n,
            "capture": [f"{workload.name}-{workload.device}-{workload.host}"] * n,
            "host": [workload.host] * n,
            "workload": [workload.name] * n,
            "program": [workload.program] * n,
            "device": [workload.device] * n,
            "block": np.arange(n, dtype=np.int32),
            "recorded_ns": np.full(n, 1_000_000_000, dtype=np.int64),
            "cost_ns": cost,
            "fetched_pages": cost // 90_000,
        }
    )


def _autoregressive(rng: np.random.Generator, n: int, sigma: float, memory: float) -> np.ndarray[Any, Any]:
    """AR(1) with stationary standard deviation ``sigma``."""
    shocks = rng.standard_normal(n) * sigma
    out = np.empty(n)
    level = shocks[0] if n else 0.0
    for i in range(n):
        level = shocks[i] if i == 0 else memory * level + np.sqrt(1.0 - memory * memory) * shocks[i]
        out[i] = level
    return out


def bounds(table: pl.DataFrame, share: float = 0.45) -> dict[str, int]:
    """A "proven" bound per capture: ``1 - share`` of stock's cost, or less where an arm needs it."""
    sums = table.group_by("evaluation", "capture", "arm").agg(pl.col("cost_ns").sum())
    out: dict[str, int] = {}
    for capture in sorted(sums["capture"].unique().to_list()):
        own = sums.filter(pl.col("capture") == capture)
        least = int(own["cost_ns"].min())  # type: ignore[arg-type]
        stock = int(own.filter(pl.col("arm") == STOCK)["cost_ns"].min())  # type: ignore[arg-type]
        out[capture] = min(int(stock * (1.0 - share)), least)
    return out


def context(table: pl.DataFrame, exact: float = 0.998) -> dict[str, Any]:
    """A context with every optional section, fitting ``table``; ``exact``: the share of exact decisions."""
    captures = sorted(table["capture"].unique().to_list())
    stock = table.filter((pl.col("arm") == STOCK) & (pl.col("evaluation") == table["evaluation"][0]))
    recorded = {c: int(stock.filter(pl.col("capture") == c)["cost_ns"].sum()) for c in captures}
    place = {row["capture"]: row for row in stock.unique("capture").iter_rows(named=True)}
    total = sum(recorded.values())
    programs = sorted(table["program"].unique().to_list())
    return {
        "subsystem": "synthetic",
        "summary": "planted effects, to try the rules on",
        "metrics": [
            {
                "name": "cost_ns",
                "unit": "ns",
                "label": "modelled",
                "meaning": "time that programs waited",
                "lower_is_better": True,
            },
            {"name": "fetched_pages", "unit": "pages", "label": "exact", "meaning": "pages fetched"},
        ],
        "actions": [arm.removeprefix(STATIC) for arm in DEFAULT_GAINS if arm.startswith(STATIC)],
        "rule": "large if the last reads were sequential, else small",
        "fidelity": {
            "total": {"recorded": 1000 * len(captures), "matched": round(1000 * len(captures) * exact)},
            "captures": {c: {"recorded": 1000, "matched": round(1000 * exact), "extra": 1} for c in captures},
        },
        "calibration": {
            "devices": {"disk": {"setup_ns": 90_000, "per_page_ns": 7_400}},
            "captures": {
                c: {
                    "modelled_ns": round(t * (1.0 + ((i * 37) % 21 - 10) / 120.0)),
                    "recorded_ns": t,
                    "held_out": i % 2 == 1,
                    "workload": place[c]["workload"],
                    "device": place[c]["device"],
                }
                for i, (c, t) in enumerate(recorded.items())
            },
        },
        "bound": bounds(table),
        "dataset": {
            "captures": len(captures),
            "events": 1_234_567,
            "programs": programs,
            "devices": sorted(table["device"].unique().to_list()),
            "hosts": sorted(table["host"].unique().to_list()),
            "excluded_streams": {"read through a mapping": 12, "file not identified": 3},
        },
        "model": {
            "version": "0.1.0",
            "trees": 100,
            "features": ["recent_sequential", "file_pages", "device_latency", "queue_depth"],
            "importance": {
                "recent_sequential": 812.5,
                "device_latency": 401.25,
                "file_pages": 99.0,
                "queue_depth": 17.5,
            },
        },
        "delay_curve": [
            {"delay_ns": d, "arm": arm, "cost": round(total * (1.0 - gain * fade))}
            for d, fade in ((0, 1.0), (1_000_000, 0.98), (10_000_000, 0.86), (100_000_000, 0.45))
            for arm, gain in (("model", 0.24), ("rule", 0.10), ("stock", 0.0))
        ],
        "delays_ns": [150_000, 400_000, 3_000_000],
        "advice_cost": {
            name: {"events": 50_000, "decisions": 300, "actions": 120, "ns": total // 100}
            for name in EVALUATIONS
        },
        "provenance": {"data_sha256": "0" * 64, "params_sha256": "1" * 64, "code_sha256": "2" * 64},
    }
