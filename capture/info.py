"""Say what a dataset holds and what was lost, from Parquet footers and the small tables alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from hindsight.capture.schema import (
    METADATA_TABLE_KEY,
    METADATA_VERSION_KEY,
    SCHEMA_VERSION,
    TABLES,
    arrow_schema,
)
from hindsight.capture.segment import MANIFEST, find_segments, open_segment
from hindsight.errors import ConfigurationError, ExitCode

_LAYOUT = "A dataset is host=…/date=…/TABLE/SEGMENT.parquet, made by: hindsight capture convert DIR -o OUT"


def describe(path: Path) -> dict[str, Any]:
    """Rows by table, losses, time range of a dataset or of raw recordings.

    Raises ConfigurationError when it is neither, is empty, or holds a file that is truncated, of another
    schema version, or not of its table.
    """
    if not path.is_dir():
        raise ConfigurationError(f"{path} is not a directory", _LAYOUT)
    if (path / MANIFEST).exists() or any((p / MANIFEST).exists() for p in path.iterdir() if p.is_dir()):
        return _describe_raw(path)
    files = sorted(path.glob("host=*/date=*/*/*.parquet"))
    if not files:
        raise ConfigurationError(f"{path} holds no tables", _LAYOUT)
    tables: dict[str, dict[str, int]] = {}
    captures: list[dict[str, Any]] = []
    losses = {"events": 0, "intervals": 0}
    for file in files:
        data, rows = _check(file)
        entry = tables.setdefault(file.parent.name, {"rows": 0, "files": 0, "bytes": 0})
        entry["rows"] += rows
        entry["files"] += 1
        entry["bytes"] += file.stat().st_size
        if data is not None and file.parent.name == "captures":
            captures += data.to_pylist()
        elif data is not None:
            losses["intervals"] += data.num_rows
            losses["events"] += sum(data["count_lower"].to_pylist())
    if not captures:
        raise ConfigurationError(
            f"{path} has no table `captures`: a conversion was interrupted", "Convert again, with --force."
        )
    return {
        "schema_version": SCHEMA_VERSION,
        "tables": dict(sorted(tables.items())),
        "losses": losses,
        "start_ns": min(c["start_ns"] for c in captures),
        "end_ns": max(c["end_ns"] for c in captures),
        "captures": [_summary(c) for c in sorted(captures, key=lambda c: c["capture"])],
    }


def _summary(capture: dict[str, Any]) -> dict[str, Any]:
    names = ("capture", "host", "label", "program", "profile", "kernel_release", "start_ns", "end_ns")
    return {name: capture[name] for name in names}


def _check(file: Path) -> tuple[Any, int]:
    """The rows of a small table (else None) and the number of rows, after the schema has been checked."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = file.parent.name
    if table not in TABLES:
        raise ConfigurationError(f"{file}: there is no table {table!r}", _LAYOUT)
    try:
        with pq.ParquetFile(file) as parquet:
            schema = parquet.schema_arrow
            rows = parquet.metadata.num_rows
            metadata = {k.decode(): v.decode() for k, v in (schema.metadata or {}).items()}
            version = metadata.get(METADATA_VERSION_KEY)
            if version != str(SCHEMA_VERSION):
                raise ConfigurationError(
                    f"{file} has schema version {version}; this program reads version {SCHEMA_VERSION}",
                    "Convert the recording again with this release of hindsight.",
                )
            if metadata.get(METADATA_TABLE_KEY) != table or not schema.equals(arrow_schema(table)):
                raise ConfigurationError(f"{file} does not have the columns of the table {table}")
            return (parquet.read() if table in ("captures", "losses") else None), rows
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{file} cannot be read: {error}", "It is truncated or damaged: convert the recording again."
        ) from error


def _describe_raw(path: Path) -> dict[str, Any]:
    captures, losses, events, size = [], {"events": 0, "intervals": 0}, 0, 0
    for segment_path in find_segments([path]):
        segment = open_segment(segment_path, verify=False)
        captures += segment.facts["tables"]["captures"]
        size += sum(int(file["bytes"]) for file in segment.files.values())
        for row in segment.facts["losses"]:
            losses["intervals"] += 1
            losses["events"] += row["count_lower"]
        for instance in segment.facts["instances"].values():
            events += sum(s["read events"] for s in instance["stats_after"].values() if s is not None)
    return {
        "schema_version": SCHEMA_VERSION,
        "raw": {"segments": len(captures), "events": events, "bytes": size},
        "tables": {},
        "losses": losses,
        "start_ns": min(c["start_ns"] for c in captures),
        "end_ns": max(c["end_ns"] for c in captures),
        "captures": [_summary(c) for c in captures],
    }


def run(path: Path, as_json: bool) -> int:
    """Print :func:`describe`, as text or JSON; returns the exit status."""
    facts = describe(path)
    if as_json:
        json.dump(facts, sys.stdout, indent=1)
        print()
        return ExitCode.OK
    for capture in facts["captures"]:
        seconds = (capture["end_ns"] - capture["start_ns"]) / 1e9
        what = capture["program"] or "whole host"
        label = f"  {capture['label']}" if capture["label"] else ""
        print(f"{capture['capture']}  {what}  {seconds:.1f} s  Linux {capture['kernel_release']}{label}")
    if "raw" in facts:
        raw = facts["raw"]
        print(
            f"raw: {raw['segments']} segments, {raw['events']} events, {raw['bytes']} bytes (not converted)"
        )
    width = max((len(name) for name in facts["tables"]), default=0)
    for name, entry in facts["tables"].items():
        print(f"{name:<{width}}  {entry['rows']:>12} rows  {entry['bytes']:>12} bytes")
    losses = facts["losses"]
    if losses["intervals"]:
        print(f"LOST: at least {losses['events']} events in {losses['intervals']} intervals (table losses)")
    else:
        print("no event was lost")
    return ExitCode.OK
