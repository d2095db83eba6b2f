"""Tables of rows that were sampled beside the trace: read sample by sample, in row groups of a fixed size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hindsight.capture.conversion.facttables import plain_table
from hindsight.capture.conversion.parquet import open_writer
from hindsight.capture.schema import arrow_schema
from hindsight.capture.segments.rowfiles import read_rows

GROUP_ROWS = 1 << 16


def write_sampled(source: Path, target: Path, table: str, key: bytes | None) -> int:
    """Write the rows of a file of samples as Parquet, in the order in which they were sampled.

    Returns how many; without any there is no file. Holds one row group at a time. Raises VerificationError
    when rows lack a column or hold what does not fit it, OSError.
    """
    schema = arrow_schema(table)
    held: list[dict[str, Any]] = []
    count = 0
    writer = None
    try:
        for rows in read_rows(source):
            held += rows
            while len(held) >= GROUP_ROWS:
                writer = writer or open_writer(target, schema)
                writer.write_table(plain_table(table, held[:GROUP_ROWS], key), row_group_size=GROUP_ROWS)
                count += GROUP_ROWS
                del held[:GROUP_ROWS]
        if held:
            writer = writer or open_writer(target, schema)
            writer.write_table(plain_table(table, held, key), row_group_size=GROUP_ROWS)
            count += len(held)
        if writer is not None:
            writer.add_key_value_metadata(schema.metadata)
    finally:
        if writer is not None:
            writer.close()
    return count
