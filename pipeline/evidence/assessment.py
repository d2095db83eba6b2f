"""Blocks and context → the report: every figure with its label, the verdict, the mode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from hindsight.errors import VerificationError
from hindsight.pipeline.evidence import sections, wording
from hindsight.pipeline.evidence.evaluation import MetricInfo, evaluate
from hindsight.pipeline.evidence.explanations import explanations
from hindsight.pipeline.evidence.figures import Count, Quoted, seal
from hindsight.pipeline.evidence.panel import Panel, panels
from hindsight.pipeline.evidence.realised import realised
from hindsight.pipeline.evidence.thresholds import Thresholds
from hindsight.pipeline.evidence.verdict import LEAST_HOSTS, NEW_HOST, Evidence, Verdict, decide

REPORT_FORMAT = 1
REQUIRED_EVALUATIONS = ("new_workload", "tomorrow")


def assess(blocks: pl.DataFrame, context: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """The report, as plain JSON values; the same input gives the same report.

    ``blocks``: one row per evaluation, arm and block, as :mod:`hindsight.pipeline.evidence.panel` says,
    with one int64 column per metric. ``context``: what is known besides; ``docs/evidence.md`` lists its
    keys, of which ``subsystem`` and ``metrics`` are required. ``params``: the ``evaluate`` section.

    Raises VerificationError where the data are not paired or a metric has no label, ConfigurationError
    for impossible parameters.
    """
    limits = Thresholds.from_params(params)
    metrics = sections.metrics(context)
    cost = metrics[0]
    if not context.get("subsystem"):
        raise VerificationError("the context of the report names no subsystem")
    every = panels(blocks, [metric.name for metric in metrics])
    captures = sorted({capture for panel in every for capture in panel.capture.tolist()})
    hosts = {host for panel in every for host in panel.host.tolist()}
    excluded = sections.unfaithful(context, captures, limits)
    kept = [_without(panel, excluded) for panel in every]
    bounds, advice = context.get("bound") or {}, context.get("advice_cost") or {}
    evaluated = [evaluate(p, metrics, bounds, limits, advice.get(p.evaluation)) for p in kept if len(p)]
    names = {e.findings.evaluation for e in evaluated}
    live, live_section = sections.live(context, limits)
    applied, realised_section = realised(context, limits)
    total = (context.get("fidelity") or {}).get("total")
    required = (*REQUIRED_EVALUATIONS, NEW_HOST) if len(hosts) >= LEAST_HOSTS else REQUIRED_EVALUATIONS
    evidence = Evidence(
        evaluations=tuple(e.findings for e in evaluated),
        missing=tuple(name for name in required if name not in names),
        exact_share=sections.exact_share(total),
        fidelity_threshold=limits.fidelity,
        cost=wording.title(cost.name),
        cost_label=cost.label,
        hosts=len(hosts),
        live=live,
        calibration_error=sections.held_out_error(context),
        calibration_limit=limits.calibration_limit,
        margin=limits.non_inferiority,
        confidence=limits.confidence,
        applied_worse=applied.worse,
        drift=applied.warnings,
    )
    verdict = decide(evidence)
    units = [(e.section["name"], e.section["resampled"], e.section["units"].value) for e in evaluated]
    tree = {
        "format": Count(REPORT_FORMAT),
        "subsystem": context["subsystem"],
        "summary": context.get("summary", ""),
        "verdict": _verdict(verdict),
        "confidence": Quoted(limits.confidence * 100.0),
        "cost": _metric(cost),
        "metrics": [_metric(metric) for metric in metrics],
        "evaluations": [e.section for e in _worst_first(evaluated, verdict)],
        "excluded_captures": _excluded(every, excluded),
        "fidelity": sections.fidelity(context, limits),
        "calibration": sections.calibration(context, limits),
        "delay": sections.delay(context, cost),
        "delays_ns": Quoted(sorted(int(ns) for ns in context.get("delays_ns") or ())),
        "live_check": live_section,
        "model": sections.model(context),
        "explanations": explanations(context, cost),
        "actions": Quoted(context.get("actions") or []),
        "rule": context.get("rule", ""),
        "dataset": Quoted(context.get("dataset") or {}),
        "provenance": Quoted(context.get("provenance") or {}),
        "parameters": Quoted(limits.as_dict()),
        "limits": sections.limitations(context, len(hosts), cost, excluded, units),
    }
    if realised_section is not None:
        tree["realised"] = realised_section
    report: dict[str, Any] = seal(tree)
    return report


def _metric(metric: MetricInfo) -> dict[str, Any]:
    return {
        "name": metric.name,
        "title": wording.title(metric.name),
        "unit": metric.unit,
        "label": metric.label,
        "meaning": metric.meaning,
        "lower_is_better": metric.lower_is_better,
    }


def _without(panel: Panel, excluded: Mapping[str, str]) -> Panel:
    return panel.where(np.array([name not in excluded for name in panel.capture.tolist()], dtype=bool))


def _worst_first(evaluated: list[Any], verdict: Verdict) -> list[Any]:
    return sorted(evaluated, key=lambda e: (e.section["name"] != verdict.evaluation, e.section["name"]))


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "outcome": verdict.outcome.value,
        "mode": verdict.mode.value,
        "mode_meaning": verdict.mode.meaning,
        "evaluation": verdict.evaluation,
        "line": verdict.line,
        "reasons": [{"code": r.code, "text": r.text} for r in verdict.reasons],
        "statements": list(verdict.statements),
    }


def _excluded(every: list[Panel], excluded: Mapping[str, str]) -> list[dict[str, Any]]:
    out = []
    for capture, why in sorted(excluded.items()):
        for panel in every:
            rows = panel.capture == capture
            if rows.any():
                workloads = sorted(set(panel.workload[rows].tolist()))
                devices = sorted(set(panel.device[rows].tolist()))
                out.append(
                    {
                        "capture": capture,
                        "workloads": workloads,
                        "devices": devices,
                        "blocks": Count(int(rows.sum())),
                        "reason": why,
                    }
                )
                break
    return out
