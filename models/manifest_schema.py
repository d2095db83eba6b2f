"""The form of a manifest as JSON Schema (draft 2020-12), for those who read packages without our code.

:func:`hindsight.models.package.read_package` decides; whatever it accepts, this accepts. What a schema
cannot say stays with it: that the bytes are canonical, that names are unique, low ≤ high, encodings have one
length, text is printable, sizes together, and what the files hold. ``docs/manifest.schema.json`` is generated
from here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hindsight.models.manifest import (
    _FILE_NAME,
    _SHA256,
    _SLUG,
    FORMAT_VERSION,
    MAX_TEXT,
    MODES,
)
from hindsight.models.package import MAX_FILE_BYTES, REQUIRED

_LARGEST = 10**18


def _pattern(pattern: re.Pattern[str]) -> dict[str, Any]:
    # `$` alone would let a newline pass in Python.
    return {"type": "string", "pattern": f"^{pattern.pattern.removesuffix(chr(92) + 'Z')}(?!\\n)$"}


def _text(meaning: str) -> dict[str, Any]:
    return {"type": "string", "maxLength": MAX_TEXT, "description": meaning}


def _integer(meaning: str, low: int, high: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": low, "maximum": high, "description": meaning}


def _array(items: Mapping[str, Any], meaning: str, most: int, least: int = 0) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most, "description": meaning}


def _object(members: Mapping[str, Any], meaning: str) -> dict[str, Any]:
    return {
        "description": meaning,
        "type": "object",
        "properties": dict(members),
        "required": list(members),
        "additionalProperties": False,
    }


def _table(names: re.Pattern[str], values: Mapping[str, Any], meaning: str, most: int) -> dict[str, Any]:
    return {
        "description": meaning,
        "type": "object",
        "propertyNames": _pattern(names),
        "additionalProperties": values,
        "maxProperties": most,
    }


_NUMBER = {"type": "number", "minimum": -_LARGEST, "maximum": _LARGEST}
_NUMBERS = {"type": "array", "items": _NUMBER, "maxItems": 4096}


def manifest_schema() -> dict[str, Any]:
    """The schema, as a JSON document."""
    feature = _object(
        {
            "name": _text("as the model names its input"),
            "dtype": {"const": "float32"},
            "unit": _text("empty if it has none"),
            "low": _NUMBER | {"description": "lowest value in training"},
            "high": _NUMBER | {"description": "highest value in training"},
        },
        "an input of the model",
    )
    action = _object(
        {
            "name": _text("unique in the package"),
            "encoding": _NUMBERS | {"description": "follows the features in the model's row"},
        },
        "what may be recommended",
    )
    file = _object(
        {
            "size": _integer("bytes", 0, MAX_FILE_BYTES),
            "sha256": _pattern(_SHA256) | {"description": "of its bytes, hexadecimal"},
        },
        "a file of the package",
    )
    members = {
        "format_version": {"const": FORMAT_VERSION, "description": "raised when a field changes its meaning"},
        "name": _pattern(_SLUG) | {"description": "of the package"},
        "version": _pattern(_SLUG) | {"description": "of the package"},
        "subsystem": _pattern(_SLUG) | {"description": "the kernel decision that it is for"},
        "features": _array(feature, "in the order of the model's inputs", 4096, 1),
        "decision": _object(
            {
                "actions": _array(action, "all that may be recommended", 1024, 1),
                "keep_encoding": _NUMBERS
                | {"description": "stands for leaving the kernel alone; empty: the model cannot rate that"},
                "minimum_gain": _NUMBER
                | {"description": "an action is taken only if its predicted gain exceeds this"},
            },
            "what is decided",
        ),
        "bounds": _table(
            _SLUG,
            {"type": "array", "items": _NUMBER, "minItems": 2, "maxItems": 2},
            "name → [low, high]: limits outside which a recommendation is refused",
            256,
        ),
        "objective": _object(
            {
                "metric": _text("what the model was trained to lower"),
                "unit": _text("of the metric"),
                "loss": _text("XGBoost's name of the loss"),
            },
            "what the model was trained for",
        ),
        "xgboost_version": _pattern(_SLUG) | {"description": "release that wrote the model"},
        "inputs": _table(_SLUG, _pattern(_SHA256), "name → SHA-256 of what the package was made from", 256),
        "files": _table(_FILE_NAME, file, "every other file of the package", 64)
        | {"required": list(REQUIRED)},
        "mode": {"enum": list(MODES), "description": "what the evidence allows"},
        "expiry": _object(
            {
                "newest_data_ns": _integer("realtime of the newest training data, ns since 1970", 0, 1 << 62),
                "valid_days": _integer("days from there on in which the package may be used", 1, 36_500),
            },
            "how long the package may be used",
        ),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Manifest of a model package, version {FORMAT_VERSION}",
        **_object(members, "Generated from models/manifest_schema.py by `make docs`; do not edit."),
    }
