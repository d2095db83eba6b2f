"""What the data was: every file with its hash, rows and time range; every capture with its facts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hindsight.errors import ConfigurationError
from hindsight.pipeline.dataset import Capture, open_file
from hindsight.pipeline.store import sha256


def describe_file(path: Path, table: str, dataset: Path) -> dict[str, Any]:
    """Path below the dataset, hash, rows and, for tables with a time, its range in ns."""
    import pyarrow.compute as pc

    try:
        digest = sha256(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    file = open_file(path, table)
    entry: dict[str, Any] = {
        "path": path.relative_to(dataset).as_posix(),
        "sha256": digest,
        "rows": file.metadata.num_rows,
    }
    if "ts" in file.schema_arrow.names and file.metadata.num_rows:
        times = pc.min_max(file.read(columns=["ts"])["ts"]).as_py()
        entry |= {"from_ns": times["min"], "to_ns": times["max"]}
    return entry


def describe_capture(capture: Capture) -> dict[str, Any]:
    """Facts of one capture, as later stages need them."""
    return {
        "capture": capture.id,
        "host": capture.host,
        "workload": capture.workload,
        "program": capture.program,
        "start_ns": capture.start_ns,
        "end_ns": capture.end_ns,
    }


def describe_files(capture: Capture, dataset: Path) -> list[dict[str, Any]]:
    """:func:`describe_file` for all files of a capture, by path."""
    entries = [
        describe_file(path, table, dataset) for table, paths in capture.files.items() for path in paths
    ]
    return sorted(entries, key=lambda entry: str(entry["path"]))
