"""What stock and the model cost in each block, small enough to travel with a model.

Another version of the model is compared on the same blocks; stock's cost shows that they are the same.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import polars as pl

from hindsight.errors import VerificationError
from hindsight.pipeline.evidence.panel import KEYS, MODEL, STOCK
from hindsight.pipeline.store import encode
from hindsight.subsystems.contract import Columns

FILE = "blocks.parquet"
"""Its name in a package."""

WHERE = ("evaluation", *KEYS, "recorded_ns")
COLUMNS = (*WHERE, STOCK, MODEL)


def block_costs(blocks: Columns, cost: str) -> bytes:
    """One row per evaluation and block of the table that ``evaluate`` wrote: :data:`WHERE`, and the int64
    columns ``stock`` and ``model`` with their ``cost``. Parquet, deterministic.

    Raises VerificationError if the two arms do not cover the same blocks in the same order.
    """
    stock, model = (blocks["arm"] == arm for arm in (STOCK, MODEL))
    where = {name: blocks[name][stock] for name in WHERE}
    if not all(np.array_equal(where[name], blocks[name][model]) for name in WHERE):
        raise VerificationError("stock and the model do not cover the same blocks", "run `dvc repro`")
    costs: dict[str, Any] = {STOCK: blocks[cost][stock], MODEL: blocks[cost][model]}
    return encode(where | {name: values.astype(np.int64) for name, values in costs.items()})


def read_block_costs(data: bytes) -> pl.DataFrame:
    """What :func:`block_costs` wrote, by evaluation and block.

    Raises VerificationError for anything else: it may come from elsewhere.
    """
    try:
        table = pl.read_parquet(io.BytesIO(data))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise VerificationError(
            f"{FILE} cannot be read: {error}", "fetch or make the package again"
        ) from error
    return checked(table)


def checked(table: pl.DataFrame) -> pl.DataFrame:
    """``table`` with the columns :data:`COLUMNS`, sorted; VerificationError where it is none of ours."""
    wrong = [name for name in COLUMNS if name not in table.columns]
    if wrong:
        raise VerificationError(f"{FILE} lacks {', '.join(wrong)}", "fetch or make the package again")
    table = table.select(COLUMNS).sort(WHERE)
    whole = all(table.schema[name].is_integer() for name in ("block", "recorded_ns", STOCK, MODEL))
    if not whole or any(table.null_count().row(0)) or table.select(WHERE[:-1]).is_duplicated().any():
        raise VerificationError(
            f"{FILE} is not a table of costs per block", "fetch or make the package again"
        )
    return table
