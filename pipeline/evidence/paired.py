"""Paired comparison of arms on the same blocks, by a block bootstrap.

The figure is a ratio of sums: gain = 1 - sum(cost of the arm) / sum(cost of the baseline). Within a capture,
neighbouring blocks depend on each other (the cache remembers), so that contiguous runs of blocks are drawn,
circularly (Künsch 1989; Politis and Romano 1992), as long as the dependence that the data show. Where an
evaluation asks about units that were not seen (programs, hosts), whole units are drawn first. The same draws
serve every arm.

Percentile intervals of few units are too short; the quantiles are moved outwards as if by Student's t
(the "expanded percentile" interval: Hesterberg, What Teachers Should Know About the Bootstrap, 2015), and the
interval is never narrower than the bootstrap's standard error times Student's t. Where time is drawn, that
error and its degrees of freedom are corrected for what runs leave out (:mod:`.dependence`).

Sums are exact in int64; divisions and order statistics are the only floating-point operations.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import special

from hindsight.errors import VerificationError
from hindsight.pipeline.evidence.dependence import Runs, correction, run_length
from hindsight.pipeline.evidence.panel import MODEL, STOCK, Panel

_CHUNK = 1 << 22
"""Elements gathered at a time; bounds the memory of a bootstrap."""


@dataclass(frozen=True)
class Effect:
    """What an arm changed against a baseline; gains are fractions of the baseline's cost, positive is good.

    ``low``, ``high`` are None where a draw had nothing to compare (a baseline without cost). ``p`` is
    two-sided, from the bootstrap's standard error and Student's t of ``df`` degrees of freedom;
    ``detectable`` is the smallest gain or loss that this much data would have shown with the wanted power.
    """

    blocks: int
    units: int
    baseline: int
    arm: int
    gain: float
    low: float | None
    high: float | None
    error: float
    p: float
    detectable: float | None
    median_block: float | None
    df: float | None = None

    @property
    def usable(self) -> bool:
        """Whether there is an interval to judge by."""
        return self.low is not None and self.units >= 2

    def power(self, gain: float) -> float:
        """The share of such data that would show a true ``gain``: 0.8 at a ``detectable`` of that power. NaN
        without an interval."""
        if self.df is None or self.low is None or self.high is None:
            return math.nan
        if self.error == 0.0:
            return float(gain != 0.0)
        reach = max(self.high - self.gain, self.gain - self.low)
        return float(special.stdtr(self.df, (abs(gain) - reach) / self.error))


@dataclass(frozen=True)
class Bootstrap:
    """Drawn sums of every arm and metric: int64, shape (draws, n_arms, n_metrics); same draws for all.

    ``sequences``: what runs were drawn from, if only time was drawn.
    """

    panel: Panel
    sums: NDArray[np.int64]
    units: int
    resampled: str
    sequences: tuple[Runs, ...] = ()

    def effect(
        self,
        arm: str,
        baseline: str = "stock",
        metric: int = 0,
        confidence: float = 0.95,
        power: float = 0.8,
    ) -> Effect:
        """The gain of ``arm`` over ``baseline`` in one metric."""
        a, b = self.panel.arms.index(arm), self.panel.arms.index(baseline)
        values = self.panel.values
        arm_sum, base_sum = int(values[:, a, metric].sum()), int(values[:, b, metric].sum())
        gain = _gain(arm_sum, base_sum)
        draws = _gains(self.sums[:, a, metric], self.sums[:, b, metric])
        factor, df = plain(self.units)
        if self.sequences and self.units >= 2 and math.isfinite(gain):
            left = values[:, a, metric] - (1.0 - gain) * values[:, b, metric]
            corrected = correction(left, self.sequences)
            if corrected is not None:
                factor, df = corrected.factor, corrected.df
        low, high, error, p, detectable = judge(gain, draws, factor, df, confidence, power)
        return Effect(
            blocks=len(self.panel),
            units=self.units,
            baseline=base_sum,
            arm=arm_sum,
            gain=gain,
            low=low,
            high=high,
            error=error,
            p=p,
            detectable=detectable,
            median_block=_median_gain(values[:, a, metric], values[:, b, metric]),
            df=df,
        )


def plain(units: int) -> tuple[float, float]:
    """(factor, degrees of freedom): drawing few units from themselves loses a degree of freedom."""
    return (units / (units - 1), float(units - 1)) if units >= 2 else (math.nan, 0.0)


def judge(
    gain: float, draws: NDArray[np.float64], factor: float, df: float, confidence: float, power: float
) -> tuple[float | None, float | None, float, float, float | None]:
    """(low, high, standard error, p, detectable) of a figure with its bootstrap draws. ``factor``: of their
    variance, NaN: nothing can be said; ``df``: degrees of freedom.
    """
    if not math.isfinite(factor) or not math.isfinite(gain) or not bool(np.isfinite(draws).all()):
        return None, None, math.nan, 1.0, None
    low, high = expanded_interval(draws, df + 1.0, confidence)
    error = float(np.std(draws, ddof=1)) * math.sqrt(factor)
    # Percentiles cannot leave what was drawn, too narrow with few runs: the wider interval holds.
    t = float(special.stdtrit(df, 0.5 + confidence / 2.0))
    low, high = min(low, gain - t * error), max(high, gain + t * error)
    certain = 1.0 if gain == 0.0 else 0.0
    p = float(2.0 * special.stdtr(df, -abs(gain) / error)) if error > 0.0 else certain
    # What is declared must be outside the interval, which may be wider than its t.
    detectable = max(high - gain, gain - low) + float(special.stdtrit(df, power)) * error
    return low, high, error, p, detectable


def difference(ours: Bootstrap, theirs: Bootstrap, confidence: float = 0.95, power: float = 0.8) -> Effect:
    """The gain of the model over stock in ``ours`` minus that in ``theirs``: for data that cannot be paired.

    The two must have been drawn with different seeds. Where they share blocks the interval is too wide, never
    too narrow by that. The effect has no costs of its own: ``baseline`` and ``arm`` are 0.
    """
    gains, draws = [], []
    for drawn in (ours, theirs):
        a, b = drawn.panel.arms.index(MODEL), drawn.panel.arms.index(STOCK)
        gains.append(_gain(drawn.panel.total(MODEL), drawn.panel.total(STOCK)))
        draws.append(_gains(drawn.sums[:, a, 0], drawn.sums[:, b, 0]))
    units = min(ours.units, theirs.units)
    gain = gains[0] - gains[1]
    factor, df = plain(units)
    low, high, error, p, detectable = judge(gain, draws[0] - draws[1], factor, df, confidence, power)
    blocks = min(len(ours.panel), len(theirs.panel))
    return Effect(blocks, units, 0, 0, gain, low, high, error, p, detectable, None, df)


def generator(seed: int, *names: str) -> np.random.Generator:
    """PCG64, seeded by ``seed`` and by what it is for, so that one figure's draws never move another's."""
    digest = hashlib.sha256("\x1f".join(names).encode()).digest()
    return np.random.Generator(np.random.PCG64([seed, int.from_bytes(digest[:8], "little")]))


def _residual(panel: Panel, arm: str, baseline: str) -> NDArray[np.float64]:
    """What each block adds to the arm's gain beyond its share: its dependence sets the runs."""
    own, base = panel.cost(arm).astype(np.float64), panel.cost(baseline).astype(np.float64)
    total = float(panel.total(baseline))
    return (base - own) - ((total - panel.total(arm)) / total if total else 0.0) * base


