"""The published schema accepts what the reader accepts, and refuses what can be said without code."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from hindsight.errors import VerificationError
from hindsight.models import package
from hindsight.models.manifest import canonical_json, parse_canonical, parse_manifest
from hindsight.models.manifest_schema import manifest_schema

Fields = dict[str, Any]
VALIDATOR = jsonschema.Draft202012Validator(manifest_schema())


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(manifest_schema())


@pytest.fixture
def document(tmp_path: Path, fields: Fields, files: dict[str, bytes]) -> Fields:
    package.write_package(tmp_path / "p", fields, files)
    read: Fields = json.loads((tmp_path / "p" / "manifest.json").read_bytes())
    return read


def accepted(document: Any) -> bool:
    """By the code that reads packages."""
    try:
        package._check_list(parse_manifest(parse_canonical(canonical_json(document))))
    except VerificationError:
        return False
    return True


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a document, from the outside in."""
    if way:
        yield way
    members = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, member in members:
        yield from places(member, (*way, key))


OTHERS: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3, 0.5, 1e18, 2e18, 1 << 41, 1 << 62, 1 << 63, 36_500, 36_501, "", "a",
    "A b", "../x", ".a", "a\n", "0" * 64, "F" * 64, "0" * 64 + "\n", "x" * 65, "x" * 400, "x" * 401,
    [], {}, [1], [1, 2], [1, 2, 3], ["a"], {"a": 1}, "float32", "emergency", "always",
)  # fmt: skip

BEYOND = ("has a name twice", "[low, high]", "different lengths", "printable", "is larger than", "itself")
"""Words of the refusals that no schema can give: how values fit together, what a terminal makes of them."""


def test_every_place_of_a_manifest_with_every_other_value(document: Fields) -> None:
    assert accepted(document) and VALIDATOR.is_valid(document)
    agreed = 0
    for way in places(document):
        for other in (*OTHERS, "remove", "add"):
            changed = copy.deepcopy(document)
            place = changed
            for step in way[:-1]:
                place = place[step]
            if other == "remove":
                del place[way[-1]]
            elif other == "add":
                if not isinstance(place[way[-1]], dict):
                    continue
                place[way[-1]]["other"] = 1
            else:
                place[way[-1]] = copy.deepcopy(other)
            ours, theirs = accepted(changed), VALIDATOR.is_valid(changed)
            assert theirs or not ours, (way, other)
            if theirs and not ours:
                with pytest.raises(VerificationError) as caught:
                    package._check_list(parse_manifest(parse_canonical(canonical_json(changed))))
                assert any(words in caught.value.message for words in BEYOND), (way, other, caught.value)
            agreed += ours == theirs
    assert agreed > 2000


def test_random_manifests_that_the_reader_accepts(document: Fields) -> None:
    rng = np.random.default_rng(17)
    for _ in range(200):
        changed = copy.deepcopy(document)
        count, width = int(rng.integers(1, 40)), int(rng.integers(0, 5))
        low = [float(f"{v:.6g}") for v in rng.normal(size=count) * 10.0 ** rng.integers(-9, 17)]
        changed["features"] = [
            {"name": f"f {k}", "dtype": "float32", "unit": "µs", "low": v, "high": max(v, 1e17)}
            for k, v in enumerate(low)
        ]
        changed["decision"]["actions"] = [
            {"name": f"a{k}", "encoding": [k] * width} for k in range(int(rng.integers(1, 20)))
        ]
        changed["decision"]["keep_encoding"] = [0] * width
        changed["bounds"] = {f"b{k}": [-k, k] for k in range(int(rng.integers(0, 9)))}
        changed["expiry"]["valid_days"] = int(rng.integers(1, 36_501))
        assert accepted(changed)
        VALIDATOR.validate(changed)
