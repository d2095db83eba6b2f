"""What changed from the first version to each other one: effects and findings, by the rules of evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hindsight.pipeline.compare import pairing
from hindsight.pipeline.compare.version import Version
from hindsight.pipeline.evidence.comparisons import Finding, enough, findings, not_inferior
from hindsight.pipeline.evidence.evaluation import RESAMPLED
from hindsight.pipeline.evidence.paired import Bootstrap, Effect, bootstrap, difference
from hindsight.pipeline.evidence.panel import MODEL, Group, Panel
from hindsight.pipeline.evidence.thresholds import Thresholds


@dataclass(frozen=True)
class Change:
    """One comparison with the reference. ``group`` None: over all workloads. ``costs``: of the reference and
    of the version, None where they are of different data."""

    version: int
    group: Group | None
    effect: Effect
    finding: Finding
    at_risk: bool
    costs: tuple[int, int] | None


@dataclass(frozen=True)
class Compared:
    """One evaluation. ``workloads``: regressions first, what has too little evidence last."""

    evaluation: str
    blocks: int
    captures: int
    resampled: str
    units: int
    overall: list[Change]
    workloads: list[Change]
    only_in_some: list[Group]


def on_the_same_blocks(versions: Sequence[Version], limits: Thresholds) -> list[Compared]:
    """Paired, block by block. The families of Holm's correction: the versions of an evaluation; the workloads
    of all versions of an evaluation."""
    return [_paired(panel, len(versions), limits) for panel in pairing.paired(versions)]


def across_data(versions: Sequence[Version], limits: Thresholds) -> list[Compared]:
    """Not paired: gain over stock on a version's own blocks, minus that of the first version on its own."""
    common = pairing.common_evaluations(versions)
    own = [pairing.alone(version, common) for version in versions]
    return [_across([panels[i] for panels in own], limits) for i in range(len(common))]


def _paired(panel: Panel, count: int, limits: Thresholds) -> Compared:
    others = range(1, count)
    unit = RESAMPLED.get(panel.evaluation)
    drawn = [_against_first(panel, i, limits, unit) for i in others]
    groups = panel.groups()
    parts = {group: panel.of(group) for group in groups}
    pairs = [(i, group) for i in others for group in groups]
    within = [_against_first(parts[group], i, limits, None) for i, group in pairs]

    def effect(bootstrapped: Bootstrap, i: int) -> Effect:
        return bootstrapped.effect(pairing.arm(i), MODEL, 0, limits.confidence, limits.power)

    return Compared(
        evaluation=panel.evaluation,
        blocks=len(panel),
        captures=len(set(panel.capture.tolist())),
        resampled=drawn[0].resampled,
        units=min(d.units for d in drawn),
        overall=_changes([(i, None) for i in others], list(map(effect, drawn, others)), True, limits),
        workloads=_sorted(
            _changes(pairs, [effect(d, i) for d, (i, _) in zip(within, pairs, strict=True)], True, limits)
        ),
        only_in_some=[],
    )


def _against_first(panel: Panel, index: int, limits: Thresholds, unit: str | None) -> Bootstrap:
    return bootstrap(panel, limits.draws, limits.seed, unit, pairing.arm(index), MODEL)


def _across(panels: Sequence[Panel], limits: Thresholds) -> Compared:
    others = range(1, len(panels))
    unit = RESAMPLED.get(panels[0].evaluation)
    drawn = [bootstrap(p, limits.draws, limits.seed + i, unit) for i, p in enumerate(panels)]
    known = [set(p.groups()) for p in panels]
    pairs = [(i, group) for i in others for group in sorted(known[0] & known[i])]

    def within(i: int, group: Group) -> Bootstrap:
        return bootstrap(panels[i].of(group), limits.draws, limits.seed + i)

    def effect(ours: Bootstrap, theirs: Bootstrap) -> Effect:
        return difference(ours, theirs, limits.confidence, limits.power)

    inside = [effect(within(i, group), within(0, group)) for i, group in pairs]
    return Compared(
        evaluation=panels[0].evaluation,
        blocks=min(len(p) for p in panels),
        captures=min(len(set(p.capture.tolist())) for p in panels),
        resampled=drawn[0].resampled,
        units=min(d.units for d in drawn),
        overall=_changes(
            [(i, None) for i in others], [effect(drawn[i], drawn[0]) for i in others], False, limits
        ),
        workloads=_sorted(_changes(pairs, inside, False, limits)),
        only_in_some=sorted({g for own in known for g in own if any(g not in other for other in known)}),
    )


def _changes(
    of: Sequence[tuple[int, Group | None]], effects: Sequence[Effect], costs: bool, limits: Thresholds
) -> list[Change]:
    """One family of comparisons."""
    found = findings(effects, limits.min_blocks, limits.confidence)
    return [
        Change(
            version=version,
            group=group,
            effect=effect,
            finding=finding,
            at_risk=enough(effect, limits.min_blocks)
            and not not_inferior(effect, limits.min_blocks, limits.non_inferiority),
            costs=(effect.baseline, effect.arm) if costs else None,
        )
        for (version, group), effect, finding in zip(of, effects, found, strict=True)
    ]


def _sorted(changes: Sequence[Change]) -> list[Change]:
    order = {Finding.WORSE: 0, Finding.UNKNOWN: 2}
    return sorted(
        changes, key=lambda c: (c.version, order.get(c.finding, 1), c.effect.gain, c.group or ("", ""))
    )
