"""The tables that are no events, out of the facts of a segment; names of programs as keyed hashes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from hindsight.capture.conversion.census import INODE, Census
from hindsight.capture.host import pseudonym
from hindsight.capture.schema import METADATA_IMPORT_KEY, arrow_schema
from hindsight.errors import VerificationError

_COMM = frozenset({"comm", "oldcomm", "newcomm"})
FACT_TABLES = frozenset(
    {"captures", "clock_anchors", "losses", "recorder", "devices", "files", "descriptors", "tasks"}
)
"""The tables that are made out of the facts of a segment."""


def renaming(key: bytes | None) -> Callable[[str, bytes], str]:
    """What becomes of a value of a text column: names of programs are hashed with ``key``, None = kept."""
    known: dict[bytes, str] = {}

    def rename(column: str, value: bytes) -> str:
        text = value.decode("utf-8", "replace")
        if key is None or column not in _COMM:
            return text
        if value not in known:
            if len(known) > 1 << 16:
                known.clear()
            known[value] = pseudonym(key, text)
        return known[value]

    return rename


def fact_tables(
    facts: Mapping[str, Any], losses: list[dict[str, Any]], census: Census, key: bytes | None
) -> dict[str, pa.Table]:
    """The tables of facts that have rows, ``losses`` and ``recorder`` among them.

    Raises VerificationError when rows lack a column or hold what does not fit it.
    """
    rows = dict(facts["tables"])
    rows["losses"] = losses
    imported = facts.get("imported")
    rows["recorder"] = [] if imported else [census.recorder_row()]
    rows["files"] = [row for row in rows["files"] if tuple(row[name] for name in INODE) in census.inodes]
    tables = {name: plain_table(name, entries, key) for name, entries in rows.items() if entries}
    if imported:
        told = {METADATA_IMPORT_KEY: json.dumps(imported, sort_keys=True)}
        table = tables["captures"]
        tables["captures"] = table.replace_schema_metadata({**table.schema.metadata, **told})
    return tables


def plain_table(name: str, rows: list[dict[str, Any]], key: bytes | None) -> pa.Table:
    """Rows as the table ``name``; names of programs are hashed with ``key``, None = kept.

    Raises VerificationError when rows lack a column or hold what does not fit it.
    """
    try:
        return _plain_table(name, rows, key)
    except UnicodeEncodeError:
        return _plain_table(name, [_utf8(row) for row in rows], key)


def _utf8(value: Any) -> Any:
    """Text that the kernel gave as other bytes than UTF-8 has replacement characters, as events have."""
    if isinstance(value, str):
        # A name of Python has the bytes as surrogates; others are not from the kernel, but from damage.
        escaped = all("\udc80" <= c <= "\udcff" for c in value if "\ud800" <= c <= "\udfff")
        encoded = value.encode("utf-8", "surrogateescape" if escaped else "surrogatepass")
        return encoded.decode("utf-8", "replace")
    if isinstance(value, dict):
        return {key: _utf8(item) for key, item in value.items()}
    return [_utf8(item) for item in value] if isinstance(value, list) else value


def _plain_table(name: str, rows: list[dict[str, Any]], key: bytes | None) -> pa.Table:
    schema = arrow_schema(name)
    try:
        if key is not None and _COMM & set(schema.names):
            hashed = {text: pseudonym(key, text) for row in rows for k, text in row.items() if k in _COMM}
            rows = [{k: hashed[v] if k in _COMM else v for k, v in row.items()} for row in rows]
        data = pa.Table.from_pylist(rows, schema=schema)
        data.validate(full=True)
    except (pa.ArrowException, OverflowError, TypeError, AttributeError) as error:
        raise VerificationError(f"the facts of the table {name} are damaged: {error}") from error
    for column in schema:
        if not column.nullable and data[column.name].null_count:
            raise VerificationError(f"the facts of the table {name} lack {column.name}")
    return data
