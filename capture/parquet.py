"""Write one table to one Parquet file: the schema's types, encodings chosen per column, atomically."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hindsight.capture.columns import Text, Values
from hindsight.capture.schema import TABLES, arrow_schema

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


def write(table: str, data: pa.Table, path: Path) -> None:
    """Write ``data`` to ``path``: temporary name, fsync, rename. The same rows give the same bytes.

    Raises ConfigurationError when the file cannot be written.
    """
    assert table in TABLES and data.schema == arrow_schema(table)
    delta = {
        field.name: "DELTA_BINARY_PACKED"
        for field in data.schema
        if field.name in _DELTA and str(field.type).startswith(_PARQUET_INTEGERS)
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(
            temporary,
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
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be written: {error.strerror or error}", "Choose another -o OUT."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
