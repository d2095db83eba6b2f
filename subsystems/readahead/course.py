"""What a stream asked for, and what was fetched for it, over time: for drawings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hindsight.subsystems.contract import Columns
from hindsight.subsystems.readahead import world as layout
from hindsight.subsystems.readahead.operations import READ
from hindsight.subsystems.readahead.pages import PAGE_SHIFT
from hindsight.subsystems.readahead.world import POS, TS, Record, World


def of_stream(world: World, record: Record, base: NDArray[np.uint64], stream: int) -> dict[str, Columns]:
    """Tables ``asked`` (ts, begin, end) and ``fetched`` (ts, begin, end, used), in order of time then page.

    ``ts``: when the read that asked, or that made the kernel fetch, was recorded (ns); ``begin`` … ``end``:
    pages of its file; ``used``: how many of them some read asked for. ``base``: where the pages of each file
    begin.
    """
    ops = world.ops
    mine = np.flatnonzero(
        (ops[:, layout.STREAM] == stream) & (ops[:, layout.KIND] == READ) & (ops[:, layout.RET] > 0)
    )
    mine = mine[np.argsort(ops[mine, TS], kind="stable")]
    first = ops[mine, POS] >> PAGE_SHIFT
    last = ops[mine, POS] + ops[mine, layout.RET] - 1 >> PAGE_SHIFT
    file = int(world.streams[stream, layout.FILE])
    begin, end = int(base[file]), int(base[file + 1])
    fetcher = record.fetcher[begin:end].astype(np.int64) - 1
    bounds = np.flatnonzero(np.append(np.ones(min(len(fetcher), 1), np.bool_), fetcher[1:] != fetcher[:-1]))
    after = np.append(bounds[1:], len(fetcher))
    op = fetcher[bounds] if len(bounds) else bounds
    own = (op >= 0) & (ops[np.maximum(op, 0), layout.STREAM] == stream)
    used = np.add.reduceat(record.used[begin:end].astype(np.int64), bounds) if len(bounds) else bounds
    ts = ops[np.maximum(op, 0), TS][own]
    order = np.lexsort((bounds[own], ts))
    return {
        "asked": {"ts": ops[mine, TS], "begin": first, "end": last + 1},
        "fetched": {
            "ts": ts[order],
            "begin": bounds[own][order],
            "end": after[own][order],
            "used": used[own][order],
        },
    }