def bootstrap(
    panel: Panel, draws: int, seed: int, unit: str | None = None, arm: str = MODEL, baseline: str = STOCK
) -> Bootstrap:
    """Draw the blocks of ``panel`` again, ``draws`` times.

    ``unit`` None: workloads and captures are as they are, time is drawn (contiguous runs within each
    capture). ``unit`` "program", "host", …: as many of these units as there are, drawn with replacement,
    and time within each. With a single unit only time can be drawn. The dependence of the gain of ``arm``
    over ``baseline`` sets how long the runs are.
    """
    n, arms, metrics = panel.values.shape
    if n == 0:
        return Bootstrap(panel, np.zeros((draws, arms, metrics), dtype=np.int64), 0, "nothing")
    flat = panel.values.reshape(n, arms * metrics)
    if float(np.abs(flat).max()) * n * n > float(2**62):
        # A unit drawn in every slot multiplies its sum by their number; n² bounds that generously.
        raise VerificationError("metrics are too large for exact sums; use a coarser unit")
    labels = np.zeros(n, dtype=object) if unit is None else getattr(panel, unit)
    clusters = [np.flatnonzero(labels == name) for name in sorted(set(labels.tolist()), key=str)]
    rng = generator(seed, panel.evaluation, "bootstrap", unit or "time", *_names(panel))
    sums = np.zeros((draws, flat.shape[1]), dtype=np.int64)
    if len(clusters) == 1:
        runs = 0
        sequences = sequences_of(panel, clusters[0], arm, baseline)
        for one in sequences:
            runs += _draw_runs(flat[one.rows], one.length, rng, sums, np.arange(draws))
        return Bootstrap(panel, sums.reshape(draws, arms, metrics), runs, "time", sequences)
    slots = rng.integers(0, len(clusters), size=(draws, len(clusters)))
    for index, cluster in enumerate(clusters):
        into = np.nonzero(slots == index)[0]
        for one in sequences_of(panel, cluster, arm, baseline):
            _draw_runs(flat[one.rows], one.length, rng, sums, into)
    return Bootstrap(panel, sums.reshape(draws, arms, metrics), len(clusters), unit or "time")


