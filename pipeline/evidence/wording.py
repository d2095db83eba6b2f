"""The sentences of a verdict: plain English, no more digits than the data carry."""

from __future__ import annotations

from collections.abc import Sequence

from hindsight.pipeline.evidence.comparisons import Finding
from hindsight.pipeline.evidence.paired import Effect

QUESTIONS = {
    "tomorrow": "the same hosts and workloads, later",
    "new_workload": "programs that training has not seen",
    "new_host": "hosts that training has not seen",
}
_ON = {
    "tomorrow": "on the same workloads later",
    "new_workload": "on programs that it was not trained on",
    "new_host": "on hosts that it was not trained on",
}
_UNIT_SUFFIXES = ("_ns", "_us", "_ms", "_pages", "_bytes", "_count")


def on(evaluation: str) -> str:
    """Where the evaluation looked, to end a sentence with."""
    return _ON.get(evaluation, f"in the evaluation {evaluation}")


def title(metric: str) -> str:
    """A metric's name for people: without its unit and underscores."""
    for suffix in _UNIT_SUFFIXES:
        metric = metric.removesuffix(suffix)
    return metric.replace("_", " ")


def share(fraction: float) -> str:
    """A fraction in per cent: one decimal below 10 %, more only near zero; whole from 100 %."""
    value = abs(fraction) * 100.0
    if value >= 100.0:
        return f"{value:.0f} %"
    if value >= 0.1 or value == 0.0:
        return f"{value:.1f} %"
    return f"{value:.1g} %"


def signed(fraction: float) -> str:
    """The same with its sign (a true minus)."""
    sign = "+" if fraction > 0 else "−" if fraction < 0 else ""
    return sign + share(fraction)


def interval(effect: Effect, confidence: float) -> str:
    """The interval of the gain: "95 % interval +1.0 to +2.0 %"."""
    if effect.low is None or effect.high is None:
        return "no interval"
    low, high = signed(effect.low).removesuffix(" %"), signed(effect.high)
    return f"{confidence * 100:g} % interval {low} to {high}"


def span(effect: Effect, confidence: float) -> str:
    """The interval as a size, to follow "lowers by" or "raises by"; with signs if it contains zero."""
    if effect.low is None or effect.high is None or effect.low <= 0.0 <= effect.high:
        return interval(effect, confidence)
    near, far = sorted((abs(effect.low), abs(effect.high)))
    return f"{confidence * 100:g} % interval {share(near).removesuffix(' %')} to {share(far)}"


def change(effect: Effect, cost: str) -> str:
    """The verb and the size: "lowers stall by 12.3 %", "raises stall by 4 %"."""
    if effect.gain == 0.0:
        return f"leaves {cost} as it is"
    return f"{'lowers' if effect.gain > 0 else 'raises'} {cost} by {share(effect.gain)}"


def listed(names: Sequence[str], most: int = 3) -> str:
    """At most ``most`` names: "a, b and 2 more"."""
    shown = list(names[:most])
    if len(names) > most:
        return f"{', '.join(shown)} and {len(names) - most} more"
    return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]])) if shown else "none"


def against(name: str, finding: Finding | None, effect: Effect | None, confidence: float) -> str:
    """One sentence: does the model beat ``name``?"""
    if finding is None or effect is None:
        return f"It was not compared with {name}."
    detail = f"({signed(effect.gain)}, {interval(effect, confidence)})"
    match finding:
        case Finding.BETTER:
            return f"It beats {name} {detail}."
        case Finding.WORSE:
            return f"It does not beat {name}: it is worse {detail}."
        case Finding.SAME:
            return f"It does not beat {name}: no significant difference {detail}."
        case _:
            return f"Whether it beats {name} cannot be said: not enough evidence."
