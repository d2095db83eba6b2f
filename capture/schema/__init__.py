"""The data contract: every table that a capture can hold, and nothing else defines one.

Plain data; :func:`arrow_schema` imports pyarrow only when it is called. The data dictionary in
``docs/data-dictionary.md`` and the validation of datasets are generated from here.

A table named after a tracepoint has one row per event, with the tracepoint's own field names. Fields of type
``dev_t`` are split into ``<name>_major`` and ``<name>_minor``; user-space and kernel pointers and page frame
numbers are not kept. The first three columns of each are :data:`EVENT_COLUMNS`. Rows are sorted by
(ts, cpu, position in the ring buffer).

On disk: ``host=<pseudonym>/date=<YYYY-MM-DD>/<table>/<segment>.parquet``, where ``<segment>`` begins with the
capture's id. A table without rows has no file.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from hindsight.capture.schema import (
    advice,
    blockio,
    damon,
    facts,
    faults,
    openfiles,
    pagecache,
    power,
    proxies,
    reading,
    scheduling,
    syscalls,
    writeback,
)
from hindsight.capture.schema.table import EVENT_COLUMNS, Column, Table

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = 1
"""Raised when a column changes its meaning, its type or its name; stored in every file."""

METADATA_VERSION_KEY = "hindsight.schema_version"
METADATA_TABLE_KEY = "hindsight.table"
METADATA_GENERIC_KEY = "hindsight.generic"
"""Its presence marks a table that no one here defines: derived from the event's own format."""
METADATA_IMPORT_KEY = "hindsight.import"
"""In the table ``captures`` of what was imported: what the file says of itself, as JSON."""

__all__ = [
    "EVENT_COLUMNS", "METADATA_GENERIC_KEY", "METADATA_IMPORT_KEY", "METADATA_TABLE_KEY", "METADATA_VERSION_KEY", "SCHEMA_VERSION", "TABLES", "Column",
    "Table", "arrow_schema", "arrow_schema_of", "numpy_dtype",
]  # fmt: skip

_EVENTS = (
    *reading.EVENTS, *syscalls.EVENTS,
    *pagecache.EVENTS, *blockio.EVENTS, *writeback.EVENTS, *scheduling.EVENTS, *power.EVENTS, *damon.EVENTS, *faults.EVENTS,
    *openfiles.EVENTS,
)  # fmt: skip

TABLES: dict[str, Table] = {
    table.name: table for table in (*_EVENTS, *facts.FACTS, *proxies.PROXIES, *advice.ADVICE)
}

_DTYPES = {
    "u8": "uint8", "u16": "uint16", "u32": "uint32", "u64": "uint64",
    "i8": "int8", "i16": "int16", "i32": "int32", "i64": "int64",
    "bool": "bool_", "str": "string",
}  # fmt: skip


def numpy_dtype(column: Column) -> str:
    """The numpy dtype name of a column (``object`` for strings)."""
    return {"str": "object", "bool": "bool"}.get(column.dtype, _DTYPES[column.dtype])


@cache
def arrow_schema(table: str) -> pa.Schema:
    """The pyarrow schema of a table; its metadata holds the table's name and the schema version.

    Raises KeyError for a table that is not defined here.
    """
    return arrow_schema_of(TABLES[table])


def arrow_schema_of(table: Table) -> pa.Schema:
    """:func:`arrow_schema` of any table, also of one that is not defined here."""
    import pyarrow as pa

    fields = [pa.field(c.name, getattr(pa, _DTYPES[c.dtype])(), c.nullable) for c in table.columns]
    return pa.schema(fields, {METADATA_TABLE_KEY: table.name, METADATA_VERSION_KEY: str(SCHEMA_VERSION)})
