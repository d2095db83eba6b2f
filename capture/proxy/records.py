"""The records that a proxy and its readers exchange: snapshot, recommendation, answer, efficiency.

The one definition of them: the parser checks against it, ``docs/proxy.schema.json`` is generated from it.
Names, modes, types and states of datasets are those of the kernel RFC "Machine Learning (ML) library in Linux
kernel" (V. Dubeyko, February 2026); recommendation, answer and efficiency are empty there. Every number is an
integer: nanoseconds, bytes, pages, parts per million.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from hindsight.capture.proxy.shapes import (
    I64_MAX,
    I64_MIN,
    Choice,
    Integer,
    Listed,
    Member,
    Named,
    OrNull,
    Text,
)
from hindsight.capture.proxy.shapes import Record as Shape

SCHEMA = 1
"""Version of the records; raised when one changes."""

MODES = ("unknown", "emergency", "learning", "collaboration", "recommendation")
"""The RFC's modes, by number."""
DATASET_TYPES = ("empty", "value", "structure", "stream")
"""The RFC's types 1 to 4."""
DATASET_STATES = (
    "allocated", "clean", "extracted_partially", "extracted_completely", "obsolete", "extraction_failure",
    "corrupted",
)  # fmt: skip
"""The RFC's states 1 to 7."""
VERDICTS = ("accepted", "clamped", "tested", "refused")
OUTCOMES = ("better", "worse", "same", "unknown")

DOCUMENT_BYTES = 64 << 10
"""The most that a snapshot may have on the wire."""
MESSAGE_BYTES = 4 << 10
"""The most that a recommendation, an answer, an efficiency may have."""
STATE_NAMES = 512
ACTUATORS = 64
NAME = "[A-Za-z_][A-Za-z0-9_.:-]{0,63}"
BOOT_ID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"

_NAME = Text(NAME)
_COUNT = Integer()
_SIGNED = Integer(I64_MIN, I64_MAX)
_SCHEMA = Member(Integer(SCHEMA, SCHEMA), "version of the record")


class Dataset(NamedTuple):
    """What the proxy has prepared for a model to read, apart from the snapshot itself."""

    type: str
    state: str
    offset: int
    size: int


class Actuator(NamedTuple):
    """Something that a recommendation may set. ``scope`` says what a change reaches."""

    name: str
    current: int
    min: int
    max: int
    scope: str


class Snapshot(NamedTuple):
    """What a proxy says of its subsystem at one moment (``mono_ns``, CLOCK_MONOTONIC).

    ``sequence`` rises by one with each snapshot that the proxy makes, as long as ``boot_id`` stays: a gap
    is a snapshot that this reader did not get.
    """

    schema: int
    proxy: str
    subsystem: str
    boot_id: str
    sequence: int
    mono_ns: int
    mode: str
    dataset: Dataset
    state: Mapping[str, int]
    actuators: tuple[Actuator, ...]
    lost: Mapping[str, int]


def _range_agrees(actuator: Mapping[str, Any]) -> str | None:
    return None if actuator["min"] <= actuator["max"] else "has a min above its max"


def _names_differ(snapshot: Mapping[str, Any]) -> str | None:
    names = [actuator["name"] for actuator in snapshot["actuators"]]
    return None if len(set(names)) == len(names) else "has two actuators of the same name"


DATASET = Shape(
    {
        "type": Member(Choice(DATASET_TYPES), "what it is"),
        "state": Member(Choice(DATASET_STATES), "how far it is"),
        "offset": Member(_COUNT, "where the part that can be read begins", "bytes"),
        "size": Member(_COUNT, "how much can be read", "bytes"),
    },
    "what the proxy has prepared for a model to read, apart from the snapshot",
)
ACTUATOR = Shape(
    {
        "name": Member(_NAME, "name, unique in the snapshot"),
        "current": Member(_SIGNED, "its value now"),
        "min": Member(_SIGNED, "the smallest value that will be accepted"),
        "max": Member(_SIGNED, "the largest value that will be accepted"),
        "scope": Member(
            Text("[a-z][a-z0-9_-]{0,31}"), "what a change reaches: host, device, cgroup, file, …"
        ),
    },
    "something that a recommendation may set",
    _range_agrees,
)
SNAPSHOT = Shape(
    {
        "schema": _SCHEMA,
        "proxy": Member(_NAME, "id of the proxy, unique on the host"),
        "subsystem": Member(_NAME, "name of the subsystem, whose schema gives the units of `state`"),
        "boot_id": Member(Text(BOOT_ID), "changes when `sequence` and the counters begin again"),
        "sequence": Member(_COUNT, "rises by one with each snapshot that the proxy makes"),
        "mono_ns": Member(_COUNT, "when it was made, CLOCK_MONOTONIC", "ns"),
        "mode": Member(Choice(MODES), "how far the proxy follows a model"),
        "dataset": Member(DATASET, DATASET.meaning),
        "state": Member(Named(NAME, _SIGNED, STATE_NAMES), "name → value"),
        "actuators": Member(Listed(ACTUATOR, ACTUATORS), "what a recommendation may set"),
        "lost": Member(Named(NAME, _COUNT, ACTUATORS), "name → how many the proxy could not account for"),
    },
    "what a proxy says of its subsystem at one moment",
    _names_differ,
)


