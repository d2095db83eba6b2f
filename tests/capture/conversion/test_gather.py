"""Fields of payloads, gathered together, against Python's own integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hindsight.capture.conversion.columns import EventTable, Layout, Rows, Source
from hindsight.capture.conversion.decode import CpuEvents
from hindsight.capture.conversion.scratch import Scratch
from hindsight.capture.formats import EventFormat, Field
from hindsight.capture.schema import Column
from hindsight.errors import VerificationError

_PAYLOAD = 16
"""Words of a payload, of which the first two are the kernel's own."""
_WIDTH = {"u8": 1, "u16": 2, "u32": 4, "u64": 8, "i8": 1, "i16": 2, "i32": 4, "i64": 8, "bool": 1}


def placed(size: int, draw: st.DrawFn) -> int:
    """Where a field of so many bytes may be: it does not cross a word unless it is two of them."""
    step = min(size, 4)
    return draw(st.integers(8 // step, (4 * _PAYLOAD - size) // step)) * step


@st.composite
def sources(draw: st.DrawFn) -> list[Source]:
    found = []
    for number in range(draw(st.integers(1, 6))):
        size = draw(st.sampled_from([1, 2, 4, 8]))
        field = Field(f"f{number}", "", placed(size, draw), size, draw(st.booleans()))
        column = Column(f"f{number}", draw(st.sampled_from(sorted(_WIDTH))), "", "")
        shift, keep = draw(st.sampled_from([(0, (1 << 64) - 1), (20, (1 << 64) - 1), (0, (1 << 20) - 1)]))
        found.append(Source(column, field, shift, keep))
    return found


def expected(payload: bytes, source: Source, cuts: bool) -> int | bool | None:
    """What the column is to hold; None when the value does not fit."""
    field, dtype = source.field, source.column.dtype
    raw = int.from_bytes(payload[field.offset : field.offset + field.size], "little", signed=field.signed)
    value = (raw % (1 << 64)) >> source.shift & source.keep
    if dtype == "bool":
        return value != 0
    bits = 8 * _WIDTH[dtype]
    held = value % (1 << bits)
    if dtype[0] == "i" and held >> (bits - 1):
        held -= 1 << bits
    return held if cuts or held % (1 << 64) == value else None


@settings(deadline=None, max_examples=300)
@given(sources(), st.binary(min_size=4 * _PAYLOAD, max_size=4 * _PAYLOAD), st.integers(1, 700), st.booleans())
def test_any_fields(plan: list[Source], seed: bytes, count: int, syscall: bool) -> None:
    kind = EventFormat("syscalls" if syscall else "some", "event", 7, {s.field.name: s.field for s in plan})
    words = np.frombuffer(seed, "<u4").repeat(count).reshape(_PAYLOAD, count).T.copy()
    words ^= np.arange(count, dtype="<u4")[:, None] % 5 * np.uint32(0x01010101)
    at = np.arange(count, dtype="<u4") * np.uint32(_PAYLOAD)
    ts = np.arange(count, dtype=np.int64)
    events = EventTable(0, kind, [CpuEvents(3, words.ravel(), np.array([0, count]), ts, at, 0, [])])
    columns = [Column("ts", "i64", "", ""), Column("cpu", "u16", "", ""), *(s.column for s in plan)]
    layout = Layout(kind, plan, Rows(columns, count + 2, Scratch(), "event"))
    rows = [row.tobytes() for row in words]
    wanted = [
        [expected(row, s, syscall or s.field.size <= _WIDTH[s.column.dtype]) for row in rows] for s in plan
    ]
    if any(value is None for values in wanted for value in values):
        with pytest.raises(VerificationError, match="do not fit"):
            events.into(layout, slice(0, count), 2)
        return
    events.into(layout, slice(0, count), 2)
    numbers = layout.rows.numbers
    assert numbers["ts"][2:].tolist() == ts.tolist() and set(numbers["cpu"][2:].tolist()) == {3}
    for source, values in zip(plan, wanted, strict=True):
        assert numbers[source.column.name][2:].tolist() == values


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("dtype", ["i64", "u64"])
def test_a_negative_number_stays_negative_in_a_wider_column(size: int, dtype: str) -> None:
    """What is only copied is not what has to be extended."""
    source = Source(Column("f", dtype, "", ""), Field("f", "", 8, size, True))
    kind = EventFormat("some", "event", 7, {"f": source.field})
    words = np.full(4, 0xFFFFFFFE, "<u4").view("u1")
    words[8 : 8 + size] = np.frombuffer((-2).to_bytes(size, "little", signed=True), "u1")
    cpus = [
        CpuEvents(0, words.view("<u4"), np.array([0, 1]), np.zeros(1, np.int64), np.zeros(1, "<u4"), 0, [])
    ]
    columns = [Column("ts", "i64", "", ""), Column("cpu", "u16", "", ""), source.column]
    layout = Layout(kind, [source], Rows(columns, 1, Scratch(), "event"))
    EventTable(0, kind, cpus).into(layout, slice(0, 1), 0)
    assert layout.rows.numbers["f"].view("<i8").tolist() == [-2]
