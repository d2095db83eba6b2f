"""All arms of one evaluation on the same blocks: the paired data that every comparison starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hindsight.errors import VerificationError

KEYS = ("host", "workload", "device", "capture", "program", "block")
COLUMNS = ("evaluation", "arm", *KEYS, "recorded_ns")

STOCK, MODEL, RULE, NULL, RANDOM, BEST_KNOWN = "stock", "model", "rule", "null", "random", "best_known"
STATIC = "static:"

Group = tuple[str, str]
"""(workload, device): what a per-workload figure is about."""


@dataclass(frozen=True)
class Panel:
    """Costs of every arm on the same blocks, sorted by host, workload, device, capture and block.

    ``values``: int64, shape (n_blocks, n_arms, n_metrics); metric 0 is the cost. The key arrays have shape
    (n_blocks,): text as object arrays, ``block`` and ``recorded_ns`` int64.
    """

    evaluation: str
    arms: tuple[str, ...]
    metrics: tuple[str, ...]
    values: NDArray[np.int64]
    host: NDArray[np.object_]
    workload: NDArray[np.object_]
    device: NDArray[np.object_]
    capture: NDArray[np.object_]
    program: NDArray[np.object_]
    block: NDArray[np.int64]
    recorded_ns: NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.values.shape[0])

    def cost(self, arm: str) -> NDArray[np.int64]:
        """Cost of one arm per block, shape (n_blocks,)."""
        return self.values[:, self.arms.index(arm), 0]

    def total(self, arm: str, metric: int = 0) -> int:
        """Exact sum of a metric over all blocks."""
        return int(self.values[:, self.arms.index(arm), metric].sum())

    def groups(self) -> list[Group]:
        """The (workload, device) pairs, sorted."""
        return sorted(set(zip(self.workload.tolist(), self.device.tolist(), strict=True)))

    def where(self, rows: NDArray[np.bool_]) -> Panel:
        """The blocks at which ``rows`` is true."""
        return replace(
            self,
            values=self.values[rows],
            host=self.host[rows],
            workload=self.workload[rows],
            device=self.device[rows],
            capture=self.capture[rows],
            program=self.program[rows],
            block=self.block[rows],
            recorded_ns=self.recorded_ns[rows],
        )

    def of(self, group: Group) -> Panel:
        """The blocks of one (workload, device)."""
        return self.where((self.workload == group[0]) & (self.device == group[1]))

    def with_arm(self, name: str, chosen: NDArray[np.intp]) -> Panel:
        """One more arm, which behaves in each block as the arm with index ``chosen[block]`` does."""
        extra = np.take_along_axis(self.values, chosen[:, None, None], axis=1)
        return replace(self, arms=(*self.arms, name), values=np.concatenate([self.values, extra], axis=1))


def panels(blocks: pl.DataFrame, metrics: Sequence[str]) -> list[Panel]:
    """One panel per evaluation, sorted by name.

    Raises VerificationError when a column is absent, a value is null or negative, or the arms of an
    evaluation do not cover the same blocks exactly once (then nothing would be paired).
    """
    absent = [name for name in (*COLUMNS, *metrics) if name not in blocks.columns]
    if absent or not metrics:
        raise VerificationError(f"the blocks table lacks {', '.join(absent) or 'a cost'}")
    blocks = blocks.select([*COLUMNS, *metrics])
    empty = [name for name, nulls in zip(blocks.columns, blocks.null_count().row(0), strict=True) if nulls]
    if empty:
        raise VerificationError(f"the blocks table has nulls in {', '.join(empty)}")
    for name in metrics:
        if not blocks.schema[name].is_integer():
            raise VerificationError(f"metric {name} is {blocks.schema[name]}; only integers add up exactly")
    if len(blocks) and blocks.select(pl.min_horizontal(pl.col(list(metrics)).min())).item() < 0:
        raise VerificationError("the blocks table has a negative metric")
    return [
        _panel(blocks.filter(pl.col("evaluation") == name), name, tuple(metrics))
        for name in sorted(blocks["evaluation"].unique().to_list())
    ]


def _panel(blocks: pl.DataFrame, evaluation: str, metrics: tuple[str, ...]) -> Panel:
    arms = sorted(blocks["arm"].unique().to_list(), key=_arm_order)
    for needed in (STOCK, MODEL):
        if needed not in arms:
            raise VerificationError(
                f"evaluation {evaluation!r} has no arm {needed!r}", f"it has {', '.join(arms) or 'none'}"
            )
    keys: pl.DataFrame | None = None
    columns = []
    for arm in arms:
        rows = blocks.filter(pl.col("arm") == arm).sort(KEYS)
        own = rows.select([*KEYS, "recorded_ns"])
        if own.select(KEYS).is_duplicated().any():
            raise VerificationError(f"evaluation {evaluation!r}: arm {arm!r} has a block twice")
        if keys is None:
            keys = own
        elif not own.equals(keys):
            raise VerificationError(
                f"evaluation {evaluation!r}: arms {arms[0]!r} and {arm!r} do not cover the same blocks "
                f"({len(keys)} and {len(own)})",
                "every arm must be replayed over the same demand, cut at the same recorded times",
            )
        columns.append(rows.select(metrics).to_numpy().astype(np.int64, copy=False))
    assert keys is not None
    text = {name: np.array(keys[name].to_list(), dtype=object) for name in KEYS if name != "block"}
    return Panel(
        evaluation=evaluation,
        arms=tuple(arms),
        metrics=metrics,
        values=np.stack(columns, axis=1),
        block=keys["block"].to_numpy().astype(np.int64),
        recorded_ns=keys["recorded_ns"].to_numpy().astype(np.int64),
        **text,
    )


def _arm_order(arm: str) -> tuple[int, str]:
    # Stock first, the model last of the policies, so that tables read in one direction.
    fixed = {STOCK: 0, RULE: 2, NULL: 3, RANDOM: 4, MODEL: 6, BEST_KNOWN: 8}
    if arm.startswith(STATIC):
        return (1, arm)
    return (fixed.get(arm, 7 if arm.startswith(MODEL) else 5), arm)
