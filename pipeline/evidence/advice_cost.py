"""What advice costs, against what it gains: as if all its processor time were time that programs wait."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hindsight.pipeline.evidence.figures import Count, Figure, percent
from hindsight.pipeline.evidence.paired import Effect
from hindsight.subsystems.contract import Label


def charged(advice: Mapping[str, int] | None, effect: Effect, unit: str) -> float | None:
    """Processor time of advice (``ns``) as a share of what stock costs, whose unit this is; None if it is
    unknown, or cannot be charged against that unit.
    """
    if advice is None or unit != "ns" or effect.baseline <= 0:
        return None
    return int(advice["ns"]) / effect.baseline


def spent(advice: Mapping[str, int], charge: float | None, effect: Effect, label: Label) -> dict[str, Any]:
    """Events, decisions, actions, their processor time, and what is left of the gain, as a tree that
    :func:`hindsight.pipeline.evidence.figures.seal` accepts. ``charge``: of :func:`charged`; ``label``: of
    the cost. (The time of one event, decision or action is measured; how many there are, the replay says.)
    """
    note = "" if charge is not None else "processor time cannot be charged against this cost"
    net = Figure(None, "%", label, note=note)
    if charge is not None:
        known = effect.low is not None and effect.high is not None
        span = (effect.low - charge, effect.high - charge) if known else None  # type: ignore[operator]
        net = percent(effect.gain - charge, label, span)
    return {
        "events": Count(int(advice["events"])),
        "decisions": Count(int(advice["decisions"])),
        "actions": Count(int(advice["actions"])),
        "time": Figure(int(advice["ns"]), "ns", Label.MODELLED),
        "share": Figure(None if charge is None else charge * 100.0, "%", Label.MODELLED, note=note),
        "net_gain": net,
    }
