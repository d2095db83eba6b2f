"""Realised against predicted: what applied recommendations really changed, and whether that drifts.

A row is a recommendation that was in force and was measured. Rows of one stream depend on each other, so that
whole clusters (capture and stream) are drawn again; figures are ratios of exact integer sums.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.errors import VerificationError
from hindsight.pipeline.evidence import wording
from hindsight.pipeline.evidence.figures import Count, Figure, Quoted, percent
from hindsight.pipeline.evidence.paired import generator, judge, plain
from hindsight.pipeline.evidence.thresholds import Thresholds
from hindsight.subsystems.contract import Label

PPM = 1_000_000
BINS = 10
"""At most so many bins of the predicted gain."""
OUTSIDE_LIMIT = 0.05
"""Share of live states beyond what was learned from, above which a warning is given."""


@dataclass(frozen=True)
class Rows:
    """Gains of the cost in parts per million, plus = better, (n,) i64: ``gain`` over the baseline;
    ``predicted``, and ``realised`` in the terms of the prediction.
    ``unit`` (n,) intp: the cluster; ``at_ns`` (n,) i64: wall clock."""

    gain: NDArray[np.int64]
    predicted: NDArray[np.int64]
    realised: NDArray[np.int64]
    unit: NDArray[np.intp]
    at_ns: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.unit)

    def where(self, rows: NDArray[np.bool_]) -> Rows:
        """The rows at which ``rows`` is true."""
        columns = (self.gain, self.predicted, self.realised, self.unit, self.at_ns)
        return Rows(*(column[rows] for column in columns))


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval (None: it cannot be said) as fractions; ``n`` rows in ``units`` clusters."""

    value: float
    low: float | None
    high: float | None
    n: int
    units: int

    def enough(self, limits: Thresholds) -> bool:
        """Whether there are enough rows, and an interval."""
        return self.n >= limits.min_blocks and self.low is not None

    def above(self, value: float, limits: Thresholds) -> bool:
        """Whether it is above ``value`` beyond noise."""
        return self.enough(limits) and self.low is not None and self.low > value

    def below(self, value: float, limits: Thresholds) -> bool:
        """Whether it is below ``value`` beyond noise."""
        return self.enough(limits) and self.high is not None and self.high < value

    @property
    def span(self) -> tuple[float, float] | None:
        """The interval."""
        return None if self.low is None or self.high is None else (self.low, self.high)


@dataclass(frozen=True)
class Live:
    """What the verdict needs. ``worse``: advice that was applied cost more than none, beyond noise;
    ``warnings``: in plain words, why what was predicted is not to be relied on."""

    worse: bool = False
    warnings: tuple[str, ...] = ()


def realised(context: Mapping[str, Any], limits: Thresholds) -> tuple[Live, dict[str, Any] | None]:
    """``context["realised"]`` (docs/evidence.md) with labels, and what the verdict needs of it; None without.

    Raises VerificationError where figures are too large for exact sums.
    """
    given = context.get("realised")
    if not given:
        return Live(), None
    every = list(given["rows"])
    units = _units(every)
    rows = _rows([row for row in every if row["measured"]], units)
    gain, gap = mean(rows, rows.gain, limits), mean(rows, rows.realised - rows.predicted, limits)
    earlier, recent, drift = drifted(rows, limits)
    outside = outside_share(every, units, limits)
    warnings = []
    if drift.below(0.0, limits) and recent.below(0.0, limits):
        warnings.append(
            f"Drift: the most recent advice that was applied brought {_points(-recent.value)} less than "
            f"predicted, {_points(-drift.value)} worse than before."
        )
    if outside.above(OUTSIDE_LIMIT, limits):
        warnings.append(
            f"Drift: {wording.share(outside.value)} of the live states lie outside of what the model learned "
            f"from ({wording.share(OUTSIDE_LIMIT)} is the limit)."
        )
    section = {
        "line": _line(rows, gain, gap, limits),
        "enough": gain.enough(limits),
        "worse": gain.below(0.0, limits),
        "warnings": warnings,
        "recommendations": Count(int(given["recommendations"])),
        "measured": Count(len(rows)),
        "learned": Count(int(given["learned"])),
        "streams": Count(gain.units),
        "models": sorted({str(row["model"]) for row in every}),
        "left_out": Quoted(dict(given["left_out"])),
        "predicted": _mean_predicted(rows),
        "gain": _percent(gain),
        "realised": _percent(mean(rows, rows.realised, limits)),
        "difference": _percent(gap, "points"),
        "slope": _slope(rows, limits),
        "bins": [_bin(part, limits) for part in bins(rows, limits.min_blocks)],
        "drift": {
            "earlier": {"n": Count(earlier.n), "difference": _percent(earlier, "points")},
            "recent": {"n": Count(recent.n), "difference": _percent(recent, "points")},
            "change": _percent(drift, "points"),
            "enough": drift.enough(limits),
        },
        "outside": _percent(outside),
        "outside_limit": Quoted(OUTSIDE_LIMIT * 100.0),
    }
    return Live(gain.below(0.0, limits), tuple(warnings)), section


