from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from hindsight.errors import ConfigurationError, VerificationError
from hindsight.pipeline import evidence
from hindsight.pipeline.evidence import sections, synthetic
from hindsight.pipeline.evidence.evaluation import device_names
from hindsight.pipeline.evidence.figures import Count, Figure, Quoted, Series, quantise, seal
from hindsight.pipeline.evidence.synthetic import DEFAULT_GAINS, Workload
from hindsight.pipeline.store import canonical_json
from hindsight.subsystems.contract import Label

PARAMS = {"draws": 300, "seed": 7}
POINTS = [
    {"profile": "P1", "workload": "scan", "setting": "device:512", "predicted": 1.25, "measured": 1.5},
    {"profile": "P2", "workload": "points", "setting": "model", "predicted": -0.03, "measured": -0.5},
]
LIVE = {"pairs": 40, "sign_right": 0.98, "median_error": 0.06, "p90_error": 0.2, "points": POINTS}
SIX = [Workload(f"work{i}", f"program{i}", blocks=60) for i in range(6)]


def table(workloads: list[Workload] = SIX, seed: int = 3, **gains: float) -> pl.DataFrame:
    return synthetic.blocks(workloads, seed, {**DEFAULT_GAINS, **gains}, noise=0.1)


def assess(blocks: pl.DataFrame, **changed: Any) -> dict[str, Any]:
    context = {**synthetic.context(blocks), "live_check": LIVE, **changed}
    return evidence.assess(blocks, {k: v for k, v in context.items() if v is not None}, PARAMS)


@pytest.fixture(scope="module")
def good() -> dict[str, Any]:
    return assess(table())


def test_a_planted_gain_is_found_and_may_be_recommended(good: dict[str, Any]) -> None:
    assert good["verdict"]["mode"] == "recommendation"
    for section in good["evaluations"]:
        gain = section["model"]["gain"]
        assert section["model"]["finding"] == "better"
        assert gain["low"] <= 24 <= gain["high"] and gain["label"] == "modelled" and gain["unit"] == "%"
        found = {arm["arm"]: arm["finding"] for arm in section["arms"]}
        assert found["null"] == found["random"] == found["static:exact"] == "worse"
        assert found["rule"] == "better"
        assert section["best_static"]["overall"] == "static:large"
    drawn = {section["name"]: section["resampled"] for section in good["evaluations"]}
    assert drawn == {"tomorrow": "time", "new_workload": "program"}


def test_without_an_effect_there_is_no_significant_difference() -> None:
    report = assess(table(model=0.0, null=-0.2))
    assert report["verdict"]["outcome"] == "no_difference"
    assert {section["model"]["finding"] for section in report["evaluations"]} == {"~"}
    assert "would have been seen" in report["verdict"]["line"]


def test_a_loss_is_harm() -> None:
    report = assess(table(model=-0.3))
    assert (report["verdict"]["outcome"], report["verdict"]["mode"]) == ("harm", "emergency")


def test_one_bad_workload_is_named_first_and_limits_the_mode() -> None:
    workloads = [*SIX, Workload("victim", "program9", blocks=60, cost=3e7, gains={"model": -0.4})]
    report = assess(table(workloads))
    assert report["verdict"]["mode"] == "collaboration"
    assert any("victim" in reason["text"] for reason in report["verdict"]["reasons"])
    for section in report["evaluations"]:
        first = section["workloads"][0]
        assert (first["name"], first["finding"], first["not_inferior"]) == ("victim", "worse", False)
        assert section["harm"]["worst"]["name"] == "victim" and section["harm"]["workloads_worse"] == 1


def test_a_null_model_that_beats_every_static_setting_breaks_the_procedure() -> None:
    report = assess(table(null=0.3))
    assert report["verdict"]["outcome"] == "broken"
    assert "procedure is broken" in report["verdict"]["line"]


def test_a_null_model_that_only_beats_a_bad_default_does_not() -> None:
    # It found the best constant by luck; the model is held against it, not the procedure.
    report = assess(table(null=0.11))
    assert report["verdict"]["outcome"] == "gain"
    report = assess(table(null=0.11, model=0.11))
    assert report["verdict"]["outcome"] in {"beaten", "gain_with_risk", "no_difference"}


def test_an_arm_below_the_proven_bound_breaks_the_procedure() -> None:
    blocks = table()
    report = assess(blocks, bound={name: 10**15 for name in blocks["capture"].unique()})
    assert report["verdict"]["outcome"] == "broken"
    assert "model on" in " ".join(report["evaluations"][0]["headroom"]["violations"])


