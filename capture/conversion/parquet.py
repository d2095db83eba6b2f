"""Write tables to Parquet files, row group by row group: the schema's types, encodings chosen per column.

The same rows in the same row groups give the same bytes, with one release of Arrow.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hindsight.capture.conversion.census import Watch
from hindsight.capture.conversion.columns import EventRows, Layout, Rows, Source, Text
from hindsight.capture.conversion.scratch import Scratch
from hindsight.capture.formats import EventFormat
from hindsight.capture.schema import TABLES, Table, arrow_schema_of, numpy_dtype

_TIMES = {"ts", "from_ns", "to_ns", "realtime_ns", "boottime_ns"}
"""Columns that grow from row to row: their differences are small, their bytes are not alike."""
_BATCH = 1 << 14
"""Rows given to an encoder at once."""
_PAGE_BYTES = 64 << 10
"""Of a page, before it is compressed: it stays in the cache. Arrow's sizes of both take a tenth longer."""

ROW_GROUP = 1 << 15
"""Rows of a row group. Larger ones save no time, and take more memory; smaller ones take longer."""
BUFFER_BYTES = 192 << 20
"""What the rows may take that wait for their row group to be complete, in all tables together."""
_CODE_BYTES = 4
_TEXT = pa.dictionary(pa.int32(), pa.string())

Rename = Callable[[str, bytes], str]
"""Of the name of a text column and a value in it: the text to write."""
Mask = Callable[[Mapping[str, np.ndarray]], None]
"""Replaces what may not be written in the columns of numbers of some rows."""


def row_bytes(table: Table | str) -> int:
    """Memory that a row takes before it is written."""
    columns = TABLES[table].columns if isinstance(table, str) else table.columns
    return sum(_CODE_BYTES if c.dtype == "str" else np.dtype(numpy_dtype(c)).itemsize for c in columns)


def row_groups(
    rows: Mapping[str, int],
    budget: int = BUFFER_BYTES,
    tables: Mapping[str, Table] = TABLES,
) -> dict[str, int]:
    """Rows per row group of each table: all of them, begun at the same time, fit into ``budget``.

    It depends on the numbers of rows alone: so do the bytes of the files.
    """

    def need(limit: int) -> int:
        return sum(min(count, limit) * row_bytes(tables[table]) for table, count in rows.items())

    limit = ROW_GROUP
    while limit > 1 << 10 and need(limit) > budget:
        limit >>= 1
    return {table: min(count, limit) for table, count in rows.items()}