def _units(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], int]:
    names = sorted({(str(row["capture"]), str(row["stream"])) for row in rows})
    return {name: number for number, name in enumerate(names)}


def _rows(rows: Sequence[Mapping[str, Any]], units: Mapping[tuple[str, str], int]) -> Rows:
    """``rows`` with changes turned into gains."""
    changes = np.array(
        [[int(row[f"{name}_ppm"]) for name in ("realised", "predicted", "comparable")] for row in rows],
        np.int64,
    ).reshape(len(rows), 3)
    number = [units[str(row["capture"]), str(row["stream"])] for row in rows]
    at_ns = np.array([int(row["at_ns"]) for row in rows], np.int64)
    return Rows(-changes[:, 0], -changes[:, 1], -changes[:, 2], np.array(number, np.intp), at_ns)


def _sums(
    unit: NDArray[np.intp], values: NDArray[np.int64], limits: Thresholds, name: str
) -> tuple[NDArray[np.int64], int]:
    """Sums of ``values`` (n, k) over drawn clusters: (draws + 1, k) i64, the first as they are; and how many
    clusters there are."""
    width = values.shape[1]
    known, index = np.unique(unit, return_inverse=True)
    size = np.zeros((len(known), width))
    np.add.at(size, index, np.abs(values.astype(np.float64)))
    if len(known) and float(size.max()) * len(known) > float(2**62):
        # A cluster that is drawn in every slot multiplies its sum by their number.
        raise VerificationError("realised changes are too large for exact sums: is the efficiency right?")
    per_unit = np.zeros((len(known), width), np.int64)
    np.add.at(per_unit, index, values)
    sums = np.zeros((limits.draws + 1, width), np.int64)
    sums[0] = per_unit.sum(axis=0)
    if len(known):
        picks = generator(limits.seed, "realised", name).integers(0, len(known), (limits.draws, len(known)))
        for slot in range(len(known)):
            sums[1:] += per_unit[picks[:, slot]]
    return sums, len(known)


def mean(rows: Rows, values: NDArray[np.int64], limits: Thresholds, name: str = "mean") -> Estimate:
    """The mean of ``values`` (n,), in parts per million, over ``rows``."""
    return _estimate(*_means(rows.unit, values, limits, name), len(rows), limits)


def _means(
    unit: NDArray[np.intp], values: NDArray[np.int64], limits: Thresholds, name: str
) -> tuple[NDArray[np.float64], int]:
    table = np.column_stack([values, np.ones(len(values), np.int64)])
    sums, units = _sums(unit, table, limits, name)
    with np.errstate(divide="ignore", invalid="ignore"):
        return sums[:, 0] / (sums[:, 1] * PPM), units


def _estimate(draws: NDArray[np.float64], units: int, n: int, limits: Thresholds) -> Estimate:
    """``draws[0]`` with the interval that the rest of ``draws`` give."""
    value = float(draws[0])
    low, high, *_ = judge(value, draws[1:], *plain(units), limits.confidence, limits.power)
    return Estimate(value, low, high, n, units)


