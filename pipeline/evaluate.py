"""Stage evaluate: all arms on the captures that were kept back, in each evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hindsight.errors import ConfigurationError
from hindsight.pipeline import arms, plots
from hindsight.pipeline.advice_cost import advice_cost
from hindsight.pipeline.arms import Arm
from hindsight.pipeline.context import build_context
from hindsight.pipeline.drive import Outcome
from hindsight.pipeline.evidence.splits import check_new_host, check_new_workload, check_tomorrow
from hindsight.pipeline.explain import Explainer, HeldOut, explain
from hindsight.pipeline.ingested import Calibration, Ingested, load
from hindsight.pipeline.parallel import each
from hindsight.pipeline.params import Layout, Params
from hindsight.pipeline.realised import learned_from
from hindsight.pipeline.split import Split, hosts, programs, tomorrow, without_host, without_program
from hindsight.pipeline.store import concatenate, read_json, write_columns, write_json
from hindsight.subsystems.contract import Columns, Subsystem

if TYPE_CHECKING:
    from hindsight.models.trees import Forest

TOMORROW, NEW_WORKLOAD, NEW_HOST = "tomorrow", "new_workload", "new_host"


@dataclass(frozen=True)
class Run:
    """What all arms came to on one capture. ``model``: evaluation -> outcome of its model."""

    shared: Mapping[str, Outcome]
    model: Mapping[str, Outcome]
    bound: int
    delayed: Mapping[tuple[int, str], int]


@dataclass(frozen=True)
class Plan:
    """One evaluation of one capture, and the model that may be asked about it."""

    evaluation: str
    forest: Forest


def evaluate(params: Params, subsystem: Subsystem) -> dict[str, Any]:
    """Run every arm on the test captures; write blocks, report, metrics and plots; returns the report.

    Raises VerificationError if a split leaks, ConfigurationError if nothing is left to test on.
    """
    import polars as pl

    from hindsight.pipeline.evidence import assess

    layout = Layout(params.root, subsystem.name)
    captures = {capture.id: capture for capture in load(layout)}
    facts = [capture.facts for capture in captures.values() if capture.facts["eligible_streams"]]
    division = Split.from_json(read_json(layout.featurize / "split.json"))
    calibration = read_json(layout.featurize / "calibration.json")
    training = read_json(layout.train / "training.json")
    plans = plan(params, layout, facts, division, training)
    if not plans:
        raise ConfigurationError(
            "there is no capture to test on: one program, recorded once",
            "record the same workloads a second time, or a second program",
        )
    null = _forest(layout, "null.ubj")

    def run(capture: Ingested) -> Run:
        return run_capture(params, subsystem, calibration, capture, plans[capture.id], null)

    tested = [captures[name] for name in plans]
    runs = each(run, tested, "evaluate")
    blocks = concatenate(
        [
            block_rows(subsystem, params, capture, name, {**run.shared, "model": outcome})
            for capture, run in zip(tested, runs, strict=True)
            for name, outcome in run.model.items()
        ]
    )
    write_columns(layout.evaluate / "blocks.parquet", blocks)
    context = build_context(params, subsystem, layout, captures, division, calibration, training)
    context["bound"] = {capture.id: run.bound for capture, run in zip(tested, runs, strict=True)}
    context["delays_ns"] = params.decision["advice_delay_ns"]
    context["delay_curve"] = delay_curve(params, runs)
    context["advice_cost"] = {
        name: advice_cost(
            params["advice"],
            [(c.facts, r.model[name]) for c, r in zip(tested, runs, strict=True) if name in r.model],
        )
        for name in (TOMORROW, NEW_WORKLOAD, NEW_HOST)
        if any(name in run.model for run in runs)
    }
    context["explanations"] = _explanations(params, subsystem, calibration, tested, runs, plans, training)
    report = assess(pl.DataFrame(_for_polars(blocks)), context, params["evaluate"])
    write_json(layout.evaluate / "report.json", report)
    plots.write(layout.report, subsystem, report, blocks, _taken(subsystem, runs), context)
    return report


def _explanations(
    params: Params,
    subsystem: Subsystem,
    calibration: Calibration,
    tested: Sequence[Ingested],
    runs: Sequence[Run],
    plans: Mapping[str, Sequence[Plan]],
    training: Mapping[str, Any],
) -> dict[str, Any] | None:
    """Of the model of *tomorrow*, on its held-out captures; None without that evaluation."""
    held_out = [
        HeldOut(capture, run.shared["stock"], run.model[TOMORROW])
        for capture, run in zip(tested, runs, strict=True)
        if TOMORROW in run.model
    ]
    forests = [p.forest for entries in plans.values() for p in entries if p.evaluation == TOMORROW]
    if not held_out:
        return None
    explainer = Explainer(subsystem, calibration, params.decision, forests[0], params["evaluate"]["seed"])
    return explain(explainer, held_out, training["model"]["support"])


def plan(
    params: Params,
    layout: Layout,
    facts: Sequence[Mapping[str, Any]],
    division: Split,
    training: Mapping[str, Any],
) -> dict[str, list[Plan]]:
    """Capture -> its evaluations, in the order of the captures; each checked for leaks by what was really
    trained on (training.json), not by what should have been."""
    by_id = {str(f["capture"]): f for f in facts}
    plans: dict[str, list[Plan]] = {}
    _, test = tomorrow(facts, division)
    if test:
        learned = [by_id[c] for c in learned_from(training["model"])]
        check_tomorrow(learned, test, params["split"]["purge_ns"])
        forest = _forest(layout, "model.ubj")
        for f in test:
            plans.setdefault(str(f["capture"]), []).append(Plan(TOMORROW, forest))
    left_out = (
        (NEW_WORKLOAD, "without", programs(facts), without_program, check_new_workload),
        (NEW_HOST, "without_host", hosts(facts), without_host, check_new_host),
    )
    for evaluation, trained, names, divide, check in left_out:
        for name in names:
            fold = training.get(trained, {}).get(name)
            if fold is None:
                continue
            _, test = divide(facts, division, name)
            check([by_id[c] for c in learned_from(fold)], test)
            forest = _forest(layout, fold["file"])
            for f in test:
                plans.setdefault(str(f["capture"]), []).append(Plan(evaluation, forest))
    return {name: plans[name] for name in by_id if name in plans}


def _forest(layout: Layout, name: str) -> Forest:
    from hindsight.models import trees

    return trees.load(layout.train / name)


def run_capture(
    params: Params,
    subsystem: Subsystem,
    calibration: Calibration,
    capture: Ingested,
    plans: Sequence[Plan],
    null: Forest,
) -> Run:
    """All arms on one capture; the arms without a model once for all its evaluations."""
    decision = params.decision
    simulation = capture.simulation(subsystem, calibration, decision)
    shared: list[Arm] = [
        arms.STOCK,
        *arms.static_arms(subsystem),
        arms.rule_arm(subsystem),
        arms.random_arm(subsystem, params["evaluate"]["seed"]),
        arms.model_arm("null", subsystem, null, decision),
        arms.best_known_arm(subsystem, params["labels"]["horizon_ns"]),
    ]
    outcomes = {arm.name: arm.run(subsystem, simulation, capture.id) for arm in shared}
    models = {p.evaluation: arms.model_arm("model", subsystem, p.forest, decision) for p in plans}
    by_model = {name: arm.run(subsystem, simulation, capture.id) for name, arm in models.items()}
    delayed: dict[tuple[int, str], int] = {}
    if TOMORROW in models:
        for delay in params["evaluate"]["delays_ns"]:
            late = capture.simulation(subsystem, calibration, decision, advice_delay_ns=delay)
            for arm in (models[TOMORROW], arms.rule_arm(subsystem)):
                delayed[delay, arm.name] = arm.run(subsystem, late, capture.id).cost
            delayed[delay, "stock"] = outcomes["stock"].cost
    return Run(outcomes, by_model, simulation.bound(), delayed)


def block_rows(
    subsystem: Subsystem,
    params: Params,
    capture: Ingested,
    evaluation: str,
    outcomes: Mapping[str, Outcome],
) -> Columns:
    """One row per arm and block; blocks without anything in any arm are left out.

    ``recorded_ns`` is the wall-clock time at which the block began when recorded.
    """
    used = np.flatnonzero(np.any([outcome.blocks.any(axis=1) for outcome in outcomes.values()], axis=0))
    facts, n = capture.facts, len(used)
    parts: list[Columns] = []
    for arm, outcome in outcomes.items():
        text = {"evaluation": evaluation, "arm": arm, "capture": capture.id}
        text |= {name: str(facts[name]) for name in ("host", "workload", "program", "device")}
        parts.append(
            {name: np.full(n, value, dtype=object) for name, value in text.items()}
            | {
                "block": used.astype(np.int32),
                "recorded_ns": int(facts["start_ns"]) + used * int(params["decision"]["block_ns"]),
            }
            | {metric.name: outcome.blocks[used, i] for i, metric in enumerate(subsystem.metrics)}
        )
    return concatenate(parts)


def delay_curve(params: Params, runs: Iterable[Run]) -> list[dict[str, Any]]:
    """Total cost of *tomorrow* by delay of the advice and arm."""
    total: dict[tuple[int, str], int] = {}
    for run in runs:
        for key, cost in run.delayed.items():
            total[key] = total.get(key, 0) + cost
    return [{"delay_ns": delay, "arm": arm, "cost": cost} for (delay, arm), cost in sorted(total.items())]


def _taken(subsystem: Subsystem, runs: Iterable[Run]) -> dict[str, dict[str, int]]:
    """How often each policy took each action (tomorrow's model, else that of another evaluation)."""
    names = [action.name for action in subsystem.actions] + ["keep"]
    counted: dict[str, dict[str, int]] = {}
    for run in runs:
        model = run.model.get(TOMORROW) or next(iter(run.model.values()))
        for arm, outcome in {**run.shared, "model": model}.items():
            if not arm.startswith("static:") and arm != "stock":
                row = counted.setdefault(arm, dict.fromkeys(names, 0))
                for name, count in zip(names, outcome.taken, strict=True):
                    row[name] += int(count)
    return counted


def _for_polars(columns: Columns) -> dict[str, Any]:
    return {name: v.tolist() if v.dtype == object else v for name, v in columns.items()}