def test_an_unfaithful_capture_carries_no_verdict_and_is_listed() -> None:
    blocks = table([*SIX, Workload("odd", "program9", gains={"model": -0.9})])
    context = synthetic.context(blocks)
    odd = next(name for name in context["fidelity"]["captures"] if name.startswith("odd"))
    context["fidelity"]["captures"][odd] = {"recorded": 1000, "matched": 989}
    report = assess(blocks, fidelity=context["fidelity"])
    assert [row["capture"] for row in report["excluded_captures"]] == [odd]
    assert "98.90 %" in report["excluded_captures"][0]["reason"]
    assert all(w["name"] != "odd" for s in report["evaluations"] for w in s["workloads"])
    assert report["verdict"]["mode"] == "recommendation"


def test_an_unfaithful_replay_gives_no_verdict() -> None:
    blocks = table()
    report = assess(blocks, fidelity={"total": {"recorded": 1000, "matched": 980}})
    assert (report["verdict"]["outcome"], report["verdict"]["mode"]) == ("unfaithful", "emergency")


def test_a_workload_with_nine_blocks_is_not_judged() -> None:
    report = assess(table([*SIX, Workload("brief", "program9", blocks=9)]))
    rows = {w["name"]: w for section in report["evaluations"] for w in section["workloads"]}
    assert rows["brief"]["finding"] == "not enough evidence" and rows["brief"]["not_inferior"] is None
    assert report["verdict"]["mode"] == "collaboration"


def test_one_evaluation_is_not_enough() -> None:
    report = assess(table().filter(pl.col("evaluation") == "tomorrow"))
    assert (report["verdict"]["outcome"], report["verdict"]["mode"]) == ("no_evidence", "learning")


def test_a_live_check_outside_its_error_is_held_against_the_model() -> None:
    report = assess(table(), live_check={**LIVE, "sign_right": 0.8})
    assert report["verdict"]["outcome"] == "not_confirmed"
    assert assess(table(), live_check=None)["verdict"]["mode"] == "collaboration"
    few = assess(table(), live_check={**LIVE, "pairs": 3})
    assert few["live_check"]["passed"] is None and few["verdict"]["mode"] == "collaboration"


def test_devices_are_called_by_what_tells_them_apart() -> None:
    workloads = [Workload("scan", "db", device=f"8:{i}/iops={100 * i}") for i in (1, 2)]
    names = [row["name"] for row in assess(table(workloads))["evaluations"][0]["workloads"]]
    assert sorted(names) == ["scan on 8:1", "scan on 8:2"]
    assert device_names({"a/1", "a/2"}) == {"a/1": "a/1", "a/2": "a/2"}


def test_two_hosts_are_counted() -> None:
    blocks = table([*SIX, *(Workload(w.name, w.program, host="host-b", blocks=60) for w in SIX)])
    report = assess(blocks)
    assert "One host: no claim across hosts." not in report["verdict"]["statements"]
    assert {section["hosts"] for section in report["evaluations"]} == {2}


def test_only_subsystem_and_metrics_are_required() -> None:
    blocks = table().filter(pl.col("arm").is_in(["stock", "model"]))
    context = synthetic.context(blocks)
    report = evidence.assess(blocks, {k: context[k] for k in ("subsystem", "metrics")}, PARAMS)
    assert report["verdict"]["outcome"] == "unfaithful"
    assert report["fidelity"] is report["calibration"] is report["model"] is report["live_check"] is None
    assert report["evaluations"][0]["headroom"]["captured"]["value"] is None
    assert report["evaluations"][0]["best_static"] is None


def test_the_same_input_gives_the_same_bytes_in_any_order_of_rows(good: dict[str, Any]) -> None:
    blocks = table()
    assert canonical_json(assess(blocks)) == canonical_json(good)
    context = {**synthetic.context(blocks), "live_check": LIVE}
    shuffled = blocks.sample(fraction=1.0, shuffle=True, seed=11)
    assert canonical_json(evidence.assess(shuffled, context, PARAMS)) == canonical_json(good)


def test_a_workload_more_moves_no_other_workload(good: dict[str, Any]) -> None:
    extra = synthetic.blocks([Workload("zz", "program9")], 99, DEFAULT_GAINS)
    blocks = pl.concat([table(), extra])
    more = assess(blocks)
    for before, after in zip(good["evaluations"], more["evaluations"], strict=True):
        rows = {w["name"]: w for w in after["workloads"]}
        for row in before["workloads"]:
            assert rows[row["name"]]["gain"] == row["gain"]


