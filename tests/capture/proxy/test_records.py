"""The records: the published schema says what the parser does; what does not fit together is refused."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import jsonschema
import pytest
from conformance import GOLDEN, damaged, expect

from hindsight.capture.proxy import parsing
from hindsight.capture.proxy.client import Order, Quantity, typed
from hindsight.capture.proxy.errors import Malformed, NewerSchema, Oversized

RECOMMENDATION = {
    "schema": 1, "id": "r1", "proxy": "p", "sequence": 4, "actuator": "window", "target": "", "value": -5,
    "ttl_ns": 1, "confidence_ppm": 1_000_000, "model": "m",
}  # fmt: skip
ANSWER = {
    "schema": 1,
    "id": "r1",
    "mono_ns": 7,
    "verdict": "accepted",
    "used": 3,
    "read_back": 3,
    "reason": None,
}
WINDOW = {"from_ns": 1, "to_ns": 2, "n": 3, "total": 4}
EFFICIENCY = {
    "schema": 1, "id": "r1", "metric": "stall", "unit": "ns/read", "baseline": WINDOW, "treated": WINDOW,
    "noise_ppm": 20, "verdict": "same", "effective_from_ns": 0,
}  # fmt: skip
READERS: list[tuple[str, Any, dict[str, Any]]] = [
    ("snapshot", parsing.snapshot, GOLDEN),
    ("recommendation", parsing.recommendation, RECOMMENDATION),
    ("answer", parsing.answer, ANSWER),
    ("efficiency", parsing.efficiency, EFFICIENCY),
]


def schema(kind: str) -> jsonschema.Draft202012Validator:
    document = parsing.json_schema()
    jsonschema.Draft202012Validator.check_schema(document)
    return jsonschema.Draft202012Validator(document | {"$ref": f"#/$defs/{kind}"})


@pytest.mark.parametrize(("kind", "read", "document"), READERS, ids=[kind for kind, _, _ in READERS])
def test_there_and_back(kind: str, read: Any, document: dict[str, Any]) -> None:
    record = read(json.dumps(document).encode())
    assert parsing.as_json(record) == document
    line = parsing.encode(record)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert read(line) == record
    schema(kind).validate(document)


@pytest.mark.parametrize(("kind", "read", "document"), READERS, ids=[kind for kind, _, _ in READERS])
def test_each_member_is_needed_and_no_other_is_taken(kind: str, read: Any, document: dict[str, Any]) -> None:
    for name in document:
        less = {key: value for key, value in document.items() if key != name}
        expect(Malformed, lambda less=less: read(json.dumps(less).encode()))
        assert not schema(kind).is_valid(less)
    more = document | {"more": 0}
    expect(Malformed, lambda: read(json.dumps(more).encode()))
    assert not schema(kind).is_valid(more)
    expect(NewerSchema, lambda: read(json.dumps(document | {"schema": 2}).encode()))
    expect(Oversized, lambda: read(json.dumps(document).encode().ljust((64 << 10) + 1)))


def test_what_the_published_schema_refuses() -> None:
    """Of what is no snapshot, all that JSON Schema can say is said there."""
    beyond = {  # the text, not the value; or members that have to do with each other
        "empty", "torn", "trailing", "not UTF-8", "a name twice", "a fraction", "an exponent", "infinite",
        "no number", "too many digits", "deep", "min above max", "an actuator twice",
    }  # fmt: skip
    validator = schema("snapshot")
    told = 0
    for what, data in damaged():
        if what not in beyond:
            assert not validator.is_valid(json.loads(data)), what
            told += 1
    assert told >= 15


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "refused"},
        {"verdict": "refused", "used": None, "read_back": None},
        {"reason": "EBUSY"},
        {"verdict": "tested"},
        {"used": None},
        {"used": None, "read_back": None},
        {"verdict": "tested", "used": None},
    ],
    ids=str,
)
def test_an_answer_must_fit_together(change: dict[str, Any]) -> None:
    expect(Malformed, lambda: parsing.answer(json.dumps(ANSWER | change).encode()))


def test_answers_that_do() -> None:
    none = {"used": None, "read_back": None}
    for change in ({"verdict": "refused", "reason": "ESTALE"} | none, {"verdict": "tested"} | none,
                   {"verdict": "clamped", "read_back": None}):  # fmt: skip
        parsing.answer(json.dumps(ANSWER | change).encode())


def test_a_window_must_not_end_before_it_begins() -> None:
    broken = copy.deepcopy(EFFICIENCY) | {"treated": WINDOW | {"to_ns": 0}}
    expect(Malformed, lambda: parsing.efficiency(json.dumps(broken).encode()))


def test_the_largest_snapshot_fits_the_wire() -> None:
    """As many values as there may be, with usual names, are within 64 KiB."""
    rng = random.Random(1)
    state = {f"counter_of_something_{n:03}": rng.randrange(1 << 63) for n in range(512)}
    data = json.dumps(GOLDEN | {"state": state}).encode()
    assert len(data) <= 64 << 10 and len(parsing.snapshot(data).state) == 512


def test_values_have_the_dtype_of_their_quantity() -> None:
    quantities = {"hits": Quantity("hits", "u8", "", "")}
    snapshot = parsing.snapshot(json.dumps(GOLDEN).encode())
    assert typed(snapshot, quantities) is snapshot
    for value in (-1, 256):
        wrong = snapshot._replace(state={"hits": value})
        expect(Malformed, lambda wrong=wrong: typed(wrong, quantities))


def test_order_counts_gaps_and_refuses_to_go_back() -> None:
    first = parsing.snapshot(json.dumps(GOLDEN | {"sequence": 5, "mono_ns": 50}).encode())
    order = Order()
    assert order.follow(first) == 0
    assert order.follow(first) == -1
    assert order.follow(first._replace(sequence=9, mono_ns=60)) == 3
    expect(Malformed, lambda: order.follow(first._replace(sequence=8, mono_ns=70)))
    assert order.follow(first._replace(sequence=9, mono_ns=70)) == 0, "it goes on from there"
    expect(Malformed, lambda: order.follow(first._replace(sequence=10, mono_ns=1)))
    other = "11111111-89ab-cdef-0123-456789abcdef"
    assert order.follow(first._replace(boot_id=other, sequence=0, mono_ns=0)) == 0
