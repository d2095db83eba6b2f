"""The settings that an operator could have chosen without any model: best static in hindsight."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hindsight.pipeline.evidence.panel import STATIC, STOCK, Group, Panel

BEST_STATIC = "best_static"
BEST_STATIC_EACH = "best_static_each"


@dataclass(frozen=True)
class BestStatic:
    """Arm names: the one setting that is best for all blocks, and the best for each (workload, device)."""

    overall: str
    each: dict[Group, str]


def add_best_static(panel: Panel) -> tuple[Panel, BestStatic | None]:
    """``panel`` with the arms :data:`BEST_STATIC` and :data:`BEST_STATIC_EACH`; unchanged without statics.

    Leaving the kernel alone is a static setting too, so that the best is never worse than stock. Both are
    picked on the very blocks on which they are compared: hindsight that no operator has, and so a hard
    opponent. Ties go to stock, then by name.
    """
    settings = [STOCK, *sorted(arm for arm in panel.arms if arm.startswith(STATIC))]
    if len(settings) == 1:
        return panel, None

    def best(part: Panel) -> str:
        totals = [part.total(arm) for arm in settings]
        return settings[totals.index(min(totals))]

    overall = best(panel)
    each = {group: best(panel.of(group)) for group in panel.groups()}
    index = {arm: panel.arms.index(arm) for arm in settings}
    chosen = np.array(
        [index[each[group]] for group in zip(panel.workload.tolist(), panel.device.tolist(), strict=True)],
        dtype=np.intp,
    )
    with_overall = panel.with_arm(BEST_STATIC, np.full(len(panel), index[overall], dtype=np.intp))
    return with_overall.with_arm(BEST_STATIC_EACH, chosen), BestStatic(overall, each)
