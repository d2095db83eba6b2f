"""The variance that runs leave out, held against the variance of many datasets."""

from __future__ import annotations

import numpy as np
import pytest

from hindsight.pipeline.evidence.dependence import Runs, _variance, correction
from hindsight.pipeline.evidence.paired import _draw_runs, generator


def variances(blocks: int, length: int, dependence: int, captures: int) -> tuple[float, float, float]:
    """(true variance of the sum, mean variance of the runs as drawn, mean of the corrected), 400 datasets
    of ``captures`` sequences; each block is a mean of ``dependence`` shocks."""
    rng = np.random.Generator(np.random.PCG64(11))
    sequences = [Runs(np.arange(i * blocks, (i + 1) * blocks), length) for i in range(captures)]
    sums, drawn, corrected = [], [], []
    for _ in range(400):
        shocks = rng.standard_normal((captures, blocks + dependence - 1))
        series = np.array([np.convolve(row, np.ones(dependence), "valid") for row in shocks]).ravel()
        found = correction(series, sequences)
        assert found is not None and found.df > 1
        totals = np.zeros((400, 1), dtype=np.int64)
        for one in sequences:
            values = np.rint(series[one.rows, None] * 1e6).astype(np.int64)
            _draw_runs(values, one.length, rng, totals, np.arange(400))
        sums.append(float(series.sum()))
        drawn.append(float(totals.var(ddof=1)) / 1e12)
        corrected.append(drawn[-1] * found.factor)
    return float(np.var(sums)), float(np.mean(drawn)), float(np.mean(corrected))


def test_short_sequences_lose_a_degree_of_freedom_each() -> None:
    true, drawn, corrected = variances(blocks=12, length=4, dependence=1, captures=20)
    assert drawn < 0.8 * true
    assert 0.9 * true < corrected < 1.25 * true


def test_most_of_the_dependence_that_runs_cut_is_made_up_for() -> None:
    true, drawn, corrected = variances(blocks=60, length=8, dependence=8, captures=10)
    assert drawn < 0.65 * true
    assert true - corrected < 0.5 * (true - drawn)
    assert corrected < 1.1 * true


def test_one_sequence_has_the_degrees_of_freedom_of_its_runs() -> None:
    series = np.random.Generator(np.random.PCG64(1)).standard_normal(40)
    found = correction(series, [Runs(np.arange(40), 5)])
    assert found is not None and found.df == pytest.approx(7)
    # A sequence beside it in which nothing varies adds none; one that varies as much does.
    beside = [Runs(np.arange(40), 5), Runs(np.arange(40, 80), 5)]
    still = correction(np.concatenate([series, np.zeros(40)]), beside)
    twice = correction(np.concatenate([series, series]), beside)
    assert still is not None and still.df == pytest.approx(7)
    assert twice is not None and twice.df == pytest.approx(14)


def test_what_does_not_vary_needs_no_correction() -> None:
    assert correction(np.zeros(9), [Runs(np.arange(9), 3)]) is None
    assert correction(np.ones(1), [Runs(np.arange(1), 1)]) is None


@pytest.mark.parametrize("length", [1, 5, 17])
def test_compiled_draws_are_those_of_the_formula(length: int) -> None:
    values = generator(1, "values").integers(-(10**12), 10**12, size=(17, 3))
    into = np.array([0, 3, 3, 7])
    sums = np.zeros((9, 3), dtype=np.int64)
    runs = _draw_runs(values, length, generator(2, "draws"), sums, into)
    assert runs == -(-17 // length)
    starts = generator(2, "draws").integers(0, 17, size=(len(into), runs))
    expected = np.zeros_like(sums)
    for row, own in zip(into, starts, strict=True):
        rows = (own[:, None] + np.arange(length)).ravel()[:17] % 17
        expected[row] += values[rows].sum(axis=0)
    assert (sums == expected).all()


def test_the_variance_of_runs_is_that_of_all_their_starts() -> None:
    series = generator(4, "series").standard_normal(23)
    for length in (1, 4, 22):
        sums = [float(series[(start + np.arange(length)) % 23].sum()) for start in range(23)]
        assert _variance(series, length) == pytest.approx(23 / length * float(np.var(sums)))
