"""Convert sealed recordings into the Parquet tables of the data contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hindsight.capture.columns import EventTable, Text, Values
from hindsight.capture.decode import CpuEvents, decode_cpu, load_words
from hindsight.capture.formats import EventFormat, PageLayout, parse_event, parse_header_page
from hindsight.capture.host import pseudonym
from hindsight.capture.parquet import to_arrow, write_all
from hindsight.capture.schema import SCHEMA_VERSION, TABLES, arrow_schema
from hindsight.capture.segment import Segment, check_facts, find_segments, open_segment
from hindsight.errors import VerificationError

_COMM = {"comm", "oldcomm", "newcomm"}
_BY_TRACEPOINT = {table.tracepoint: table for table in TABLES.values() if table.tracepoint}
_COMMIT_TABLE = "captures"
"""Written last: a segment without it was not converted completely."""


@dataclass(frozen=True)
class Converted:
    """What became of one segment: rows by table; ``converted`` False when it was there already."""

    segment: str
    converted: bool
    tables: dict[str, int] = field(default_factory=dict)
    events: int = 0
    lost: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def convert(
    segments: Sequence[Path], out: Path, *, comm: bool = False, force: bool = False
) -> list[Converted]:
    """Convert segments (or directories of segments) into the dataset ``out``; one result per segment.

    Names of programs become keyed hashes unless ``comm``. What ``out`` already holds is left alone unless
    ``force``. Converting twice gives the same bytes.

    Raises ConfigurationError for paths without recordings or an unwritable ``out``, VerificationError for a
    recording that is damaged or that this release cannot read.
    """
    return [_convert_segment(path, out, comm, force) for path in find_segments([Path(s) for s in segments])]


def _convert_segment(path: Path, out: Path, comm: bool, force: bool) -> Converted:
    segment = open_segment(path)
    check_facts(segment)
    facts = segment.facts
    if facts["schema_version"] != SCHEMA_VERSION or facts["byteorder"] != "little":
        raise VerificationError(
            f"{path} has schema version {facts['schema_version']} and is {facts['byteorder']}-endian; "
            f"this program reads {SCHEMA_VERSION}, little-endian"
        )
    directory = out / f"host={facts['tables']['captures'][0]['host']}" / f"date={facts['date']}"
    if (directory / _COMMIT_TABLE / f"{segment.name}.parquet").exists() and not force:
        return Converted(segment.name, False)
    return _write_segment(segment, directory, comm)


def _write_segment(segment: Segment, directory: Path, comm: bool) -> Converted:
    key = None if comm else bytes(segment.facts["comm_key"], "ascii")
    layout = parse_header_page(segment.formats["header_page"])
    facts = {name: list(rows) for name, rows in segment.facts["tables"].items()}
    names = [column.name for column in TABLES["losses"].columns]
    losses: list[dict[str, Any]] = [
        {name: row[name] for name in names} for row in segment.facts["losses"] if row["cpu"] is None
    ]
    tables: dict[str, pa.Table] = {}
    seen: set[tuple[int, int, int]] = set()
    events = 0
    for name, instance in sorted(segment.facts["instances"].items()):
        kinds = [_format(segment, event) for event in instance["events"]]
        cpus = _decode(segment, name, instance, layout, kinds, losses)
        for number, kind in enumerate(kinds):
            table = _BY_TRACEPOINT.get(f"{kind.system}/{kind.name}")
            rows = EventTable(number, kind, cpus)
            if table is None or rows.rows == 0:
                continue
            columns = rows.columns(table)
            tables[table.name] = to_arrow(table.name, _hash_comm(columns, key))
            events += rows.rows
            if table.name in ("page_cache_sync_ra", "page_cache_async_ra"):
                seen |= _inodes(columns)
    facts["files"] = [
        row for row in facts["files"] if (row["s_dev_major"], row["s_dev_minor"], row["i_ino"]) in seen
    ]
    facts["losses"] = sorted(losses, key=lambda r: (r["from_ns"], r["cpu"] or 0, r["cause"], r["to_ns"]))
    for name, entries in facts.items():
        if entries:
            tables[name] = _fact_table(name, entries, key)
    names = [*sorted(tables.keys() - {_COMMIT_TABLE}), _COMMIT_TABLE]
    write_all({directory / name / f"{segment.name}.parquet": tables[name] for name in names})
    for name in TABLES.keys() - tables.keys():
        (directory / name / f"{segment.name}.parquet").unlink(missing_ok=True)  # of an earlier conversion
    counts = {name: table.num_rows for name, table in sorted(tables.items())}
    return Converted(segment.name, True, counts, events, sum(row["count_lower"] for row in losses))


def _format(segment: Segment, event: str) -> EventFormat:
    try:
        return parse_event(event.split("/")[0], segment.formats[event])
    except KeyError:
        raise VerificationError(f"{segment.path} has no format of {event}") from None


def _decode(
    segment: Segment,
    name: str,
    instance: Mapping[str, Any],
    layout: PageLayout,
    kinds: list[EventFormat],
    losses: list[dict[str, Any]],
) -> list[CpuEvents]:
    """Decode every CPU of an instance, hold the counts against the kernel's own, add rows of ``losses``."""
    if instance["subbuffer_bytes"] != layout.page_bytes:
        raise VerificationError(
            f"{segment.path}: sub-buffers of {instance['subbuffer_bytes']} bytes, but header_page says "
            f"{layout.page_bytes}"
        )
    capture = segment.facts["tables"]["captures"][0]
    decoded = []
    for cpu_name, after in sorted(instance["stats_after"].items(), key=lambda item: int(item[0])):
        cpu = int(cpu_name)
        before = instance["stats_before"].get(cpu_name, {})
        path = segment.raw(name, cpu)
        words, truncated = load_words(path, layout) if path is not None else (np.empty(0, "<u4"), False)
        result = decode_cpu(cpu, words, layout, kinds, truncated)
        counted = [row for row in segment.facts["losses"] if (row["instance"], row["cpu"]) == (name, cpu)]
        flagged = sum(p.count or 0 for p in result.problems if p.cause == "ring overrun")
        for row in counted:
            # What the pages flag themselves is placed more exactly than the counters can.
            known = flagged if row["cause"] == "ring overrun" else 0
            lower, upper = row["count_lower"] - known, row["count_upper"]
            if upper is None or upper > known:
                upper = None if upper is None else upper - known
                times = row["from_ns"], row["to_ns"]
                losses.append(
                    _loss(cpu, *times, max(lower, 0), upper, row["cause"]) | {"event": row["event"]}
                )
        for problem in result.problems:
            losses.append(
                _loss(cpu, problem.from_ns, problem.to_ns, problem.count or 0, problem.count, problem.cause)
            )
        found = result.events + result.unusable
        # The counters are unknown after a power loss.
        lacking = after["read events"] - before.get("read events", 0) - found if after else 0
        if lacking < 0 and not result.problems:
            raise VerificationError(
                f"{segment.path}: CPU {cpu}: {found} events decoded, {found + lacking} counted by the kernel"
            )
        if lacking > 0 and not any(p.count is None for p in result.problems):
            losses.append(
                _loss(cpu, capture["start_ns"], capture["end_ns"], lacking, lacking, "decode error")
            )
        left = after.get("entries", 0) if after else 0
        if left:
            losses.append(_loss(cpu, capture["end_ns"], capture["end_ns"], left, left, "ring full"))
        decoded.append(result)
    return decoded


