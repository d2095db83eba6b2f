"""How often the rules declare a difference where there is none, and how often they find one of known size.

The judges are those of the verdict (:func:`evaluation.against`, :func:`evaluation.each_workload`); what is
counted here is how they do on panels of which the truth is known (:mod:`.truths`). Each draw has a panel and
a bootstrap of its own, seeded by its number: the counts do not depend on how the draws are shared out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import Any, TypeVar

import numpy as np
from scipy import special

from hindsight.pipeline.evidence.comparisons import Finding, findings
from hindsight.pipeline.evidence.evaluation import RESAMPLED, against, each_workload
from hindsight.pipeline.evidence.figures import quantise
from hindsight.pipeline.evidence.paired import generator
from hindsight.pipeline.evidence.panel import MODEL, STOCK, Group, Panel
from hindsight.pipeline.evidence.thresholds import Thresholds
from hindsight.pipeline.evidence.truths import (
    Source,
    labels_permuted,
    neighbours,
    pair,
    planted,
    signs_flipped,
    without_mean,
)
from hindsight.pipeline.evidence.verdict import Against
from hindsight.pipeline.parallel import each

SURE = 0.99
"""Of the binomial intervals: with a dozen rates, one in ten calibrations has one outside by chance."""

GAINS = (0.01, 0.02, 0.05, 0.10)
"""The effects that are planted, besides the one that is called detectable."""

_AT_ONCE = 10

Result = TypeVar("Result")
Judge = Callable[[Panel, Thresholds], Against]
Judges = Callable[[Panel, Thresholds], Mapping[Group, Against]]


class Status(Enum):
    """A measured share against the stated one."""

    WITHIN = "within"
    ABOVE = "above"
    BELOW = "below"


@dataclass(frozen=True)
class Case:
    """Data of which the truth is "no difference", and how they are judged.

    ``drawn``: the clusters that coins were thrown for, ``clusters`` of them. ``original``: the pair before.
    ``family``: with at least how many blocks each workload is judged too; None if that has no meaning,
    because a coin was thrown for whole workloads or what was taken from all is left over in each.
    """

    data: str
    differences: str
    drawn: str
    clusters: int
    original: Panel
    source: Source
    family: int | None


@dataclass(frozen=True)
class Share:
    """``count`` of ``trials``, with the exact binomial interval (Clopper and Pearson 1934)."""

    count: int
    trials: int

    @property
    def value(self) -> float:
        """The share itself; 0 of nothing is 0."""
        return self.count / self.trials if self.trials else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Which true shares fit, with confidence :data:`SURE`."""
        k, n, tail = self.count, self.trials, (1.0 - SURE) / 2.0
        low = float(special.betaincinv(k, n - k + 1, tail)) if k else 0.0
        high = float(special.betaincinv(k + 1, n - k, 1.0 - tail)) if k < n else 1.0
        return low, high

    def against(self, low: float, high: float) -> Status:
        """Whether the interval reaches the stated share, or one of those between ``low`` and ``high``."""
        if self.interval[0] > high:
            return Status.ABOVE
        return Status.BELOW if self.interval[1] < low else Status.WITHIN

    def as_json(self) -> dict[str, Any]:
        """``{count, trials, share, low, high}``."""
        low, high = self.interval
        return {
            "count": self.count,
            "trials": self.trials,
            "share": quantise(self.value),
            "low": quantise(low),
            "high": quantise(high),
        }


def reachable(stated: float, clusters: int) -> tuple[float, float]:
    """The rates next to ``stated`` that a two-sided rule can have where so many signs decide alone.

    n signs have 2^n patterns, and a pattern and its mirror image are judged alike: rates are multiples of
    2 / 2^n. With six programs these are 3.1 and 6.3 %, never 5 %.
    """
    patterns = 2.0 ** min(clusters, 1000) / 2.0
    steps = stated * patterns
    return float(np.floor(steps) / patterns), float(np.ceil(steps) / patterns)


