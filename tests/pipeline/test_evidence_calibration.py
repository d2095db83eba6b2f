"""The counting of false winners and of power, on data of which the truth is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hindsight.pipeline.evidence import calibration, synthetic
from hindsight.pipeline.evidence.calibration import Case, Share, Status, calibrate, reachable, verdict
from hindsight.pipeline.evidence.comparisons import findings
from hindsight.pipeline.evidence.panel import MODEL, STOCK, Panel, panels
from hindsight.pipeline.evidence.synthetic import Workload
from hindsight.pipeline.evidence.thresholds import Thresholds
from hindsight.pipeline.evidence.truths import (
    labels_permuted,
    neighbours,
    pair,
    planted,
    signs_flipped,
    without_mean,
)
from hindsight.pipeline.evidence.verdict import Against
from hindsight.pipeline.store import canonical_json

LIMITS = Thresholds(draws=200)


def panel_of(evaluation: str = "tomorrow", programs: int = 3, gain: float = 0.3) -> Panel:
    workloads = [Workload(f"w{i}", f"p{i}", blocks=40) for i in range(programs)]
    table = synthetic.blocks(workloads, 7, {"rule": 0.1, "model": gain}, (evaluation,), memory=0.0)
    return panels(table, ["cost_ns", "fetched_pages"])[0]


def gain(panel: Panel) -> float:
    return 1.0 - panel.total(MODEL) / panel.total(STOCK)


def tomorrow() -> list[Case]:
    return calibration.of_evaluation(panel_of(), MODEL, LIMITS)[:1]


def difference(panel: Panel) -> np.ndarray[Any, np.dtype[np.int64]]:
    return panel.cost(STOCK) - panel.cost(MODEL)


@pytest.mark.parametrize("unit", ["program", None])
def test_flipped_signs_leave_no_difference_on_average_and_every_difference_as_large(unit: str | None) -> None:
    original = pair(panel_of(programs=5), MODEL)
    flip = signs_flipped(original, unit)
    rng = np.random.Generator(np.random.PCG64(1))
    drawn = [flip(rng) for _ in range(400)]
    gains = np.array([gain(p) for p in drawn])
    assert gain(original) > 0.25
    assert abs(gains.mean()) < 4.0 * gains.std() / np.sqrt(len(gains))
    assert gains.std() > 0.01
    for one in drawn[:20]:
        assert (np.abs(difference(one)) == np.abs(difference(original))).all()
        assert (one.cost(STOCK) == original.cost(STOCK)).all()


def test_what_the_evaluation_calls_new_is_flipped_as_a_whole_and_time_in_runs() -> None:
    original = pair(panel_of(), MODEL)
    rng = np.random.Generator(np.random.PCG64(2))

    def changes(unit: str | None) -> int:
        signs = np.sign(difference(signs_flipped(original, unit)(rng)) * difference(original))
        return sum(
            int((np.diff(signs[original.program == p]) != 0).sum()) for p in set(original.program.tolist())
        )

    assert all(changes("program") == 0 for _ in range(20))
    # Runs of seven out of forty blocks: at most six places at which a sign may change in a sequence.
    found = [changes(None) for _ in range(50)]
    assert max(found) <= 18 and min(found) > 0


def test_the_mean_is_taken_out_and_an_effect_is_planted_exactly() -> None:
    original = pair(panel_of(), MODEL)
    left = without_mean(original)
    assert gain(left) == pytest.approx(0.0, abs=1e-8)
    assert gain(planted(left, 0.05)) == pytest.approx(0.05, abs=1e-8)
    assert gain(planted(original, 0.5)) == pytest.approx(1 - 0.5 * (1 - gain(original)), abs=1e-8)


def test_a_measurement_is_paired_with_its_neighbour_alone() -> None:
    panel = neighbours({("w", "P1"): [10, 11, 20, 22, 99], ("v", "P2"): [5, 6], ("alone", "P1"): [7]})
    assert panel.groups() == [("v", "P2"), ("w", "P1")]
    assert panel.values[:, :, 0].tolist() == [[5, 6], [10, 11], [20, 22]]
    assert len(neighbours({})) == 0
    rng = np.random.Generator(np.random.PCG64(3))
    drawn = [labels_permuted(panel)(rng).values[:, :, 0] for _ in range(200)]
    assert {tuple(sorted(map(tuple, np.sort(v, axis=1).tolist()))) for v in drawn} == {
        ((5, 6), (10, 11), (20, 22))
    }
    # Every pattern of the three coins comes up.
    assert len({tuple(v[:, 0].tolist()) for v in drawn}) == 8


def test_nothing_is_outside_where_the_rules_are_as_they_are() -> None:
    result = calibrate(tomorrow(), LIMITS, 120)
    assert result["outside"] == []
    overall, *_ = result["null"]
    assert overall["comparison"] == "all workloads" and overall["status"] == "within"
    assert overall["better"] + overall["worse"] == overall["declared"]["count"] < 20
    assert [row["gain"] for row in result["planted"]][:4] == [0.01, 0.02, 0.05, 0.1]


def test_an_interval_that_is_too_short_is_caught() -> None:
    def broken(panel: Panel, limits: Thresholds) -> Against:
        effect = verdict(panel, limits).effect
        assert effect.low is not None and effect.high is not None
        half = 0.4 * effect.error
        short = replace(effect, low=effect.gain - half, high=effect.gain + half, p=effect.p**6)
        return Against(findings([short], limits.min_blocks, limits.confidence)[0], short)

    result = calibrate(tomorrow(), LIMITS, 120, judge=broken)
    assert result["null"][0]["status"] == "above"
    assert any("all workloads: declared in" in line for line in result["outside"])


def test_an_inference_that_promises_more_than_it_finds_is_caught() -> None:
    def boastful(panel: Panel, limits: Thresholds) -> Against:
        found = verdict(panel, limits)
        assert found.effect.detectable is not None
        return Against(found.finding, replace(found.effect, detectable=0.5 * found.effect.detectable))

    result = calibrate(tomorrow(), LIMITS, 120, judge=boastful)
    assert result["planted"][-1]["detectable"] and result["planted"][-1]["status"] == "below"
    assert any("a planted" in line for line in result["outside"])


def test_planted_effects_are_found_the_more_the_larger_and_the_detectable_with_its_power() -> None:
    # Without their mean differences are small, and so is what is called detectable: planting it does not
    # shrink the noise much.
    centred = calibration.of_evaluation(panel_of(), MODEL, LIMITS)[1]
    result = calibrate([centred], LIMITS, 120)
    shares = [row["found"]["share"] for row in result["planted"][:4]]
    assert shares == sorted(shares) and shares[3] > shares[0]
    last = result["planted"][-1]
    assert last["detectable"] and last["status"] == "within"
    assert last["found"]["low"] <= 0.8 <= last["found"]["high"]


def test_the_same_seed_gives_the_same_bytes_however_the_draws_are_shared_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = canonical_json(calibrate(tomorrow(), LIMITS, 30))
    assert canonical_json(calibrate(tomorrow(), LIMITS, 30)) == first
    monkeypatch.setattr(calibration, "_AT_ONCE", 7)
    assert canonical_json(calibrate(tomorrow(), LIMITS, 30)) == first
    assert canonical_json(calibrate(tomorrow(), replace(LIMITS, seed=1), 30)) != first


def test_workloads_are_judged_where_coins_decide_about_parts_of_them() -> None:
    time, centred = calibration.of_evaluation(panel_of(), MODEL, LIMITS)
    programs, _ = calibration.of_evaluation(panel_of("new_workload"), MODEL, LIMITS)
    assert (time.family, centred.family, programs.family) == (10, None, None)
    assert (programs.drawn, programs.clusters) == ("3 programs", 3)
    # With one program there is only time to draw.
    single = calibration.of_evaluation(panel_of("new_workload", programs=1), MODEL, LIMITS)[0]
    assert single.drawn == "runs of blocks"
    rows = calibrate([time, programs], LIMITS, 20)["null"]
    assert [row["comparison"] for row in rows] == [
        "all workloads",
        "any workload",
        "any workload whose coins differ",
        "one workload, not corrected",
        "all workloads",
    ]
    assert rows[0]["declared"]["trials"] == 20 and rows[3]["declared"]["trials"] == 60


def test_repeats_of_one_arm_have_no_winner() -> None:
    rng = np.random.Generator(np.random.PCG64(5))
    measured = {(f"w{i}", "P"): (1e9 + 1e7 * rng.standard_normal(10)).astype(int).tolist() for i in range(6)}
    result = calibrate(calibration.of_repeats(measured), LIMITS, 120)
    assert result["outside"] == []
    assert {row["drawn"] for row in result["null"]} == {"labels of neighbours"}
    # One per cent of noise in thirty pairs: an effect of five is never missed.
    assert result["planted"][2]["found"]["share"] == 1.0
    assert calibration.of_repeats({("w", "P"): [1]}) == []


def test_the_binomial_interval_and_what_it_says() -> None:
    assert Share(0, 10).interval == (0.0, pytest.approx(1 - 0.005 ** (1 / 10)))
    assert Share(10, 10).interval == (pytest.approx(0.005 ** (1 / 10)), 1.0)
    assert Share(100, 2000).against(0.05, 0.05) is Status.WITHIN
    assert Share(140, 2000).against(0.05, 0.05) is Status.ABOVE
    assert Share(60, 2000).against(0.05, 0.05) is Status.BELOW
    assert Share(60, 2000).against(0.0, 0.05) is Status.WITHIN
    assert Share(0, 0).value == 0.0


def test_few_signs_reach_few_rates() -> None:
    assert reachable(0.05, 6) == (1 / 32, 2 / 32)
    assert reachable(0.05, 3) == (0.0, 0.25)
    low, high = reachable(0.05, 5000)
    assert low <= 0.05 <= high and high - low < 1e-6