class TableWriter:
    """One table of events: rows are appended slice by slice and written in row groups of a fixed size."""

    def __init__(
        self,
        path: Path,
        table: Table | str,
        kind: EventFormat,
        plan: list[Source],
        group_rows: int,
        scratch: Scratch,
        rename: Rename,
        mask: Mask | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        definition = TABLES[table] if isinstance(table, str) else table
        self.path = path
        self.table = definition.name
        self.rows = 0
        self._mask = mask
        schema = arrow_schema_of(definition)
        fields = [f.with_type(_TEXT) if pa.types.is_string(f.type) else f for f in schema]
        self._schema = pa.schema(fields, {**schema.metadata, **(metadata or {})})
        self._rename = rename
        self._size = group_rows
        self._row_bytes = row_bytes(definition)
        self._held = 0
        columns = definition.columns
        self._rows = Rows(columns, group_rows, scratch, self.table)
        self._layout = Layout(kind, plan, self._rows)
        self._codes = {c.name: np.empty(group_rows, np.int32) for c in columns if c.dtype == "str"}
        self._places: dict[str, dict[bytes, int]] = {name: {} for name in self._codes}
        # Of numbers alone, each full row group is the same memory; but bits are copied.
        self._same = all(c.dtype not in ("str", "bool") for c in columns)
        self._full: pa.Table | None = None
        self._writer: pq.ParquetWriter | None = None
        self._file: pa.NativeFile | None = None

    @property
    def waiting_bytes(self) -> int:
        """What the rows take that wait for their row group, at most, so far."""
        return min(self.rows, self._size) * self._row_bytes

    def append(self, events: EventRows, watches: Sequence[Watch] = ()) -> None:
        """Append all rows of ``events``; each of ``watches`` sees them."""
        done = 0
        while done < events.rows:
            count = min(events.rows - done, self._size - self._held)
            here = slice(self._held, self._held + count)
            texts = events.into(self._layout, slice(done, done + count), self._held)
            numbers = self._rows.at(here)
            if self._mask is not None:
                self._mask(numbers)
            for watch in watches:
                watch(numbers, texts)
            for name, text in texts.items():
                self._codes[name][here] = self._place(name, text)[text.codes]
            self._held += count
            self.rows += count
            done += count
            if self._held == self._size:
                self._flush()

    def _place(self, name: str, text: Text) -> np.ndarray:
        places = self._places[name]
        return np.array([places.setdefault(value, len(places)) for value in text.values], np.int32)

    def _flush(self) -> None:
        if self._held == 0:
            return
        if self._writer is None:
            self._file = pa.OSFile(str(self.path), "wb")
            self._writer = open_writer(self._file, self._schema)
        full = self._held == self._size
        rows = self._full if full and self._full is not None else self._group()
        if full and self._same:
            self._full = rows
        self._writer.write_table(rows, row_group_size=self._held)
        self._held = 0

    def _group(self) -> pa.Table:
        """The rows that are held; of numbers they are the same memory."""
        arrays = [
            self._dictionary(f.name) if f.name in self._codes else self._numbers(f.name, f.type)
            for f in self._schema
        ]
        return pa.Table.from_arrays(arrays, schema=self._schema)

    def _numbers(self, name: str, kind: pa.DataType) -> pa.Array:
        numbers = self._rows.numbers[name][: self._held]
        if numbers.dtype == np.bool_:  # Arrow has them in bits
            return pa.array(numbers, kind)
        return pa.Array.from_buffers(kind, self._held, [None, pa.py_buffer(numbers)])

    def _dictionary(self, name: str) -> pa.DictionaryArray:
        """A text column of the row group, with its distinct values sorted."""
        texts = [self._rename(name, value) for value in self._places[name]]
        self._places[name] = {}
        distinct = sorted(set(texts))
        place = {text: number for number, text in enumerate(distinct)}
        codes = np.array([place[text] for text in texts], np.int32)[self._codes[name][: self._held]]
        return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(distinct, pa.string()))

    def close(self) -> None:
        """Write what is left; the file is complete."""
        self._flush()
        if self._writer is not None:
            self._writer.add_key_value_metadata(self._schema.metadata)
            self._writer.close()
            self._writer = None
        if self._file is not None:
            self._file.close()

    def abandon(self) -> None:
        """Close the file as it is, after a failure; nothing after :meth:`close`."""
        if self._writer is not None:
            with contextlib.suppress(OSError, pa.ArrowException):
                self._writer.close()
            self._writer = None
        if self._file is not None and not self._file.closed:
            with contextlib.suppress(OSError):
                self._file.close()


def open_writer(path: Path | pa.NativeFile, schema: pa.Schema) -> pq.ParquetWriter:
    """A Parquet file with the encodings of this program.

    Times are stored as differences. Of other numbers all lowest bytes come first, then all second ones, and
    so on: the upper ones are runs, which LZ4 makes nearly as small as zstd would make a dictionary. Texts
    have one.
    """
    numbers = [f.name for f in schema if pa.types.is_integer(f.type) or pa.types.is_floating(f.type)]
    return pq.ParquetWriter(
        path,
        schema,
        compression="lz4",
        use_dictionary=[f.name for f in schema if f.name not in numbers],
        column_encoding={
            name: "DELTA_BINARY_PACKED" if name in _TIMES else "BYTE_STREAM_SPLIT" for name in numbers
        },
        write_batch_size=_BATCH,
        data_page_size=_PAGE_BYTES,
        write_statistics=["ts"] if "ts" in schema.names else False,
        # The Arrow schema would say a second time what Parquet's own types say; its metadata is kept.
        store_schema=False,
    )


def write_rows(path: Path, data: pa.Table) -> None:
    """Write a small table to a file, at once."""
    with open_writer(path, data.schema) as writer:
        writer.write_table(data, row_group_size=ROW_GROUP)
        writer.add_key_value_metadata(data.schema.metadata)