def drifted(rows: Rows, limits: Thresholds) -> tuple[Estimate, Estimate, Estimate]:
    """Realised minus predicted gain in the earlier and the more recent half of the time, and how it changed.

    The halves are drawn apart: a stream that is in both makes the interval of the change too wide, not too
    narrow.
    """
    cut = int(np.sort(rows.at_ns)[len(rows) // 2]) if len(rows) else 0
    parts = [rows.where(rows.at_ns < cut), rows.where(rows.at_ns >= cut)]
    drawn = [
        _means(part.unit, part.realised - part.predicted, limits, name)
        for part, name in zip(parts, ("earlier", "recent"), strict=True)
    ]
    earlier, recent = (_estimate(*d, len(p), limits) for d, p in zip(drawn, parts, strict=True))
    least, units = min(len(part) for part in parts), min(units for _, units in drawn)
    return earlier, recent, _estimate(drawn[1][0] - drawn[0][0], units, least, limits)


def outside_share(
    rows: Sequence[Mapping[str, Any]], units: Mapping[tuple[str, str], int], limits: Thresholds
) -> Estimate:
    """The share of live states that lie outside of what was learned from; also of advice not applied."""
    values = np.array([PPM * bool(row["outside"]) for row in rows], np.int64)
    number = np.array([units[str(row["capture"]), str(row["stream"])] for row in rows], np.intp)
    return _estimate(*_means(number, values, limits, "outside"), len(rows), limits)


def bins(rows: Rows, least: int) -> list[Rows]:
    """``rows`` by predicted gain in bins of about the same number, at least ``least`` rows where there are so
    many; rows of the same prediction stay together."""
    wanted = max(1, min(BINS, len(rows) // max(1, least)))
    order = np.argsort(rows.predicted, kind="stable")
    edges = [rows.predicted[order[len(rows) * i // wanted]] for i in range(1, wanted)] if len(rows) else []
    number = np.searchsorted(np.array(sorted(set(edges)), np.int64), rows.predicted, side="right")
    return [rows.where(number == i) for i in sorted(set(number.tolist()))]


def slope(rows: Rows, limits: Thresholds) -> Estimate | None:
    """Realised against predicted gain by least squares; None where all predictions are the same."""
    if len(set(rows.predicted.tolist())) < 2:
        return None
    x = rows.predicted - int(rows.predicted.sum()) // len(rows)
    y = rows.realised - int(rows.realised.sum()) // len(rows)
    table = np.column_stack([np.ones(len(rows), np.int64), x, y, x * x, x * y])
    sums, units = _sums(rows.unit, table, limits, "slope")
    n, sx, sy, sxx, sxy = (sums[:, i].astype(np.float64) for i in range(5))
    with np.errstate(divide="ignore", invalid="ignore"):
        return _estimate((n * sxy - sx * sy) / (n * sxx - sx * sx), units, len(rows), limits)


def _bin(rows: Rows, limits: Thresholds) -> dict[str, Any]:
    first, last = int(rows.predicted.min()), int(rows.predicted.max())
    gain = mean(rows, rows.realised, limits, f"bin {first} {last}")
    return {
        "n": Count(len(rows)),
        "streams": Count(gain.units),
        "predicted": _mean_predicted(rows),
        "realised": _percent(gain),
    }


def _mean_predicted(rows: Rows) -> Figure:
    if not len(rows):
        return Figure(None, "%", Label.MODELLED)
    return percent(int(rows.predicted.sum()) / (len(rows) * PPM), Label.MODELLED)


def _percent(estimate: Estimate, unit: str = "%") -> Figure:
    if not estimate.n:
        return Figure(None, unit, Label.MEASURED, note="nothing was measured")
    span = estimate.span
    ends = None if span is None else (span[0] * 100.0, span[1] * 100.0)
    note = "" if ends else "no interval: too few streams"
    return Figure(estimate.value * 100.0, unit, Label.MEASURED, ends, note)


def _slope(rows: Rows, limits: Thresholds) -> Figure:
    found = slope(rows, limits)
    if found is None:
        return Figure(None, "ratio", Label.MEASURED, note="all predictions are the same")
    return Figure(found.value, "ratio", Label.MEASURED, found.span)


def _points(fraction: float) -> str:
    return f"{fraction * 100.0:.1f} points".replace("-", "−")


def _line(rows: Rows, gain: Estimate, gap: Estimate, limits: Thresholds) -> str:
    """What came of the predictions, in one sentence."""
    if not gain.enough(limits):
        return (
            f"Not enough evidence: {len(rows)} applied recommendations were measured, in {gain.units} "
            f"streams; {limits.min_blocks} are needed, in two at least."
        )
    change = "saved" if gain.value >= 0.0 else "added"
    size = wording.share(abs(gain.value))
    said = f"Applied {len(rows)} times, the advice {change} {size} of the cost each time on average"
    if gain.below(0.0, limits):
        said = (
            f"Applied {len(rows)} times, the advice cost {size} more than no advice on average, beyond noise"
        )
    if gap.below(0.0, limits):
        return f"{said}; {_points(-gap.value)} less gain than predicted."
    if gap.above(0.0, limits):
        return f"{said}; {_points(gap.value)} more gain than predicted."
    return f"{said}; no significant difference to what was predicted."
