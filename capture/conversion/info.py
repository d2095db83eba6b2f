"""Say what a dataset or a directory of recordings holds, and what was lost: from footers and small tables."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from hindsight.capture.schema import (
    EVENT_COLUMNS,
    METADATA_GENERIC_KEY,
    METADATA_TABLE_KEY,
    METADATA_VERSION_KEY,
    SCHEMA_VERSION,
    TABLES,
    Table,
    arrow_schema,
    arrow_schema_of,
)
from hindsight.capture.segments.segment import MANIFEST, check_facts, find_segments, open_segment
from hindsight.errors import ConfigurationError, ExitCode

_LAYOUT = "A dataset is host=…/date=…/TABLE/SEGMENT.parquet, made by: hindsight capture convert DIR -o OUT"
_AGAIN = "Convert the recording again: hindsight capture convert RAW -o OUT"
_SMALL = ("captures", "losses", "recorder")
_PAUSE_NS = 1_000_000_000
"""Segments of one capture follow each other; more time than this between two is a gap."""
_SUMS = ("cpu_ns", "raw_bytes", "own_events", "writeback_events")


@dataclass
class _Segment:
    """Small tables of one segment, by row."""

    name: str
    capture: dict[str, Any]
    losses: list[dict[str, Any]] = field(default_factory=list)
    recorder: list[dict[str, Any]] = field(default_factory=list)


def describe(path: Path) -> dict[str, Any]:
    """What is there: rows by table; per capture its time, segments, gaps, losses, and what recording cost.

    Raises ConfigurationError when ``path`` is neither a dataset nor a directory of recordings, is empty, or
    holds a file that is truncated, of another schema version, not of its table, or of a segment that was not
    converted completely.
    """
    if not path.is_dir():
        raise ConfigurationError(f"{path} is not a directory", _LAYOUT)
    if (path / MANIFEST).exists() or any((p / MANIFEST).exists() for p in path.iterdir() if p.is_dir()):
        segments, about = _read_raw(path)
    else:
        segments, about = _read_dataset(path)
    captures: dict[str, list[_Segment]] = {}
    for segment in segments:
        captures.setdefault(segment.capture["capture"], []).append(segment)
    return {
        "schema_version": SCHEMA_VERSION,
        **about,
        "losses": _sum_losses(row for segment in segments for row in segment.losses),
        "start_ns": min(s.capture["start_ns"] for s in segments),
        "end_ns": max(s.capture["end_ns"] for s in segments),
        "captures": [_summary(captures[name]) for name in sorted(captures)],
    }


def _read_dataset(path: Path) -> tuple[list[_Segment], dict[str, Any]]:
    files = sorted(path.glob("host=*/date=*/*/*.parquet"))
    if not files:
        raise ConfigurationError(f"{path} holds no tables", _LAYOUT)
    tables: dict[str, dict[str, int]] = {}
    small: dict[str, dict[str, list[dict[str, Any]]]] = {name: {} for name in _SMALL}
    for file in files:
        table = file.parent.name
        data, rows = _check(file)
        entry = tables.setdefault(table, {"rows": 0, "files": 0, "bytes": 0})
        entry["rows"] += rows
        entry["files"] += 1
        entry["bytes"] += file.stat().st_size
        if data is not None:
            small[table][file.stem] = data.to_pylist()
    for file in files:
        if not small["captures"].get(file.stem):
            raise ConfigurationError(
                f"{file} belongs to a segment without a table `captures`: its conversion was interrupted, or "
                "goes on",
                _AGAIN,
            )
    segments = [
        _Segment(name, rows[0], small["losses"].get(name, []), small["recorder"].get(name, []))
        for name, rows in small["captures"].items()
    ]
    return segments, {"tables": dict(sorted(tables.items()))}


def _check(file: Path) -> tuple[Any, int]:
    """The rows of a small table (else None) and the number of rows, after the schema has been checked."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = file.parent.name
    if table not in TABLES and "." not in table:
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
            defined = table in TABLES
            sound = schema.equals(arrow_schema(table)) if defined else _is_generic(schema, metadata)
            if metadata.get(METADATA_TABLE_KEY) != table or not sound:
                raise ConfigurationError(f"{file} does not have the columns of the table {table}")
            return (parquet.read() if table in _SMALL else None), rows
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{file} cannot be read: {error}", "It is truncated or damaged: convert the recording again."
        ) from error


def _is_generic(schema: Any, metadata: Mapping[str, str]) -> bool:
    """Whether a table that is not defined says that it was derived, and has the columns that all have."""
    wanted = arrow_schema_of(Table("", EVENT_COLUMNS, ""))
    return METADATA_GENERIC_KEY in metadata and all(
        schema.field(number).equals(wanted.field(number)) for number in range(min(len(schema), 3))
    )


def _read_raw(path: Path) -> tuple[list[_Segment], dict[str, Any]]:
    segments = []
    size = events = 0
    complete = True
    for segment_path in find_segments([path]):
        segment = open_segment(segment_path, verify=False)
        check_facts(segment)
        facts = segment.facts
        size += sum(int(file["bytes"]) for file in segment.files.values())
        for instance in facts["instances"].values():
            for cpu, after in instance["stats_after"].items():
                before = instance["stats_before"].get(cpu, {}).get("read events", 0)
                if after is None:
                    complete = False
                else:
                    events += after["read events"] - before
        segments.append(
            _Segment(segment.name, facts["tables"]["captures"][0], facts["losses"], [facts["recorder"]])
        )
    raw = {"segments": len(segments), "events": events, "events_exact": complete, "bytes": size}
    return segments, {"raw": raw, "tables": {}}


