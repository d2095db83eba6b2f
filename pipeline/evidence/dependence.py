"""How blocks depend on those before them: how long runs must be, and what a bootstrap of runs leaves out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

EXTRAPOLATED_DF = 27 / 46
"""Degrees of freedom of an extrapolated variance, for each run of its sequence: one over the integral of the
square of its lag window, 2 (1 - |x|) - (1 - 3 |x|)+, over [-1, 1].
"""


@dataclass(frozen=True)
class Runs:
    """A sequence of blocks, by its rows in the panel, and the length of the runs that are drawn from it."""

    rows: NDArray[np.intp]
    length: int


@dataclass(frozen=True)
class Correction:
    """``factor``: variance of a sum in parts of the variance that drawing runs shows. ``df``: its degrees of
    freedom, at least 1."""

    factor: float
    df: float


def run_length(series: NDArray[np.float64]) -> int:
    """Length of the contiguous runs that are drawn from a sequence of blocks, shape (n,).

    The automatic length of Politis and White (2004, corrected 2009 with Patton) for the circular bootstrap:
    the longer the series depends on its past, the longer. Never below 2 n^(1/3), because a short series
    hides its dependence, nor above n / 3.
    """
    n = len(series)
    least = max(1, round(2.0 * n ** (1.0 / 3.0)))
    most = max(1, n // 3)
    centred = series - series.mean() if n else series
    variance = float(centred @ centred) / n if n else 0.0
    if n < 8 or variance <= 0.0:
        return min(least, most)
    lags = min(n - 1, math.isqrt(n) + 10)
    covariance = np.array([float(centred[: n - k] @ centred[k:]) / n for k in range(lags + 1)])
    small = np.abs(covariance / variance) < 2.0 * math.sqrt(math.log10(n) / n)
    quiet = max(5, math.isqrt(math.ceil(math.log10(n))))
    m = next((k for k in range(1, lags + 1) if bool(small[k : k + quiet].all())), lags)
    width = min(2 * max(1, m - 1), lags)
    k = np.arange(1, width + 1)
    taper = np.minimum(1.0, 2.0 * (1.0 - k / width)) if width > 1 else np.ones(1)
    weighted = taper * covariance[1 : width + 1]
    spectrum = covariance[0] + 2.0 * float(weighted.sum())
    slope = 2.0 * float((k * weighted).sum())
    if spectrum <= 0.0:
        return min(least, most)
    best = (1.5 * (slope / spectrum) ** 2) ** (1.0 / 3.0) * n ** (1.0 / 3.0)
    return min(max(least, math.ceil(min(best, 3.0 * math.sqrt(n)))), most)


def correction(values: NDArray[np.float64], sequences: Sequence[Runs]) -> Correction | None:
    """What the variance of the sum of ``values``, shape (n_blocks,), must be multiplied by; None without any.

    Two things make drawn runs vary too little, the more the shorter the sequences. Runs are drawn around the
    mean of their own sequence, which loses a degree of freedom in *each* sequence: the variance of runs of
    length l out of n blocks must be multiplied by n / (n - l). And where a run ends its dependence is cut: a
    bias in proportion to 1 / l, which two lengths tell, l and a third of it: twice the variance of the one
    minus that of the other ("over-lugsail", r = 3, c = 1/2: Vats and Flegal 2022), a little more than runs
    without end would show, for the dependence that a run hides. The larger variance holds, so that chance
    never makes an interval shorter than the runs that were drawn do.

    The variances are those of circular runs from every start: nothing is drawn. Degrees of freedom by
    Satterthwaite (1946), over the sequences; what is extrapolated is less certain.
    """
    drawn = unbiased = extrapolated = squares = squares_extrapolated = 0.0
    for one in sequences:
        series, n = values[one.rows], len(one.rows)
        if n < 2 or one.length >= n:
            continue
        whole = _variance(series, one.length)
        drawn += whole
        whole *= n / (n - one.length)
        unbiased += whole
        squares += whole * whole / (n / one.length - 1.0)
        third = one.length // 3
        part = _variance(series, third) * n / (n - third) if third else whole
        further = 2.0 * whole - part
        extrapolated += further
        squares_extrapolated += further * further / (EXTRAPOLATED_DF * n / one.length)
    if drawn <= 0.0:
        return None
    if extrapolated > unbiased:
        return Correction(extrapolated / drawn, max(1.0, extrapolated * extrapolated / squares_extrapolated))
    return Correction(unbiased / drawn, max(1.0, unbiased * unbiased / squares))


@njit(cache=True, nogil=True)
def _variance(series: NDArray[np.float64], length: int) -> float:
    """Variance of the sum of n / length circular runs, each from a start of its own; ``length`` < n."""
    n = len(series)
    sums = np.empty(n)
    sums[0] = series[:length].sum()
    for i in range(1, n):
        last = i + length - 1
        sums[i] = sums[i - 1] - series[i - 1] + series[last if last < n else last - n]
    mean = sums.sum() / n
    total = 0.0
    for i in range(n):
        total += (sums[i] - mean) ** 2
    return total / length
