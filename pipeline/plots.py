"""The few numbers and curves of an evaluation that DVC compares: metrics.json and plots/*.csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hindsight.pipeline.store import rounded, write_bytes, write_json
from hindsight.subsystems.contract import Columns, Subsystem


def write(
    directory: Path,
    subsystem: Subsystem,
    report: Mapping[str, Any],
    blocks: Columns,
    taken: Mapping[str, Mapping[str, int]],
    context: Mapping[str, Any],
) -> None:
    """Write metrics.json and plots/ below ``directory``."""
    write_json(directory / "metrics.json", metrics(report))
    _csv(
        directory / "plots" / "workloads.csv",
        ("evaluation", "workload", "device", "gain_percent", "low", "high"),
        workload_rows(report),
    )
    _csv(
        directory / "plots" / "delay.csv",
        ("arm", "delay_ms", "gain_percent"),
        [
            (row["arm"], rounded(row["delay"] / 1e6), rounded(row["gain"]["value"], 4))
            for row in report["delay"]
            if row["gain"]["value"] is not None
        ],
    )
    _csv(directory / "plots" / "arms.csv", ("evaluation", "arm", "gain_percent"), arm_rows(blocks, subsystem))
    _csv(
        directory / "plots" / "actions.csv",
        ("arm", "action", "share_percent"),
        [
            (arm, action, rounded(100.0 * count / max(1, sum(counts.values())), 4))
            for arm, counts in taken.items()
            for action, count in counts.items()
        ],
    )
    _csv(
        directory / "plots" / "calibration.csv",
        ("capture", "workload", "recorded_ms", "modelled_ms"),
        [
            (name, row["workload"], rounded(row["recorded_ns"] / 1e6), rounded(row["modelled_ns"] / 1e6))
            for name, row in context["calibration"]["captures"].items()
        ],
    )


def metrics(report: Mapping[str, Any]) -> dict[str, Any]:
    """A few flat numbers: the verdict, and per evaluation gain, interval, harm and headroom (per cent)."""
    flat: dict[str, Any] = {
        "outcome": report["verdict"]["outcome"],
        "mode": report["verdict"]["mode"],
    }
    if report["fidelity"]:
        flat["replay_exact_percent"] = report["fidelity"]["total"]["exact"]["value"]
    if report["calibration"]:
        flat["calibration_error_percent"] = report["calibration"]["held_out_error"]["value"]
    for section in report["evaluations"]:
        gain, harm = section["model"]["gain"], section["harm"]
        worst = harm["worst"]
        values = {
            "gain_percent": gain["value"],
            "gain_low": gain.get("low"),
            "gain_high": gain.get("high"),
            "worst_workload_percent": worst["gain"]["value"] if worst else None,
            "blocks_worse_percent": harm["blocks_worse"]["value"],
            "best_known_percent": section["headroom"]["best_known"]["value"],
            "headroom_captured_percent": section["headroom"]["captured"]["value"],
        }
        flat[section["name"]] = {k: rounded(v, 4) for k, v in values.items() if v is not None}
        for comparison in section["comparisons"]:
            if comparison["gain"]["value"] is not None and comparison["against"] != "stock":
                key = f"gain_over_{comparison['against'].replace(':', '_')}_percent"
                flat[section["name"]][key] = rounded(comparison["gain"]["value"], 4)
    return flat


def workload_rows(report: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Gain of the model over stock, with its interval, per evaluation and workload."""
    rows = []
    for section in report["evaluations"]:
        for row in section["workloads"]:
            gain = row["gain"]
            if gain["value"] is not None:
                ends = [("" if gain.get(end) is None else rounded(gain[end], 4)) for end in ("low", "high")]
                rows.append(
                    (section["name"], row["workload"], row["device"], rounded(gain["value"], 4), *ends)
                )
    return rows


def arm_rows(blocks: Columns, subsystem: Subsystem) -> list[tuple[str, str, float]]:
    """Gain of every arm over stock in the first metric, over all blocks of an evaluation."""
    cost: dict[tuple[str, str], int] = {}
    values = blocks[subsystem.metrics[0].name]
    for evaluation, arm, value in zip(blocks["evaluation"], blocks["arm"], values, strict=True):
        cost[evaluation, arm] = cost.get((evaluation, arm), 0) + int(value)
    return [
        (evaluation, arm, rounded(100.0 * (cost[evaluation, "stock"] - own) / cost[evaluation, "stock"], 4))
        for (evaluation, arm), own in cost.items()
        if cost[evaluation, "stock"]
    ]


def _csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode())
