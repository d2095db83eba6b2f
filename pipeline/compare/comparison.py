"""Versions -> the comparison as plain JSON values; text, Markdown and the page render from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hindsight.errors import ConfigurationError, UsageError, VerificationError
from hindsight.pipeline.compare import differences, inference, pairing
from hindsight.pipeline.compare.inference import Change, Compared
from hindsight.pipeline.compare.version import Version, same_captures, told_apart
from hindsight.pipeline.evidence import wording
from hindsight.pipeline.evidence.evaluation import MetricInfo, device_names, effect_figures
from hindsight.pipeline.evidence.figures import Count, Figure, Quoted, seal
from hindsight.pipeline.evidence.thresholds import Thresholds
from hindsight.subsystems.contract import Label

COMPARISON_FORMAT = 1


def compare(versions: Sequence[Version], across: bool = False) -> dict[str, Any]:
    """Each version against the first. Deterministic: the same packages give the same comparison.

    ``across``: they may have been measured on different data; then gains over stock are compared, not costs
    on the same blocks, and every row says so. Draws, seed and limits are those of the first version.

    Raises UsageError for fewer than two versions; ConfigurationError where they are of different subsystems
    or costs, or of different data without ``across``.
    """
    if len(versions) < 2:
        raise UsageError("there is nothing to compare with", "name at least two versions")
    versions, taken = same_captures(told_apart(versions))
    first = versions[0]
    cost = _cost(versions)
    reason = pairing.why_not_the_same(versions)
    if reason and not across:
        raise ConfigurationError(
            reason,
            "evaluate both on the same data (`dvc repro` at each revision), or compare their gains over "
            "stock with --across-data",
        )
    limits = Thresholds.from_params(first.report["parameters"])
    compared = (inference.across_data if reason else inference.on_the_same_blocks)(versions, limits)
    notes = [f"Left out, because one of the versions gives no verdict on it: {name}." for name in taken]
    if reason:
        notes.append(f"Across data: {reason}. Differences of the gain over stock, not paired.")
    elif across:
        notes.append("All versions were measured on the same data: they are compared block by block.")
    for version in versions[1:]:
        if version.report["parameters"] != first.report["parameters"]:
            notes.append(f"{version.label} was judged by other limits; here those of {first.label} hold.")
    tree = {
        "format": Count(COMPARISON_FORMAT),
        "subsystem": first.manifest.subsystem,
        "across_data": bool(reason),
        "reference": first.label,
        "confidence": Quoted(limits.confidence * 100.0),
        "margin": Quoted(limits.non_inferiority * 100.0),
        "cost": {
            "name": cost.name,
            "title": wording.title(cost.name),
            "unit": cost.unit,
            "label": cost.label,
        },
        "versions": [_version(version) for version in versions],
        "evaluations": [_evaluation(c, versions, cost, bool(reason)) for c in compared],
        "differences": [
            {
                "version": version.label,
                "features": Quoted(differences.features(first.manifest, version.manifest)),
                "parameters": Quoted(differences.parameters(first, version)),
            }
            for version in versions[1:]
        ],
        "notes": notes,
    }
    document: dict[str, Any] = seal(tree, "comparison")
    return document


def _cost(versions: Sequence[Version]) -> MetricInfo:
    first = versions[0]
    try:
        costs = [v.report["cost"] for v in versions]
        own = costs[0]
        info = MetricInfo(own["name"], own["unit"], Label(own["label"]), own["meaning"], True)
    except (KeyError, TypeError, ValueError) as error:
        raise VerificationError(
            f"a report does not say what its cost is: {error!r}", "make the package again"
        ) from error
    for version, cost in zip(versions, costs, strict=True):
        ours, theirs = (
            (v.manifest.subsystem, c["name"], c["unit"]) for v, c in ((first, own), (version, cost))
        )
        if ours != theirs:
            raise ConfigurationError(
                f"{first.label} and {version.label} do not decide on the same: {', '.join(ours)}; "
                f"{', '.join(theirs)}",
                "compare versions of one subsystem that lower the same cost",
            )
    return info


def _version(version: Version) -> dict[str, Any]:
    verdict = version.report["verdict"]
    return {
        "label": version.label,
        "name": version.manifest.name,
        "version": version.manifest.version,
        "mode": version.manifest.mode,
        "outcome": verdict["outcome"],
        "line": verdict["line"],
        "inputs": Quoted(dict(version.manifest.inputs)),
        "gains": {
            section["name"]: Quoted(section["model"]["gain"]) for section in version.report["evaluations"]
        },
    }


def _evaluation(
    compared: Compared, versions: Sequence[Version], cost: MetricInfo, across: bool
) -> dict[str, Any]:
    groups = {change.group for change in compared.workloads if change.group} | set(compared.only_in_some)
    short = device_names({device for _, device in groups})

    def name(workload: str, device: str) -> str:
        return f"{workload} on {short[device]}" if len(short) > 1 else workload

    def row(change: Change) -> dict[str, Any]:
        out: dict[str, Any] = {"version": versions[change.version].label, "across_data": across}
        if change.group:
            out |= {"workload": change.group[0], "device": change.group[1], "name": name(*change.group)}
        out |= {"blocks": Count(change.effect.blocks), **_figures(change, cost)}
        unknown = change.finding.value == "not enough evidence"
        return out | {
            "finding": change.finding.value,
            "not_inferior": None if unknown else not change.at_risk,
        }

    return {
        "name": compared.evaluation,
        "question": wording.QUESTIONS.get(compared.evaluation, compared.evaluation.replace("_", " ")),
        "across_data": across,
        "blocks": Count(compared.blocks),
        "captures": Count(compared.captures),
        "resampled": compared.resampled,
        "units": Count(compared.units),
        "overall": [row(change) for change in compared.overall],
        "workloads": [row(change) for change in compared.workloads],
        "only_in_some": [name(*group) for group in compared.only_in_some],
    }


def _figures(change: Change, cost: MetricInfo) -> Mapping[str, Any]:
    if change.costs:
        reference, own = change.costs
        return {
            **effect_figures(change.effect, cost),
            "reference": Figure(reference, cost.unit, cost.label),
            "cost": Figure(own, cost.unit, cost.label),
        }
    figures = effect_figures(change.effect, cost)
    # A difference of two shares is in points, not in per cent of anything.
    return {
        name: Figure(
            figures[name].value, "points", cost.label, figures[name].interval, "not paired: different data"
        )
        for name in ("gain", "detectable")
    } | {"p": figures["p"]}