def of_evaluation(panel: Panel, arm: str, limits: Thresholds) -> list[Case]:
    """The cases of one evaluation: the arm's differences to stock as they are, and without their mean."""
    unit = RESAMPLED.get(panel.evaluation)
    clusters = len(set(getattr(panel, unit).tolist())) if unit else 0
    if clusters < 2:
        unit, clusters = None, len(panel)
    as_it_is = pair(panel, arm)
    return [
        Case(
            data=panel.evaluation,
            differences=text,
            drawn=f"{clusters} {unit}s" if unit else "runs of blocks",
            clusters=clusters,
            original=one,
            source=signs_flipped(one, unit),
            family=None if unit or one is not as_it_is else limits.min_blocks,
        )
        for text, one in (("as they are", as_it_is), ("without their mean", without_mean(as_it_is)))
    ]


def of_repeats(measured: Mapping[Group, Sequence[int]]) -> list[Case]:
    """Stock against stock: measurements of one arm per (workload, device), in their order.

    A workload alone may have fewer pairs than the rules ask for; it is judged as if they were enough.
    """
    pairs = [len(values) // 2 for values in measured.values() if len(values) > 1]
    if not pairs:
        return []
    original = neighbours(measured)
    return [
        Case(
            data="lab",
            differences="stock and stock",
            drawn="labels of neighbours",
            clusters=sum(pairs),
            original=original,
            source=labels_permuted(original),
            family=min(pairs),
        )
    ]


def verdict(panel: Panel, limits: Thresholds) -> Against:
    """The model against stock as the verdict takes it, alone in its family."""
    return against(panel, limits)[1][STOCK]


@dataclass(frozen=True)
class _Null:
    """One draw without a difference: the verdict's comparison; findings of the workloads in their family;
    those among them whose coins did not all fall alike; and each alone, where there was anything to find."""

    overall: Against
    family: tuple[Finding, ...] = ()
    mixed: tuple[Finding, ...] = ()
    alone: tuple[Finding, ...] = ()


def calibrate(
    cases: Iterable[Case],
    limits: Thresholds,
    draws: int,
    judge: Judge = verdict,
    judges: Judges = each_workload,
) -> dict[str, Any]:
    """Count declared differences over ``draws`` draws of each case; returns JSON values.

    ``null``: rows of what was declared where there is nothing; ``planted``: rows of what was found of an
    effect; ``outside``: in words, what must not be: winners above the stated rate, power below the promise.
    """
    null_rows: list[dict[str, Any]] = []
    planted_rows: list[dict[str, Any]] = []
    for case in cases:
        nulls = _each_draw(case, limits, draws, "null", partial(_null, case=case, judge=judge, judges=judges))
        null_rows += _null_rows(case, nulls, limits)
        known = [n.overall.effect.detectable for n in nulls if n.overall.effect.detectable is not None]
        gains = (*GAINS, float(np.median(known))) if known else GAINS
        found = _each_draw(case, limits, draws, "planted", partial(_planted, gains=gains, judge=judge))
        for i, gain in enumerate(gains):
            planted_rows.append(
                _planted_row(case, gain, i == len(GAINS), [per_draw[i] for per_draw in found], limits)
            )
    outside = [_named(row, "declared") for row in null_rows if row["status"] == Status.ABOVE.value]
    outside += [_named(row, "found") for row in planted_rows if row["status"] == Status.BELOW.value]
    return {
        "format": 1,
        "draws": draws,
        "bootstrap_draws": limits.draws,
        "confidence": limits.confidence,
        "power": limits.power,
        "interval": SURE,
        "seed": limits.seed,
        "null": null_rows,
        "planted": planted_rows,
        "outside": outside,
    }


def _each_draw(
    case: Case, limits: Thresholds, draws: int, label: str, judged: Callable[[Panel, Thresholds], Result]
) -> list[Result]:
    def some(first: int) -> list[Result]:
        return [one(number) for number in range(first, min(first + _AT_ONCE, draws))]

    def one(number: int) -> Result:
        rng = generator(limits.seed, "calibration", case.data, case.differences, str(number))
        return judged(case.source(rng), replace(limits, seed=limits.seed + 1 + number))

    chunks = each(some, range(0, draws, _AT_ONCE), f"{case.data}: {label}")
    return [result for chunk in chunks for result in chunk]


def _null(panel: Panel, limits: Thresholds, case: Case, judge: Judge, judges: Judges) -> _Null:
    overall = judge(panel, limits)
    if case.family is None:
        return _Null(overall)
    found = judges(panel, replace(limits, min_blocks=case.family))
    family, mixed, alone = [], [], []
    for group, one in found.items():
        family.append(one.finding)
        if _coins_differ(case.original.of(group), panel.of(group)):
            mixed.append(one.finding)
        if one.effect.error > 0.0:
            alone += findings([one.effect], case.family, limits.confidence)
    return _Null(overall, tuple(family), tuple(mixed), tuple(alone))


def _planted(panel: Panel, limits: Thresholds, gains: Sequence[float], judge: Judge) -> list[Against]:
    return [judge(planted(panel, gain), limits) for gain in gains]


def _coins_differ(original: Panel, drawn: Panel) -> bool:
    before = original.cost(STOCK) - original.cost(MODEL)
    after = drawn.cost(STOCK) - drawn.cost(MODEL)
    return not (np.array_equal(before, after) or np.array_equal(before, -after))


def _null_rows(case: Case, nulls: Sequence[_Null], limits: Thresholds) -> list[dict[str, Any]]:
    stated = 1.0 - limits.confidence
    low, high = reachable(stated, case.clusters)
    overall = [n.overall.finding for n in nulls]
    rows = [_null_row(case, "all workloads", overall, stated, (low, high))]
    if case.family is not None:
        # One false winner among the workloads of a draw is as bad as several.
        rows.append(_null_row(case, "any workload", _families(n.family for n in nulls), stated, None))
        mixed = _families(n.mixed for n in nulls)
        rows.append(_null_row(case, "any workload whose coins differ", mixed, stated, (0.0, stated)))
        alone = [f for n in nulls for f in n.alone if f is not Finding.UNKNOWN]
        rows.append(_null_row(case, "one workload, not corrected", alone, stated, None))
    return rows


def _families(families: Iterable[Sequence[Finding]]) -> list[Finding]:
    """One finding per family: the first difference that was declared, if any."""
    return [
        next((f for f in family if f in (Finding.BETTER, Finding.WORSE)), Finding.SAME) for family in families
    ]


def _null_row(
    case: Case, comparison: str, found: Sequence[Finding], stated: float, fits: tuple[float, float] | None
) -> dict[str, Any]:
    better, worse = found.count(Finding.BETTER), found.count(Finding.WORSE)
    share = Share(better + worse, len(found))
    return _case(case) | {
        "comparison": comparison,
        "stated": quantise(stated),
        "reachable": None if fits is None else [quantise(x) for x in fits],
        "better": better,
        "worse": worse,
        "not_enough": found.count(Finding.UNKNOWN),
        "declared": share.as_json(),
        "status": None if fits is None else share.against(*fits).value,
    }


def _planted_row(
    case: Case, gain: float, detectable: bool, found: Sequence[Against], limits: Thresholds
) -> dict[str, Any]:
    """``promised``: the mean over the draws of the power that the standard error of each promises."""
    share = Share(sum(one.finding is Finding.BETTER for one in found), len(found))
    promised = float(np.mean([one.effect.power(gain) for one in found]))
    status = share.against(limits.power, limits.power).value if detectable else None
    return _case(case) | {
        "gain": quantise(gain),
        "detectable": detectable,
        "found": share.as_json(),
        "promised": quantise(limits.power if detectable else promised),
        "status": status,
    }


def _case(case: Case) -> dict[str, Any]:
    return {"data": case.data, "differences": case.differences, "drawn": case.drawn}


def _named(row: Mapping[str, Any], what: str) -> str:
    share = row[what]
    where = row.get("comparison") or f"a planted {100 * row['gain']:.1f} %"
    stated = row["stated"] if what == "declared" else row["promised"]
    return (
        f"{row['data']}, differences {row['differences']}, {where}: {what} in {100 * share['share']:.1f} % "
        f"({100 * share['low']:.1f} to {100 * share['high']:.1f} %), stated {100 * stated:.0f} %"
    )
