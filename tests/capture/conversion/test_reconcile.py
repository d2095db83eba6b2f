"""Decoded events against the kernel's counts: nothing is missing in silence, nothing is counted twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hindsight.capture.conversion.decode import Problem
from hindsight.capture.conversion.reconcile import OVERRUN, Decoded, Row, place_missed, reconcile
from hindsight.errors import VerificationError

SEGMENT = Path("segment")


def facts(
    read: int | None = 100,
    before: int = 0,
    losses: list[dict[str, Any]] | None = None,
    closed: str = "end",
    entries: int = 0,
) -> dict[str, Any]:
    """One instance with one CPU, recorded from 1000 to 2000 ns."""
    after = None if read is None else {"read events": read, "entries": entries}
    return {
        "closed": closed,
        "losses": losses or [],
        "instances": {
            "tasks": {
                "source": "ftrace",
                "stats_before": {"0": {"read events": before}},
                "stats_after": {"0": after},
            }
        },
        "tables": {"captures": [{"start_ns": 1000, "end_ns": 2000}]},
    }


def loss(lower: int, upper: int | None, cause: str, start: int = 1100, end: int = 1200, **more: Any) -> Any:
    row = {"instance": "tasks", "cpu": 0, "event": None, "from_ns": start, "to_ns": end}
    return row | {"count_lower": lower, "count_upper": upper, "cause": cause} | more


def missed(start: int, end: int, count: int | None) -> Problem:
    return Problem(start, end, count, OVERRUN, "")


def damage(start: int, end: int, count: int | None) -> Problem:
    return Problem(start, end, count, "decode error", "")


def run(known: dict[str, Any], events: int, *problems: Problem) -> list[tuple[Any, ...]]:
    rows = reconcile(SEGMENT, known, [Decoded("tasks", 0, events, problems)])
    return [
        (r["cause"], r["from_ns"], r["to_ns"], r["count_lower"], r["count_upper"], r["cpu"]) for r in rows
    ]


def test_all_that_was_read_is_there() -> None:
    assert run(facts(), 100) == []
    assert run(facts(150, before=50), 100) == []


def test_facts_are_passed_on() -> None:
    rows = [
        loss(5, 5, "ring full"),
        loss(0, None, "paused: disk", instance=None, cpu=None, start=1300, end=1400),
        loss(0, None, "budget shed: rate", instance="tasks", cpu=None, event="a/b", start=1500, end=1600),
    ]
    found = reconcile(SEGMENT, facts(losses=rows), [Decoded("tasks", 0, 100)])
    assert found == [{k: v for k, v in row.items() if k != "instance"} for row in rows]


@pytest.mark.parametrize("count", [40, None])
def test_missed_before_the_first_page(count: int | None) -> None:
    """Nothing but the counters says when it began: an instant would hide the gap before it."""
    known = facts(losses=[loss(40, 40, OVERRUN, start=1100, end=1400)])
    assert run(known, 100, missed(1350, 1350, count)) == [(OVERRUN, 1100, 1350, 40, 40, 0)]
    assert run(known, 100, missed(1300, 1350, count)) == [(OVERRUN, 1300, 1350, 40, 40, 0)]


@pytest.mark.parametrize("closed, cause", [("end", "decode error"), ("recovered", "recorder died")])
def test_what_was_read_and_is_nowhere(closed: str, cause: str) -> None:
    assert run(facts(closed=closed), 93) == [(cause, 1000, 2000, 7, 7, 0)]


def test_a_cpu_without_a_file_is_reconciled_too() -> None:
    (row,) = reconcile(SEGMENT, facts(), [])
    assert (row["count_lower"], row["cpu"]) == (100, 0)


def test_counters_that_a_power_loss_took() -> None:
    rows = [loss(0, None, "truncated")]
    assert run(facts(None, losses=rows, closed="recovered"), 93) == [("truncated", 1100, 1200, 0, None, 0)]
    assert run(facts(None), 93, damage(5, 6, None)) == [("decode error", 5, 6, 0, None, 0)]


def test_more_than_the_kernel_counted() -> None:
    with pytest.raises(VerificationError, match="101 events decoded, 100 counted"):
        run(facts(), 101)
    assert run(facts(), 101, damage(5, 6, 1)) == [("decode error", 5, 6, 1, 1, 0)]


def test_damage_is_counted_by_what_lacks() -> None:
    assert run(facts(), 90, damage(1100, 1200, 10)) == [("decode error", 1100, 1200, 10, 10, 0)]
    assert run(facts(), 90, damage(1100, 1200, None)) == [("decode error", 1100, 1200, 10, 10, 0)]
    assert run(facts(), 90, damage(1100, 1200, 3), damage(1300, 1400, None), damage(1500, 1600, None)) == [
        ("decode error", 1100, 1200, 3, 3, 0),
        ("decode error", 1300, 1600, 7, 7, 0),
    ]


def test_what_is_left_in_a_ring_buffer_at_the_end() -> None:
    assert run(facts(entries=4), 100) == [("ring full", 2000, 2000, 4, 4, 0)]
    assert run(facts(entries=4, closed="rotation"), 100) == []  # the next segment reads it


def test_flagged_pages_place_the_counters_loss() -> None:
    known = facts(losses=[loss(30, 30, OVERRUN, 1000, 1900)])
    assert run(known, 100, missed(1100, 1110, 10), missed(1500, 1520, 20)) == [
        (OVERRUN, 1100, 1110, 10, 10, 0),
        (OVERRUN, 1500, 1520, 20, 20, 0),
    ]
    assert run(known, 100, missed(1100, 1110, 10)) == [
        (OVERRUN, 1000, 1900, 20, 20, 0),
        (OVERRUN, 1100, 1110, 10, 10, 0),
    ]


def test_a_flag_is_taken_from_the_interval_that_it_is_in() -> None:
    known = facts(losses=[loss(30, 30, OVERRUN, 1000, 1100), loss(20, 20, OVERRUN, 1500, 1600)])
    assert run(known, 100, missed(1550, 1560, 20)) == [
        (OVERRUN, 1000, 1100, 30, 30, 0),
        (OVERRUN, 1550, 1560, 20, 20, 0),
    ]


def test_a_flag_without_a_number() -> None:
    known = facts(losses=[loss(30, 30, OVERRUN, 1000, 1900)])
    assert run(known, 100, missed(1100, 1110, 10), missed(1500, 1520, None)) == [
        (OVERRUN, 1100, 1110, 10, 10, 0),
        (OVERRUN, 1500, 1520, 20, 20, 0),
    ]
    two = run(known, 100, missed(1100, 1110, None), missed(1500, 1520, None))
    assert two == [(OVERRUN, 1000, 1900, 30, 30, 0)]
    assert run(facts(), 100, missed(1500, 1520, None)) == [(OVERRUN, 1500, 1520, 0, None, 0)]


def test_what_may_belong_to_the_next_segment_stays_uncertain() -> None:
    known = facts(losses=[loss(0, 30, OVERRUN, 1900, 2000)], closed="rotation")
    assert run(known, 100, missed(1950, 1960, 30)) == [(OVERRUN, 1950, 1960, 0, 30, 0)]
    assert run(known, 100, missed(1950, 1960, 10)) == [
        (OVERRUN, 1900, 2000, 0, 20, 0),
        (OVERRUN, 1950, 1960, 0, 10, 0),
    ]


def test_losses_of_other_causes_are_not_touched_by_flags() -> None:
    known = facts(losses=[loss(30, 30, "ring full", 1000, 1900)])
    assert run(known, 100, missed(1100, 1110, 10)) == [
        ("ring full", 1000, 1900, 30, 30, 0),
        (OVERRUN, 1100, 1110, 10, 10, 0),
    ]


interval = st.tuples(st.integers(1000, 2000), st.integers(0, 100)).map(lambda t: (t[0], t[0] + t[1]))


@given(
    counted=st.lists(st.tuples(interval, st.integers(1, 50)), max_size=6),
    shares=st.lists(st.tuples(interval, st.integers(1, 40) | st.none()), max_size=8),
)
def test_nothing_is_counted_twice(counted: list[Any], shares: list[Any]) -> None:
    """Flags are part of the counters: whatever is flagged, at most what was counted is reported."""
    total = sum(count for _, count in counted)
    flagged, rest = [], total
    for (start, end), count in shares:
        if count is None:
            flagged.append(missed(start, end, None))
        elif count <= rest:
            flagged.append(missed(start, end, count))
            rest -= count
    rows = [Row(0, None, a, b, count, count, OVERRUN) for (a, b), count in counted]
    placed = place_missed(rows, flagged)
    assert sum(row.lower for row in placed) == total
    for problem in flagged:
        if problem.count:
            here = [
                row for row in placed
                if row.to_ns == problem.to_ns
                and (
                    row.from_ns == problem.from_ns
                    # When the first page of a file began to be missed only the counters say.
                    or (problem.from_ns == problem.to_ns and row.from_ns < problem.from_ns)
                )
            ]  # fmt: skip
            assert sum(row.lower for row in here) >= problem.count


@given(
    losses=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    cut=st.data(),
)
def test_segments_of_a_capture_add_up(losses: list[int], cut: st.DataObject) -> None:
    """A ring buffer that overwrites, looked at every 100 ns, cut once between two looks: whatever part of
    the last interval's loss the first segment's pages flag, the sum over both segments is the kernel's count.
    """
    at = cut.draw(st.integers(0, len(losses) - 1))
    part = cut.draw(st.integers(0, losses[at]))
    rows = [Row(0, None, 100 * n, 100 * n + 100, count, count, OVERRUN) for n, count in enumerate(losses)]
    first, second = [*rows[:at], replace(rows[at], lower=0)], rows[at:]
    flags = [missed(100 * n + 10, 100 * n + 20, count) for n, count in enumerate(losses)]
    here = [missed(100 * at + 10, 100 * at + 15, part)] if part else []
    there = [missed(100 * at + 15, 100 * at + 20, losses[at] - part)] if losses[at] > part else []
    found = place_missed(first, flags[:at] + here) + place_missed(second, there + flags[at + 1 :])
    assert sum(row.lower for row in found) == sum(losses)
    assert all(row.upper is not None and row.upper >= row.lower for row in found)
