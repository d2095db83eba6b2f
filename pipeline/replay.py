"""Replay the kernel's own logic on the recorded demand, without reading what the kernel decided."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hindsight.pipeline.dataset import Capture, find_captures
from hindsight.pipeline.demand import Demand, read_demands
from hindsight.pipeline.parallel import each
from hindsight.pipeline.store import concatenate, encode, write_bytes
from hindsight.subsystems.contract import Columns, Subsystem

CAPTURE = "capture"
"""The column of an emitted file that says to which capture a decision belongs."""


def emit(subsystem: Subsystem, capture: str, demand: Demand) -> Columns:
    """Decisions of the stock logic for one capture, with its id in front."""
    decisions = subsystem.replay(demand)
    rows = len(next(iter(decisions.values()), ()))
    return {CAPTURE: np.full(rows, capture, dtype=object), **decisions}


def encode_emitted(parts: list[Columns]) -> bytes:
    """The emitted decisions of several captures as one Parquet file, in that order."""
    return encode(concatenate(parts))


def replay_dataset(dataset: Path, subsystem: Subsystem, out: Path) -> int:
    """Write the decisions of all captures of a dataset; returns how many there are.

    The decision tables are never opened: the file is the same whether they are there or not.
    Raises ConfigurationError for an unusable dataset or an unusable place for the file.
    """
    found, _ = read_demands(subsystem, find_captures(dataset))

    def one(item: tuple[Capture, Demand]) -> Columns:
        return emit(subsystem, item[0].id, item[1])

    parts = each(one, found, "replay")
    write_bytes(out, encode_emitted(parts))
    return sum(len(part[CAPTURE]) for part in parts)
