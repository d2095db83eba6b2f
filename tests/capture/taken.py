"""A recording of one profile, converted at once, that lost nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from hindsight.capture.conversion.convert import convert
from hindsight.capture.options import RecordOptions
from hindsight.capture.recording.record import Recording, record

Row = dict[str, Any]


class Taken:
    """A recording, converted: all of it must be there, as the kernel counted."""

    def __init__(self, tmp_path: Path, name: str, command: tuple[object, ...] = (), **options: Any) -> None:
        raw = RecordOptions(tmp_path / "raw", tuple(map(str, command)), name, **options)
        self.recording: Recording = record(raw, say=lambda text: None)
        self.converted = convert([tmp_path / "raw"], tmp_path / "data")
        self._data = tmp_path / "data"
        assert self.recording.lost == 0
        assert sum(one.events for one in self.converted) == self.recording.events
        assert self.rows("captures")[0]["profile"] == name

    def rows(self, table: str) -> list[Row]:
        """All rows of a table."""
        files = sorted(self._data.glob(f"host=*/date=*/{table}/*.parquet"))
        return [row for file in files for row in pq.read_table(file).to_pylist()]


def python(text: str) -> tuple[str, ...]:
    return (sys.executable, "-c", text)
