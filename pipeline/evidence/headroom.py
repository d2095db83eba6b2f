"""How much there was to win, and what share of it an arm won."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hindsight.pipeline.evidence.panel import BEST_KNOWN, STOCK, Panel


@dataclass(frozen=True)
class Headroom:
    """Fractions of the cost of stock. ``share`` is None where it would divide by almost nothing.

    ``proven``: (stock - bound) / stock, where every capture has a bound. ``known``: the same with the best
    policy that was found instead: not a bound, the true headroom may be larger. ``violations``: the
    (capture, arm) pairs that cost less than their "proven" bound.
    """

    stock: int
    bound: int | None
    proven: float | None
    known: float | None
    share: float | None
    share_of_known: float | None
    violations: tuple[tuple[str, str], ...]
    without_bound: tuple[str, ...]


def headroom(panel: Panel, arm: str, bounds: Mapping[str, int], minimum: float) -> Headroom:
    """Headroom of ``panel`` and the share that ``arm`` captured; less than ``minimum`` is not divided by."""
    stock, own = panel.total(STOCK), panel.total(arm)
    captures = sorted(set(panel.capture.tolist()))
    without = tuple(capture for capture in captures if bounds.get(capture) is None)
    bound = None if without or not captures else sum(int(bounds[capture]) for capture in captures)
    violations = []
    for capture in captures:
        if capture in without:
            continue
        rows = panel.capture == capture
        for name in panel.arms:
            if int(panel.values[rows, panel.arms.index(name), 0].sum()) < int(bounds[capture]):
                violations.append((capture, name))
    known_cost = panel.total(BEST_KNOWN) if BEST_KNOWN in panel.arms else None
    return Headroom(
        stock=stock,
        bound=bound,
        proven=_room(stock, bound),
        known=_room(stock, known_cost),
        share=_share(stock, own, bound, minimum),
        share_of_known=_share(stock, own, known_cost, minimum),
        violations=tuple(violations),
        without_bound=without,
    )


def block_distribution(panel: Panel, arm: str, points: int = 101) -> list[float]:
    """Quantiles 0, 1, …, 100 % of the relative gain over stock, of the blocks in which stock had a cost."""
    stock, own = panel.cost(STOCK), panel.cost(arm)
    some = stock > 0
    if not some.any():
        return []
    ordered = np.sort((stock[some] - own[some]) / stock[some])
    last = len(ordered) - 1
    return [float(ordered[(i * last + (points - 1) // 2) // (points - 1)]) for i in range(points)]


def _room(stock: int, other: int | None) -> float | None:
    return None if other is None or stock == 0 else (stock - other) / stock


def _share(stock: int, own: int, other: int | None, minimum: float) -> float | None:
    room = _room(stock, other)
    if room is None or other is None or room < minimum:
        return None
    return (stock - own) / (stock - other)
