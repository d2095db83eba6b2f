"""Find the captures of a dataset and read their tables, checked against the schema.

A dataset is what ``hindsight capture convert`` writes: ``host=…/date=…/<table>/<segment>.parquet``; the name
of a segment begins with the id of its capture (:mod:`hindsight.capture.schema`). A capture may have several
segments; its tables are those of one recording (:mod:`hindsight.pipeline.segments`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hindsight.capture.schema as schema
from hindsight.errors import ConfigurationError
from hindsight.pipeline import segments
from hindsight.pipeline.store import to_columns

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

_CONVERT = "convert the recording again: `hindsight capture convert RAW -o DATASET`"


@dataclass(frozen=True)
class Capture:
    """One recording: its facts and its files, by table, in order of segments. Times of the wall clock, in ns.

    ``segments``: (name, start, end) of each that is there, CLOCK_MONOTONIC.
    """

    id: str
    host: str
    workload: str
    program: str
    start_ns: int
    end_ns: int
    monotonic_ns: int
    files: dict[str, list[Path]] = field(repr=False)
    segments: tuple[tuple[str, int, int], ...] = ()


def open_file(path: Path, table: str) -> pq.ParquetFile:
    """Open one file of a dataset.

    Raises ConfigurationError, naming the file, if it is not Parquet, is truncated, has another schema version
    or other columns than :mod:`hindsight.capture.schema` gives the table; it may lack those that can be null.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise ConfigurationError(
            f"{path} is not a readable Parquet file: {_first(error)}", _CONVERT
        ) from error
    metadata = {
        k.decode(): v.decode() for k, v in (file.metadata.metadata or {}).items() if k != b"ARROW:schema"
    }
    version = metadata.get(schema.METADATA_VERSION_KEY)
    if version != str(schema.SCHEMA_VERSION):
        raise ConfigurationError(
            f"{path} has schema version {version or '(none)'}, this program reads {schema.SCHEMA_VERSION}",
            _CONVERT,
        )
    if metadata.get(schema.METADATA_TABLE_KEY, table) != table:
        raise ConfigurationError(
            f"{path} holds the table {metadata[schema.METADATA_TABLE_KEY]!r}, not {table!r}", _CONVERT
        )
    found = {f.name: _plain(f.type) for f in file.schema_arrow}
    for wanted in schema.arrow_schema(table):
        if wanted.nullable and wanted.name not in found:
            continue  # written before there was such a column: nothing is known of it
        if found.get(wanted.name) != wanted.type:
            state = f"is {found[wanted.name]}, not {wanted.type}" if wanted.name in found else "is missing"
            raise ConfigurationError(f"{path}: the column {wanted.name!r} {state}", _CONVERT)
    return file


def _plain(kind: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _first(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _read_file(path: Path, table: str) -> pa.Table:
    import pyarrow as pa

    wanted = schema.arrow_schema(table)
    try:
        file = open_file(path, table)
        there = [name for name in wanted.names if name in file.schema_arrow.names]
        read = file.read(columns=there)
        for field in wanted:
            if field.name not in there:
                read = read.append_column(field, pa.nulls(read.num_rows, field.type))
        return read.select(wanted.names).cast(wanted).replace_schema_metadata(None)
    except (OSError, pa.ArrowException) as error:
        raise ConfigurationError(f"{path} cannot be read to its end: {_first(error)}", _CONVERT) from error
    except ValueError as error:
        raise ConfigurationError(
            f"{path} holds nulls where none may be: {_first(error)}", _CONVERT
        ) from error


def read_table(capture: Capture, table: str) -> dict[str, np.ndarray[Any, Any]] | None:
    """One table of one capture, as if it had one segment; None if it has no rows.

    Text, and columns in which a null occurs, are object arrays (null = None); others have the dtype of the
    schema. A segment that is missing between others is a row of ``losses``. Raises ConfigurationError, naming
    the file, for a damaged one.
    """
    import pyarrow as pa

    paths = capture.files.get(table, [])
    if table == "descriptors" and capture.segments:
        paths = segments.first_look(paths, [name for name, _, _ in capture.segments])
    parts = [_read_file(path, table) for path in paths]
    if table == "losses" and (gaps := segments.gaps(capture.segments)):
        wanted = schema.arrow_schema(table).remove_metadata()
        parts.append(pa.Table.from_pylist(gaps, schema=wanted))
    rows = segments.merge(table, parts) if parts else None
    return to_columns(rows) if rows is not None and rows.num_rows else None


def read_tables(capture: Capture, tables: Iterable[str]) -> dict[str, dict[str, np.ndarray[Any, Any]]]:
    """Several tables of one capture; those without rows are absent."""
    read = ((table, read_table(capture, table)) for table in tables)
    return {table: columns for table, columns in read if columns is not None}


def find_captures(dataset: Path) -> list[Capture]:
    """The captures of a dataset, by start and id.

    Raises ConfigurationError if there is no such directory, no capture in it, or a file that belongs to none.
    """
    if not dataset.is_dir():
        raise ConfigurationError(
            f"there is no dataset {dataset}",
            "name a directory that `hindsight capture convert` wrote (in params.yaml: data.source)",
        )
    files = sorted(p for p in dataset.glob("*/*/*/*.parquet") if p.parent.name in schema.TABLES)
    facts: dict[str, dict[str, dict[str, Any]]] = {}  # capture, segment: row
    for path in files:
        if path.parent.name == "captures":
            for row in _read_file(path, "captures").to_pylist():
                facts.setdefault(row["capture"], {})[path.stem] = row
    if not facts:
        raise ConfigurationError(
            f"{dataset} holds no capture: no file matches host=*/date=*/captures/*.parquet",
            "record and convert one: `hindsight capture record`, then `hindsight capture convert`",
        )
    owned: dict[str, dict[str, list[Path]]] = {name: {} for name in facts}
    for path in files:
        owner = max((name for name in facts if _belongs(path, name)), key=len, default=None)
        if owner is None:
            raise ConfigurationError(f"{path} belongs to no capture of {dataset}", _CONVERT)
        if path.stem not in facts[owner]:
            raise ConfigurationError(
                f"{path} belongs to a segment that is not complete: its conversion was interrupted", _CONVERT
            )
        owned[owner].setdefault(path.parent.name, []).append(path)
    captures = [_capture(rows, owned[name]) for name, rows in facts.items()]
    return sorted(captures, key=lambda c: (c.start_ns, c.id))


def _belongs(path: Path, capture: str) -> bool:
    rest = path.stem.removeprefix(capture)
    return path.stem.startswith(capture) and (not rest or not rest[0].isalnum())


def _capture(rows: dict[str, dict[str, Any]], files: dict[str, list[Path]]) -> Capture:
    found = sorted(rows, key=lambda name: (int(rows[name]["start_ns"]), len(name), name))
    row = rows[found[0]]
    start, end = int(row["realtime_start_ns"]), max(int(r["end_ns"]) for r in rows.values())
    return Capture(
        id=row["capture"],
        host=row["host"],
        workload=row["label"] or row["program"] or "unlabelled",
        program=row["program"],
        start_ns=start,
        end_ns=start + end - int(row["start_ns"]),
        monotonic_ns=int(row["start_ns"]),
        files={table: sorted(paths, key=segments.in_order) for table, paths in files.items()},
        segments=tuple((name, int(rows[name]["start_ns"]), int(rows[name]["end_ns"])) for name in found),
    )
