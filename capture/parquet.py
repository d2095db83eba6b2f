"""Write tables to Parquet files: the schema's types, encodings chosen per column, atomically."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hindsight.capture.columns import Text, Values
from hindsight.capture.schema import arrow_schema
from hindsight.errors import ConfigurationError

_DELTA = {
    "ts", "index", "last_index", "pos", "pos_l", "off", "offset", "sector", "ret", "addr", "start",
    "from_ns", "to_ns", "realtime_ns", "boottime_ns",
}  # fmt: skip
"""Columns whose neighbours are near each other, or too varied for a dictionary."""

_ROW_GROUP = 1 << 20
_PARQUET_INTEGERS = ("int", "uint")


def to_arrow(table: str, columns: Mapping[str, Values]) -> pa.Table:
    """Columns (numpy arrays or :class:`Text`) as an Arrow table of exactly the table's schema."""
    schema = arrow_schema(table)
    arrays = []
    for field in schema:
        values = columns[field.name]
        if isinstance(values, Text):
            distinct = pa.array([value.decode("utf-8", "replace") for value in values.values], pa.string())
            arrays.append(pa.DictionaryArray.from_arrays(pa.array(values.codes), distinct).cast(pa.string()))
        else:
            arrays.append(pa.array(np.ascontiguousarray(values), field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def write_all(tables: Mapping[Path, pa.Table]) -> None:
    """Write tables, each to its path: temporary names, fsync, renamed in the order of the mapping.

    The same rows give the same bytes. Raises ConfigurationError when a file cannot be written; then none of
    them was changed, unless a rename failed.
    """
    temporary = {path: path.with_name(f".{path.name}.{os.getpid()}") for path in tables}
    try:
        for path, data in tables.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(data, temporary[path])
        for written in temporary.values():
            _fsync(written)
        for path, written in temporary.items():
            os.replace(written, path)
        for directory in {path.parent for path in tables}:
            _fsync(directory)
    except OSError as error:
        raise ConfigurationError(
            f"tables cannot be written: {error}", "Choose another -o OUT, or make room there."
        ) from error
    finally:
        for written in temporary.values():
            with contextlib.suppress(OSError):
                written.unlink()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(data: pa.Table, path: Path) -> None:
    delta = {
        field.name: "DELTA_BINARY_PACKED"
        for field in data.schema
        if field.name in _DELTA and str(field.type).startswith(_PARQUET_INTEGERS)
    }
    with pq.ParquetWriter(
        path,
        data.schema,
        compression="zstd",
        compression_level=3,
        use_dictionary=[field.name for field in data.schema if field.name not in delta],
        column_encoding=delta or None,
        write_statistics=["ts"] if "ts" in data.schema.names else False,
        # The Arrow schema would say a second time what Parquet's own types say; its metadata is kept.
        store_schema=False,
    ) as writer:
        writer.write_table(data, row_group_size=_ROW_GROUP)
        writer.add_key_value_metadata(data.schema.metadata)
