"""The manifest of a model package: what it says, how it is written, what is refused.

Canonical JSON: UTF-8, keys sorted, indented by two, one newline at the end; numbers are integers or decimals
of at most six significant digits, whole ones written as integers. The same fields give the same bytes
anywhere, and a manifest that is written otherwise is refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hindsight.errors import VerificationError

FORMAT_VERSION = 1
"""Raised when a field changes its meaning or its name."""

MODES = ("emergency", "learning", "collaboration", "recommendation")
"""What the evidence allows, from "do not use" to "use"."""

SIGNIFICANT_DIGITS = 6
MAX_TEXT = 400
DAY_NS = 86_400_000_000_000

_SLUG = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True)
class Input:
    """One feature of the model, at its position: ``low`` … ``high`` is the range that it was trained on."""

    name: str
    dtype: str
    unit: str
    low: float
    high: float


@dataclass(frozen=True)
class Choice:
    """One action; ``encoding`` follows the features in the model's row."""

    name: str
    encoding: tuple[float, ...]


@dataclass(frozen=True)
class Decision:
    """What is decided. ``keep_encoding`` stands for leaving the kernel alone (empty: the model cannot rate
    it); an action is taken only if its predicted gain exceeds ``minimum_gain``."""

    actions: tuple[Choice, ...]
    keep_encoding: tuple[float, ...]
    minimum_gain: float


@dataclass(frozen=True)
class Objective:
    """What the model was trained to lower: a metric with its unit, and XGBoost's name of the loss."""

    metric: str
    unit: str
    loss: str


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and SHA-256 (hexadecimal) of one file of the package."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Everything that a user of a package may rely on."""

    name: str
    version: str
    subsystem: str
    features: tuple[Input, ...]
    decision: Decision
    bounds: Mapping[str, tuple[float, float]]
    """Limits outside which a recommendation is refused: name -> (low, high)."""
    objective: Objective
    xgboost_version: str
    inputs: Mapping[str, str]
    """SHA-256 of what the model was made from (data, parameters, code): name -> hexadecimal."""
    files: Mapping[str, FileEntry]
    mode: str
    newest_data_ns: int
    """Realtime of the newest training data, ns since 1970: validity counts from here, not from a clock."""
    valid_days: int

    def document(self) -> dict[str, Any]:
        """The manifest as JSON holds it: ``canonical_json`` of it is the file."""
        document = asdict(self)
        expiry = {key: document.pop(key) for key in ("newest_data_ns", "valid_days")}
        return {**document, "expiry": expiry, "format_version": FORMAT_VERSION}

    @property
    def expires_ns(self) -> int:
        """End of validity, in ns since 1970 (realtime)."""
        return self.newest_data_ns + self.valid_days * DAY_NS

    @property
    def row_width(self) -> int:
        """Number of inputs of the model: the features, then the encoding of an action."""
        return len(self.features) + len(self.decision.actions[0].encoding)

    @property
    def size(self) -> int:
        """Bytes of all listed files together."""
        return sum(entry.size for entry in self.files.values())


def quantise(value: float) -> float:
    """``value`` rounded to the digits that a manifest may carry; VerificationError if it is not finite."""
    if not math.isfinite(value):
        raise VerificationError(f"{value} cannot stand in a manifest", "numbers must be finite")
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def canonical_json(document: Any) -> bytes:
    """The one way to write ``document``.

    Raises VerificationError for a float that is not quantised or not finite, and for text that is not UTF-8.
    """
    text = json.dumps(
        _canonical(document, "$"), sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False
    )
    try:
        return (text + "\n").encode()
    except UnicodeEncodeError as error:
        raise VerificationError(f"text that is not UTF-8: {error.reason}") from None


