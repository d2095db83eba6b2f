"""Predicted against measured differences to stock: sign, median and 90th percentile of the error.

A *pair* is a workload on a device under a setting. In each round the setting is compared with the stock run
of that round; the measured difference is the median over the rounds, in parts of stock. The error of a
prediction is |predicted − measured| in parts of |measured|: a predicted +11 % where +10 % was measured is off
by 10 %. It is given over the pairs where something changed (measured at least 5 %); the others stand apart,
with the error in parts of stock. No run is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

SENSITIVE = 0.05
"""Measured difference, in parts of stock, from which a pair counts as one where something changed."""

SCALE = {"pages_wasted": "pages_fetched"}
"""Metrics whose difference is in parts of another metric of stock (their own may be zero)."""

GOALS = {
    "pages_fetched": 0.02,
    "pages_wasted": 0.02,
    "requests": 0.02,
    "requests_completed": 0.02,
    "throughput": 0.15,
}
"""Median error that is asked for; a pair that is further off is an outlier."""

SIGN_GOAL = 0.95


@dataclass(frozen=True)
class Pair:
    """One pair and metric; differences and noise (half the distance of the quartiles) in parts of stock."""

    profile: str
    workload: str
    setting: str
    metric: str
    label: str
    predicted: float
    measured: float
    noise: float
    rounds: int

    @property
    def sensitive(self) -> bool:
        """Whether something changed."""
        return abs(self.measured) >= SENSITIVE

    @property
    def distance(self) -> float:
        """|predicted − measured|, in parts of stock."""
        return abs(self.predicted - self.measured)

    @property
    def error(self) -> float:
        """That, in parts of what was measured; infinite where nothing was."""
        return self.distance / abs(self.measured) if self.measured else math.inf

    @property
    def right_sign(self) -> bool:
        """Both point in the same direction."""
        return self.predicted * self.measured > 0

    @property
    def outlier(self) -> bool:
        """Sensitive, and of the wrong sign or further off than the goal."""
        return self.sensitive and (not self.right_sign or self.error > GOALS[self.metric])


Run = Mapping[str, int]
"""Metric -> value of one run."""


def differences(metric: str, stock: Sequence[Run], treated: Sequence[Run]) -> list[float]:
    """Per round, (setting − stock) / stock; both sequences in the order of the rounds.

    Raises ValueError if they are not of the same length, or stock is zero.
    """
    scale = SCALE.get(metric, metric)
    result = []
    for before, after in zip(stock, treated, strict=True):
        if before[scale] <= 0:
            raise ValueError(f"{scale} of a stock run is {before[scale]}")
        result.append((after[metric] - before[metric]) / before[scale])
    return result


def predicted_difference(metric: str, stock: Run, treated: Run) -> float:
    """The same of two predictions."""
    return differences(metric, [stock], [treated])[0]


def noise(values: Sequence[float]) -> float:
    """Half the distance of the quartiles (nearest rank)."""
    return (quantile(values, 0.75) - quantile(values, 0.25)) / 2


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def summarise(pairs: Iterable[Pair]) -> dict[str, object]:
    """Of the pairs of one metric: how many, share with the right sign, error; the insensitive ones apart."""
    every = list(pairs)
    changed = [pair for pair in every if pair.sensitive]
    same = [pair for pair in every if not pair.sensitive]
    return {
        "pairs": len(every),
        "changed": len(changed),
        "right_sign": sum(pair.right_sign for pair in changed),
        "right_sign_share": _rounded(sum(p.right_sign for p in changed) / len(changed)) if changed else None,
        "error_median": _rounded(median(p.error for p in changed)) if changed else None,
        "error_p90": _rounded(quantile([p.error for p in changed], 0.9)) if changed else None,
        "distance_median": _rounded(median(p.distance for p in changed)) if changed else None,
        "distance_p90": _rounded(quantile([p.distance for p in changed], 0.9)) if changed else None,
        "unchanged": len(same),
        "unchanged_distance_median": _rounded(median(p.distance for p in same)) if same else None,
        "unchanged_distance_max": _rounded(max(p.distance for p in same)) if same else None,
        "unchanged_but_predicted": sum(abs(p.predicted) >= SENSITIVE for p in same),
        "outliers": sum(pair.outlier for pair in changed),
    }


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