def every_number(tree: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    if isinstance(tree, dict):
        if "label" in tree and "unit" in tree:
            return [(path, tree)]
        return [hit for key, value in tree.items() for hit in every_number(value, (*path, key))]
    if isinstance(tree, list):
        return [hit for value in tree for hit in every_number(value, path)]
    if isinstance(tree, float):
        return [(path, {})]
    return []


def test_every_fraction_on_the_report_has_a_label(good: dict[str, Any]) -> None:
    found = every_number({k: v for k, v in good.items() if k not in {"parameters", "confidence", "metrics"}})
    assert len(found) > 200
    # Thresholds are quoted inputs, not findings.
    quoted = {"margin", "minimum", "threshold", "limit"}
    assert [path for path, figure in found if not figure and path[-1] not in quoted] == []
    assert {figure["label"] for _, figure in found if figure} <= {label.value for label in Label}


@pytest.mark.parametrize("bare", [1.5, 3, [0.1], {"gain": 2}, {"deep": [{"x": 0.5}]}])
def test_a_bare_number_cannot_reach_a_report(bare: Any) -> None:
    with pytest.raises(TypeError, match="has no label"):
        seal({"gain": bare})


def test_what_may_stand_in_a_report() -> None:
    tree = {
        "a": Figure(1 / 3, "%", Label.EXACT, (0.1, float("inf"))),
        "b": Series([1, 2.5], "ns", Label.MODELLED),
        "c": Count(3),
        "d": Quoted({"x": 0.1, "y": [1, None]}),
    }
    assert seal(tree) == {
        "a": {"value": 0.333333, "unit": "%", "label": "exact", "low": 0.1, "high": None},
        "b": {"values": [1, 2.5], "unit": "ns", "label": "modelled"},
        "c": 3,
        "d": {"x": 0.1, "y": [1, None]},
    }
    with pytest.raises(TypeError, match="needs a Label"):
        seal(Figure(1.0, "%", "exact"))  # type: ignore[arg-type]
    assert quantise(-0.0) == 0.0 and str(quantise(-0.0)) == "0.0" and quantise(float("nan")) is None


@pytest.mark.parametrize(
    "metric",
    [
        {"name": "cost_ns", "unit": "ns"},
        {"name": "cost_ns", "unit": "ns", "label": "guessed"},
        {"name": "cost_ns", "label": "exact"},
        {"name": "cost_ns", "unit": "ns", "label": "exact", "lower_is_better": False},
    ],
)
def test_a_metric_without_label_or_unit_is_refused(metric: dict[str, Any]) -> None:
    with pytest.raises(VerificationError):
        assess(table(), metrics=[metric])


@pytest.mark.parametrize(
    "params", [{"draws": 10}, {"seed": "x"}, {"confidence": 2.0}, {"min_blocks": 1}, {"draws": True}]
)
def test_impossible_parameters_are_refused(params: dict[str, Any]) -> None:
    blocks = table()
    with pytest.raises(ConfigurationError, match=r"params\.yaml"):
        evidence.assess(blocks, synthetic.context(blocks), params)


@pytest.mark.parametrize(
    ("counts", "share"),
    [
        ({"recorded": 200, "matched": 199, "extra": 1}, 0.995),
        ({"recorded": 0, "matched": 0, "extra": 0}, 1.0),
        # Without the tables of the kernel's decisions nothing was verified.
        ({"recorded": 0, "matched": 0, "extra": 50}, None),
    ],
)
def test_a_replay_that_was_held_against_nothing_is_not_faithful(
    counts: dict[str, int], share: float | None
) -> None:
    assert sections.exact_share(counts) == share


def test_no_verdict_without_recorded_decisions() -> None:
    unverified = {
        "recorded": 0,
        "matched": 0,
        "extra": 50,
        "missing": 0,
        "unattributed": 0,
        "exact_share": None,
    }
    captures = {str(c): unverified for c in table()["capture"].unique()}
    report = assess(table(), fidelity={"total": unverified, "captures": captures})
    assert report["verdict"]["mode"] == "emergency"


def test_counts_are_exact_only_under_a_setting_that_is_always_in_force(good: dict[str, Any]) -> None:
    seen = set()
    for section in good["evaluations"]:
        for arm in section["arms"]:
            labels = {total["label"] for total in arm["totals"].values()}
            seen |= labels
            assert ("exact" in labels) <= (arm["kind"] in ("stock", "static")), arm["arm"]
    assert "exact" in seen
