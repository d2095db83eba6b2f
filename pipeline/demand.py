"""The demand of captures: what the workload asked for, whatever the kernel decided."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hindsight.errors import ConfigurationError
from hindsight.pipeline.dataset import Capture, read_tables
from hindsight.pipeline.parallel import each
from hindsight.subsystems.contract import Columns, Subsystem

Demand = Mapping[str, Columns]


class NoDemandError(ConfigurationError):
    """A capture is readable, but holds nothing that the subsystem could replay."""


def read_demand(subsystem: Subsystem, capture: Capture) -> Demand:
    """The demand of one capture, from ``Subsystem.tables`` alone; no decision table is opened.

    Raises NoDemandError if it holds none, ConfigurationError for a damaged file.
    """
    tables = read_tables(capture, [t for t in subsystem.tables if t not in subsystem.decision_tables])
    try:
        return subsystem.demand(tables)
    except ConfigurationError as error:
        raise NoDemandError(
            f"capture {capture.id} ({capture.workload}): {error.message}", error.remedy
        ) from error


def read_demands(
    subsystem: Subsystem, captures: list[Capture]
) -> tuple[list[tuple[Capture, Demand]], dict[str, str]]:
    """The captures that hold demand, and why the others don't (capture -> reason).

    Raises NoDemandError if no capture holds any.
    """

    def one(capture: Capture) -> Demand | NoDemandError:
        try:
            return read_demand(subsystem, capture)
        except NoDemandError as error:
            return error

    found: list[tuple[Capture, Demand]] = []
    without: dict[str, NoDemandError] = {}
    for capture, result in zip(captures, each(one, captures, "read the demand"), strict=True):
        if isinstance(result, NoDemandError):
            without[capture.id] = result
        else:
            found.append((capture, result))
    if not found:
        raise next(iter(without.values()))
    return found, {capture: error.message for capture, error in without.items()}


def dominant(streams: Columns, column: str) -> str:
    """The value of a column (``device``, ``program``) that the eligible streams spent most recorded time on.

    "" if no stream is eligible; ties go to the first in the alphabet.
    """
    eligible = np.asarray(streams["eligible"], bool)
    spent: dict[str, int] = {}
    for name, time in zip(streams[column][eligible], streams["recorded_ns"][eligible], strict=True):
        spent[str(name)] = spent.get(str(name), 0) + int(time)
    return min(spent, key=lambda name: (-spent[name], name), default="")


def exclusions(subsystem: Subsystem, streams: Columns) -> dict[str, dict[str, int]]:
    """Streams without a verdict: reason -> {"streams": how many, "recorded_ns": their recorded time}."""
    excluded: dict[str, dict[str, int]] = {}
    rows: Any = zip(streams["eligible"], streams["reason"], streams["recorded_ns"], strict=True)
    for eligible, reason, time in rows:
        if not eligible:
            entry = excluded.setdefault(subsystem.reasons[int(reason)], {"streams": 0, "recorded_ns": 0})
            entry["streams"] += 1
            entry["recorded_ns"] += int(time)
    return dict(sorted(excluded.items()))
