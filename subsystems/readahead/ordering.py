"""In which order reads at the same time went on, where no row tells.

When a task looked, and when it noted its position, is known within a microsecond or so
(:mod:`interleaving`). Which of two came first decides what they do to each other, and so which folios they
add: of several hypotheses the one is taken whose replay adds what the record shows was added. Decisions are
not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.subsystems.readahead import replay
from hindsight.subsystems.readahead.history import History
from hindsight.subsystems.readahead.interleaving import Pace, pace, steps

HYPOTHESES = (
    (1.0, 1.0, 1.0),
    (1.0, 0.5, 1.0),
    (1.0, 1.5, 1.0),
    (2.5, 1.0, 1.0),
    (1.0, 1.0, 0.0),
    (1.0, 1.0, 3.0),
)
"""Multiples of the measured pace: of the look that finds, of the look that misses, of the note."""
MOST_REPLAYS = 240
"""A capture is replayed no more often than this to find an order."""
BEFORE = 3
"""So many groups before the one that came out otherwise may have caused it."""

Columns = dict[str, NDArray[Any]]


def hypotheses(history: History, ops: Columns, calls: NDArray[np.int64]) -> list[Columns]:
    """Steps (:func:`hindsight.subsystems.readahead.interleaving.steps`) under the pace that was measured,
    then under others. ``calls``: the call of each operation (-1 = none).
    """
    measured = pace(history)
    return [
        steps(
            history,
            ops,
            calls,
            history.stream_file,
            Pace(*(int(value * by) for value, by in zip(measured, scale, strict=True))),
        )
        for scale in HYPOTHESES
    ]


def choose(demand: Mapping[str, Columns], hypotheses: Sequence[Columns]) -> Columns:
    """The steps of each group under the hypothesis that explains best what was added from there on; the first
    one, where all explain it alike. All have the same groups. ``demand``: what else a replay needs.
    """
    groups = np.unique(hypotheses[0]["group"])
    if len(groups) == 0:
        return hypotheses[0]
    bounds = [np.append(np.searchsorted(h["group"], groups), len(h["group"])) for h in hypotheses]

    def taken(picked: NDArray[np.int64]) -> Columns:
        parts = [slice(bounds[h][g], bounds[h][g + 1]) for g, h in enumerate(picked.tolist())]
        return {
            name: np.concatenate(
                [hypotheses[h][name][part] for h, part in zip(picked.tolist(), parts, strict=True)]
            )
            for name in hypotheses[0]
        }

    def wrong(picked: NDArray[np.int64]) -> NDArray[np.int64]:
        return replay.added_otherwise({**demand, "steps": taken(picked)})[groups]

    picked = np.zeros(len(groups), np.int64)
    found, left, at = wrong(picked), MOST_REPLAYS, 0
    while left > 0 and found[at:].any():
        group = at + int(np.flatnonzero(found[at:])[0])
        best, least = picked, found
        for changed in range(group, max(group - BEFORE, -1), -1):
            for hypothesis in range(len(hypotheses)):
                if hypothesis == picked[changed] or left == 0:
                    continue
                trial = picked.copy()
                trial[changed] = hypothesis
                tried = wrong(trial)
                left -= 1
                if tried.sum() < least.sum():
                    best, least = trial, tried
            if least[: group + 1].sum() == 0:
                break
        improved = least.sum() < found.sum()
        picked, found = best, least
        if not improved:
            at = group + 1
    return taken(picked)
