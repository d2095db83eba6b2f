"""Rows that are sampled beside the trace (counters, snapshots of proxies): a file of lines for each table.

``rows/<table>.jsonl`` in the segment; a line holds the rows of one sample and its own checksum, so that
what a crash tore is told from what is whole (:mod:`hindsight.capture.segments.journal`). A sealed segment
lists the files in its manifest like all others. Rows have the columns of :mod:`hindsight.capture.schema`.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from hindsight.capture.segments.journal import Journal, read

ROWS = "rows"
"""Their directory in a segment."""
SUFFIX = ".jsonl"
_NAME = re.compile(r"rows/([a-z][a-z0-9_]{0,63})\.jsonl")

Row = Mapping[str, Any]


class Columns(NamedTuple):
    """The rows of a sample in groups, each column by column: lists of one length; what is no list holds for
    all rows of the group. With many rows it takes a fraction of the time, and of the space.
    """

    columns: Sequence[Mapping[str, Any]]


Rows = Sequence[Row] | Columns


def row_table(name: str) -> str | None:
    """The table of a file of rows, by its name relative to the segment; None when it is none."""
    match = _NAME.fullmatch(name)
    return match[1] if match else None


def row_files(segment: Path) -> list[Path]:
    """The files of rows in a segment, sealed or not, sorted."""
    found = (segment / ROWS).glob(f"*{SUFFIX}")
    return sorted(file for file in found if row_table(f"{ROWS}/{file.name}") is not None)


def read_rows(path: Path) -> Iterator[list[dict[str, Any]]]:
    """The samples of a file, each a list of rows, in the order in which they were written.

    What is damaged is left out. Holds one sample at a time. Raises OSError.
    """
    for entry in read(path):
        rows = _expanded(entry["columns"]) if "columns" in entry else entry.get("rows")
        if isinstance(rows, list) and all(isinstance(row, dict) for row in rows):
            yield rows


def _expanded(groups: Any) -> list[dict[str, Any]] | None:
    """The rows that groups of columns are; None when one's columns are not of one length."""
    if not isinstance(groups, list):
        return None
    found = [_rows(columns) for columns in groups]
    return None if None in found else list(chain.from_iterable(filter(None, found)))


def _rows(columns: Any) -> list[dict[str, Any]] | None:
    if not isinstance(columns, dict):
        return None
    lengths = {len(values) for values in columns.values() if isinstance(values, list)}
    if len(lengths) != 1:
        return None
    count = lengths.pop()
    lists = [values if isinstance(values, list) else [values] * count for values in columns.values()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True)]


class RowFiles:
    """The files of one segment under recording; any thread may append until :meth:`close`."""

    def __init__(self, segment: Path) -> None:
        self._directory = segment / ROWS
        self._files: dict[str, Journal] = {}
        self._lock = threading.Lock()
        self._closed = False

    def append(self, sample: Mapping[str, Rows]) -> bool:
        """Append a sample, rows by table; False when the segment takes none any more.

        Raises OSError (ENOSPC, …).
        """
        with self._lock:
            if self._closed:
                return False
            for table, rows in sample.items():
                if rows:
                    entry = rows._asdict() if isinstance(rows, Columns) else {"rows": rows}
                    (self._files.get(table) or self._opened(table)).append(entry)
            return True

    def _opened(self, table: str) -> Journal:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        return self._files.setdefault(table, Journal(self._directory / f"{table}{SUFFIX}"))

    def sync(self) -> None:
        """Make durable what was appended. Raises OSError."""
        with self._lock:
            for file in self._files.values():
                file.sync()

    def close(self) -> None:
        """No more rows: what is there can be summed."""
        with self._lock:
            self._closed = True
            for file in self._files.values():
                file.close()