def _canonical(value: Any, where: str) -> Any:
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise _wrong(where, "has a key that is not text")
        return {key: _canonical(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(item, f"{where}[{k}]") for k, item in enumerate(value)]
    if isinstance(value, float):
        if not math.isfinite(value) or quantise(value) != value:
            raise _wrong(
                where, f"is {value!r}: not a finite number of {SIGNIFICANT_DIGITS} significant digits"
            )
        return int(value) if value.is_integer() else value
    if value is None or isinstance(value, (str, bool, int)):
        return value
    raise _wrong(where, f"is a {type(value).__name__}, which JSON has not")


def parse_canonical(data: bytes) -> dict[str, Any]:
    """The document that ``data`` is; VerificationError unless it is written the one way."""
    try:
        document = json.loads(data)
        # Catches keys given twice, other spellings of a number, NaN, and text after the end.
        canonical = canonical_json(document) == data
    except (ValueError, RecursionError):
        raise VerificationError("manifest.json is not JSON", "fetch the package again") from None
    if not isinstance(document, dict) or not canonical:
        raise VerificationError("manifest.json is not a canonical JSON object", "fetch the package again")
    return document


def _wrong(where: str, what: str) -> VerificationError:
    return VerificationError(f"manifest.json: {where} {what}", "docs/models.md describes the format")


def _object(value: Any, where: str, keys: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(where, "is not an object")
    missing, unknown = sorted(set(keys) - set(value)), sorted(set(value) - set(keys))
    if missing:
        raise _wrong(where, f"lacks {', '.join(missing)}")
    if unknown:
        raise _wrong(where, f"has unknown fields: {', '.join(map(repr, unknown))}")
    return value


def _text(value: Any, where: str, pattern: re.Pattern[str] | None = None) -> str:
    # What is not printable could steer the terminal that shows it.
    if not isinstance(value, str) or len(value) > MAX_TEXT or not value.isprintable():
        raise _wrong(where, f"is not printable text of at most {MAX_TEXT} characters")
    if pattern is not None and not pattern.match(value):
        raise _wrong(where, f"is {value!r}, which is not of the form {pattern.pattern[:-2]}")
    return value


def _integer(value: Any, where: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _wrong(where, f"is not an integer between {low} and {high}")
    return value


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise _wrong(where, "is not a finite number")
    if abs(value) > 1e18:
        raise _wrong(where, "is out of range")
    return float(value)


def _sequence(value: Any, where: str, limit: int) -> list[Any]:
    if not isinstance(value, (list, tuple)) or len(value) > limit:
        raise _wrong(where, f"is not a list of at most {limit}")
    return list(value)


def _numbers(value: Any, where: str) -> tuple[float, ...]:
    return tuple(_number(item, f"{where}[{k}]") for k, item in enumerate(_sequence(value, where, 4096)))


def _range(value: Any, where: str) -> tuple[float, float]:
    numbers = _numbers(value, where)
    if len(numbers) != 2 or numbers[0] > numbers[1]:
        raise _wrong(where, "is not [low, high]")
    return numbers[0], numbers[1]


def _table(value: Any, where: str, limit: int, key: re.Pattern[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or len(value) > limit:
        raise _wrong(where, f"is not an object of at most {limit} fields")
    for name in value:
        _text(name, f"a name in {where}", key)
    return {name: value[name] for name in sorted(value)}


def _feature(value: Any, where: str) -> Input:
    fields = _object(value, where, ("dtype", "high", "low", "name", "unit"))
    if fields["dtype"] != "float32":
        raise _wrong(f"{where}.dtype", "is not float32")
    low, high = _range([fields["low"], fields["high"]], where)
    return Input(
        _text(fields["name"], f"{where}.name"), "float32", _text(fields["unit"], f"{where}.unit"), low, high
    )


def _decision(value: Any, where: str) -> Decision:
    fields = _object(value, where, ("actions", "keep_encoding", "minimum_gain"))
    actions = []
    for k, item in enumerate(_sequence(fields["actions"], f"{where}.actions", 1024)):
        own = _object(item, f"{where}.actions[{k}]", ("encoding", "name"))
        name = _text(own["name"], f"{where}.actions[{k}].name")
        actions.append(Choice(name, _numbers(own["encoding"], f"{where}.actions[{k}].encoding")))
    keep = _numbers(fields["keep_encoding"], f"{where}.keep_encoding")
    widths = {len(action.encoding) for action in actions} | ({len(keep)} if keep else set())
    if not actions or len(widths) != 1:
        raise _wrong(where, "has no action, or encodings of different lengths")
    if len({action.name for action in actions}) != len(actions):
        raise _wrong(f"{where}.actions", "has a name twice")
    return Decision(tuple(actions), keep, _number(fields["minimum_gain"], f"{where}.minimum_gain"))


def _entry(value: Any, where: str) -> FileEntry:
    fields = _object(value, where, ("sha256", "size"))
    return FileEntry(
        _integer(fields["size"], f"{where}.size", 0, 1 << 40),
        _text(fields["sha256"], f"{where}.sha256", _SHA256),
    )


def _each(value: Mapping[str, Any], where: str, read: Callable[[Any, str], Any]) -> dict[str, Any]:
    return {name: read(item, f"{where}.{name}") for name, item in value.items()}


GIVEN = (
    "bounds",
    "decision",
    "expiry",
    "features",
    "inputs",
    "mode",
    "name",
    "objective",
    "subsystem",
    "version",
)
"""Fields that the maker of a package gives; the others follow from its files."""


def parse_manifest(document: Mapping[str, Any]) -> Manifest:
    """Check every field; VerificationError names the first that is missing, unknown or malformed."""
    version = document.get("format_version")
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise VerificationError(
            f"manifest.json has format version {version!r}; this release reads {FORMAT_VERSION}",
            "use the release of hindsight that wrote the package, or make the package again",
        )
    fields = _object(document, "$", ("files", "format_version", "xgboost_version", *GIVEN))
    features = tuple(
        _feature(item, f"$.features[{k}]")
        for k, item in enumerate(_sequence(fields["features"], "$.features", 4096))
    )
    if not features or len({feature.name for feature in features}) != len(features):
        raise _wrong("$.features", "is empty, or has a name twice")
    objective = _object(fields["objective"], "$.objective", ("loss", "metric", "unit"))
    if fields["mode"] not in MODES:
        raise _wrong("$.mode", f"is none of {', '.join(MODES)}")
    expiry = _object(fields["expiry"], "$.expiry", ("newest_data_ns", "valid_days"))
    return Manifest(
        name=_text(fields["name"], "$.name", _SLUG),
        version=_text(fields["version"], "$.version", _SLUG),
        subsystem=_text(fields["subsystem"], "$.subsystem", _SLUG),
        features=features,
        decision=_decision(fields["decision"], "$.decision"),
        bounds=_each(_table(fields["bounds"], "$.bounds", 256, _SLUG), "$.bounds", _range),
        objective=Objective(**{key: _text(objective[key], f"$.objective.{key}") for key in objective}),
        xgboost_version=_text(fields["xgboost_version"], "$.xgboost_version", _SLUG),
        inputs=_each(
            _table(fields["inputs"], "$.inputs", 256, _SLUG), "$.inputs", lambda v, w: _text(v, w, _SHA256)
        ),
        files=_each(_table(fields["files"], "$.files", 64, _FILE_NAME), "$.files", _entry),
        mode=fields["mode"],
        newest_data_ns=_integer(expiry["newest_data_ns"], "$.expiry.newest_data_ns", 0, 1 << 62),
        valid_days=_integer(expiry["valid_days"], "$.expiry.valid_days", 1, 36_500),
    )
