"""Put the segments of a capture together again: one table, as an uncut recording would have had it.

Each segment stands alone and brings its own facts. What happened is concatenated; of what was looked at,
the look counts that tells most: open files when recording began, sizes of files when it ended.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import hindsight.capture.schema as schema

if TYPE_CHECKING:
    import pyarrow as pa

MISSING = "segment missing"
_DEVICE = ("dev_major", "dev_minor")
_FILE = ("s_dev_major", "s_dev_minor", "i_ino")


def in_order(path: Path) -> tuple[int, str]:
    """The key that sorts the files of one capture by segment."""
    return len(path.stem), path.stem


def number(segment: str) -> int | None:
    """The number at the end of a segment's name, None without one."""
    found = re.search(r"-(\d+)$", segment)
    return int(found[1]) if found else None


def merge(table: str, parts: Sequence[pa.Table]) -> pa.Table:
    """One table out of those of consecutive segments, in order.

    Events are sorted by (ts, cpu), stably: the buffers of the processors are not cut at the same moment.
    ``captures`` has one row, from the first start to the last end. Of a device the first row counts, and the
    first known limits; of a file the last row, and what was known of its cache at the start. Other tables
    are concatenated. ``descriptors`` are for :func:`first_look`.
    """
    import pyarrow as pa

    rows = pa.concat_tables(parts)
    if len(parts) == 1:
        return rows
    if schema.TABLES[table].tracepoint:
        return _by_time(rows)
    if table == "captures":
        return _one_capture(rows)
    if table == "devices":
        return _first_devices(rows)
    if table == "files":
        return _last_files(rows)
    return rows


def _by_time(rows: pa.Table) -> pa.Table:
    ts, cpu = rows["ts"].to_numpy(), rows["cpu"].to_numpy()
    later = (ts[1:] > ts[:-1]) | ((ts[1:] == ts[:-1]) & (cpu[1:] >= cpu[:-1]))
    return rows if later.all() else rows.take(np.lexsort((cpu, ts)))


def _one_capture(rows: pa.Table) -> pa.Table:
    entries = sorted(rows.to_pylist(), key=lambda row: int(row["start_ns"]))
    first = entries[0] | {"end_ns": max(row["end_ns"] for row in entries)}
    return _table(rows, [first])


def _first_devices(rows: pa.Table) -> pa.Table:
    kept: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows.to_pylist():
        known = kept.setdefault(tuple(row[c] for c in _DEVICE), row)
        limits = {name: value for name, value in row.items() if name.startswith("throttle_")}
        if all(known[name] is None for name in limits):
            known |= limits
    return _table(rows, list(kept.values()))


def _last_files(rows: pa.Table) -> pa.Table:
    kept: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows.to_pylist():
        key = tuple(row[c] for c in _FILE)
        before = kept.get(key, row)
        path = row["path"] if row["path"] is not None else before["path"]
        kept[key] = row | {"cached_at_start": before["cached_at_start"], "path": path}
    return _table(rows, [kept[key] for key in sorted(kept)])


def _table(like: pa.Table, rows: list[dict[str, Any]]) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_pylist(rows, schema=like.schema)


def first_look(paths: Sequence[Path], segments: Sequence[str]) -> list[Path]:
    """Of the files of a table of looks, those of the first segment: later ones saw what the events tell."""
    return [path for path in paths if path.stem == segments[0]]


def gaps(captures: Sequence[tuple[str, int, int]]) -> list[dict[str, Any]]:
    """Rows of ``losses`` for segments that are not there.

    ``captures``: (name, start_ns, end_ns) of the segments that are, in order. What was recorded before the
    first of them is no gap: the capture begins with it.
    """
    rows = []
    for (name, _, end), (following, start, _) in pairwise(captures):
        a, b = number(name), number(following)
        if a is not None and b is not None and b != a + 1:
            rows.append(
                {
                    "cpu": None, "event": None, "from_ns": min(end, start), "to_ns": max(end, start),
                    "count_lower": 0, "count_upper": None, "cause": MISSING,
                }
            )  # fmt: skip
    return rows
