"""Stage ingest: the manifest, the demand of every capture, and the factual replay of the stock logic.

The replay is done and written before any decision table is opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hindsight.pipeline.dataset import Capture, find_captures
from hindsight.pipeline.demand import Demand, dominant, exclusions, read_demands
from hindsight.pipeline.fidelity import compare_capture, total
from hindsight.pipeline.journal import read_journal, together, unheard
from hindsight.pipeline.manifest import describe_capture, describe_files
from hindsight.pipeline.parallel import each
from hindsight.pipeline.params import Layout, Params
from hindsight.pipeline.replay import emit, encode_emitted
from hindsight.pipeline.store import write_bytes, write_columns, write_json, write_tables
from hindsight.subsystems.contract import Columns, Subsystem


def ingest(params: Params, subsystem: Subsystem) -> dict[str, Any]:
    """Read the dataset of ``data.source``; returns the manifest.

    Raises ConfigurationError, naming the file, if the dataset cannot be used.
    """
    layout = Layout(params.root, subsystem.name)
    captures = find_captures(params.dataset)
    files = each(lambda capture: describe_files(capture, params.dataset), captures, "manifest")
    found, without = read_demands(subsystem, captures)
    for capture, demand in found:
        write_tables(layout.ingest / "demand" / capture.id, demand)

    emitted = each(lambda item: emit(subsystem, item[0].id, item[1]), found, "replay")
    write_bytes(layout.ingest / "emitted.parquet", encode_emitted(emitted))
    write_json(layout.ingest / "fidelity.json", _compare(subsystem, found, emitted))

    events = {
        capture.id: sum(entry["rows"] for entry in entries if "from_ns" in entry)
        for capture, entries in zip(captures, files, strict=True)
    }
    manifest = {
        "captures": [
            _describe(subsystem, capture, demand) | {"events": events[capture.id]}
            for capture, demand in found
        ],
        "without_demand": without,
        "events": sum(events.values()),
        "files": [entry for entries in files for entry in entries],
        **_write_journals(subsystem, layout, captures, without),
    }
    write_json(layout.ingest / "manifest.json", manifest)
    return manifest


def _write_journals(
    subsystem: Subsystem, layout: Layout, captures: list[Capture], without: Mapping[str, str]
) -> dict[str, Any]:
    """realised.parquet; what the manifest says of it, nothing if there is no journal of the subsystem."""
    read = each(lambda capture: read_journal(subsystem, capture), captures, "journal")
    journals = [
        unheard(subsystem, journal) if capture.id in without else journal
        for capture, journal in zip(captures, read, strict=True)
        if journal is not None and (journal.recommendations or journal.left_out)
    ]
    whole = together(subsystem, journals)
    write_columns(layout.realised, whole.columns)
    if not journals:
        return {}
    return {
        "realised": {
            "captures": len(journals),
            "recommendations": whole.recommendations,
            "measured": int(whole.columns["measured"].sum()),
            "left_out": dict(whole.left_out),
        }
    }


def _compare(
    subsystem: Subsystem, found: list[tuple[Capture, Demand]], emitted: list[Columns]
) -> dict[str, Any]:
    pairs = list(zip(found, emitted, strict=True))
    results = each(lambda p: compare_capture(subsystem, p[0][0], p[0][1], p[1]), pairs, "compare")
    captures = {capture.id: result for (capture, _), result in zip(found, results, strict=True)}
    return {"total": total(captures), "captures": captures}


def _describe(subsystem: Subsystem, capture: Capture, demand: Demand) -> dict[str, Any]:
    """Facts of a capture; ``program`` and ``device`` are those of most of its eligible time."""
    streams = demand["streams"]
    return describe_capture(capture) | {
        "program": dominant(streams, "program") or capture.program,
        "device": dominant(streams, "device"),
        "streams": len(streams["eligible"]),
        "eligible_streams": int(streams["eligible"].sum()),
        "excluded": exclusions(subsystem, streams),
    }
