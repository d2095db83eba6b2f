from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hindsight.pipeline.evidence.comparisons import Finding
from hindsight.pipeline.evidence.paired import Effect
from hindsight.pipeline.evidence.verdict import MODES, Against, Evidence, Findings, Mode, Outcome, decide
from hindsight.subsystems.contract import Label

DOCS = Path(__file__).parents[2] / "docs" / "evidence.md"

BETTER, WORSE, SAME, UNKNOWN = Finding.BETTER, Finding.WORSE, Finding.SAME, Finding.UNKNOWN


def against(finding: Finding, gain: float | None = None) -> Against:
    middle = {BETTER: 0.2, WORSE: -0.2, SAME: 0.0, UNKNOWN: 0.1}[finding] if gain is None else gain
    low, high = (None, None) if finding is UNKNOWN else (middle - 0.05, middle + 0.05)
    return Against(finding, Effect(50, 12, 1000, 800, middle, low, high, 0.02, 0.01, 0.06, middle))


VERSUS = {name: against(BETTER) for name in ("rule", "best_static", "best_static_each", "null")}
GOOD = Findings("tomorrow", against(BETTER), VERSUS)
BEST = Evidence(
    evaluations=(GOOD, replace(GOOD, evaluation="new_workload")),
    missing=(),
    exact_share=0.997,
    fidelity_threshold=0.99,
    cost="stall",
    cost_label=Label.MODELLED,
    hosts=2,
    live=True,
    calibration_error=0.05,
    calibration_limit=0.15,
    margin=0.05,
    confidence=0.95,
)


def with_findings(**changed: Any) -> Evidence:
    """BEST, with the second evaluation changed."""
    return replace(BEST, evaluations=(GOOD, replace(GOOD, evaluation="new_workload", **changed)))


def versus(name: str, finding: Finding) -> dict[str, Against]:
    return {**VERSUS, name: against(finding)}


ROWS = {
    "bound violated": (with_findings(violations=("model on c",)), Outcome.BROKEN, "bound_violated"),
    "null wins": (with_findings(null_wins=True), Outcome.BROKEN, "null_wins"),
    "unfaithful": (replace(BEST, exact_share=0.9899), Outcome.UNFAITHFUL, "replay_not_faithful"),
    "faith unknown": (replace(BEST, exact_share=None), Outcome.UNFAITHFUL, "replay_not_faithful"),
    "missing": (replace(BEST, missing=("new_workload",)), Outcome.NO_EVIDENCE, "evaluation_missing"),
    "nothing": (replace(BEST, evaluations=()), Outcome.NO_EVIDENCE, "evaluation_missing"),
    "few blocks": (with_findings(stock=against(UNKNOWN)), Outcome.NO_EVIDENCE, "too_few_blocks"),
    "harm": (with_findings(stock=against(WORSE)), Outcome.HARM, "worse_overall"),
    "harm here": (with_findings(stock=against(SAME), worse=("w",)), Outcome.HARM, "workload_worse"),
    "no difference": (with_findings(stock=against(SAME)), Outcome.NO_DIFFERENCE, "no_difference"),
    "eaten by its cost": (with_findings(charge=0.16), Outcome.NO_DIFFERENCE, "costs_more"),
    "rule better": (with_findings(versus=versus("rule", WORSE)), Outcome.BEATEN, "rule_better"),
    "null as good": (with_findings(versus=versus("null", SAME)), Outcome.BEATEN, "null_as_good"),
    "live failed": (replace(BEST, live=False), Outcome.NOT_CONFIRMED, "live_check_failed"),
    "applied worse": (replace(BEST, applied_worse=True), Outcome.NOT_CONFIRMED, "applied_worse"),
    "drift": (replace(BEST, drift=("Drift: worse than before.",)), Outcome.GAIN_WITH_RISK, "drift"),
    "worse": (with_findings(worse=("w",)), Outcome.GAIN_WITH_RISK, "workload_worse"),
    "at risk": (with_findings(at_risk=("w",)), Outcome.GAIN_WITH_RISK, "workload_at_risk"),
    "unknown": (with_findings(unknown=("w",)), Outcome.GAIN_WITH_RISK, "workload_unknown"),
    "rule as good": (with_findings(versus=versus("rule", SAME)), Outcome.GAIN_WITH_RISK, "rule_not_beaten"),
    "no rule": (with_findings(versus={"null": against(BETTER)}), Outcome.GAIN_WITH_RISK, "rule_not_beaten"),
    "static": (with_findings(versus=versus("best_static", WORSE)), Outcome.GAIN_WITH_RISK, "static_better"),
    "bounded": (replace(BEST, cost_label=Label.BOUNDED), Outcome.GAIN_WITH_RISK, "bounded"),
    "off": (replace(BEST, calibration_error=0.16), Outcome.GAIN_WITH_RISK, "not_calibrated"),
    "uncalibrated": (replace(BEST, calibration_error=None), Outcome.GAIN_WITH_RISK, "not_calibrated"),
    "not live": (replace(BEST, live=None), Outcome.GAIN_WITH_RISK, "no_live_check"),
    "gain": (BEST, Outcome.GAIN, "gain"),
    "measured": (
        replace(BEST, cost_label=Label.MEASURED, calibration_error=None),
        Outcome.GAIN,
        "gain",
    ),
}


