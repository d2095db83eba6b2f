"""The result of measuring how late advice is: delays.parquet, summary.json, and the lines for a terminal."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hindsight.errors import UsageError
from hindsight.pipeline.store import write_columns, write_json

DELAYS, SUMMARY = "delays.parquet", "summary.json"
"""The files of a result."""

PERCENTS = tuple(range(5, 100, 10))
"""The quantiles of a summary: each stands for a tenth of the delays, by its middle."""

PARTS = ("woke_ns", "decoded_ns", "decided_ns", "acted_ns")
"""Of a delay, in order; their sum is the delay."""


@dataclass(frozen=True)
class Piece:
    """One piece of advice: how many events it rests on, and when (CLOCK_MONOTONIC, ns) the oldest and the
    newest of them happened, the advisor woke, had decoded them, had decided, and had acted; processor time of
    its thread (ns) for deciding and for acting."""

    events: int
    oldest: int
    newest: int
    awake: int
    decoded: int
    decided: int
    acted: int
    decision_cpu_ns: int
    acting_cpu_ns: int

    @property
    def delay_ns(self) -> int:
        """From the newest event until the advice is in force."""
        return self.acted - self.newest

    @property
    def oldest_delay_ns(self) -> int:
        """From the oldest event that no earlier advice rests on."""
        return self.acted - self.oldest

    @property
    def parts(self) -> tuple[int, int, int, int]:
        """As :data:`PARTS`. An event may come when the advisor is awake already: then the first part is 0."""
        awake = max(self.awake, self.newest)
        return (
            awake - self.newest, self.decoded - awake, self.decided - self.decoded, self.acted - self.decided,
        )  # fmt: skip


@dataclass
class Capturing:
    """What it took to wait for events, take and decode them: processor time of the advisor's thread, ns."""

    events: int = 0
    wakeups: int = 0
    elapsed_ns: int = 0
    cpu_ns: int = 0

    def add(self, events: int, wakeups: int, elapsed_ns: int, cpu_ns: int) -> None:
        """Add what another stretch of the loop took."""
        self.events += events
        self.wakeups += wakeups
        self.elapsed_ns += elapsed_ns
        self.cpu_ns += cpu_ns

    def facts(self) -> dict[str, int]:
        """As the summary keeps it."""
        return {
            "events": self.events,
            "events_per_second": self.events * 1_000_000_000 // max(self.elapsed_ns, 1),
            "wakeups": self.wakeups,
            "cpu_per_event_ns": self.cpu_ns // max(self.events, 1),
            "cpu_per_wakeup_ns": self.cpu_ns // max(self.wakeups, 1),
        }


@dataclass(frozen=True)
class Condition:
    """All pieces of advice of one condition; ``pressure``: time in which some task of the machine waited for
    a processor, 1/1000."""

    name: str
    pieces: Sequence[Piece]
    capturing: Capturing = field(default_factory=Capturing)
    pressure: int = 0


