from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hindsight.pipeline.advice_cost import advice_cost
from hindsight.pipeline.drive import Outcome
from hindsight.pipeline.evidence.advice_cost import charged, spent
from hindsight.pipeline.evidence.figures import seal
from hindsight.pipeline.evidence.paired import Effect
from hindsight.pipeline.params import load
from hindsight.subsystems.contract import Label

ROOT = Path(__file__).parents[2]
NOTHING = np.zeros((1, 1), np.int64)
EFFECT = Effect(50, 12, 1_000_000, 800_000, 0.2, 0.15, 0.25, 0.02, 0.01, 0.06, 0.2)


def _outcome(*taken: int) -> Outcome:
    return Outcome(NOTHING, NOTHING, np.array(taken, np.int64))


def test_every_event_decision_and_action_is_charged() -> None:
    tested = [({"events": 100}, _outcome(3, 0, 7)), ({"events": 50}, _outcome(0, 2, 0))]
    advice = {"event_ns": 10, "decision_ns": 1000, "action_ns": 20_000}
    # KEEP, the last, is decided and not acted upon.
    expected = {"events": 150, "decisions": 12, "actions": 5, "ns": 150 * 10 + 12 * 1000 + 5 * 20_000}
    assert advice_cost(advice, tested) == expected


def test_what_is_left_of_a_gain() -> None:
    advice = {"events": 150, "decisions": 12, "actions": 5, "ns": 113_500}
    charge = charged(advice, EFFECT, "ns")
    assert charge == pytest.approx(0.1135)
    tree = seal(spent(advice, charge, EFFECT, Label.MODELLED))
    assert tree["net_gain"]["value"] == pytest.approx(20 - 11.35)
    assert (tree["net_gain"]["low"], tree["net_gain"]["high"]) == pytest.approx((3.65, 13.65))
    assert tree["share"]["label"] == tree["net_gain"]["label"] == "modelled"


def test_time_is_not_charged_against_something_else() -> None:
    advice = {"events": 1, "decisions": 1, "actions": 1, "ns": 1}
    assert charged(advice, EFFECT, "pages") is None and charged(None, EFFECT, "ns") is None
    tree = seal(spent(advice, None, EFFECT, Label.EXACT))
    assert tree["net_gain"]["value"] is None and "cannot be charged" in tree["net_gain"]["note"]


def test_the_parameters_are_what_was_measured() -> None:
    measured = json.loads((ROOT / "data/measured/advice/summary.json").read_text())
    together, advice = measured["together"], load(ROOT / "params.yaml")["advice"]
    delays = together["from_oldest_event"]["quantiles_ns"]
    assert advice["delay_us"] == [round(delay / 1000) for delay in delays]
    costs = together["costs"]
    assert advice["event_ns"] == measured["capture_without_pause"]["cpu_per_event_ns"]
    assert advice["decision_ns"] == costs["capture"]["cpu_per_wakeup_ns"] + costs["decision"]["mean_ns"]
    assert advice["action_ns"] == costs["acting"]["mean_ns"]