@pytest.mark.parametrize(("evidence", "outcome", "code"), ROWS.values(), ids=ROWS)
def test_every_row_of_the_decision_table(evidence: Evidence, outcome: Outcome, code: str) -> None:
    verdict = decide(evidence)
    assert verdict.outcome is outcome
    assert verdict.mode is MODES[outcome]
    assert code in [reason.code for reason in verdict.reasons]
    assert verdict.line.endswith(".") and all(reason.text.endswith(".") for reason in verdict.reasons)
    assert decide(evidence) == verdict


def test_the_rows_cover_every_outcome_and_the_docs_show_them() -> None:
    assert {outcome for _, outcome, _ in ROWS.values()} == set(Outcome)
    text = DOCS.read_text()
    for outcome in Outcome:
        assert f"| `{outcome.value}` |" in text and MODES[outcome].value in text
    codes = {reason.code for evidence, _, _ in ROWS.values() for reason in decide(evidence).reasons}
    assert [code for code in sorted(codes) if f"`{code}`" not in text] == []


def test_every_row_and_every_reason_of_the_documented_table_has_its_test() -> None:
    rows = [line.split(" | ") for line in DOCS.read_text().splitlines() if line.startswith("| `")]
    outcomes = {outcome.value for outcome in Outcome}
    table = {cells[0].strip("| `"): cells for cells in rows if cells[0].strip("| `") in outcomes}
    assert set(table) == outcomes
    tested: dict[str, set[str]] = {name: set() for name in outcomes}
    for evidence, outcome, code in ROWS.values():
        assert code in {reason.code for reason in decide(evidence).reasons}
        tested[outcome.value].add(code)
    for name, (_, _, reasons, mode) in table.items():
        assert set(re.findall(r"`(\w+)`", reasons)) == tested[name], name
        assert mode.strip("| ") == MODES[Outcome(name)].value


def test_neither_drift_nor_harm_of_applied_advice_leaves_a_recommendation() -> None:
    assert decide(BEST).mode is Mode.RECOMMENDATION
    worse = decide(replace(BEST, applied_worse=True))
    assert worse.mode is Mode.LEARNING and worse.line.endswith("what was realised live disagrees.")
    drifting = decide(replace(BEST, drift=("Drift: one.", "Drift: two.")))
    assert drifting.mode is Mode.COLLABORATION
    assert [r.text for r in drifting.reasons] == ["Drift: one.", "Drift: two."]
    both = decide(replace(BEST, live=False, applied_worse=True))
    assert [r.code for r in both.reasons] == ["live_check_failed", "applied_worse"]


def test_the_verdict_is_that_of_the_worst_evaluation() -> None:
    small = replace(GOOD, evaluation="new_workload", stock=against(BETTER, 0.07))
    verdict = decide(replace(BEST, evaluations=(GOOD, small)))
    assert verdict.evaluation == "new_workload" and "7.0 %" in verdict.line
    harmed = replace(GOOD, stock=against(WORSE))
    verdict = decide(replace(BEST, evaluations=(harmed, small), missing=("new_host",)))
    assert (verdict.outcome, verdict.evaluation) == (Outcome.HARM, "tomorrow")


def test_a_broken_procedure_goes_before_everything() -> None:
    evidence = replace(with_findings(null_wins=True, stock=against(WORSE)), exact_share=0.5)
    verdict = decide(evidence)
    assert verdict.outcome is Outcome.BROKEN and "procedure is broken" in verdict.line


def test_what_misses_the_threshold_is_not_rounded_up_to_it() -> None:
    assert "98.99 % of" in decide(replace(BEST, exact_share=0.98999)).line


def test_it_is_said_plainly_what_the_model_does_not_beat() -> None:
    statements = decide(with_findings(stock=against(BETTER, 0.1), versus=versus("rule", SAME))).statements
    assert any(s.startswith("It does not beat the trivial rule: no significant") for s in statements)
    assert any(s.startswith("It beats the best single static setting") for s in statements)


def test_a_gain_must_exceed_what_advice_costs() -> None:
    assert decide(with_findings(charge=0.14)).outcome is Outcome.GAIN
    verdict = decide(with_findings(charge=0.16))  # (the interval of the gain begins at 0.15)
    assert "not by more than its advice is shown to cost" in verdict.line
    assert "(16.0 %)" in verdict.reasons[0].text


def test_one_host_makes_no_claim_across_hosts() -> None:
    assert "One host: no claim across hosts." in decide(replace(BEST, hosts=1)).statements
    assert "One host: no claim across hosts." not in decide(BEST).statements


def test_modes_are_ordered_from_least_to_most() -> None:
    assert [mode.rank for mode in Mode] == [0, 1, 2, 3] and Mode.EMERGENCY.rank == 0
