"""Single steps: what the logic decides from the state that the record shows, not from its own.

One decision that differs changes what follows from it. How often the logic itself is right shows where each
request begins with the recorded state of its open file; the page cache stays the replay's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.subsystems.readahead.compiled import step
from hindsight.subsystems.readahead.state import ASYNC_RA, RA_ORDER, SYNC_RA

_NOT_SHOWN = 0xFFFFFFFF
"""``order`` of requests of a kernel that keeps none."""

Columns = Mapping[str, NDArray[Any]]


def corrections(
    rows: Columns, op: NDArray[np.int64], stream: NDArray[np.int64], operations: int
) -> dict[str, NDArray[np.int64]]:
    """Columns of :class:`hindsight.subsystems.readahead.recorded.Corrections`, of recorded decisions in order
    of operations: ``rows`` (ts, kind, index, size, async_size, order, prev_pos), the operation and the stream
    of each; ``operations``: how many there are.
    """
    start = np.full(len(op), -1, np.int64)
    latest: dict[int, int] = {}
    by_time = np.argsort(rows["ts"], kind="stable").tolist()
    windows, streams, first = (rows["kind"] == RA_ORDER).tolist(), stream.tolist(), rows["index"].tolist()
    for row in by_time:
        start[row] = latest.get(streams[row], -1)
        if windows[row]:
            latest[streams[row]] = first[row]
    request = np.flatnonzero(np.isin(rows["kind"], (SYNC_RA, ASYNC_RA)))
    bounds = np.searchsorted(op[request], np.arange(operations + 1))
    names = ("kind", "index", "size", "async_size", "order", "prev_pos")
    return {
        "next": bounds[:-1],
        "beyond": bounds[1:],
        "start": start[request],
        **{name: rows[name][request] for name in names},
    }


@step
def correct(cache, files, stream, kind, index, op):  # type: ignore[no-untyped-def]
    """Give a stream the recorded state of its next request in this operation, if that is the one to come."""
    c = cache.corrections
    o = np.uint64(op)
    row = np.uint64(c.next[o])
    if c.next[o] >= c.beyond[o] or c.kind[row] != kind or c.index[row] != index:
        return
    s = np.uint64(stream)
    if c.start[row] >= 0:
        files.start[s] = c.start[row]
    files.size[s] = c.size[row]
    files.async_size[s] = c.async_size[row]
    if c.order[row] != _NOT_SHOWN:
        files.order[s] = c.order[row]
    files.prev_pos[s] = c.prev_pos[row]
    c.next[o] += 1
