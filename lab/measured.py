"""The result of a validation: measured.parquet, summary.json, and the lines for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hindsight.lab.comparison import (
    GOALS,
    SENSITIVE,
    SIGN_GOAL,
    Pair,
    differences,
    noise,
    predicted_difference,
    quantile,
    summarise,
)
from hindsight.lab.suites import STOCK
from hindsight.pipeline.store import write_columns, write_json

MEASURED, SUMMARY, PLOT, PREDICTIONS = (
    "measured.parquet",
    "summary.json",
    "predicted-measured.svg",
    "predictions.json",
)
"""The files of a result."""

METRICS = (
    "pages_fetched", "pages_wasted", "requests", "requests_completed", "read_amplification", "throughput",
    "elapsed_ns", "pages_cached", "pages_evicted", "processor_pressure", "advised", "advised_late_ns",
)  # fmt: skip
"""In the order of the rows of a run; docs/lab.md says what each is."""

COMPARED = tuple(GOALS)
_PREDICTED_AS = {"requests_completed": "requests"}

Block = tuple[str, str, int]
Blocks = Mapping[Block, Sequence[Mapping[str, Any]]]
"""(profile, workload, round) -> runs of a journal."""


def values(run: Mapping[str, Any], pages_demanded: int, size: int) -> dict[str, int]:
    """The metrics of one run, integers; ``size``: bytes that its reads returned."""
    return {
        "pages_fetched": run["pages_fetched"],
        "pages_wasted": run["cached"] + run["evicted"] - pages_demanded,
        "requests": run["requests"],
        "requests_completed": run["requests_completed"],
        "read_amplification": 1000 * run["pages_fetched"] // max(pages_demanded, 1),
        "throughput": size * 1_000_000_000 // max(run["elapsed_ns"], 1),
        "elapsed_ns": run["elapsed_ns"],
        "pages_cached": run["cached"],
        "pages_evicted": run["evicted"],
        "processor_pressure": run["pressure"],
        "advised": run["advised"],
        "advised_late_ns": run["late_ns"],
    }


def measured_columns(
    machine: str, suite: str, sha256: str, predictions: Mapping[str, Any], blocks: Blocks
) -> dict[str, np.ndarray[Any, Any]]:
    """One row per run and metric, sorted by profile, workload, round, setting; ``sha256``: of the file of
    predictions that was written before."""
    rows: list[tuple[str, str, str, int, str, int]] = []
    for key in sorted(blocks):
        workload = _workload(predictions, *key[:2])
        for run in sorted(blocks[key], key=lambda r: str(r["setting"])):
            measured = values(run, workload["pages_demanded"], workload["bytes"])
            rows += [(*key[:2], run["setting"], key[2], name, measured[name]) for name in METRICS]
    columns = list(zip(*rows, strict=True)) or [()] * 6
    text = {
        "machine": [machine] * len(rows),
        "suite": [suite] * len(rows),
        "predictions": [sha256] * len(rows),
        "profile": columns[0],
        "workload": columns[1],
        "setting": columns[2],
        "metric": columns[4],
    }
    return {name: np.array(column, object) for name, column in text.items()} | {
        "round": np.array(columns[3], np.int32),
        "value": np.array(columns[5], np.int64),
    }


def pairs(predictions: Mapping[str, Any], blocks: Blocks) -> list[Pair]:
    """All pairs and metrics; a setting is compared with the stock run of the same round alone."""
    found = []
    for workload in predictions["workloads"]:
        where = (workload["profile"], workload["workload"])
        rounds = [blocks[key] for key in sorted(blocks) if key[:2] == where]
        by_setting: dict[str, list[dict[str, int]]] = {}
        for runs in rounds:
            for run in runs:
                measured = values(run, workload["pages_demanded"], workload["bytes"])
                by_setting.setdefault(run["setting"], []).append(measured)
        stock = workload["settings"][STOCK.name]
        for name, predicted in workload["settings"].items():
            if name == STOCK.name or name not in by_setting:
                continue
            for metric in COMPARED:
                alias = _PREDICTED_AS.get(metric, metric)
                seen = differences(metric, by_setting[STOCK.name], by_setting[name])
                found.append(
                    Pair(
                        *where, name, metric, predicted["labels"][alias],
                        predicted_difference(alias, stock, predicted), float(np.median(seen)), noise(seen),
                        len(seen),
                    )
                )  # fmt: skip
    return found


def summary(
    plan: Mapping[str, Any], sha256: str, predictions: Mapping[str, Any], blocks: Blocks
) -> dict[str, Any]:
    """What the validation says, as JSON: totals per metric (of all pairs, and by what the setting acts on),
    every outlier, every pair, and what was skipped."""
    found = pairs(predictions, blocks)
    runs = [run for block in blocks.values() for run in block]
    scopes = sorted({pair.setting.partition(":")[0] for pair in found})

    def totals(metric: str) -> dict[str, Any]:
        here = [pair for pair in found if pair.metric == metric]
        by_scope = {s: summarise(p for p in here if p.setting.partition(":")[0] == s) for s in scopes}
        return {"all": summarise(here), **by_scope, "goal": GOALS[metric]}

    changed = [pair for pair in found if pair.sensitive]
    return {
        "plan": plan,
        "predictions_sha256": sha256,
        "rounds": {f"{p}/{w}": sum(k[:2] == (p, w) for k in blocks) for p, w, _ in sorted(blocks)},
        "runs": len(runs),
        "sensitive_from": SENSITIVE,
        "sign_goal": SIGN_GOAL,
        "metrics": {metric: totals(metric) for metric in COMPARED},
        "outliers": [_shown(pair) for pair in changed if pair.outlier],
        "pairs": [_shown(pair) for pair in found],
        "stock_time": [_stock_time(workload, blocks) for workload in predictions["workloads"]],
        "skipped": predictions["skipped"],
        "disturbance": {
            "runs_with_evictions": sum(run["evicted"] > 0 for run in runs),
            "processor_pressure_p90": quantile([run["pressure"] for run in runs], 0.9) if runs else None,
        },
    }


def _stock_time(workload: Mapping[str, Any], blocks: Blocks) -> dict[str, Any]:
    """Modelled, recorded and measured wall time under stock, ns (measured: median)."""
    where = (workload["profile"], workload["workload"])
    seen = [
        run["elapsed_ns"]
        for key, runs in blocks.items()
        if key[:2] == where
        for run in runs
        if run["setting"] == STOCK.name
    ]
    return {
        "profile": where[0],
        "workload": where[1],
        "modelled_ns": workload["settings"][STOCK.name]["elapsed_ns"],
        "recorded_ns": workload["recorded_ns"],
        "measured_ns": int(np.median(seen)) if seen else None,
    }


def _workload(predictions: Mapping[str, Any], profile: str, name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(
        w for w in predictions["workloads"] if (w["profile"], w["workload"]) == (profile, name)
    )
    return found


def _shown(pair: Pair) -> dict[str, Any]:
    return {
        "profile": pair.profile,
        "workload": pair.workload,
        "setting": pair.setting,
        "metric": pair.metric,
        "label": pair.label,
        "predicted": round(pair.predicted, 6),
        "measured": round(pair.measured, 6),
        "noise": round(pair.noise, 6),
        "rounds": pair.rounds,
    }


def write_result(
    output: Path, plan: Mapping[str, Any], sha256: str, predictions: Mapping[str, Any], blocks: Blocks
) -> dict[str, Any]:
    """Write measured.parquet, summary.json and the plot below ``output``; returns the summary."""
    from hindsight.lab.plot import predicted_measured

    output.mkdir(parents=True, exist_ok=True)
    columns = measured_columns(plan["machine"], plan["suite"], sha256, predictions, blocks)
    write_columns(output / MEASURED, columns)
    result = summary(plan, sha256, predictions, blocks)
    write_json(output / SUMMARY, result)
    (output / PLOT).write_text(predicted_measured(pairs(predictions, blocks)))
    return result


def terminal(result: Mapping[str, Any]) -> str:
    """The summary for people."""
    from hindsight.pipeline.table import render

    def percent(value: float | None, digits: int = 1) -> str:
        return "–" if value is None else f"{100 * value:.{digits}f} %"

    rows = []
    for metric, groups in result["metrics"].items():
        for scope, t in groups.items():
            if scope == "goal" or not t["pairs"]:
                continue
            rows.append(
                [
                    metric if scope == "all" else "", scope, str(t["pairs"]), str(t["changed"]),
                    percent(t["right_sign_share"], 0), percent(t["error_median"]), percent(t["error_p90"]),
                    percent(t["unchanged_distance_max"]), str(t["outliers"]),
                ]
            )  # fmt: skip
    header = ["metric", "settings", "pairs", "changed", "sign", "error", "p90", "unchanged, most", "outliers"]
    text = [render(header, rows, 2), ""]
    for pair in result["outliers"]:
        text.append(
            f"outlier: {pair['profile']} {pair['workload']} {pair['setting']} {pair['metric']}: predicted "
            f"{100 * pair['predicted']:+.1f} %, measured {100 * pair['measured']:+.1f} % "
            f"(± {100 * pair['noise']:.1f})"
        )
    for skipped in result["skipped"]:
        text.append(
            f"skipped: {skipped['profile']} {skipped['workload']} {skipped['setting']}: {skipped['reason']}"
        )
    text.append(
        "Differences to stock in parts of stock; errors in parts of the measured difference, over the pairs "
        f"where it is at least {percent(result['sensitive_from'], 0)}."
    )
    return "\n".join(text)