class Recommendation(NamedTuple):
    """What a model recommends: ``actuator`` of ``target`` to ``value``, because of snapshot ``sequence``."""

    schema: int
    id: str
    proxy: str
    sequence: int
    actuator: str
    target: str
    value: int
    ttl_ns: int
    confidence_ppm: int
    model: str


_ID = Text("[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")
_TARGET = Text(r"[!-~]{0,128}")
RECOMMENDATION = Shape(
    {
        "schema": _SCHEMA,
        "id": Member(_ID, "id, unique for the proxy"),
        "proxy": Member(_NAME, "the proxy that it is for"),
        "sequence": Member(_COUNT, "the snapshot that it is based on"),
        "actuator": Member(_NAME, "what to set"),
        "target": Member(_TARGET, "of what, within the scope of the actuator; empty: all of it"),
        "value": Member(_SIGNED, "to what"),
        "ttl_ns": Member(Integer(1), "after this time it must not be applied any more", "ns"),
        "confidence_ppm": Member(Integer(0, 1_000_000), "confidence of the model", "parts per million"),
        "model": Member(_ID, "id of the model"),
    },
    "what a model recommends to a proxy",
)


class Answer(NamedTuple):
    """What a proxy did with a recommendation. ``read_back``: what the kernel says after ``used`` was set."""

    schema: int
    id: str
    mono_ns: int
    verdict: str
    used: int | None
    read_back: int | None
    reason: str | None


def _answer_agrees(answer: Mapping[str, Any]) -> str | None:
    applied = answer["verdict"] in ("accepted", "clamped")
    if applied != (answer["used"] is not None):
        return "has a value that was used, and a verdict that does not say so (or neither)"
    if answer["read_back"] is not None and not applied:
        return "has a value that was read back, and applied none"
    if (answer["verdict"] == "refused") != (answer["reason"] is not None):
        return "is refused without a reason, or has a reason and is not refused"
    return None


ANSWER = Shape(
    {
        "schema": _SCHEMA,
        "id": Member(_ID, "id of the recommendation"),
        "mono_ns": Member(_COUNT, "when it was answered, CLOCK_MONOTONIC", "ns"),
        "verdict": Member(Choice(VERDICTS), "accepted, clamped to the bounds, tested only (shadow), refused"),
        "used": Member(OrNull(_SIGNED), "the value that was set; null: none"),
        "read_back": Member(OrNull(_SIGNED), "the value that was then read; null: it could not be"),
        "reason": Member(
            OrNull(Text("E[A-Z0-9]{1,15}")), "why it was refused, as an errno; null: it was not"
        ),
    },
    "what a proxy did with a recommendation",
    _answer_agrees,
)


class Window(NamedTuple):
    """A span of CLOCK_MONOTONIC in which ``n`` operations took ``total`` of the metric's unit."""

    from_ns: int
    to_ns: int
    n: int
    total: int


class Efficiency(NamedTuple):
    """What a recommendation changed, as the proxy measured it."""

    schema: int
    id: str
    metric: str
    unit: str
    baseline: Window
    treated: Window
    noise_ppm: int
    verdict: str
    effective_from_ns: int


def _window_agrees(window: Mapping[str, Any]) -> str | None:
    return None if window["from_ns"] <= window["to_ns"] else "ends before it begins"


_WINDOW = Shape(
    {
        "from_ns": Member(_COUNT, "begin, CLOCK_MONOTONIC", "ns"),
        "to_ns": Member(_COUNT, "end, CLOCK_MONOTONIC", "ns"),
        "n": Member(_COUNT, "operations in it"),
        "total": Member(_SIGNED, "sum of the metric over them"),
    },
    "a span of time and what was measured in it",
    _window_agrees,
)
EFFICIENCY = Shape(
    {
        "schema": _SCHEMA,
        "id": Member(_ID, "id of the recommendation"),
        "metric": Member(_NAME, "what was measured"),
        "unit": Member(Text(r"[!-~]{1,32}"), "its unit"),
        "baseline": Member(_WINDOW, "without the recommendation"),
        "treated": Member(_WINDOW, "with it"),
        "noise_ppm": Member(_COUNT, "half width of the 95 % interval of the baseline", "parts per million"),
        "verdict": Member(Choice(OUTCOMES), "beyond noise: better, worse; within: same; too few: unknown"),
        "effective_from_ns": Member(_COUNT, "what was opened or began earlier may not be affected", "ns"),
    },
    "what a recommendation changed, as the proxy measured it",
)