def _loss(cpu: int, start: int, end: int, lower: int, upper: int | None, cause: str) -> dict[str, Any]:
    return {
        "cpu": cpu,
        "event": None,
        "from_ns": start,
        "to_ns": end,
        "count_lower": lower,
        "count_upper": upper,
        "cause": cause,
    }


def _hash_comm(columns: dict[str, Values], key: bytes | None) -> dict[str, Values]:
    if key is None:
        return columns
    hashed = dict(columns)
    for name in _COMM & columns.keys():
        text = columns[name]
        assert isinstance(text, Text)
        values = [pseudonym(key, value.decode("utf-8", "replace")).encode() for value in text.values]
        hashed[name] = Text(text.codes, values)
    return hashed


def _inodes(columns: Mapping[str, Values]) -> set[tuple[int, int, int]]:
    names = ("s_dev_major", "s_dev_minor", "i_ino")
    stacked = np.stack([np.asarray(columns[name]).astype(np.uint64) for name in names], axis=1)
    return {(int(a), int(b), int(c)) for a, b, c in np.unique(stacked, axis=0)}


def _fact_table(name: str, rows: list[dict[str, Any]], key: bytes | None) -> pa.Table:
    schema = arrow_schema(name)
    if key is not None:
        rows = [{k: pseudonym(key, v) if k in _COMM else v for k, v in row.items()} for row in rows]
    try:
        data = pa.Table.from_pylist(rows, schema=schema)
        data.validate(full=True)
    except (pa.ArrowException, OverflowError, TypeError, AttributeError) as error:
        raise VerificationError(f"the facts of the table {name} are damaged: {error}") from error
    for column in schema:
        if not column.nullable and data[column.name].null_count:
            raise VerificationError(f"the facts of the table {name} lack {column.name}")
    return data
