"""The manifest: one way to write it, and everything else refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hindsight.errors import VerificationError
from hindsight.models.manifest import (
    DAY_NS,
    canonical_json,
    parse_canonical,
    parse_manifest,
    quantise,
)

Fields = dict[str, Any]


@pytest.fixture
def document(fields: Fields) -> Fields:
    return {
        **fields,
        "format_version": 1,
        "xgboost_version": "3.2.0",
        "files": {"model.ubj": {"size": 10, "sha256": "0" * 64}},
    }


def test_a_manifest_survives_the_way_through_its_bytes(document: Fields) -> None:
    data = canonical_json(document)
    manifest = parse_manifest(parse_canonical(data))
    assert canonical_json(manifest.document()) == data
    assert manifest.features[1].high == 0.125
    assert manifest.decision.actions[1].encoding == (512.0,)
    assert manifest.row_width == 4
    assert manifest.expires_ns == 1_700_000_000_000_000_000 + 30 * DAY_NS


def test_canonical_json_is_written_one_way() -> None:
    assert canonical_json({"b": (1.0, 0.25, -0.0), "a": "µ"}) == (
        '{\n  "a": "µ",\n  "b": [\n    1,\n    0.25,\n    0\n  ]\n}\n'.encode()
    )
    one, other = {"x": 1, "y": {"p": 2, "q": 3}}, {"y": {"q": 3.0, "p": 2.0}, "x": 1.0}
    assert canonical_json(one) == canonical_json(other)


@pytest.mark.parametrize(
    "value", [0.1234567, 1 / 3, float("nan"), float("inf"), {1: 2}, {1, 2}, b"", "\ud800"]
)
def test_what_has_no_canonical_form_is_refused(value: Any) -> None:
    with pytest.raises(VerificationError):
        canonical_json({"value": value})


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300))
def test_quantised_numbers_stay_as_they_are(value: float) -> None:
    once = quantise(value)
    assert quantise(once) == once
    assert abs(once - value) <= abs(value) * 5.1e-6
    assert parse_canonical(canonical_json({"value": once})) == {"value": once}


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-1],
        lambda data: data + b"\n",
        lambda data: data + b"{}",
        lambda data: data.replace(b"  ", b"\t"),
        lambda data: data.replace(b'"mode": "learning"', b'"mode": "learning",\n  "mode": "learning"'),
        lambda data: data.replace(b'"minimum_gain": 0.05', b'"minimum_gain": 0.050'),
        lambda data: data.replace(b'"minimum_gain": 0.05', b'"minimum_gain": NaN'),
        lambda data: data.replace(b'"minimum_gain": 0.05', b'"minimum_gain": ' + b"1" * 5000),
        lambda data: data.replace(b"\xc2\xb5", b"\\u00b5"),
        lambda data: data.decode().encode("utf-16"),
        lambda data: b"[" * 100_000,
        lambda data: b"[" * 400 + b"]" * 400,
        lambda data: b"[]\n",
        lambda data: b"",
    ],
)
def test_other_spellings_are_refused(document: Fields, change: Callable[[bytes], bytes]) -> None:
    data = canonical_json(document)
    assert change(data) != data
    with pytest.raises(VerificationError):
        parse_canonical(change(data))


def _set(path: str, value: Any) -> Callable[[Fields], None]:
    def change(document: Fields) -> None:
        *way, last = path.split(".")
        place: Any = document
        for step in way:
            place = place[int(step) if step.isdigit() else step]
        place[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (_set("format_version", 2), "format version"),
        (_set("format_version", True), "format version"),
        (_set("extra", 1), "unknown fields: 'extra'"),
        (_set("name", "../x"), r"\$.name"),
        (_set("name", 5), r"\$.name"),
        (_set("version", "1.0\n"), r"\$.version"),
        (_set("mode", "always"), "none of"),
        (_set("features", []), r"\$.features"),
        (_set("features", "reads"), r"\$.features"),
        (_set("features.0.dtype", "float64"), "float32"),
        (_set("features.0.low", 2e6), r"features\[0\]"),
        (_set("features.0.high", "9"), r"features\[0\]"),
        (_set("features.0.high", True), r"features\[0\]"),
        (_set("features.0.high", 1e300), r"features\[0\]"),
        (_set("features.1.name", "reads"), "twice"),
        (_set("features.0.unit", "\x1b[2J"), "printable"),
        (_set("decision.actions", []), "no action"),
        (_set("decision.keep_encoding", [1, 2]), "different lengths"),
        (_set("decision.actions.1.name", "small"), "twice"),
        (_set("decision.minimum_gain", None), "minimum_gain"),
        (_set("bounds.pages", [5, 4]), r"bounds.pages"),
        (_set("inputs.data", "xyz"), r"inputs.data"),
        (_set("files.a/b", {"size": 1, "sha256": "0" * 64}), "files"),
        (lambda document: document["files"].update({".hidden": document["files"]["model.ubj"]}), "files"),
        (_set("files.model", {"size": -1, "sha256": "0" * 64}), "size"),
        (_set("expiry.valid_days", 0), "valid_days"),
        (_set("expiry.newest_data_ns", 1.5), "newest_data_ns"),
        (lambda document: document.pop("expiry"), "lacks expiry"),
        (lambda document: document["expiry"].pop("valid_days"), "lacks valid_days"),
    ],
)
def test_malformed_fields_are_refused_by_name(
    document: Fields, change: Callable[[Fields], object], where: str
) -> None:
    parse_manifest(json.loads(canonical_json(document)))
    change(document)
    with pytest.raises(VerificationError, match=where):
        parse_manifest(document)