def _sum_losses(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """At least so many events in so many intervals; ``unknown`` of these have no upper bound; by cause."""
    total: dict[str, Any] = {"events": 0, "intervals": 0, "unknown": 0}
    causes: dict[str, dict[str, Any]] = {}
    for row in rows:
        entry = causes.setdefault(
            row["cause"], {"events": 0, "intervals": 0, "unknown": 0, "ns": 0, "of": set()}
        )
        for sums in (total, entry):
            sums["events"] += row["count_lower"]
            sums["intervals"] += 1
            sums["unknown"] += row["count_upper"] is None
        entry["ns"] += max(row["to_ns"] - row["from_ns"], 0)
        if row["event"] is not None:
            entry["of"].add(row["event"])
    ordered = {cause: entry | {"of": sorted(entry["of"])} for cause, entry in sorted(causes.items())}
    return total | {"causes": ordered}


def _number(name: str) -> int | None:
    found = re.search(r"-(\d+)$", name)
    return int(found[1]) if found else None


def _gaps(segments: list[_Segment]) -> list[dict[str, Any]]:
    """Places where segments are missing, or time is, between two that are there."""
    found = []
    for one, two in pairwise(segments):
        numbers = _number(one.name), _number(two.name)
        missing = numbers[1] - numbers[0] - 1 if None not in numbers else 0  # type: ignore[operator]
        time = two.capture["start_ns"] - one.capture["end_ns"]
        if missing > 0 or time > _PAUSE_NS:
            found.append({"after": one.name, "before": two.name, "missing": missing, "ns": max(time, 0)})
    return found


def _summary(segments: list[_Segment]) -> dict[str, Any]:
    segments = sorted(segments, key=lambda s: (s.capture["start_ns"], len(s.name), s.name))
    first = segments[0]
    names = ("capture", "host", "label", "program", "profile", "kernel_release", "clock", "start_ns")
    costs = [row for segment in segments for row in segment.recorder]
    summary = {name: first.capture[name] for name in names} | {
        "end_ns": max(s.capture["end_ns"] for s in segments),
        "segments": [s.name for s in segments],
        "first_segment": _number(first.name),
        "gaps": _gaps(segments),
        "losses": _sum_losses(row for segment in segments for row in segment.losses),
    }
    if costs:
        summary["recorder"] = {name: sum(row[name] for row in costs) for name in _SUMS if name in costs[0]}
        summary["recorder"]["peak_rss_bytes"] = max(row["peak_rss_bytes"] for row in costs)
    return summary


def run(path: Path, as_json: bool) -> int:
    """Print :func:`describe`, as text or JSON; returns the exit status."""
    facts = describe(path)
    if as_json:
        json.dump(facts, sys.stdout, indent=1)
        print()
        return ExitCode.OK
    for capture in facts["captures"]:
        _print_capture(capture)
    if "raw" in facts:
        raw = facts["raw"]
        events = f"{raw['events']} events" if raw["events_exact"] else f"{raw['events']} events or more"
        print(f"raw: {raw['segments']} segments, {events}, {raw['bytes']} bytes (not converted)")
    width = max((len(name) for name in facts["tables"]), default=0)
    for name, entry in facts["tables"].items():
        derived = "" if name in TABLES else "  (derived from the event's format)"
        print(f"{name:<{width}}  {entry['rows']:>12} rows  {entry['bytes']:>12} bytes{derived}")
    if not facts["losses"]["intervals"]:
        print("no event was lost")
    return ExitCode.OK


def _print_capture(capture: dict[str, Any]) -> None:
    seconds = (capture["end_ns"] - capture["start_ns"]) / 1e9
    what = "imported" if capture["profile"] == "import" else capture["program"] or "whole host"
    label = f"  {capture['label']}" if capture["label"] else ""
    print(f"{capture['capture']}  {what}  {seconds:.1f} s  Linux {capture['kernel_release']}{label}")
    if capture["clock"] != "mono":
        print(f"  CLOCK: {capture['clock']}: times cannot be compared with those of other captures")
    if len(capture["segments"]) > 1:
        print(f"  {len(capture['segments'])} segments")
    if capture["first_segment"]:
        print(f"  GAP: it begins with segment {capture['first_segment']}; those before are not here")
    for gap in capture["gaps"]:
        plural = "s" if gap["missing"] > 1 else ""
        missing = f"{gap['missing']} segment{plural} missing, " if gap["missing"] else ""
        print(f"  GAP: {missing}{gap['ns'] / 1e9:.1f} s between {gap['after']} and {gap['before']}")
    losses = capture["losses"]
    if losses["intervals"]:
        more = f", {losses['unknown']} of them of unknown size" if losses["unknown"] else ""
        print(f"  LOST: at least {losses['events']} events in {losses['intervals']} intervals{more}")
    for cause, entry in losses["causes"].items():
        count = f"{entry['events']} events" if entry["events"] or not entry["unknown"] else "unknown count"
        more = f", {entry['unknown']} of unknown size" if entry["events"] and entry["unknown"] else ""
        events = f" of {', '.join(entry['of'])}" if entry["of"] else ""
        print(
            f"    {cause}: {count}{more}{events}, {entry['intervals']} intervals, "
            f"{entry['ns'] / 1e9:.3f} s together"
        )
    if "recorder" in capture:
        own = capture["recorder"]
        traces = (
            f"; in the trace: {own['own_events']} own events, at most {own['writeback_events']} of writing it"
            if "own_events" in own
            else ""
        )
        share = own["cpu_ns"] / 1e7 / seconds if seconds > 0 else 0.0
        print(
            f"  recording took {share:.2f} % of a processor, {own['peak_rss_bytes'] / 1e6:.0f} MB, "
            f"{own['raw_bytes'] / 1e6:.1f} MB raw{traces}"
        )
