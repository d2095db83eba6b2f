"""Real data of which the truth is known, because chance decided which arm is which.

A :data:`Source` makes such a panel from a random generator: arms stock and model, one metric. Costs of the
model may be negative in it (a difference larger than the cost of stock, with its sign changed): sums do not
mind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hindsight.pipeline.evidence.paired import sequences_of
from hindsight.pipeline.evidence.panel import MODEL, STOCK, Group, Panel

Source = Callable[[np.random.Generator], Panel]


def pair(panel: Panel, arm: str) -> Panel:
    """Stock, and ``arm`` in the place of the model; the cost alone."""
    arms = [panel.arms.index(STOCK), panel.arms.index(arm)]
    return replace(
        panel, arms=(STOCK, MODEL), metrics=panel.metrics[:1], values=panel.values[:, arms, :1].copy()
    )


def without_mean(panel: Panel) -> Panel:
    """The pair with the model's gain taken out of each block in proportion to its cost: what is left is how
    blocks and programs differ in it."""
    stock, total = panel.cost(STOCK), panel.total(STOCK)
    gain = (total - panel.total(MODEL)) / total if total else 0.0
    return _with_model(panel, panel.cost(MODEL) + np.rint(gain * stock).astype(np.int64))


def planted(panel: Panel, gain: float) -> Panel:
    """The pair with the model's cost multiplied by 1 - ``gain`` in each block, to the next integer."""
    return _with_model(panel, np.rint(panel.cost(MODEL) * (1.0 - gain)).astype(np.int64))


def signs_flipped(panel: Panel, unit: str | None) -> Source:
    """The pair, with the differences of each cluster times +1 or -1 at random: on average there is none.

    Clusters are what the bootstrap draws: the values of ``unit``; for None the runs of blocks of each
    sequence, as long as those that are drawn from the differences as they are, cut at a random place.
    """
    stock, difference = panel.cost(STOCK), panel.cost(STOCK) - panel.cost(MODEL)
    if unit is not None:
        names, of_unit = np.unique(getattr(panel, unit).astype(str), return_inverse=True)

        def flip_units(rng: np.random.Generator) -> Panel:
            return _with_model(panel, stock - _signs(rng, len(names))[of_unit] * difference)

        return flip_units
    sequences = sequences_of(panel, np.arange(len(panel)))

    def flip_runs(rng: np.random.Generator) -> Panel:
        signs = np.empty(len(panel), dtype=np.int64)
        for one in sequences:
            run = (np.arange(len(one.rows)) + rng.integers(one.length)) // one.length
            signs[one.rows] = _signs(rng, int(run[-1]) + 1)[run]
        return _with_model(panel, stock - signs * difference)

    return flip_runs


def neighbours(measured: Mapping[Group, Sequence[int]]) -> Panel:
    """Stock against stock: repeated measurements of one arm, in the order in which they were made, as pairs.

    A pair are two measurements that follow each other (1 and 2, 3 and 4, …): what drifts slowly is nearly the
    same for both. Each measurement is in one pair alone, so that pairs share none; with overlapping pairs (1
    and 2, 2 and 3) the differences would cancel in the sum. A last one without a neighbour is left out. A
    pair is a block, a (workload, device) is a sequence.
    """
    pairs = {
        group: np.asarray(values[: len(values) // 2 * 2], dtype=np.int64).reshape(-1, 2)
        for group, values in sorted(measured.items())
        if len(values) > 1
    }
    counts = [len(values) for values in pairs.values()]

    def column(texts: Sequence[str]) -> NDArray[np.object_]:
        return np.repeat(np.array(texts, dtype=object), counts)

    none = np.zeros((0, 2), dtype=np.int64)
    return Panel(
        evaluation="lab",
        arms=(STOCK, MODEL),
        metrics=("cost",),
        values=np.concatenate([none, *pairs.values()])[:, :, None],
        host=column(["lab" for _ in pairs]),
        workload=column([workload for workload, _ in pairs]),
        device=column([device for _, device in pairs]),
        capture=column([f"{workload} on {device}" for workload, device in pairs]),
        program=column([workload for workload, _ in pairs]),
        block=np.concatenate([none[:, 0], *map(np.arange, counts)]),
        recorded_ns=np.arange(sum(counts), dtype=np.int64),
    )


def labels_permuted(panel: Panel) -> Source:
    """The pairs of :func:`neighbours`; a coin for each says which of the two is called the model.

    Whatever makes two neighbours differ, the coin makes it as often a gain as a loss: the truth is "no
    difference" whether or not the measurements drift.
    """

    def permute(rng: np.random.Generator) -> Panel:
        swap = rng.integers(0, 2, size=len(panel)) == 1
        values = np.where(swap[:, None, None], panel.values[:, ::-1], panel.values)
        return replace(panel, values=values)

    return permute


def _signs(rng: np.random.Generator, n: int) -> NDArray[np.int64]:
    return 2 * rng.integers(0, 2, size=n) - 1


def _with_model(panel: Panel, cost: NDArray[np.int64]) -> Panel:
    values = panel.values.copy()
    values[:, panel.arms.index(MODEL), 0] = cost
    return replace(panel, values=values)
