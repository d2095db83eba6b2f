from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hindsight.errors import VerificationError
from hindsight.pipeline import evidence
from hindsight.pipeline.evidence import synthetic
from hindsight.pipeline.evidence.figures import seal
from hindsight.pipeline.evidence.realised import Rows, bins, mean, realised
from hindsight.pipeline.evidence.synthetic import DEFAULT_GAINS, Workload
from hindsight.pipeline.evidence.thresholds import Thresholds
from hindsight.pipeline.labels import relative
from hindsight.pipeline.params import Params
from hindsight.pipeline.realised import HALF_WIDTH, Realised, as_predicted, rows_to_learn, weights
from hindsight.subsystems.contract import Subsystem

LIMITS = Thresholds(draws=400, seed=3)
DAY = 86_400_000_000_000


def context(
    gains: Any, predicted: Any = 0.3, streams: int = 8, outside: Any = False, measured: bool = True
) -> dict[str, Any]:
    """A journal of rows, one a day, with these realised gains; streams in turn."""
    values = np.asarray(gains, float)
    expected, beyond = np.broadcast_to(predicted, values.shape), np.broadcast_to(outside, values.shape)
    rows = [
        {
            "capture": f"c{i % streams}", "stream": "s", "model": "m", "at_ns": i * DAY, "measured": measured,
            "predicted_ppm": -round(p * 1e6), "realised_ppm": -round(g * 1e6),
            "comparable_ppm": -round(g * 1e6), "outside": bool(o),
        }
        for i, (g, p, o) in enumerate(zip(values, expected, beyond, strict=True))
    ]  # fmt: skip
    return {"realised": {"recommendations": len(rows), "left_out": {}, "learned": 0, "rows": rows}}


def noise(n: int, seed: int, sigma: float = 0.05) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, sigma, n)


def test_a_prediction_that_comes_true_has_slope_one_and_no_warning() -> None:
    predicted = np.linspace(0.05, 0.6, 80)
    live, section = realised(context(predicted + noise(80, 1), predicted), LIMITS)
    assert section is not None and not live.worse and live.warnings == ()
    low, high = section["slope"].interval
    assert low < 1.0 < high and section["difference"].interval[0] < 0.0 < section["difference"].interval[1]
    assert [b["n"].value for b in section["bins"]] == [10] * 8
    assert "no significant difference to what was predicted" in section["line"]
    assert seal(section)["bins"][0]["realised"]["label"] == "measured"


def test_drift_is_told_from_a_constant_shortfall() -> None:
    constant, _ = realised(context(0.1 + noise(80, 2)), LIMITS)
    assert constant.warnings == ()
    gains = np.where(np.arange(80) < 40, 0.3, 0.1) + noise(80, 2)
    drifting, section = realised(context(gains), LIMITS)
    assert len(drifting.warnings) == 1 and "less than predicted" in drifting.warnings[0]
    assert section is not None and 15 < -section["drift"]["change"].value < 25
    # Better than predicted at first, as predicted now: a change, and nothing to be warned of.
    falling, _ = realised(context(np.where(np.arange(80) < 40, 0.5, 0.31) + noise(80, 2)), LIMITS)
    assert falling.warnings == ()


def test_states_beyond_what_was_learned_from_are_a_warning_also_of_advice_not_applied() -> None:
    often = np.arange(80) % 3 == 0
    for measured in (True, False):
        live, section = realised(context(0.3 + noise(80, 3), outside=often, measured=measured), LIMITS)
        assert len(live.warnings) == 1 and "outside of what the model learned" in live.warnings[0]
        assert section is not None and section["outside"].value == pytest.approx(33.75)
    rare, _ = realised(context(0.3 + noise(80, 3), outside=np.arange(80) == 7), LIMITS)
    assert rare.warnings == ()


@pytest.mark.parametrize(("n", "streams"), [(0, 8), (9, 8), (40, 1)])
def test_too_few_rows_or_streams_are_not_enough_evidence(n: int, streams: int) -> None:
    live, section = realised(context(np.full(n, -1.0), streams=streams, outside=True), LIMITS)
    assert not live.worse and live.warnings == ()
    assert section is not None and section["line"].startswith("Not enough evidence")
    assert not section["enough"]
    seal(section)


def test_worse_than_the_baseline_is_said_beyond_noise_only() -> None:
    live, section = realised(context(-0.1 + noise(60, 4)), LIMITS)
    assert live.worse and section is not None and "more than no advice" in section["line"]
    assert not realised(context(-0.005 + noise(60, 4)), LIMITS)[0].worse


def test_what_was_realised_limits_the_mode() -> None:
    blocks = synthetic.blocks(
        [Workload(f"work{i}", f"program{i}", blocks=60) for i in range(6)], 3, DEFAULT_GAINS, noise=0.1
    )
    live = {"pairs": 40, "sign_right": 0.98, "median_error": 0.06, "p90_error": 0.2}
    known = {**synthetic.context(blocks), "live_check": live}

    def mode(**more: Any) -> tuple[str, str]:
        verdict = evidence.assess(blocks, known | more, {"draws": 300, "seed": 7})["verdict"]
        return verdict["mode"], verdict["reasons"][0]["code"]

    assert mode() == mode(**context(0.3 + noise(60, 5))) == ("recommendation", "gain")
    assert mode(**context(-0.1 + noise(60, 5), -0.1)) == ("learning", "applied_worse")
    assert mode(**context(0.3 - 0.2 * (np.arange(60) >= 30) + noise(60, 5))) == ("collaboration", "drift")
    assert mode(**context(0.3 + noise(60, 5), outside=True)) == ("collaboration", "drift")


