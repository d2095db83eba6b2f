"""Documents of one proxy one after the other: read as if each were the only one, whatever comes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from conformance import GOLDEN, damaged
from hypothesis import given, settings
from hypothesis import strategies as st

from hindsight.capture.proxy import parsing, series
from hindsight.capture.proxy.records import SNAPSHOT
from hindsight.capture.proxy.series import Form, Series
from hindsight.capture.proxy.shapes import I64_MAX, I64_MIN, Integer, Named
from hindsight.errors import HindsightError

MOVING = ("sequence", "mono_ns", "state", "lost")


def outcome(read: Callable[[bytes], Any], data: bytes) -> Any:
    """What a document comes to: the snapshot, with the order of its names, or what is said of it."""
    try:
        found = read(data)
    except HindsightError as error:
        return type(error), error.message
    return found, list(found.state), list(found.lost)


def settled(*documents: bytes) -> Series:
    """A series that has read these, and has made the last one a form."""
    made = Series()
    for data in documents:
        made.snapshot(data)
        made.snapshot(data)
    return made


def read_by_form(made: Series, data: bytes, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a form suffices for it."""
    with monkeypatch.context() as patch:
        patch.setattr(parsing, "snapshot", lambda data: None)
        return made.snapshot(data) is not None


number = st.one_of(
    st.integers(I64_MIN, I64_MAX),
    st.integers(-3, 3),
    st.sampled_from([I64_MIN, I64_MAX, 10**18, I64_MAX + 1]),
)
name = st.sampled_from(["hits", "a1", "b.2", "c:30", "_", "x-007"])
numbers = st.dictionaries(name, number, max_size=5)
texts = st.sampled_from(
    [
        lambda document: json.dumps(document),
        lambda document: json.dumps(document, indent=1) + "\n",
        lambda document: json.dumps(document, separators=(",", ":")) + "\n",
        lambda document: json.dumps(dict(sorted(document.items()))),
        lambda document: json.dumps(document).replace('"learning"', '"\\u006cearning"'),
    ]
)


@st.composite
def documents(draw: st.DrawFn) -> list[bytes]:
    """A proxy's documents: members change now and then, numbers all the time."""
    found = []
    document = GOLDEN | {"state": draw(numbers), "lost": draw(numbers)}
    text = draw(texts)
    for _ in range(draw(st.integers(3, 8))):
        document = document | {"sequence": draw(number), "mono_ns": draw(number)}
        for member in ("state", "lost"):
            document[member] = {key: draw(number) for key in document[member]}
        match draw(st.integers(0, 9)):
            case 0:
                document["state"] = draw(numbers)
            case 1:
                text = draw(texts)
            case 2:
                document["dataset"] = document["dataset"] | {"size": draw(number)}
            case 3:
                first = document["actuators"][0] | {"current": draw(number), "max": draw(number)}
                document["actuators"] = [first, *document["actuators"][1:]]
        found.append(text(document).encode())
    return found


@given(documents())
def test_each_is_read_as_if_it_were_the_only_one(sequence: list[bytes]) -> None:
    made = Series()
    for data in sequence:
        assert outcome(made.snapshot, data) == outcome(parsing.snapshot, data)


@settings(max_examples=300)
@given(st.data())
def test_damage_to_a_document_whose_form_is_known_is_seen(data: st.DataObject) -> None:
    sound = json.dumps(GOLDEN).encode()
    made = settled(sound)
    for _ in range(10):
        at = data.draw(st.integers(0, len(sound) - 1))
        length = data.draw(st.integers(0, 3))
        with_ = data.draw(
            st.one_of(
                st.binary(max_size=3), st.text("0123456789-.eE+ \"'{}[],:\\tru", max_size=4).map(str.encode)
            )
        )
        torn = sound[:at] + with_ + sound[at + length :]
        assert outcome(made.snapshot, torn) == outcome(parsing.snapshot, torn)


def test_what_is_no_snapshot_is_none_after_one_that_is() -> None:
    for what, data in damaged():
        assert outcome(settled(json.dumps(GOLDEN).encode()).snapshot, data) == outcome(
            parsing.snapshot, data
        ), what


@pytest.mark.parametrize(
    "text",
    ["9223372036854775808", "9999999999999999999", "10000000000000000000", "007", "-07", "-0", "0", "-7",
     "1.0", "1e3", "+1", "٣", "true", "null", '"7"', " 7", "0x7",
     "9223372036854775807", "-9223372036854775809"],
)  # fmt: skip
def test_numbers_of_every_kind(text: str) -> None:
    for member, before in (("hits", "7"), ("balance", "-3"), ("sequence", "0"), ("events", "2")):
        sound = json.dumps(GOLDEN)
        changed = sound.replace(f'"{member}": {before}', f'"{member}": {text}').encode()
        assert changed != sound.encode() or text == before
        assert outcome(settled(sound.encode()).snapshot, changed) == outcome(parsing.snapshot, changed)


def test_the_third_document_is_read_by_its_form(monkeypatch: pytest.MonkeyPatch) -> None:
    def document(state: int) -> bytes:
        return json.dumps(
            GOLDEN | {"sequence": state, "state": {"hits": state, "x-007": -state - 1}}
        ).encode()

    made = Series()
    for number in (0, 1):
        assert not read_by_form(Series(), document(number), monkeypatch)
        made.snapshot(document(number))
    for number in (2, 3, I64_MAX, 0):
        assert read_by_form(made, document(number), monkeypatch)
    assert not read_by_form(made, json.dumps(GOLDEN).encode(), monkeypatch)


def test_of_documents_that_are_never_alike_few_become_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[bytes] = []

    class Counted(Form):
        def __init__(self, data: bytes, snapshot: Any) -> None:
            made.append(data)
            super().__init__(data, snapshot)

    monkeypatch.setattr(series, "Form", Counted)
    read = Series()
    for number in range(2000):
        read.snapshot(json.dumps(GOLDEN | {"proxy": f"p{number}"}).encode())
    assert 5 <= len(made) <= 12
    large = {f"{'n' * 40}{number}": number for number in range(500)}
    read, made[:] = Series(), []
    for _ in range(10):
        read.snapshot(json.dumps(GOLDEN | {"state": large}).encode())
    assert made == []


def test_the_contract_bounds_what_moves_by_sign_and_size_alone() -> None:
    """A form knows no bounds of single numbers."""
    for member in MOVING:
        shape = SNAPSHOT.members[member].shape
        integer = shape.values if isinstance(shape, Named) else shape
        assert integer in (Integer(0, I64_MAX), Integer(I64_MIN, I64_MAX))
