"""The part of a report that says what drives the advice, and where it helped and hurt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hindsight.pipeline.evidence.evaluation import MetricInfo
from hindsight.pipeline.evidence.figures import Count, Figure, Quoted, percent
from hindsight.subsystems.contract import Label


def explanations(context: Mapping[str, Any], cost: MetricInfo) -> dict[str, Any] | None:
    """``context["explanations"]`` (docs/evidence.md) with labels: features in order of what is lost when they
    are shuffled. None where the model decided nothing.
    """
    given = context.get("explanations")
    if not given:
        return None
    decisions, stock = int(given["decisions"]), int(given["stock_cost"])
    importance = dict((context.get("model") or {}).get("importance") or {})
    total = sum(float(value) for value in importance.values())
    features = sorted(given["features"], key=lambda row: (-int(row["lost"]), str(row["feature"])))
    return {
        "decisions": Count(decisions),
        "outside": percent(int(given["outside"]) / decisions, Label.MODELLED),
        "features": [
            {
                "feature": str(row["feature"]),
                "lost": _share(int(row["lost"]), stock, cost.label),
                "split_gain": _share(float(importance.get(row["feature"], 0.0)), total, Label.EXACT),
                "outside": percent(int(row["outside"]) / decisions, Label.MODELLED),
            }
            for row in features
        ],
        "unit": str(given["unit"]),
        "examples": [_example(row, cost) for row in given["examples"]],
    }


def _share(part: float, whole: float, label: Label) -> Figure:
    return Figure(part / whole * 100.0 if whole else None, "%", label)


def _example(row: Mapping[str, Any], cost: MetricInfo) -> dict[str, Any]:
    costs = {arm: int(value) for arm, value in row["costs"].items()}
    saved = costs["stock"] - costs["model"]
    return {
        "capture": str(row["capture"]),
        "workload": str(row["workload"]),
        "device": str(row["device"]),
        "program": str(row["program"]),
        "helped": saved > 0,
        "gain": _share(saved, costs["stock"], cost.label),
        "costs": {arm: Figure(value, cost.unit, cost.label) for arm, value in costs.items()},
        "asked": Quoted(row["asked"]),
        "fetched": Quoted(row["fetched"]),
    }