def test_intervals_cover_the_mean_of_streams_that_differ() -> None:
    covered = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        unit = np.repeat(np.arange(12), 6)
        values = generator.normal(0, 0.1, 12)[unit] + generator.normal(0, 0.05, 72) + 0.2
        ppm = np.round(values * 1e6).astype(np.int64)
        rows = Rows(ppm, ppm, ppm, unit.astype(np.intp), np.arange(72))
        found = mean(rows, ppm, Thresholds(draws=200, seed=seed))
        assert found.low is not None and found.high is not None
        covered += found.low <= 0.2 <= found.high
    assert 180 <= covered <= 199  # 95 % is stated


def test_impossible_figures_are_refused_not_wrapped() -> None:
    given = context(np.full(20, 1.0))
    given["realised"]["rows"][3]["realised_ppm"] = 1 << 61
    with pytest.raises(VerificationError, match="too large"):
        realised(given, LIMITS)


@given(st.lists(st.integers(-2_000_000, 2_000_000), max_size=120), st.integers(2, 15))
def test_bins_hold_every_row_once_in_order(predicted: list[int], least: int) -> None:
    values = np.array(predicted, np.int64)
    n = len(values)
    rows = Rows(values, values, np.arange(n), np.zeros(n, np.intp), np.zeros(n, np.int64))
    found = bins(rows, least)
    assert sorted(i for part in found for i in part.realised.tolist()) == list(range(n))
    ends = [(int(part.predicted.min()), int(part.predicted.max())) for part in found]
    assert all(a[1] < b[0] for a, b in pairwise(ends)) and len(found) <= 10


def journal(**columns: Any) -> Realised:
    n = len(next(iter(columns.values())))
    names = (
        "baseline_total",
        "baseline_n",
        "treated_total",
        "treated_n",
        "treated_ns",
        "noise_ppm",
        "action",
    )
    full = {name: np.ones(n, np.int64) for name in names} | {"capture": np.full(n, "c", object)}
    features = {name: np.full(n, 0.5, np.float32) for name in ("sequential", "window", "fetch")}
    return Realised(full | features | {k: np.asarray(v) for k, v in columns.items()})


@settings(max_examples=200)
@given(st.integers(1, 1 << 40), st.integers(0, 1 << 40), st.integers(1, 1000), st.integers(1, 1000))
def test_the_realised_change_is_that_of_a_label(base: int, treated: int, n: int, times: int) -> None:
    """The same costs over the same time give what a label gives, however many operations the baseline has."""
    labels = {"scale": 2_000_000, "horizon_ns": 10**9, "clip": 1e18}
    rows = journal(
        baseline_total=[base * times], baseline_n=[n * times], treated_total=[treated], treated_n=[n],
        treated_ns=[10**9],
    )  # fmt: skip
    label = float(relative(np.array([[treated, base]], np.int64), labels)[0, 0])
    assert as_predicted(rows, labels)[0] / 1e6 == pytest.approx(label, abs=6e-7, rel=1e-6)


def test_a_row_as_uncertain_as_the_least_gain_weighs_half(toy: Subsystem, tmp_path: Any) -> None:
    sections = {
        "labels": {"scale": 100, "horizon_ns": 10**9, "clip": 2.0},
        "decision": {"min_gain": 0.03},
        "train": {"realised_weight": 4.0},
    }
    error = 0.03 / 2**0.5 * HALF_WIDTH * 1e6  # of each of two windows of the same length
    rows = journal(
        baseline_total=[300, 300, 300, 300], baseline_n=[10] * 4, treated_n=[10] * 4,
        treated_total=[150, 150, 3000, 150], noise_ppm=[0, round(error), 0, 10 * round(error)],
    )  # fmt: skip
    params = Params(tmp_path, sections)
    found = weights(rows, params)
    assert found[0] == pytest.approx(8.0) and found[1] == pytest.approx(4.0, rel=1e-4)
    assert found[3] == pytest.approx(8.0 / 101, rel=1e-3)
    inputs, targets, weight = rows_to_learn(toy, rows, params)
    assert inputs.shape == (8, 4) and inputs.dtype == targets.dtype == weight.dtype == np.float32
    assert targets[0::2].tolist() == pytest.approx([-0.5, -0.5, 2.0, -0.5], abs=1e-6)
    assert targets[1::2].tolist() == [0.0] * 4 and weight[0] == weight[1]
    assert inputs[0::2, 3].tolist() == [2.0] * 4 and inputs[1::2, 3].tolist() == [-1.0] * 4
    assert (inputs[:, :3] == 0.5).all()
    # Where every gain is acted on, one per cent is what matters: a third as uncertain, a tenth of the weight.
    free = Params(tmp_path, {**sections, "decision": {"min_gain": 0.0}})
    assert weights(rows, free)[:2] == pytest.approx([8.0, 0.8], rel=1e-3)
