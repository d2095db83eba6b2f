"""The snapshots of one proxy, one after the other: what differs between two documents is mostly numbers.

So one of them is made a pattern with which those after it are matched; that takes less than half of decoding
JSON and checking all of it, and gives the same.
"""

from __future__ import annotations

import json
import re
from typing import Any

from hindsight.capture.proxy import parsing
from hindsight.capture.proxy.records import Snapshot
from hindsight.capture.proxy.shapes import I64_MAX, I64_MIN

_MOVING = ("sequence", "mono_ns", "state", "lost")
"""Members whose numbers may be any of 64 bits, or any of those that are not negative."""
_TOKEN = re.compile(rb'"[^"]*"|(-?[0-9]+)')
"""No text of a sound document has a quotation mark in it."""
_NATURAL, _NEGATIVE = rb"(0|[1-9][0-9]{0,18})", rb"(-[1-9][0-9]{0,18})"
_LONGEST = 16 << 10
"""Bytes of a document that is made a pattern. That takes some 4 µs for each."""


class Form:
    """All documents that are like ``data``, which is the ``snapshot``, but for the numbers that move.

    They have the signs that they have there.
    """

    def __init__(self, data: bytes, snapshot: Snapshot) -> None:
        members: dict[str, Any] = json.loads(data)
        moves = [name in _MOVING for name, value in members.items() for _ in range(_integers(value))]
        numbers = (token for token in _TOKEN.finditer(data) if token[1])
        pattern, end = [], 0
        for number, moving in zip(numbers, moves, strict=True):
            if moving:
                kind = _NEGATIVE if number[1].startswith(b"-") else _NATURAL
                pattern += [re.escape(data[end : number.start()]), kind]
                end = number.end()
        self._match = re.compile(b"".join([*pattern, re.escape(data[end:])])).fullmatch
        self._snapshot = snapshot
        at, places = 0, {}
        for name in filter(_MOVING.__contains__, members):
            places[name] = slice(at, at := at + _integers(members[name]))
        self._sequence, self._mono_ns = places["sequence"].start, places["mono_ns"].start
        self._state, self._lost = places["state"], places["lost"]

    def snapshot(self, data: bytes) -> Snapshot | None:
        """The snapshot that these bytes are, None if they are not of this form or not sound."""
        match = self._match(data)
        if match is None:
            return None
        numbers = list(map(int, match.groups()))
        if min(numbers) < I64_MIN or max(numbers) > I64_MAX:
            return None
        last = self._snapshot
        return Snapshot(
            last.schema, last.proxy, last.subsystem, last.boot_id,
            numbers[self._sequence], numbers[self._mono_ns],
            last.mode, last.dataset,
            dict(zip(last.state, numbers[self._state], strict=True)),
            last.actuators,
            dict(zip(last.lost, numbers[self._lost], strict=True)),
        )  # fmt: skip


def _integers(value: Any) -> int:
    """How many there are in a JSON value that has no other numbers."""
    if isinstance(value, int):
        return 1
    if isinstance(value, dict):
        return sum(map(_integers, value.values()))
    return sum(map(_integers, value)) if isinstance(value, list) else 0


class Series:
    """Reads the documents of one proxy, each as :func:`hindsight.capture.proxy.parsing.snapshot` does."""

    def __init__(self) -> None:
        self._form: Form | None = None
        self._wait = self._waited = 1
        """Documents until one is made a form, and how many they were when that began."""

    def snapshot(self, data: bytes) -> Snapshot:
        """The snapshot that these bytes are, at most 64 KiB. Raises Oversized, NewerSchema or Malformed."""
        found = self._form.snapshot(data) if self._form is not None else None
        if found is not None:
            return found
        found = parsing.snapshot(data)
        if self._wait:
            self._wait -= 1
        elif len(data) <= _LONGEST:
            self._form = Form(data, found)
            self._waited *= 2  # a proxy may have documents that are never alike
            self._wait = self._waited
        return found
