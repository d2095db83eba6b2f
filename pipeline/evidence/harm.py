"""Harm, before any average: who was made worse, how often, and how far out the tail reaches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hindsight.pipeline.evidence.panel import STOCK, Panel

TAILS = ((0.99, "p99"), (0.999, "p99.9"))


@dataclass(frozen=True)
class Harm:
    """Block by block against stock. Shares and relative costs are fractions; costs in units of the metric.

    A tail quantile is None where there are too few blocks to have one (fewer than 1 / (1 - q)).
    ``relative``: cost of the arm / cost of stock, over the blocks in which stock had a cost. ``extra``: cost
    of the arm - cost of stock. ``from_nothing``: blocks that cost nothing under stock and something now.
    """

    blocks: int
    worse: int
    worse_by_margin: int
    from_nothing: int
    relative: dict[str, float | None]
    extra: dict[str, int | None]
    stock_tail: dict[str, int | None]
    arm_tail: dict[str, int | None]


def harm(panel: Panel, arm: str, margin: float) -> Harm:
    """The harm that ``arm`` does; ``margin`` (fraction) tells a nuisance from a loss."""
    stock, own = panel.cost(STOCK), panel.cost(arm)
    some = stock > 0
    ratios = own[some] / stock[some]
    extra = own - stock
    # own > stock * (1 + margin) without leaving the integers: margin in parts per million.
    ppm = round(margin * 1_000_000)
    # Object arithmetic cannot overflow; there are few blocks.
    bigger = own.astype(object) * 1_000_000 > stock.astype(object) * (1_000_000 + ppm)
    return Harm(
        blocks=len(panel),
        worse=int((own > stock).sum()),
        worse_by_margin=int(np.asarray(bigger, dtype=bool).sum()),
        from_nothing=int((~some & (own > 0)).sum()),
        relative={name: _tail(ratios, q) for q, name in TAILS} | {"max": _max(ratios)},
        extra={name: _whole(_tail(extra, q)) for q, name in TAILS} | {"max": _whole(_max(extra))},
        stock_tail={name: _whole(_tail(stock, q)) for q, name in TAILS} | {"max": _whole(_max(stock))},
        arm_tail={name: _whole(_tail(own, q)) for q, name in TAILS} | {"max": _whole(_max(own))},
    )


def blocks_needed(q: float) -> int:
    """How many blocks a quantile needs before it is more than the maximum."""
    return round(1.0 / (1.0 - q))


def _tail(values: NDArray[np.int64] | NDArray[np.float64], q: float) -> float | None:
    if len(values) < blocks_needed(q):
        return None
    return float(np.sort(values)[math.ceil(q * len(values)) - 1])


def _max(values: NDArray[np.int64] | NDArray[np.float64]) -> float | None:
    return float(values.max()) if len(values) else None


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
