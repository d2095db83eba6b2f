"""Events in stretches, in any disorder, cut into any slices, against Python's own sort."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hindsight.capture.conversion import stream
from hindsight.capture.conversion.columns import Layout, Rows
from hindsight.capture.conversion.decode import LATEST
from hindsight.capture.conversion.events import Kind, foreign_kind
from hindsight.capture.conversion.scratch import Scratch
from hindsight.capture.conversion.stream import StreamedTrace, Unsuited
from hindsight.capture.conversion.stretches import (
    SIZE,
    STRETCH_ROWS,
    Sorting,
    StretchColumns,
    Views,
    store_events,
)
from hindsight.capture.conversion.workers import Workers
from hindsight.capture.formats import EventFormat, Field
from hindsight.capture.schema import EVENT_COLUMNS, Column, Table
from hindsight.errors import VerificationError

Event = tuple[int, int, int, int]
"""Time, processor, kind, a number that tells it from others."""


def field(name: str, ctype: str, offset: int, size: int, array: int = 0) -> Field:
    return Field(name, ctype, offset, size, ctype == "long", array)


COMMON = {
    "common_type": field("common_type", "unsigned short", 0, 2),
    "common_pid": field("common_pid", "int", 4, 4),
}
KINDS: list[Kind] = [
    foreign_kind(0, EventFormat("some", "wide", 5, COMMON | {"number": field("number", "u64", 8, 8)})),
    foreign_kind(
        1,
        EventFormat(
            "some",
            "texts",
            9,
            COMMON
            | {
                "small": field("small", "unsigned char", 9, 1),
                "number": field("number", "unsigned int", 12, 4),
                "rest": field("rest", "char", 16, 0, -1),
            },
        ),
    ),
    foreign_kind(2, EventFormat("some", "bare", 7, COMMON)),
]


def payload(event: Event) -> bytes:
    _, _, kind, number = event
    common = KINDS[kind].format.id.to_bytes(2, "little") + bytes(2) + (number % 1000).to_bytes(4, "little")
    if kind == 0:
        return common + number.to_bytes(8, "little")
    if kind == 1:
        text = (f"{number}-" * (number % 5)).encode()
        return (common + bytes([0, number % 256, 0, 0]) + number.to_bytes(4, "little") + text).ljust(
            16 + len(text) // 4 * 4 + 4, b"\0"
        )
    return common


class Feed:
    """Stores events in the order given, so many at once; ``bounds``: of the time that was not reached."""

    def __init__(self, columns: StretchColumns, events: list[Event], at_once: int) -> None:
        self._columns, self._shape, self._events = columns, columns.own(), events
        self._at_once = at_once
        self._sorting = Sorting.room(len(KINDS))
        self.room = columns.room(sum(len(payload(e)) + 4 for e in events[:]) + 64, 4)
        self._done = 0
        self._bound()

    def _bound(self) -> None:
        left = self._events[self._done :]
        self.bound = min(event[0] for event in left) if left else LATEST

    def read(self, views: Views, begin: int) -> np.ndarray:
        some = self._events[self._done : self._done + self._at_once]
        self._done += len(some)
        words, at = bytearray(), []
        for event in some:
            raw = payload(event)
            words += len(raw).to_bytes(4, "little") + raw
            at.append(len(words) // 4 - len(raw) // 4)
        where, ts = np.array(at, np.uint32), np.array([e[0] for e in some], np.int64)
        kinds = np.array([e[2] for e in some], np.uint16)
        stretches, state = np.empty((len(some), SIZE + 1), np.int64), np.array([begin, 0])
        data = np.frombuffer(bytes(words), "<u4").copy()
        for first, stop, cpu in runs(some):
            store_events(
                data, where, 0, ts, kinds, np.uint64(first), np.uint64(stop), cpu, self._sorting, self._shape,
                views, stretches, state,
            )  # fmt: skip
        assert state[0] - begin <= self.room
        self._columns.check(self._shape.lost)
        self._bound()
        return stretches[: int(state[1])]


def runs(events: list[Event]) -> Iterator[tuple[int, int, int]]:
    first = 0
    for n in range(1, len(events) + 1):
        if n == len(events) or events[n][1] != events[first][1] or n - first == STRETCH_ROWS:
            yield first, n, events[first][1]
            first = n


def streamed(feeds: list[Feed], columns: StretchColumns) -> StreamedTrace:
    return StreamedTrace("some", KINDS, columns, feeds, dict, list)


def rows(
    trace: StreamedTrace, slice_bytes: int, jobs: int = 1
) -> tuple[dict[int, list[tuple[int, ...]]], int]:
    """Of each kind: time, processor, thread, and what else it has; and the number of slices."""
    found: dict[int, list[tuple[int, ...]]] = {kind.number: [] for kind in KINDS}
    slices = 0
    with Workers(jobs) as workers:
        for part, _ in trace.slices(workers, slice_bytes):
            slices += 1
            for kind in KINDS:
                table = part.table(kind)
                assert table.rows == part.counts[kind.number]
                assert kind.table is not None
                layout = Layout(kind.format, kind.plan, Rows(kind.table.columns, table.rows, Scratch(), 0))
                # In two halves, as row groups end anywhere.
                half = table.rows // 2
                texts = [
                    table.into(layout, some, some.start) for some in (slice(0, half), slice(half, table.rows))
                ]
                columns = []
                for column in kind.table.columns:
                    if column.dtype == "str":
                        columns.append(
                            [t[column.name].values[c] for t in texts for c in t[column.name].codes]
                        )
                    else:
                        columns.append(layout.rows.numbers[column.name].tolist())
                found[kind.number] += list(zip(*columns, strict=True))
    return found, slices


def expected(events: list[Event]) -> dict[int, list[tuple[int, ...]]]:
    found: dict[int, list[tuple[int, ...]]] = {kind.number: [] for kind in KINDS}
    for event in sorted(events, key=lambda e: e[:2]):
        ts, cpu, kind, number = event
        more: tuple[object, ...] = ()
        if kind == 0:
            more = (number,)
        elif kind == 1:
            more = (number % 256, number, (f"{number}-" * (number % 5)).encode())
        found[kind].append((ts, cpu, number % 1000, *more))  # type: ignore[arg-type]
    return found


@st.composite
def disorder(draw: st.DrawFn) -> list[Event]:
    """Mostly in order of time; some times are the same, some events come late."""
    count = draw(st.integers(0, 300))
    low, high = draw(st.sampled_from([(-3, 20), (0, 2), (-1, 1)]))
    steps = draw(st.lists(st.integers(low, high), min_size=count, max_size=count))
    cpus = draw(st.integers(1, 4))
    stay = draw(st.sampled_from([1, 2, 50]))
    now, cpu, found = 1000, 0, []
    for number, step in enumerate(steps):
        now = max(now + step, 1)
        if number % stay == 0:
            cpu = draw(st.integers(0, cpus - 1))
        found.append((now, cpu, draw(st.sampled_from([0, 0, 0, 1, 2])), number))
    return found


@settings(deadline=None, max_examples=150)
@given(disorder(), st.integers(1, 120), st.sampled_from([1, 200, 2000, 1 << 20]))
def test_one_feed(events: list[Event], at_once: int, slice_bytes: int) -> None:
    columns = StretchColumns(KINDS)
    found, _ = rows(streamed([Feed(columns, events, at_once)], columns), slice_bytes)
    assert found == expected(events)


@settings(deadline=None, max_examples=100)
@given(disorder(), st.integers(1, 60), st.sampled_from([1, 500, 1 << 20]), st.integers(1, 2))
def test_a_feed_for_each_processor(events: list[Event], at_once: int, slice_bytes: int, jobs: int) -> None:
    columns = StretchColumns(KINDS)
    cpus = sorted({event[1] for event in events})
    feeds = [Feed(columns, [e for e in events if e[1] == cpu], at_once) for cpu in cpus]
    found, slices = rows(streamed(feeds, columns), slice_bytes, jobs)
    assert found == expected(events)
    assert slices >= 1


def test_slices_end_where_nothing_earlier_is_left() -> None:
    events = [(ts, ts % 3, 0, ts) for ts in range(1, 2000)]
    columns = StretchColumns(KINDS)
    found, slices = rows(streamed([Feed(columns, events, 50)], columns), 500)
    assert slices > 20 and found == expected(events)


def test_an_event_that_comes_too_late_is_unsuited() -> None:
    """A feed that said it would not."""
    events = [(10 * n, 0, 0, n) for n in range(1, 60)]
    events[50] = (15, 0, 0, 50)
    columns = StretchColumns(KINDS)

    class Wrong(Feed):
        def _bound(self) -> None:
            left = self._events[self._done :]
            self.bound = left[0][0] if left else LATEST

    with pytest.raises(Unsuited):
        rows(streamed([Wrong(columns, events, 10)], columns), 1)
    found, _ = rows(streamed([Wrong(columns, events, 10)], columns), 1 << 20)
    assert found == expected(events)


def test_more_than_can_be_held_is_unsuited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MOST_BYTES", 1)
    events = [(100 - n, 0, 0, n) for n in range(50)]
    columns = StretchColumns(KINDS)
    with pytest.raises(Unsuited):
        rows(streamed([Feed(columns, events, 10)], columns), 1)


@pytest.mark.parametrize("number, fits", [((1 << 32) - 1, True), (1 << 32, False)])
def test_a_value_that_does_not_fit_is_told(monkeypatch: pytest.MonkeyPatch, number: int, fits: bool) -> None:
    number_column = Column("number", "u32", "")
    table = Table("wide", (*EVENT_COLUMNS, number_column), "", "some/wide")
    monkeypatch.setattr(sys.modules[__name__], "KINDS", [Kind(0, KINDS[0].format, table), *KINDS[1:]])
    columns = StretchColumns(KINDS)
    trace = streamed([Feed(columns, [(1, 0, 0, 5), (2, 0, 0, number)], 9)], columns)
    if fits:
        assert rows(trace, 1)[0][0][1] == (2, 0, number % 1000, number)
    else:
        with pytest.raises(VerificationError, match="wide: values of number do not fit u32"):
            rows(trace, 1)