def expanded_interval(draws: NDArray[np.float64], units: float, confidence: float) -> tuple[float, float]:
    """Percentile interval of ``draws``, its quantiles moved outwards for ``units`` independent units."""
    t = special.stdtrit(units - 1, 0.5 + confidence / 2.0)
    tail = float(special.ndtr(-math.sqrt(units / (units - 1)) * t))
    ordered = np.sort(draws)
    # Order statistics, not interpolation: nothing is rounded that need not be.
    low = max(0, math.floor(tail * (len(ordered) + 1)) - 1)
    return float(ordered[low]), float(ordered[len(ordered) - 1 - low])


def _names(panel: Panel) -> list[str]:
    return sorted({f"{w}\x1e{d}" for w, d in panel.groups()})


def sequences_of(
    panel: Panel, rows: NDArray[np.intp], arm: str = MODEL, baseline: str = STOCK
) -> tuple[Runs, ...]:
    """``rows`` (sorted) cut into the sequences within which time runs, one per capture and what ran in it,
    each with the length of the runs that are drawn from it: of the gain of ``arm`` over ``baseline``."""
    changed = np.zeros(len(rows), dtype=bool)
    changed[0] = True
    for key in (panel.host, panel.workload, panel.device, panel.capture, panel.program):
        column = key[rows]
        changed[1:] |= column[1:] != column[:-1]
    residual = _residual(panel, arm, baseline)
    return tuple(
        Runs(part, run_length(residual[part])) for part in np.split(rows, np.flatnonzero(changed)[1:])
    )


def _draw_runs(
    values: NDArray[np.int64],
    length: int,
    rng: np.random.Generator,
    sums: NDArray[np.int64],
    into: NDArray[np.intp],
) -> int:
    """Add one circular-run resample of ``values`` (n, columns) to each row ``into`` of ``sums``.

    A row may stand several times in ``into``. Returns the number of runs that one resample consists of.
    """
    n, columns = values.shape
    runs = -(-n // length)
    # prefix[i] = sum of the first i rows of the sequence written twice: a circular run is a difference.
    prefix = np.zeros((2 * n + 1, columns), dtype=np.int64)
    np.cumsum(np.concatenate([values, values]), axis=0, out=prefix[1:])
    lengths = np.full(runs, length, dtype=np.int64)
    lengths[-1] = n - (runs - 1) * length
    step = max(1, _CHUNK // (runs * columns))
    for first in range(0, len(into), step):
        rows = into[first : first + step]
        _add_runs(prefix, rng.integers(0, n, size=(len(rows), runs)), lengths, rows, sums)
    return runs


@njit(cache=True, nogil=True)
def _add_runs(
    prefix: NDArray[np.int64],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    into: NDArray[np.intp],
    sums: NDArray[np.int64],
) -> None:
    """Add to row ``into[i]`` of ``sums`` the runs that begin at ``starts[i]``, shape (rows, runs)."""
    for i in range(starts.shape[0]):
        for j in range(starts.shape[1]):
            first = starts[i, j]
            last = first + lengths[j]
            for k in range(prefix.shape[1]):
                sums[into[i], k] += prefix[last, k] - prefix[first, k]


def _gain(arm: int, baseline: int) -> float:
    if baseline == 0:
        return 0.0 if arm == 0 else -math.inf
    return (baseline - arm) / baseline


def _gains(arm: NDArray[np.int64], baseline: NDArray[np.int64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        out = (baseline - arm) / baseline
    out[(baseline == 0) & (arm == 0)] = 0.0
    return out


def _median_gain(arm: NDArray[np.int64], baseline: NDArray[np.int64]) -> float | None:
    """Median over the blocks in which the baseline had a cost."""
    some = baseline > 0
    if not some.any():
        return None
    return float(np.median((baseline[some] - arm[some]) / baseline[some]))