def quantile(values: Sequence[int], percent: int) -> int:
    """The smallest of the values that at least ``percent`` % of them do not exceed (nearest rank).

    Whole numbers throughout, so that no rounding decides. Raises UsageError if there is no value.
    """
    if not values:
        raise UsageError("there are no quantiles of nothing")
    return sorted(values)[max(-(-percent * len(values) // 100) - 1, 0)]


def _spread(values: Sequence[int]) -> dict[str, Any]:
    return {
        "count": len(values),
        "quantiles_ns": [quantile(values, percent) for percent in PERCENTS],
        "maximum_ns": max(values),
    }


def _cost(values: Sequence[int]) -> dict[str, int]:
    return {"mean_ns": sum(values) // len(values), "median_ns": quantile(values, 50)}


def delays(pieces: Sequence[Piece]) -> dict[str, Any]:
    """Quantiles of the delays, of the delays from the oldest event on, and the median of every part."""
    columns = zip(PARTS, zip(*(piece.parts for piece in pieces), strict=True), strict=True)
    return _spread([piece.delay_ns for piece in pieces]) | {
        "from_oldest_event": _spread([piece.oldest_delay_ns for piece in pieces]),
        "parts_median_ns": {name: quantile(part, 50) for name, part in columns},
    }


def costs(pieces: Sequence[Piece], capturing: Capturing) -> dict[str, Any]:
    """Processor time of a decision, of acting, and of what the loop took besides."""
    return {
        "decision": _cost([piece.decision_cpu_ns for piece in pieces]),
        "acting": _cost([piece.acting_cpu_ns for piece in pieces]),
        "capture": capturing.facts(),
    }


def summary(model: Mapping[str, Any], conditions: Sequence[Condition], rate: Capturing) -> dict[str, Any]:
    """The measurement as JSON; ``rate``: of a program that reads without a pause."""
    every = [piece for condition in conditions for piece in condition.pieces]
    both = Capturing()
    for condition in conditions:
        one = condition.capturing
        both.add(one.events, one.wakeups, one.elapsed_ns, one.cpu_ns)
    return {
        "kernel": os.uname().release,
        "processors": os.cpu_count(),
        "model": dict(model),
        "percents": list(PERCENTS),
        "conditions": {
            condition.name: delays(condition.pieces)
            | {
                "costs": costs(condition.pieces, condition.capturing),
                "processor_pressure_permille": condition.pressure,
            }
            for condition in conditions
        },
        "together": delays(every) | {"costs": costs(every, both)},
        "capture_without_pause": rate.facts(),
    }


def columns(conditions: Sequence[Condition]) -> dict[str, np.ndarray]:
    """One row per piece of advice, in order: condition, delay_ns, its parts, events, oldest_delay_ns, and the
    processor time of deciding and acting; i64 but the first."""
    rows = [
        (
            piece.delay_ns, *piece.parts, piece.events, piece.oldest_delay_ns, piece.decision_cpu_ns,
            piece.acting_cpu_ns,
        )
        for condition in conditions
        for piece in condition.pieces
    ]  # fmt: skip
    names = ("delay_ns", *PARTS, "events", "oldest_delay_ns", "decision_cpu_ns", "acting_cpu_ns")
    table = np.array(rows, np.int64).reshape(-1, len(names))
    named = [condition.name for condition in conditions for _ in condition.pieces]
    return {"condition": np.array(named, object)} | {n: table[:, k].copy() for k, n in enumerate(names)}


def write_result(
    output: Path, model: Mapping[str, Any], conditions: Sequence[Condition], rate: Capturing
) -> dict[str, Any]:
    """Write delays.parquet and summary.json below ``output``; returns the summary."""
    result = summary(model, conditions, rate)
    write_columns(output / DELAYS, columns(conditions))
    write_json(output / SUMMARY, result)
    return result


def _captured(capture: Mapping[str, int]) -> list[str]:
    each = [_micro(capture[key]) for key in ("cpu_per_wakeup_ns", "cpu_per_event_ns")]
    return [*each, f"{capture['events_per_second']:,}"]


def _micro(ns: int) -> str:
    return f"{ns / 1000:,.1f}"


def terminal(result: Mapping[str, Any]) -> str:
    """The summary for people."""
    from hindsight.pipeline.table import render

    shown = [PERCENTS.index(percent) for percent in (5, 45, 95)]
    rows, spent = [], []
    for name, one in (*result["conditions"].items(), ("together", result["together"])):
        quantiles = [one["quantiles_ns"][k] for k in shown]
        parts = [one["parts_median_ns"][part] for part in PARTS]
        rows.append([name, str(one["count"]), *map(_micro, (*quantiles, one["maximum_ns"], *parts))])
        cost = one["costs"]
        means = [_micro(cost[what]["mean_ns"]) for what in ("decision", "acting")]
        spent.append([name, *means, *_captured(cost["capture"])])
    spent.append(["no pause", "–", "–", *_captured(result["capture_without_pause"])])
    header = ["delay, µs", "advice", "5 %", "45 %", "95 %", "most", "woke", "decoded", "decided", "acted"]
    costs_header = ["processor, µs", "decision", "acting", "a wake-up", "an event", "events/s"]
    return render(header, rows, 1) + "\n\n" + render(costs_header, spent, 1)
