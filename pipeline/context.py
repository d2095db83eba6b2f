"""What a report says besides the comparison: data, replay, calibration, model, and their hashes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hindsight.pipeline.explain import beyond
from hindsight.pipeline.ingested import Calibration, Ingested
from hindsight.pipeline.live import live_check
from hindsight.pipeline.params import Layout, Params
from hindsight.pipeline.realised import Realised, as_predicted, load
from hindsight.pipeline.split import Split
from hindsight.pipeline.store import read_json, sha256
from hindsight.subsystems.contract import Subsystem


def build_context(
    params: Params,
    subsystem: Subsystem,
    layout: Layout,
    captures: Mapping[str, Ingested],
    division: Split,
    calibration: Calibration,
    training: Mapping[str, Any],
) -> dict[str, Any]:
    """The context of :func:`hindsight.pipeline.evidence.assess`, without what the arms bring."""
    manifest = read_json(layout.ingest / "manifest.json")
    return {
        "subsystem": subsystem.name,
        "summary": subsystem.summary,
        "metrics": [
            {
                "name": metric.name,
                "unit": metric.unit,
                "label": metric.label.value,
                "meaning": metric.meaning,
                "lower_is_better": metric.lower_is_better,
            }
            for metric in subsystem.metrics
        ],
        "actions": [action.name for action in subsystem.actions],
        "rule": subsystem.rule_name,
        "fidelity": fidelity(read_json(layout.ingest / "fidelity.json")),
        "calibration": {
            "devices": calibration,
            "captures": calibration_errors(subsystem, captures, division, calibration),
        },
        "dataset": dataset(manifest, division),
        "model": {
            "version": params["package"]["version"],
            "trees": training["model"]["trees"],
            "states": training["model"]["states"],
            "features": [feature.name for feature in subsystem.features],
            "importance": training["model"]["importance"],
        },
        "live_check": live_check(params.root, subsystem.name, int(params["evaluate"]["min_blocks"])),
        "provenance": provenance(params, layout),
        **realised(subsystem, params, manifest, load(layout), training),
    }


def realised(
    subsystem: Subsystem,
    params: Params,
    manifest: Mapping[str, Any],
    rows: Realised,
    training: Mapping[str, Any],
) -> dict[str, Any]:
    """What was recommended live and what it brought, under the key ``realised``; {} without a journal.

    ``rows``: one per recommendation. ``comparable_ppm``: what was realised, in the terms of the prediction.
    ``outside``: whether a feature was beyond what the replayed states that
    the model learned from have (``support`` of training.json).
    """
    if not manifest.get("realised", {}).get("recommendations"):
        return {}
    support = training["model"]["support"]
    ends = [support.get(f.name, ()) for f in subsystem.features]
    outside = np.any(beyond(rows.features(subsystem), ends), axis=1)
    comparable = np.zeros(len(rows), np.int64)
    measured = np.asarray(rows.columns["measured"], np.bool_)
    comparable[measured] = as_predicted(rows.measured(), params["labels"])
    columns = ("capture", "stream", "model", "at_ns", "measured", "predicted_ppm", "realised_ppm")
    values = [rows.columns[name].tolist() for name in columns]
    entries = zip(*values, comparable.tolist(), outside.tolist(), strict=True)
    return {
        "realised": {
            "recommendations": manifest["realised"]["recommendations"],
            "left_out": manifest["realised"]["left_out"],
            "learned": (training["model"].get("realised") or {}).get("rows", 0),
            "rows": [
                dict(zip((*columns, "comparable_ppm", "outside"), entry, strict=True)) for entry in entries
            ],
        }
    }


def fidelity(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """fidelity.json without the rows per stream."""
    captures = {
        name: {key: value for key, value in entry.items() if key != "per_stream"}
        for name, entry in recorded["captures"].items()
    }
    return {"total": recorded["total"], "captures": captures}


def calibration_errors(
    subsystem: Subsystem, captures: Mapping[str, Ingested], division: Split, calibration: Calibration
) -> dict[str, dict[str, Any]]:
    """Modelled and recorded time of each capture under the stock policy; held out = not calibrated on."""
    errors = {}
    for name, capture in captures.items():
        if not capture.facts["eligible_streams"]:
            continue
        modelled, recorded = subsystem.calibration_error(capture.demand, calibration)
        errors[name] = {
            "modelled_ns": int(modelled),
            "recorded_ns": int(recorded),
            "held_out": name not in division.earlier,
            "workload": capture.facts["workload"],
            "device": capture.facts["device"],
        }
    return errors


def dataset(manifest: Mapping[str, Any], division: Split) -> dict[str, Any]:
    """What was recorded, and what of it carries no verdict and why."""
    captures = manifest["captures"]
    streams: dict[str, int] = {}
    for capture in captures:
        for reason, entry in capture["excluded"].items():
            streams[reason] = streams.get(reason, 0) + int(entry["streams"])
    return {
        "captures": len(captures),
        "events": manifest["events"],
        "workloads": sorted({c["workload"] for c in captures}),
        "programs": sorted({c["program"] for c in captures}),
        "devices": sorted({c["device"] for c in captures if c["device"]}),
        "hosts": sorted({c["host"] for c in captures}),
        "streams": sum(c["streams"] for c in captures),
        "eligible_streams": sum(c["eligible_streams"] for c in captures),
        "excluded_streams": dict(sorted(streams.items())),
        "captures_without_demand": len(manifest["without_demand"]),
        "earlier_captures": len(division.earlier),
        "later_captures": len(division.later),
        "dropped_captures": len(division.dropped),
    }


def provenance(params: Params, layout: Layout) -> dict[str, str]:
    """SHA-256 of what the report was made from: nothing of the machine, the clock or the commit."""
    return {
        "data": sha256((layout.ingest / "manifest.json").read_bytes()),
        "params": params.sha256(),
        "model": sha256((layout.train / "model.ubj").read_bytes()),
    }
