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
    (1.0, 1.0, 1.0, False),
    (1.0, 1.0, 1.0, True),
    (1.0, 0.5, 1.0, False),
    (1.0, 1.5, 1.0, False),
    (1.0, 4.0, 1.0, False),
    (2.5, 1.0, 1.0, False),
    (1.0, 1.0, 0.0, False),
    (1.0, 1.0, 3.0, False),
)
"""Multiples of the measured pace: of a look that finds, of one that misses, of the note of the position; and
whether a read that adds nothing looks after it waited.
"""
MOST_REPLAYS = 400
"""A capture is replayed no more often than this to find an order."""
BEFORE, AFTER = 5, 2
"""So many operations before, and after, the one that came out otherwise may have caused it."""

Columns = dict[str, NDArray[Any]]


def hypotheses(history: History, ops: Columns, calls: NDArray[np.int64]) -> list[Columns]:
    """Steps (:func:`hindsight.subsystems.readahead.interleaving.steps`) under the pace that was measured,
    then under others. ``calls``: the call of each operation (-1 = none).
    """
    measured = pace(history)
    found = []
    for finds, misses, notes, waits in HYPOTHESES:
        begun, before = int(measured.begun * finds), int(measured.before * misses)
        paced = Pace(begun, before, int(measured.noted * notes), waits)
        found.append(steps(history, ops, calls, history.stream_file, paced))
    return found


def choose(demand: Mapping[str, Columns], hypotheses: Sequence[Columns]) -> Columns:
    """The steps of each operation under the hypothesis that explains best what was added; the first one,
    where all explain it alike. All have the same operations. ``demand``: what else a replay needs.
    """
    ops, number = np.unique(hypotheses[0]["op"], return_inverse=True)
    if len(ops) == 0:
        return hypotheses[0]
    group = np.empty(len(ops), np.int64)
    group[np.asarray(number).reshape(-1)] = hypotheses[0]["group"]

    def taken(picked: NDArray[np.int64]) -> Columns:
        under = [h for h in range(len(hypotheses)) if (picked == h).any()]
        parts = [picked[np.searchsorted(ops, hypotheses[h]["op"])] == h for h in under]
        rows = {
            name: np.concatenate([hypotheses[h][name][part] for h, part in zip(under, parts, strict=True)])
            for name in hypotheses[0]
        }
        order = np.lexsort((rows["kind"], rows["op"], rows["ts"], rows["group"]))
        return {name: column[order] for name, column in rows.items()}

    def wrong(picked: NDArray[np.int64]) -> NDArray[np.int64]:
        return replay.added_otherwise({**demand, "steps": taken(picked)})[ops]

    picked = np.zeros(len(ops), np.int64)
    found, left, at = wrong(picked), MOST_REPLAYS, 0
    while left > 0 and found[at:].any():
        first = at + int(np.flatnonzero(found[at:])[0])
        best, least = picked, found
        for changed in range(max(first - BEFORE, 0), min(first + AFTER + 1, len(ops))):
            if group[changed] != group[first]:
                continue
            for hypothesis in range(len(hypotheses)):
                if hypothesis == picked[changed] or left == 0:
                    continue
                trial = picked.copy()
                trial[changed] = hypothesis
                tried = wrong(trial)
                left -= 1
                if tried.sum() < least.sum():
                    best, least = trial, tried
        improved = least.sum() < found.sum()
        picked, found = best, least
        if not improved:
            at = first + 1
    return taken(picked)
