"""Hold the decisions that a replay emitted against those that the kernel recorded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hindsight.errors import ConfigurationError
from hindsight.pipeline.dataset import Capture, find_captures, read_tables
from hindsight.pipeline.demand import Demand, read_demands
from hindsight.pipeline.parallel import each
from hindsight.pipeline.replay import CAPTURE
from hindsight.pipeline.store import read_columns, rounded
from hindsight.subsystems.contract import Columns, Fidelity, Subsystem

_COUNTS = ("recorded", "compared", "matched", "missing", "extra", "unattributed")


def as_json(fidelity: Fidelity) -> dict[str, Any]:
    """All of it; ``exact_share`` is null where nothing was recorded to compare with."""
    return {
        **{name: int(getattr(fidelity, name)) for name in _COUNTS},
        "exact_share": rounded(fidelity.exact_share) if fidelity.recorded else None,
        "one_step": fidelity.one_step,
        "first_divergence": plain(fidelity.first_divergence),
        "per_stream": [plain(stream) for stream in fidelity.per_stream],
    }


def total(captures: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The sum over captures of :func:`as_json`."""
    counts = {name: sum(int(c[name]) for c in captures.values()) for name in _COUNTS}
    share = rounded(counts["matched"] / counts["recorded"]) if counts["recorded"] else None
    steps = [c["one_step"] for c in captures.values() if c["one_step"] is not None]
    return {**counts, "exact_share": share, "one_step": sum(steps) if steps else None}


def plain(value: Any) -> Any:
    """Numpy scalars as Python's, at any depth; floats to six digits."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return rounded(value) if isinstance(value, float) else value


def compare_capture(
    subsystem: Subsystem, capture: Capture, demand: Demand, emitted: Columns
) -> dict[str, Any]:
    """Compare one capture; the only place where decision tables are read."""
    decisions = {name: values for name, values in emitted.items() if name != CAPTURE}
    return as_json(subsystem.compare(decisions, read_tables(capture, subsystem.decision_tables), demand))


def of_file(result: Mapping[str, Any], file: str) -> dict[str, Any]:
    """Of a result of :func:`compare_dataset` what concerns one file, as its streams name it.

    Decisions that belong to no stream are not in it. Raises ConfigurationError if no stream is of that file.
    """
    captures: dict[str, dict[str, Any]] = {}
    for capture, found in result["captures"].items():
        streams = [stream for stream in found["per_stream"] if stream.get("file") == file]
        if not streams:
            continue
        judged = [stream for stream in streams if not stream["reason"]]
        recorded, compared, matched = (
            sum(stream[name] for stream in judged) for name in ("recorded", "emitted", "matched")
        )
        first = found["first_divergence"]
        captures[capture] = {
            "recorded": recorded, "compared": compared, "matched": matched, "missing": recorded - matched,
            "extra": compared - matched, "unattributed": 0,
            "exact_share": rounded(matched / recorded) if recorded else None, "one_step": None,
            "first_divergence": first if first and first.get("file") == file else None,
            "per_stream": streams,
        }  # fmt: skip
    if not captures:
        raise ConfigurationError(
            f"no stream is of the file {file}",
            "`hindsight pipeline fidelity DATASET --emitted FILE --json` lists the streams with their files",
        )
    return {"total": total(captures), "captures": captures}


def compare_dataset(dataset: Path, subsystem: Subsystem, emitted: Path) -> dict[str, Any]:
    """Compare a file of :func:`hindsight.pipeline.replay.replay_dataset` with the record.

    Returns {"total": counts and share, "captures": {id: counts, share, first divergence, streams}}.
    Raises ConfigurationError if the file does not fit the dataset.
    """
    found, _ = read_demands(subsystem, find_captures(dataset))
    rows = read_columns(emitted)
    if CAPTURE not in rows:
        raise ConfigurationError(
            f"{emitted} does not hold emitted decisions",
            "write it with `hindsight pipeline replay DATASET --emit FILE`",
        )
    strangers = sorted(set(rows[CAPTURE]) - {capture.id for capture, _ in found})
    if strangers:
        raise ConfigurationError(
            f"{emitted} holds decisions of a capture that {dataset} does not: {strangers[0]}"
        )

    def one(item: tuple[Capture, Demand]) -> dict[str, Any]:
        capture, demand = item
        mine = rows[CAPTURE] == capture.id
        return compare_capture(subsystem, capture, demand, {n: v[mine] for n, v in rows.items()})

    results = each(one, found, "compare")
    captures = {capture.id: result for (capture, _), result in zip(found, results, strict=True)}
    return {"total": total(captures), "captures": captures}
