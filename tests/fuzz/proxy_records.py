"""The records of a proxy: sound documents, damaged in their text, in their bytes or in their structure.

Oracles: what is accepted says what :mod:`json` reads in the same bytes, and a plain check of the contract,
written apart from the parser, accepts exactly the same; a part is also held against jsonschema with the
published schema.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from typing import Any

import jsonschema
import mutation
from segment_files import traced_peak
from target import Failed, source

from hindsight.capture.proxy import parsing
from hindsight.capture.proxy.errors import NewerSchema, Oversized
from hindsight.errors import HindsightError

SNAPSHOT: dict[str, Any] = {
    "schema": 1, "proxy": "blockdev:sda", "subsystem": "blockdev",
    "boot_id": "01234567-89ab-cdef-0123-456789abcdef", "sequence": 17, "mono_ns": 10**12, "mode": "learning",
    "dataset": {"type": "structure", "state": "clean", "offset": 0, "size": 4096},
    "state": {"read_ios": 5, "balance": -7, "a.b:c-d": 0},
    "actuators": [{"name": "read_ahead_kb", "current": 128, "min": 0, "max": 4096, "scope": "device"},
                  {"name": "depth", "current": 1, "min": 1, "max": 2, "scope": "host"}],
    "lost": {"events": 2},
}  # fmt: skip
OTHERS: dict[str, dict[str, Any]] = {
    "recommendation": {"schema": 1, "id": "r-1", "proxy": "p", "sequence": 17, "actuator": "read_ahead_kb",
                       "target": "", "value": 512, "ttl_ns": 10**9, "confidence_ppm": 900000, "model": "m.1"},
    "answer": {"schema": 1, "id": "r-1", "mono_ns": 5, "verdict": "clamped", "used": 256, "read_back": 256,
               "reason": None},
    "efficiency": {"schema": 1, "id": "r-1", "metric": "stall", "unit": "ns",
                   "baseline": {"from_ns": 1, "to_ns": 2, "n": 3, "total": 4},
                   "treated": {"from_ns": 2, "to_ns": 3, "n": 3, "total": -4}, "noise_ppm": 5,
                   "verdict": "better", "effective_from_ns": 9},
}  # fmt: skip
WORDS = (
    "{", "}", "[", "]", ",", ":", '"', "null", "true", "1.0", "NaN", "-", "1e3", "\\u0000", "\\ud800", "\\n",
    " ",     '"state"', '"lost"', '"schema"', '"schema":2,', '"max"', '"learning"', '"empty"', "9" * 19,
    "[" * 100, '{"a":' * 100, "",
)  # fmt: skip
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,63}")
_WORDS = {
    "mode": ["unknown", "emergency", "learning", "collaboration", "recommendation"],
    "type": ["empty", "value", "structure", "stream"],
    "state": [
        "allocated",
        "clean",
        "extracted_partially",
        "extracted_completely",
        "obsolete",
        "extraction_failure",
        "corrupted",
    ],
}
_READERS = {
    "snapshot": parsing.snapshot,
    "recommendation": parsing.recommendation,
    "answer": parsing.answer,
    "efficiency": parsing.efficiency,
}
MOST = {"snapshot": 65536}


class _Refused(ValueError):
    pass


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise _Refused
    return dict(pairs)


def _no(_: str) -> None:
    raise _Refused


def number(value: Any, low: int = 0, high: int = 2**63 - 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def signed(value: Any) -> bool:
    return number(value, -(2**63))


def named(value: Any) -> bool:
    return isinstance(value, str) and bool(_NAME.fullmatch(value))


def sound(value: Any) -> bool:
    """The contract of a snapshot, once more, plainly."""
    if not isinstance(value, dict) or set(value) != set(SNAPSHOT):
        return False
    dataset, state, lost, actuators = (value[k] for k in ("dataset", "state", "lost", "actuators"))
    return (
        number(value["schema"], 1, 1)
        and named(value["proxy"])
        and named(value["subsystem"])
        and isinstance(value["boot_id"], str)
        and bool(re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", value["boot_id"]))
        and number(value["sequence"])
        and number(value["mono_ns"])
        and value["mode"] in _WORDS["mode"]
        and isinstance(dataset, dict)
        and set(dataset) == {"type", "state", "offset", "size"}
        and dataset["type"] in _WORDS["type"]
        and dataset["state"] in _WORDS["state"]
        and number(dataset["offset"])
        and number(dataset["size"])
        and isinstance(state, dict)
        and len(state) <= 512
        and all(named(k) and signed(v) for k, v in state.items())
        and isinstance(lost, dict)
        and len(lost) <= 64
        and all(named(k) and number(v) for k, v in lost.items())
        and isinstance(actuators, list)
        and len(actuators) <= 64
        and all(map(actuator, actuators))
        and len({a["name"] for a in actuators}) == len(actuators)
    )


def actuator(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {"name", "current", "min", "max", "scope"}
        and named(value["name"])
        and all(signed(value[name]) for name in ("current", "min", "max"))
        and value["min"] <= value["max"]
        and isinstance(value["scope"], str)
        and bool(re.fullmatch("[a-z][a-z0-9_-]{0,31}", value["scope"]))
    )


class ProxyRecords:
    """:mod:`hindsight.capture.proxy.parsing`."""

    name = "proxy records"
    cases = 300_000
    batch = 2000
    seconds = 60.0

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        schema = parsing.json_schema()
        self._schemas = {
            name: jsonschema.Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": schema["$defs"]})
            for name in _READERS
        }

    def check(self, seed: int, first: int, count: int) -> None:
        """One document for each case: three of four are snapshots."""
        for case in range(first, first + count):
            rng = source(self.name, seed, case)
            kind = "snapshot" if rng.randrange(4) else rng.choice(sorted(OTHERS))
            data = self._damage(rng, SNAPSHOT if kind == "snapshot" else OTHERS[kind])
            try:
                self._read(kind, data, case)
                if case % 500 == 1:
                    peak = traced_peak(lambda data=data, kind=kind: _READERS[kind](data))
                    assert peak <= (1 << 20) + 100 * len(data), f"{peak} bytes for {len(data)}"
            except Exception as error:
                raise Failed(case, f"{kind}: {type(error).__name__}: {error}"[:500], {kind: data}) from error

    def _damage(self, rng: random.Random, original: dict[str, Any]) -> bytes:
        text = json.dumps(original)
        how = rng.randrange(8)
        if how < 4:
            value = json.loads(text)
            mutation.structure(rng, value)
            return json.dumps(value, ensure_ascii=rng.randrange(2) == 0).encode("utf-8", "surrogatepass")
        if how < 6:
            return mutation.text(rng, text, WORDS).encode("utf-8", "surrogatepass")
        data = bytearray(text.encode())
        for _ in range(rng.choice((1, 1, 3))):
            rng.choice((*mutation.BYTES, mutation.cut))(rng, data)
            data = data or bytearray(b"\0")
        return bytes(data)

    def _read(self, kind: str, data: bytes, case: int) -> None:
        try:
            found = parsing.as_json(_READERS[kind](data))
        except HindsightError as error:
            assert error.remedy and len(str(error)) < 500
            self.seen[f"{type(error).__name__}"] += 1
            self._rightly_refused(kind, data, error, case)
            return
        self.seen["accepted"] += 1
        value = json.loads(data)
        assert found == value and len(data) <= MOST.get(kind, 4096)
        assert kind != "snapshot" or sound(value)
        if case % 10 == 0:
            self._schemas[kind].validate(value)

    def _rightly_refused(self, kind: str, data: bytes, error: HindsightError, case: int) -> None:
        if isinstance(error, Oversized):
            assert len(data) > MOST.get(kind, 4096)
            return
        try:
            value = json.loads(data.decode(), object_pairs_hook=_pairs, parse_float=_no, parse_constant=_no)
        except (ValueError, RecursionError):
            return
        if isinstance(error, NewerSchema):
            assert isinstance(value, dict) and number(value["schema"], 2, 10**20)
            return
        if kind == "snapshot":
            assert not sound(value), "a sound snapshot was refused"
        elif case % 10 == 0 and self._schemas[kind].is_valid(value):
            assert "has" in error.message or "ends before" in error.message, error.message
