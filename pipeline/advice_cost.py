"""What advice costs: processor time to capture events, to decide and to act, for the captures of a test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hindsight.pipeline.drive import Outcome


def advice_cost(
    advice: Mapping[str, Any], tested: Iterable[tuple[Mapping[str, Any], Outcome]]
) -> dict[str, int]:
    """Events, decisions, actions, and the processor time (ns) of all of them.

    ``advice``: the section of params.yaml with the time of one of each. ``tested``: the facts of each
    capture, whose ``events`` would have had to be captured, and what the model came to on it.
    """
    events = decisions = actions = 0
    for facts, outcome in tested:
        events += int(facts["events"])
        decisions += int(outcome.taken.sum())
        actions += int(outcome.taken[:-1].sum())
    spent = (
        events * int(advice["event_ns"])
        + decisions * int(advice["decision_ns"])
        + actions * int(advice["action_ns"])
    )
    return {"events": events, "decisions": decisions, "actions": actions, "ns": spent}
