"""Records out of bytes that nobody vouches for: bounded in size, depth, counts, names and numbers.

Nothing of a document is kept unless all of it is sound. Besides what :mod:`.records` says: UTF-8; one value;
no name twice in an object; no number with a fraction, an exponent, or more than 20 digits.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any, NoReturn

from hindsight.capture.proxy import records
from hindsight.capture.proxy.errors import Malformed, NewerSchema, Oversized
from hindsight.capture.proxy.shapes import Record

_CONTRACT = "The contract is in docs/proxy.md and docs/proxy.schema.json."
_DIGITS = 20


class _Rejected(ValueError):
    """Raised while the document is read."""


def _no_fraction(_: str) -> NoReturn:
    raise _Rejected("a number is not an integer")


def _integer(text: str) -> int:
    if len(text) > _DIGITS:
        raise _Rejected("a number is out of range")
    return int(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Rejected("a name stands twice in an object")
    return found


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_no_fraction, parse_constant=_no_fraction, parse_int=_integer
)
_LENIENT = json.JSONDecoder(parse_float=str, parse_int=_integer)


def _document(data: bytes, shape: Record, most: int) -> dict[str, Any]:
    if len(data) > most:
        raise Oversized(f"the document has more than {most} bytes", _CONTRACT)
    try:
        text = data.decode()
        value = _DECODER.decode(text)
    except _Rejected as error:
        # A newer version may well have what this one has not.
        with contextlib.suppress(ValueError, RecursionError):
            check_version(_LENIENT.decode(text))
        raise Malformed(f"the document is refused: {error}", _CONTRACT) from None
    except (ValueError, RecursionError):
        raise Malformed("the document is not JSON", _CONTRACT) from None
    check_version(value)
    shape.check(value, "the document")
    found: dict[str, Any] = value
    return found


def check_version(value: Any) -> None:
    """Raise NewerSchema if a value says that it is of a version that this release does not know."""
    version = value.get("schema") if type(value) is dict else None
    if type(version) is int and version > records.SCHEMA:
        raise NewerSchema(
            f"the document has schema version {version}; this release reads {records.SCHEMA}",
            "Update hindsight, or let the proxy speak the older version.",
        )


def checked(found: dict[str, Any]) -> records.Snapshot:
    """The snapshot of these members, which came in another form than JSON. Raises Malformed."""
    records.SNAPSHOT.check(found, "the snapshot")
    return _snapshot(found)


def _snapshot(found: dict[str, Any]) -> records.Snapshot:
    found["dataset"] = records.Dataset(**found["dataset"])
    found["actuators"] = tuple(records.Actuator(**entry) for entry in found["actuators"])
    return records.Snapshot(**found)


def snapshot(data: bytes) -> records.Snapshot:
    """The snapshot that these bytes are, at most 64 KiB.

    Raises Oversized, NewerSchema or Malformed.
    """
    return _snapshot(_document(data, records.SNAPSHOT, records.DOCUMENT_BYTES))


def recommendation(data: bytes) -> records.Recommendation:
    """The recommendation that these bytes are, at most 4 KiB. Raises as :func:`snapshot`."""
    return records.Recommendation(**_document(data, records.RECOMMENDATION, records.MESSAGE_BYTES))


def answer(data: bytes) -> records.Answer:
    """The answer that these bytes are, at most 4 KiB. Raises as :func:`snapshot`."""
    return records.Answer(**_document(data, records.ANSWER, records.MESSAGE_BYTES))


def efficiency(data: bytes) -> records.Efficiency:
    """The efficiency that these bytes are, at most 4 KiB. Raises as :func:`snapshot`."""
    found = _document(data, records.EFFICIENCY, records.MESSAGE_BYTES)
    for name in ("baseline", "treated"):
        found[name] = records.Window(**found[name])
    return records.Efficiency(**found)


def as_json(record: Any) -> Any:
    """A record, or a part of one, as plain JSON values."""
    if hasattr(record, "_asdict"):
        return {name: as_json(value) for name, value in record._asdict().items()}
    if isinstance(record, tuple | list):
        return [as_json(value) for value in record]
    return dict(record) if isinstance(record, dict) else record


def encode(record: Any) -> bytes:
    """A record as it goes over the wire: JSON, one line, ending in a newline."""
    return json.dumps(as_json(record), separators=(",", ":")).encode() + b"\n"


def json_schema() -> dict[str, Any]:
    """All records as JSON Schema, draft 2020-12; the document itself describes a snapshot."""
    shapes = {
        "snapshot": records.SNAPSHOT,
        "recommendation": records.RECOMMENDATION,
        "answer": records.ANSWER,
        "efficiency": records.EFFICIENCY,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Records of an ML proxy, schema version {records.SCHEMA}",
        "$comment": "Generated from capture/proxy/records.py by `make docs`; do not edit.",
        "$ref": "#/$defs/snapshot",
        "$defs": {name: shape.schema() for name, shape in shapes.items()},
    }
