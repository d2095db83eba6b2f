"""Hold what was decoded against what the kernel counted, and make the rows of the table ``losses``.

Of each CPU of each instance, when it was closed and its counters are known::

    rows decoded + lost in pages = events that the kernel says were read

and the facts of the segment hold what was never read (:mod:`hindsight.capture.recording.ledger`), so that at
the end of a recording decoded + sum of ``count_lower`` = what the kernel counted, exactly. What a page itself
flags as missed is placed where it happened, and taken out of the facts' interval of the same loss: nothing
is counted twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hindsight.capture.conversion.decode import Problem
from hindsight.capture.options import PERF
from hindsight.errors import VerificationError

OVERRUN = "ring overrun"
DECODE = "decode error"
DIED = "recorder died"
RING_FULL = "ring full"
UNSAMPLED = "perf source: counted, not sampled"
"""perf counts some events of idle processors and writes no sample of them (docs/perf-source.md)."""


@dataclass(frozen=True)
class Row:
    """A row of ``losses``; times in ns; ``upper`` None = unknown; ``cpu`` and ``event`` None = all."""

    cpu: int | None
    event: str | None
    from_ns: int
    to_ns: int
    lower: int
    upper: int | None
    cause: str

    def as_dict(self) -> dict[str, Any]:
        """By column."""
        return {
            "cpu": self.cpu,
            "event": self.event,
            "from_ns": self.from_ns,
            "to_ns": self.to_ns,
            "count_lower": self.lower,
            "count_upper": self.upper,
            "cause": self.cause,
        }


@dataclass(frozen=True)
class Decoded:
    """What the raw trace of one CPU held: events that became rows, and the places where some are missing."""

    instance: str
    cpu: int
    events: int
    problems: tuple[Problem, ...] = ()


def reconcile(path: Path, facts: Mapping[str, Any], decoded: list[Decoded]) -> list[dict[str, Any]]:
    """The rows of ``losses`` of the segment ``path``, sorted.

    Raises VerificationError when there are more events than the kernel counted and no damage explains it.
    """
    counted: dict[tuple[str | None, int | None], list[Row]] = {}
    for row in facts["losses"]:
        counted.setdefault((row["instance"], row["cpu"]), []).append(
            Row(
                row["cpu"], row["event"], row["from_ns"], row["to_ns"],
                row["count_lower"], row["count_upper"], row["cause"],
            )
        )  # fmt: skip
    found = {(d.instance, d.cpu): d for d in decoded}
    for name, instance in facts["instances"].items():
        for cpu in map(int, instance["stats_after"]):
            found.setdefault((name, cpu), Decoded(name, cpu, 0))
    rows: list[Row] = []
    for (name, cpu), one in sorted(found.items()):
        flagged = [p for p in one.problems if p.cause == OVERRUN]
        rows += [replace(row, cpu=cpu) for row in place_missed(counted.pop((name, cpu), []), flagged)]
        rows += _read_but_absent(path, facts, one)
    for rest in counted.values():
        rows += rest
    rows.sort(key=_order)
    return [row.as_dict() for row in rows]


def _order(row: Row) -> tuple[int, int, str, str, int, int]:
    return row.from_ns, -1 if row.cpu is None else row.cpu, row.event or "", row.cause, row.to_ns, row.lower


def place_missed(rows: list[Row], flagged: list[Problem]) -> list[Row]:
    """Losses of one CPU as the counters tell them, made more exact by what the pages flag.

    ``flagged`` are missed events between two pages; their counts are part of the kernel's overrun counter.
    They are taken out of the intervals of ``rows`` that overlap them, else out of any, first where the count
    is certain. Where it may belong to the next segment, which then has it in full, it stays uncertain.
    """
    left = list(rows)
    placed: list[Row] = []
    unknown: list[Problem] = []
    for problem in flagged:
        if problem.count is None:
            unknown.append(problem)
            continue
        rest = problem.count
        for number in _nearest(left, problem):
            row = left[number]
            taken = min(rest, row.lower or row.upper or 0)
            if taken:
                # Of a row without a lower count the next segment has the count: it stays possible here.
                placed.append(_at(problem, taken if row.lower else 0, taken, row))
                left[number] = _without(row, taken)
                rest -= taken
        if rest:  # the kernel flags more than its counters say since they were first looked at
            placed.append(_at(problem, rest, rest))
    left = [row for row in left if row.cause != OVERRUN or row.upper != 0]
    residual = [row for row in left if row.cause == OVERRUN and row.event is None]
    if len(unknown) == 1 and len(residual) == 1:
        # One place without a number, one number without a place.
        left.remove(residual[0])
        count = residual[0].lower, residual[0].upper
        placed.append(replace(_at(unknown[0], *count, residual[0]), cpu=residual[0].cpu))
    elif not residual:
        placed += [_at(problem, 0, None) for problem in unknown]
    return left + placed


def _nearest(rows: list[Row], problem: Problem) -> list[int]:
    """The rows from which a flagged loss may be taken: overlapping ones first, of these certain ones."""
    fit = [
        n
        for n, row in enumerate(rows)
        if row.cause == OVERRUN and row.event is None and (row.lower or row.upper)
    ]

    def distance(number: int) -> tuple[bool, bool, int]:
        row = rows[number]
        apart = row.from_ns > problem.to_ns or row.to_ns < problem.from_ns
        return apart, row.lower == 0, number

    return sorted(fit, key=distance)


def _without(row: Row, count: int) -> Row:
    upper = None if row.upper is None else row.upper - count
    return replace(row, lower=max(row.lower - count, 0), upper=upper)


def _at(problem: Problem, lower: int, upper: int | None, within: Row | None = None) -> Row:
    """A loss where the pages place it; ``within`` is the interval in which the counters do.

    Before the first page of a file nothing says when the loss began, but the counters.
    """
    since = problem.from_ns
    if since == problem.to_ns and within is not None:
        since = min(since, within.from_ns)
    return Row(None, None, since, problem.to_ns, lower, upper, problem.cause)


def _read_but_absent(path: Path, facts: Mapping[str, Any], decoded: Decoded) -> list[Row]:
    """Events that were read from the ring buffer, as the kernel counts, and are no rows."""
    cpu, capture = decoded.cpu, facts["tables"]["captures"][0]
    start, end = capture["start_ns"], capture["end_ns"]
    damage = [p for p in decoded.problems if p.cause != OVERRUN]
    exact = [replace(_at(p, p.count, p.count), cpu=cpu) for p in damage if p.count is not None]
    vague = [replace(_at(p, 0, None), cpu=cpu) for p in damage if p.count is None]
    instance = facts["instances"][decoded.instance]
    after = instance["stats_after"].get(str(cpu))
    if after is None:
        return exact + vague
    rows = list(exact)
    before = instance["stats_before"].get(str(cpu), {}).get("read events", 0)
    lacking = after["read events"] - before - decoded.events - sum(row.lower for row in exact)
    recovered = facts["closed"] == "recovered"
    if lacking < 0 and not damage:
        raise VerificationError(
            f"{path}: CPU {cpu} of {decoded.instance}: {decoded.events} events decoded, "
            f"{decoded.events + lacking} counted by the kernel"
        )
    if vague:
        # Together they are as many as lack, wherever each of them is.
        lower = max(lacking, 0)
        spans = [row.from_ns for row in vague], [row.to_ns for row in vague]
        rows.append(replace(vague[0], from_ns=min(spans[0]), to_ns=max(spans[1]), lower=lower, upper=lower))
    elif lacking > 0:
        cause = DIED if recovered else UNSAMPLED if instance["source"] == PERF else DECODE
        rows.append(Row(cpu, None, start, end, lacking, lacking, cause))
    left = after.get("entries", 0)
    if left and facts["closed"] in ("end", "recovered"):
        # They are still in a ring buffer that nobody will read.
        rows.append(Row(cpu, None, end, end, left, left, DIED if recovered else RING_FULL))
    return rows
