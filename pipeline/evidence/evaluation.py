"""One evaluation: its panel → the findings that the verdict needs, and its section of the report."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hindsight.pipeline.evidence import wording
from hindsight.pipeline.evidence.advice_cost import charged, spent
from hindsight.pipeline.evidence.arms import BEST_STATIC, BEST_STATIC_EACH, BestStatic, add_best_static
from hindsight.pipeline.evidence.comparisons import Finding, enough, findings, not_inferior
from hindsight.pipeline.evidence.figures import Count, Figure, Quoted, Series, percent
from hindsight.pipeline.evidence.harm import TAILS, Harm, blocks_needed, harm
from hindsight.pipeline.evidence.headroom import Headroom, block_distribution, headroom
from hindsight.pipeline.evidence.paired import Bootstrap, Effect, bootstrap
from hindsight.pipeline.evidence.panel import (
    BEST_KNOWN,
    MODEL,
    NULL,
    RANDOM,
    RULE,
    STATIC,
    STOCK,
    Group,
    Panel,
)
from hindsight.pipeline.evidence.thresholds import Thresholds
from hindsight.pipeline.evidence.verdict import Against, Findings
from hindsight.subsystems.contract import Label

RESAMPLED = {"new_workload": "program", "new_host": "host"}
"""What is drawn besides time: the unit that the evaluation calls new. *Tomorrow* has none."""

OPPONENTS = (STOCK, RULE, BEST_STATIC, BEST_STATIC_EACH, NULL)


@dataclass(frozen=True)
class MetricInfo:
    """A column of the blocks table."""

    name: str
    unit: str
    label: Label
    meaning: str
    lower_is_better: bool


@dataclass(frozen=True)
class Evaluated:
    """The findings, and the section of the report as a tree that :func:`figures.seal` accepts."""

    findings: Findings
    section: dict[str, Any]


def evaluate(
    panel: Panel,
    metrics: Sequence[MetricInfo],
    bounds: Mapping[str, int],
    limits: Thresholds,
    advice: Mapping[str, int] | None = None,
) -> Evaluated:
    """Everything that is said about one evaluation; ``bounds``: capture → proven least cost; ``advice``:
    events, decisions, actions and their processor time ``ns``, None if nobody counted them.
    """
    cost = metrics[0]
    panel, static = add_best_static(panel)
    drawn, versus = against(panel, limits)
    room = headroom(panel, MODEL, bounds, limits.min_headroom)
    damage = harm(panel, MODEL, limits.non_inferiority)
    rows = _workloads(panel, static, limits)
    charge = charged(advice, versus[STOCK].effect, cost.unit)
    result = Findings(
        evaluation=panel.evaluation,
        stock=versus[STOCK],
        versus={name: v for name, v in versus.items() if name != STOCK},
        null_wins=_null_wins(drawn, limits),
        violations=tuple(f"{arm} on {capture}" for capture, arm in room.violations),
        worse=tuple(r.name for r in rows if r.finding is Finding.WORSE),
        at_risk=tuple(r.name for r in rows if r.at_risk and r.finding is not Finding.WORSE),
        unknown=tuple(r.name for r in rows if r.finding is Finding.UNKNOWN),
        charge=charge or 0.0,
    )
    stock = versus[STOCK]
    section = {
        "name": panel.evaluation,
        "question": wording.QUESTIONS.get(panel.evaluation, panel.evaluation.replace("_", " ")),
        "resampled": drawn.resampled,
        "units": Count(drawn.units),
        "blocks": Count(len(panel)),
        "captures": Count(len(set(panel.capture.tolist()))),
        "programs": Count(len(set(panel.program.tolist()))),
        "hosts": Count(len(set(panel.host.tolist()))),
        "model": {
            **effect_figures(stock.effect, cost),
            "finding": stock.finding.value,
            "median_workload": _median_workload(rows, cost),
        },
        "advice_cost": None if advice is None else spent(advice, charge, stock.effect, cost.label),
        "comparisons": [
            {"against": name, "finding": v.finding.value, **effect_figures(v.effect, cost)}
            for name, v in result.versus.items()
        ],
        "arms": _arms(drawn, metrics, limits),
        "metrics": _metrics(drawn, metrics, limits),
        "best_static": None if static is None else _best_static(static),
        "workloads": [row.as_tree(cost) for row in rows],
        "harm": _harm(damage, rows, cost, limits),
        "headroom": _headroom(room, stock.effect, cost, limits),
        "distributions": [
            {"arm": arm, "gain": Series([100.0 * v for v in block_distribution(panel, arm)], "%", cost.label)}
            for arm in (MODEL, RULE, BEST_STATIC, NULL, RANDOM, BEST_KNOWN)
            if arm in panel.arms
        ],
    }
    return Evaluated(result, section)


def against(panel: Panel, limits: Thresholds) -> tuple[Bootstrap, dict[str, Against]]:
    """The model against each of its opponents that the panel has: one family of comparisons."""
    drawn = bootstrap(panel, limits.draws, limits.seed, RESAMPLED.get(panel.evaluation))
    opponents = [name for name in OPPONENTS if name in panel.arms]
    effects = [_effect(drawn, MODEL, name, limits) for name in opponents]
    found = findings(effects, limits.min_blocks, limits.confidence)
    return drawn, {n: Against(f, e) for n, f, e in zip(opponents, found, effects, strict=True)}


def each_workload(panel: Panel, limits: Thresholds) -> dict[Group, Against]:
    """The model against stock in each (workload, device), sorted: one family of comparisons."""
    groups = panel.groups()
    effects = [
        _effect(bootstrap(panel.of(group), limits.draws, limits.seed), MODEL, STOCK, limits)
        for group in groups
    ]
    found = findings(effects, limits.min_blocks, limits.confidence)
    return {g: Against(f, e) for g, f, e in zip(groups, found, effects, strict=True)}


def effect_figures(effect: Effect, cost: MetricInfo) -> dict[str, Any]:
    """The figures of one comparison: relative, absolute, median of the blocks, what would have been seen."""
    span = None if effect.low is None or effect.high is None else (effect.low, effect.high)
    absolute = None if span is None else (span[0] * effect.baseline, span[1] * effect.baseline)
    note = "" if span else "no interval: too few units, or a draw without any cost"
    out: dict[str, Any] = {
        "gain": percent(effect.gain, cost.label, span, note),
        "saved": Figure(effect.baseline - effect.arm, cost.unit, cost.label, absolute),
        "p": Figure(effect.p if effect.usable else None, "probability", cost.label),
    }
    for name, value in (("median_block", effect.median_block), ("detectable", effect.detectable)):
        out[name] = Figure(None if value is None else value * 100.0, "%", cost.label)
    return out


@dataclass(frozen=True)
class _Row:
    group: Group
    name: str
    programs: tuple[str, ...]
    captures: int
    effect: Effect
    finding: Finding
    at_risk: bool
    setting: str | None

    def as_tree(self, cost: MetricInfo) -> dict[str, Any]:
        return {
            "workload": self.group[0],
            "device": self.group[1],
            "name": self.name,
            "programs": list(self.programs),
            "captures": Count(self.captures),
            "blocks": Count(self.effect.blocks),
            "stock": Figure(self.effect.baseline, cost.unit, cost.label),
            **effect_figures(self.effect, cost),
            "finding": self.finding.value,
            "not_inferior": None if self.finding is Finding.UNKNOWN else not self.at_risk,
            "best_static": self.setting,
        }


def _workloads(panel: Panel, static: BestStatic | None, limits: Thresholds) -> list[_Row]:
    """Regressions first, then by gain; what has too little evidence last."""
    found = each_workload(panel, limits)
    short = device_names({device for _, device in found})
    parts = {group: panel.of(group) for group in found}
    rows = [
        _Row(
            group=group,
            name=f"{group[0]} on {short[group[1]]}" if len(short) > 1 else group[0],
            programs=tuple(sorted(set(parts[group].program.tolist()))),
            captures=len(set(parts[group].capture.tolist())),
            effect=own.effect,
            finding=own.finding,
            at_risk=enough(own.effect, limits.min_blocks)
            and not not_inferior(own.effect, limits.min_blocks, limits.non_inferiority),
            setting=static.each[group] if static else None,
        )
        for group, own in found.items()
    ]
    order = {Finding.WORSE: 0, Finding.UNKNOWN: 2}
    return sorted(rows, key=lambda r: (order.get(r.finding, 1), r.effect.gain, r.group))


def device_names(devices: set[str]) -> dict[str, str]:
    """Device → what to call it: what stands before the first "/" where that tells them apart."""
    heads = {device: device.split("/", 1)[0] for device in devices}
    return heads if len(set(heads.values())) == len(devices) else {device: device for device in devices}


def _median_workload(rows: Sequence[_Row], cost: MetricInfo) -> Figure:
    gains = [row.effect.gain for row in rows if row.effect.baseline > 0]
    return Figure(statistics.median(gains) * 100.0 if gains else None, "%", cost.label)


def _effect(drawn: Bootstrap, arm: str, baseline: str, limits: Thresholds, metric: int = 0) -> Effect:
    return drawn.effect(arm, baseline, metric, limits.confidence, limits.power)


def _null_wins(drawn: Bootstrap, limits: Thresholds) -> bool:
    if NULL not in drawn.panel.arms:
        return False
    baselines = [name for name in (STOCK, BEST_STATIC) if name in drawn.panel.arms]
    effects = [_effect(drawn, NULL, name, limits) for name in baselines]
    return all(f is Finding.BETTER for f in findings(effects, limits.min_blocks, limits.confidence))


def _kind(arm: str) -> str:
    if arm.startswith(STATIC) or arm in (BEST_STATIC, BEST_STATIC_EACH):
        return "static"
    return "model" if arm.startswith(MODEL) else arm


def _arms(drawn: Bootstrap, metrics: Sequence[MetricInfo], limits: Thresholds) -> list[dict[str, Any]]:
    """Every arm against stock; one family of comparisons."""
    panel = drawn.panel
    others = [arm for arm in panel.arms if arm != STOCK]
    effects = [_effect(drawn, arm, STOCK, limits) for arm in others]
    found = dict(zip(others, findings(effects, limits.min_blocks, limits.confidence), strict=True))
    by_name = dict(zip(others, effects, strict=True))
    out = []
    for arm in panel.arms:
        row: dict[str, Any] = {
            "arm": arm,
            "kind": _kind(arm),
            "totals": {
                m.name: Figure(panel.total(arm, i), m.unit, _label(m, arm)) for i, m in enumerate(metrics)
            },
            "finding": None,
        }
        if arm != STOCK:
            row |= effect_figures(by_name[arm], metrics[0])
            row["finding"] = found[arm].value
            row["worse"] = percent(_share_worse(panel, arm), metrics[0].label)
        out.append(row)
    return out


def _label(metric: MetricInfo, arm: str) -> Label:
    """The label of a metric under an arm.

    A policy that decides on the way does so when the model of time says that its moment has come: what is
    exact under a setting that is always in force is modelled there.
    """
    always_in_force = _kind(arm) in (STOCK, "static")
    return Label.MODELLED if metric.label is Label.EXACT and not always_in_force else metric.label


def _share_worse(panel: Panel, arm: str) -> float:
    return float((panel.cost(arm) > panel.cost(STOCK)).mean()) if len(panel) else 0.0


def _metrics(drawn: Bootstrap, metrics: Sequence[MetricInfo], limits: Thresholds) -> list[dict[str, Any]]:
    """What the model changed in each metric, as a change (not a gain): more is plus."""
    out = []
    for i, metric in enumerate(metrics):
        effect = _effect(drawn, MODEL, STOCK, limits, i)
        span = None if effect.low is None or effect.high is None else (-effect.high, -effect.low)
        out.append(
            {
                "name": metric.name,
                "lower_is_better": metric.lower_is_better,
                "stock": Figure(effect.baseline, metric.unit, metric.label),
                "model": Figure(effect.arm, metric.unit, _label(metric, MODEL)),
                "change": percent(-effect.gain, _label(metric, MODEL), span),
            }
        )
    return out


def _best_static(static: BestStatic) -> dict[str, Any]:
    return {
        "overall": static.overall,
        "each": [{"workload": w, "device": d, "setting": arm} for (w, d), arm in sorted(static.each.items())],
    }


def _harm(damage: Harm, rows: Sequence[_Row], cost: MetricInfo, limits: Thresholds) -> dict[str, Any]:
    judged = [row for row in rows if row.finding is not Finding.UNKNOWN]
    worst = min(judged, key=lambda row: (row.effect.gain, row.group), default=None)
    tails = []
    for q, name in (*TAILS, (1.0, "max")):
        note = "" if q == 1.0 else _too_few(damage.blocks, q)
        relative = damage.relative[name]
        tails.append(
            {
                "quantile": name,
                "relative": Figure(
                    None if relative is None else (relative - 1.0) * 100.0, "%", cost.label, note=note
                ),
                "extra": Figure(damage.extra[name], cost.unit, cost.label, note=note),
                "stock": Figure(damage.stock_tail[name], cost.unit, cost.label, note=note),
                "model": Figure(damage.arm_tail[name], cost.unit, cost.label, note=note),
            }
        )
    n = max(1, damage.blocks)
    return {
        "worst": None if worst is None else worst.as_tree(cost),
        "workloads": Count(len(rows)),
        "workloads_worse": Count(sum(r.finding is Finding.WORSE for r in rows)),
        "workloads_at_risk": Count(sum(r.at_risk and r.finding is not Finding.WORSE for r in rows)),
        "workloads_unknown": Count(sum(r.finding is Finding.UNKNOWN for r in rows)),
        "margin": Quoted(limits.non_inferiority * 100.0),
        "blocks": Count(damage.blocks),
        "blocks_worse": percent(damage.worse / n, cost.label),
        "blocks_worse_by_margin": percent(damage.worse_by_margin / n, cost.label),
        "blocks_from_nothing": Count(damage.from_nothing),
        "tails": tails,
    }


def _too_few(blocks: int, q: float) -> str:
    needed = blocks_needed(q)
    return f"needs {needed:,} blocks; there are {blocks:,}" if blocks < needed else ""


def _headroom(room: Headroom, effect: Effect, cost: MetricInfo, limits: Thresholds) -> dict[str, Any]:
    def figure(value: float | None, note: str = "") -> Figure:
        return Figure(None if value is None else value * 100.0, "%", cost.label, note=note)

    def captured(share: float | None, whole: float | None) -> Figure:
        if share is None or whole is None:
            small = whole is not None and whole < limits.min_headroom
            return figure(None, "too little headroom to divide by" if small else "not known")
        span = None
        if effect.low is not None and effect.high is not None:
            span = (effect.low / whole * 100.0, effect.high / whole * 100.0)
        return Figure(
            share * 100.0, "%", cost.label, span, "interval of the gain; the headroom taken as fixed"
        )

    missing = f"no proven bound for {wording.listed(room.without_bound)}" if room.without_bound else ""
    return {
        "proven": figure(room.proven, missing),
        "best_known": figure(room.known, "the best policy that was found; not a bound"),
        "captured": captured(room.share, room.proven),
        "captured_of_best_known": captured(room.share_of_known, room.known),
        "bound": Figure(room.bound, cost.unit, cost.label, note=missing),
        "minimum": Quoted(limits.min_headroom * 100.0),
        "violations": [f"{arm} on {capture}" for capture, arm in room.violations],
    }
