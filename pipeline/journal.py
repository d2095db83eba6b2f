"""The advisor's journal of a capture: recommendations joined with what the model saw and what they brought.

Tables ``recommendations``, ``recommendation_features``, ``efficiency``
(:mod:`hindsight.capture.schema.advice`).
What contradicts itself is refused; what cannot be learned from is counted by reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hindsight.errors import ConfigurationError
from hindsight.pipeline.dataset import Capture, read_tables
from hindsight.pipeline.store import concatenate
from hindsight.subsystems.contract import Columns, Subsystem, Tables

TABLES = ("recommendations", "recommendation_features", "efficiency")

UNKNOWN_ACTION = "action that the subsystem does not have"
OTHER_FEATURES = "features that are not those of the subsystem"
WITHOUT_RECOMMENDATION = "efficiency without its recommendation"
OTHER_METRIC = "efficiency in another metric than the cost"
NOT_APPLIED = "not applied"
NOT_IN_FORCE = "applied, but another value was set or read back"
NOT_MEASURED = "applied, but no efficiency was reported"
TOO_FEW = "too few operations, says the proxy"
NO_COST = "a window without operations or without cost"
OUTSIDE = "a window that reaches beyond the capture"
WITHOUT_DEMAND = "in a capture without demand"
TOO_EARLY = "a treated window that begins before the recommendation was effective"

PPM = 1_000_000
Row = dict[str, Any]


@dataclass(frozen=True)
class Journal:
    """``columns``: one row per recommendation whose action and features are known (:func:`blank` names them).
    ``left_out``: reason -> rows; those of recommendations without a realised figure still stand in
    ``columns``. ``recommendations``: how many there were for the subsystem."""

    columns: Columns
    left_out: Mapping[str, int]
    recommendations: int


def blank(subsystem: Subsystem) -> dict[str, np.ndarray[Any, Any]]:
    """No rows. ``capture``, ``stream`` (the target), ``id``, ``model``: str; ``at_ns``: i64, wall clock;
    ``action``: i64, index; ``predicted_ppm``, ``realised_ppm``: i64, change of the cost, negative = gain;
    ``measured``: whether there is a realised figure (else it and what follows is 0); ``noise_ppm``,
    ``baseline_total``, ``baseline_n``, ``treated_total``, ``treated_n``: i64; ``treated_ns``: i64, length
    of the window; a column per feature: f32."""
    text = {name: np.zeros(0, object) for name in ("capture", "stream", "id", "model")}
    numbers = ("at_ns", "action", "predicted_ppm", "realised_ppm", *_MEASURED)
    return {
        **text,
        **{name: np.zeros(0, np.int64) for name in numbers},
        "measured": np.zeros(0, np.bool_),
        **{feature.name: np.zeros(0, np.float32) for feature in subsystem.features},
    }


_MEASURED = ("noise_ppm", "baseline_total", "baseline_n", "treated_total", "treated_n", "treated_ns")


def read_journal(subsystem: Subsystem, capture: Capture) -> Journal | None:
    """The journal of one capture for one subsystem; None if the capture holds none.

    Raises ConfigurationError, naming the capture, where ids are not unique, a feature has no recommendation,
    a metric has another unit than the subsystem's, or the file is damaged.
    """
    tables = read_tables(capture, TABLES)
    return join(subsystem, capture, tables) if tables else None


def unheard(subsystem: Subsystem, journal: Journal) -> Journal:
    """The journal of a capture without demand: no evaluation knows the capture, so nothing of it is used."""
    count = journal.recommendations
    return Journal(blank(subsystem), {WITHOUT_DEMAND: count} if count else {}, count)


def together(subsystem: Subsystem, journals: Iterable[Journal]) -> Journal:
    """The journals of all captures as one, in their order."""
    found = list(journals)
    left_out: Counter[str] = Counter()
    for journal in found:
        left_out.update(journal.left_out)
    columns = concatenate([blank(subsystem), *[journal.columns for journal in found]])
    return Journal(columns, dict(sorted(left_out.items())), sum(j.recommendations for j in found))


def join(subsystem: Subsystem, capture: Capture, tables: Tables) -> Journal:
    """:func:`read_journal` of tables that were read."""
    every = _by_key(capture, "recommendations", _rows(tables, "recommendations"), ())
    own = {key: row for key, row in every.items() if row["subsystem"] == subsystem.name}
    left_out: Counter[str] = Counter()
    features = _features(capture, tables, every)
    measured = _efficiency(subsystem, capture, tables, every, own, left_out)
    actions = {action.name: i for i, action in enumerate(subsystem.actions)}
    names = [feature.name for feature in subsystem.features]
    kept: list[Row] = []
    for key, row in sorted(own.items(), key=lambda item: (item[1]["ts"], item[0])):
        if row["action"] not in actions:
            left_out[UNKNOWN_ACTION] += 1
            continue
        if sorted(features.get(key, {})) != sorted(names):
            left_out[OTHER_FEATURES] += 1
            continue
        reason = _unusable(capture, row, measured.get(key))
        if reason:
            left_out[reason] += 1
        found = {} if reason else _measured(measured[key])
        kept.append(
            {
                "capture": capture.id,
                "stream": row["target"],
                "id": row["id"],
                "model": row["model"],
                "at_ns": capture.start_ns + row["ts"] - capture.monotonic_ns,
                "action": actions[row["action"]],
                "predicted_ppm": -row["predicted_gain_ppm"],
                "realised_ppm": realised_ppm(found) if found else 0,
                **{name: found.get(name, 0) for name in _MEASURED},
                "measured": bool(found),
                **{n: np.uint32(features[key][n]).view(np.float32) for n in names},
            }
        )
    empty = blank(subsystem)
    columns = {n: np.array([row[n] for row in kept], like.dtype) for n, like in empty.items()}
    return Journal(columns, dict(left_out), len(own))


def realised_ppm(efficiency: Row) -> int:
    """(treated - baseline) / baseline of the cost of an operation, in parts per million; negative = gain."""
    treated = efficiency["treated_total"] * efficiency["baseline_n"]
    baseline = efficiency["baseline_total"] * efficiency["treated_n"]
    return int((2 * PPM * (treated - baseline) + baseline) // (2 * baseline))


def _measured(efficiency: Row) -> Row:
    return efficiency | {"treated_ns": efficiency["treated_to_ns"] - efficiency["treated_from_ns"]}


def _rows(tables: Tables, name: str) -> list[Row]:
    columns = tables.get(name)
    if columns is None:
        return []
    values = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in values]


def _by_key(
    capture: Capture, table: str, rows: Sequence[Row], more: tuple[str, ...]
) -> dict[tuple[str, ...], Row]:
    found: dict[tuple[str, ...], Row] = {}
    for row in rows:
        key = (row["proxy"], row["id"], *(row[name] for name in more))
        if key in found:
            raise _refused(capture, f"{table} holds {' '.join(key)} twice")
        found[key] = row
    return found


def _refused(capture: Capture, what: str) -> ConfigurationError:
    return ConfigurationError(
        f"the advisor's journal of capture {capture.id} contradicts itself: {what}",
        "take the tables recommendations, recommendation_features and efficiency of that capture out of the "
        "dataset, or have the advisor write them again",
    )


def _features(
    capture: Capture, tables: Tables, every: Mapping[tuple[str, ...], Row]
) -> dict[tuple[str, ...], dict[str, int]]:
    found: dict[tuple[str, ...], dict[str, int]] = {}
    columns = tables.get("recommendation_features", {})
    # By far the longest of the tables: no dictionary a row.
    values = [columns[name].tolist() for name in ("proxy", "id", "feature", "bits") if columns]
    for proxy, number, feature, bits in zip(*values, strict=True):
        seen = found.setdefault((proxy, number), {})
        if (proxy, number) not in every:
            raise _refused(capture, f"the features of {proxy} {number} have no recommendation")
        if feature in seen:
            raise _refused(capture, f"recommendation_features holds {proxy} {number} {feature} twice")
        seen[feature] = bits
    return found


def _efficiency(
    subsystem: Subsystem,
    capture: Capture,
    tables: Tables,
    every: Mapping[tuple[str, ...], Row],
    own: Mapping[tuple[str, ...], Row],
    left_out: Counter[str],
) -> dict[tuple[str, ...], Row]:
    """The efficiency in the cost, by recommendation."""
    units = {metric.name: metric.unit for metric in subsystem.metrics}
    found = {}
    for key, row in _by_key(capture, "efficiency", _rows(tables, "efficiency"), ("metric",)).items():
        if key[:2] not in every:
            left_out[WITHOUT_RECOMMENDATION] += 1
        elif key[:2] in own:
            wanted = units.get(row["metric"], row["unit"])
            if row["unit"] != wanted:
                raise _refused(
                    capture, f"{row['metric']} of {' '.join(key[:2])} is in {row['unit']}, not in {wanted}"
                )
            if row["metric"] == subsystem.metrics[0].name:
                found[key[:2]] = row
            else:
                left_out[OTHER_METRIC] += 1
    return found


def _unusable(capture: Capture, row: Row, efficiency: Row | None) -> str:
    """Why a recommendation has no realised figure; "" if it has one."""
    if not row["applied"]:
        return NOT_APPLIED
    read_back = row["used"] if row["read_back"] is None else row["read_back"]
    if row["verdict"] not in ("accepted", "clamped") or not row["value"] == row["used"] == read_back:
        return NOT_IN_FORCE
    if efficiency is None:
        return NOT_MEASURED
    if efficiency["verdict"] == "unknown":
        return TOO_FEW
    if min(efficiency[n] for n in ("baseline_n", "treated_n", "baseline_total")) <= 0:
        return NO_COST
    first, last = capture.monotonic_ns, capture.monotonic_ns + capture.end_ns - capture.start_ns
    windows = [
        (efficiency[f"{name}_from_ns"], efficiency[f"{name}_to_ns"]) for name in ("baseline", "treated")
    ]
    # Beyond its end a training capture would tell of the purge gap, or of the test.
    if not all(first <= begin <= end <= last for begin, end in windows):
        return OUTSIDE
    return TOO_EARLY if windows[1][0] < efficiency["effective_from_ns"] else ""
