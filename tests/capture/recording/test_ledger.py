"""The ledger of losses, on simulated kernels: nothing is counted twice, nothing is forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from hindsight.capture.recording.ledger import Ledger, Loss

CPUS = (0, 3)
RISES = st.dictionaries(
    st.tuples(st.sampled_from(CPUS), st.sampled_from(["dropped events", "overrun", "commit overrun"])),
    st.integers(1, 1000),
    max_size=4,
)
STEP = st.one_of(
    st.tuples(st.just("look"), RISES),
    st.tuples(st.just("cut"), st.tuples(RISES, RISES)),
    st.tuples(st.sampled_from(["pause", "resume"]), st.sampled_from(["disk", "cpu"])),
    st.tuples(st.sampled_from(["shed", "restore"]), st.sampled_from(["filemap/x", "block/y"])),
)


class Kernel:
    """Counters that only rise, and a clock."""

    def __init__(self) -> None:
        self.now = 1000
        self.values = {cpu: {"dropped events": 5, "overrun": 7, "commit overrun": 0} for cpu in CPUS}
        self.lost = 0

    def tick(self) -> int:
        self.now += 10
        return self.now

    def lose(self, rises: dict[tuple[int, str], int]) -> None:
        for (cpu, counter), rise in rises.items():
            self.values[cpu][counter] += rise
            self.lost += rise

    def look(self, ledger: Ledger, name: str) -> list[Loss]:
        stats = {name: {cpu: dict(values) for cpu, values in self.values.items()}}
        return ledger.look(self.tick(), self.tick(), stats)


def play(
    steps: list[Any], overwriting: bool
) -> Iterator[tuple[int, int, list[dict[str, Any]], list[dict[str, Any]], Ledger, Kernel]]:
    """Segments as (start, end, rows, rows carried over), as the recorder would make them."""
    name = "tasks"
    kernel, ledger = Kernel(), Ledger([name] if overwriting else [])
    kernel.look(ledger, name)
    start = kernel.tick()
    ledger.resume(start)
    for kind, what in [*steps, ("cut", ({}, {}))]:
        if kind == "look":
            kernel.lose(what)
            kernel.look(ledger, name)
        elif kind == "pause":
            ledger.begin(f"paused: {what}", kernel.tick())
        elif kind == "resume":
            ledger.end(kernel.tick(), f"paused: {what}")
        elif kind == "shed":
            ledger.begin("budget shed: rate", kernel.tick(), [what])
        elif kind == "restore":
            ledger.end(kernel.tick(), None, [what])
        else:
            kernel.lose(what[0])
            kernel.look(ledger, name)
            kernel.lose(what[1])  # while the ring buffers were drained
            uncertain = kernel.look(ledger, name)
            if overwriting:
                ledger.read({name: kernel.values}, kernel.tick(), {})
            end = kernel.tick()
            rows, carried = ledger.cut(end, uncertain)
            yield start, end, rows, carried, ledger, kernel
            start = end


@given(st.lists(STEP, max_size=20), st.booleans())
@settings(max_examples=100, deadline=None)
def test_every_lost_event_is_counted_once(steps: list[Any], overwriting: bool) -> None:
    segments = list(play(steps, overwriting))
    kernel, ledger = segments[-1][5], segments[-1][4]
    counted = [row for _, _, rows, _, _, _ in segments for row in rows if row["count_upper"] is not None]
    assert ledger.lost == kernel.lost
    # The rows that the last cut leaves open have no segment to go to: the recorder ends with tracing off.
    left = sum(row["count_lower"] for row in segments[-1][3])
    assert left == 0
    assert sum(row["count_lower"] for row in counted) == kernel.lost
    assert sum(row["count_upper"] for row in counted) >= kernel.lost
    by_cause = {
        cause: sum(r["count_lower"] for r in counted if r["cause"] == cause)
        for cause in ("ring full", "ring overrun")
    }
    dropped = sum(values["dropped events"] - 5 for values in kernel.values.values())
    assert by_cause == {"ring full": dropped, "ring overrun": kernel.lost - dropped}


@given(st.lists(STEP, max_size=20), st.booleans())
@settings(max_examples=60, deadline=None)
def test_rows_are_intervals_of_their_segment(steps: list[Any], overwriting: bool) -> None:
    before: list[dict[str, Any]] = []
    for start, end, rows, carried, _, _ in play(steps, overwriting):
        for row in rows:
            assert row["from_ns"] < row["to_ns"] <= end
            assert row["count_lower"] <= (row["count_upper"] if row["count_upper"] is not None else 0)
            inherited = any(
                (r["instance"], r["cpu"], r["cause"]) == (row["instance"], row["cpu"], row["cause"])
                for r in before
            )
            # (The look at the cut is a little older than the cut.)
            assert row["from_ns"] >= start - 40 or inherited
        for row in carried:
            assert row["to_ns"] is None or row["count_lower"] == row["count_upper"] > 0
        before = carried


@given(st.lists(STEP, max_size=20))
@settings(max_examples=60, deadline=None)
def test_what_goes_on_has_no_gap_at_a_cut(steps: list[Any]) -> None:
    """The intervals of a pause, put together over the segments, are those that were asked for."""
    segments = list(play(steps, False))
    for cause in ("paused: disk", "paused: cpu"):
        pieces = [
            (row["from_ns"], row["to_ns"])
            for _, _, rows, _, _, _ in segments
            for row in rows
            if row["cause"] == cause
        ]
        joined: list[list[int]] = []
        for begin, end in pieces:
            if joined and joined[-1][1] == begin:
                joined[-1][1] = end
            else:
                joined.append([begin, end])
        opened = 0
        on = False
        for kind, what in steps:
            if kind == "pause" and f"paused: {what}" == cause and not on:
                on, opened = True, opened + 1
            elif kind == "resume" and f"paused: {what}" == cause and on:
                on = False
        assert len(joined) == opened, cause
        assert any(row["cause"] == cause for row in segments[-1][3]) == on


def test_touching_intervals_are_one() -> None:
    kernel, ledger = Kernel(), Ledger()
    kernel.look(ledger, "tasks")
    for _ in range(3):
        kernel.lose({(0, "dropped events"): 10})
        kernel.look(ledger, "tasks")
    rows, carried = ledger.cut(kernel.tick())
    assert [(row["cpu"], row["count_lower"], row["count_upper"]) for row in rows] == [(0, 30, 30)]
    assert carried == []


def test_what_was_overwritten_ends_at_the_gap() -> None:
    kernel, ledger = Kernel(), Ledger(["tasks"])
    kernel.look(ledger, "tasks")
    begin = kernel.tick()
    ledger.resume(begin)
    kernel.lose({(3, "overrun"): 99})
    kernel.look(ledger, "tasks")
    assert ledger.cut(kernel.tick())[0] == []  # not read yet: nothing is missing from what was kept
    now = kernel.tick()
    (row,) = ledger.read({"tasks": kernel.values}, now, {("tasks", 3): now - 3})
    assert (row.cpu, row.from_ns, row.to_ns, row.count_lower) == (3, begin, now - 3, 99)
    assert ledger.read({"tasks": kernel.values}, kernel.tick(), {}) == []
