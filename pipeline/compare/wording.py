"""The sentences and cells that all renderings of a comparison share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hindsight.pipeline.report import numbers
from hindsight.pipeline.report.page import plain

Comparison = Mapping[str, Any]
Row = Mapping[str, Any]

ACROSS = "across data"


def title(comparison: Comparison) -> str:
    """What is compared with what."""
    others = ", ".join(v["label"] for v in comparison["versions"][1:])
    return f"{comparison['subsystem']}: {others} against {comparison['reference']}"


def sums(comparison: Comparison) -> list[str]:
    """One sentence per version and evaluation: better, worse, or no significant difference."""
    out = []
    for evaluation in comparison["evaluations"]:
        for row in evaluation["overall"]:
            name = numbers.evaluation(evaluation["name"])
            rows = [w for w in evaluation["workloads"] if w["version"] == row["version"]]
            count = {f: sum(w["finding"] == f for w in rows) for f in ("worse", "better")}
            out.append(
                f"{name}: {row['version']} {numbers.finding(row)} {numbers.gain(row['gain'])} "
                f"({numbers.interval(row['gain'])}, {row['gain']['label']}); "
                f"{count['worse']} of {len(rows)} workloads worse, {count['better']} better"
            )
    return out


def differences(entry: Row) -> list[str]:
    """What else one version changed: features, then parameters; one line each."""
    features = entry["features"]
    out = [f"feature {name} added" for name in features["added"]]
    out += [f"feature {name} removed" for name in features["removed"]]
    out += [
        f"feature {row['name']}: {row['what']} {_range(row['from'])} to {_range(row['to'])}"
        for row in features["changed"]
    ]
    out += ["features in another order"] if features["reordered"] else []
    return out + [
        f"{row['name']}: {_value(row['from'])} to {_value(row['to'])}" for row in entry["parameters"]
    ]


def _range(value: Any) -> str:
    return f"[{value[0]:g} … {value[1]:g}]" if isinstance(value, list) else str(value)


def _value(value: Any) -> str:
    return "not named" if value is None else f"{value:g}" if isinstance(value, float) else plain(value)


def method(comparison: Comparison, evaluation: Row) -> str:
    """How an evaluation was compared."""
    drawn = "runs of time blocks" if evaluation["resampled"] == "time" else f"{evaluation['resampled']}s"
    how = (
        "gain over stock, each version on its own data, not paired"
        if evaluation["across_data"]
        else f"{comparison['cost']['title']} on the same blocks"
    )
    return (
        f"{how}; {evaluation['blocks']:,} blocks of {evaluation['captures']} captures; "
        f"{comparison['confidence']:g} % intervals by drawing {drawn} again ({evaluation['units']})"
    )
