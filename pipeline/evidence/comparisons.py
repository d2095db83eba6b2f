"""What may be said about several comparisons at once, and about "no worse"."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from hindsight.pipeline.evidence.paired import Effect


class Finding(Enum):
    """The outcome of one comparison, as it is printed."""

    BETTER = "better"
    WORSE = "worse"
    SAME = "~"
    UNKNOWN = "not enough evidence"


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values in the given order (Holm 1979): comparing with alpha controls the family's error."""
    order = sorted(range(len(p_values)), key=lambda i: (p_values[i], i))
    out = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        out[index] = largest
    return out


def enough(effect: Effect, min_blocks: int) -> bool:
    """Whether there are enough paired blocks, and an interval."""
    return effect.usable and effect.blocks >= min_blocks


def findings(effects: Sequence[Effect], min_blocks: int, confidence: float) -> list[Finding]:
    """One finding per effect; the family are those with enough evidence.

    A difference is declared only where the corrected p-value and the interval agree.
    """
    family = [i for i, effect in enumerate(effects) if enough(effect, min_blocks)]
    adjusted = dict(zip(family, holm([effects[i].p for i in family]), strict=True))
    out = []
    for i, effect in enumerate(effects):
        if i not in adjusted or effect.low is None or effect.high is None:
            out.append(Finding.UNKNOWN)
        elif adjusted[i] < 1.0 - confidence and effect.low > 0.0:
            out.append(Finding.BETTER)
        elif adjusted[i] < 1.0 - confidence and effect.high < 0.0:
            out.append(Finding.WORSE)
        else:
            out.append(Finding.SAME)
    return out


def not_inferior(effect: Effect, min_blocks: int, margin: float) -> bool:
    """Whether "not worse by more than ``margin``" is shown: the interval's lower end is above -margin.

    That every workload is not inferior is claimed only if each of them is: an intersection-union test, which
    needs no correction (Berger 1982).
    """
    return enough(effect, min_blocks) and effect.low is not None and effect.low > -margin
