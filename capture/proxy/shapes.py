"""Shapes of values in a JSON document: each one checks a value that nobody vouches for, and says what it is.

Both come out of the same definition, so that the published JSON Schema and the parser cannot differ.
``check`` raises :class:`~hindsight.capture.proxy.errors.Malformed`; messages name places, not values, so that
they are the same each time the same thing is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple, Protocol

from hindsight.capture.proxy.errors import Malformed

I64_MIN, I64_MAX = -(1 << 63), (1 << 63) - 1


class Shape(Protocol):
    """What a value may be."""

    def check(self, value: Any, where: str) -> None:
        """Raise Malformed unless ``value``, which stands at ``where``, has this shape."""

    def schema(self) -> dict[str, Any]:
        """The same as JSON Schema (draft 2020-12)."""


@cache
def _whole(pattern: str) -> Callable[[str], re.Match[str] | None]:
    return re.compile(pattern).fullmatch


def _malformed(where: str, what: str) -> Malformed:
    return Malformed(f"{where} {what}", "The contract is in docs/proxy.md and docs/proxy.schema.json.")


class Integer(NamedTuple):
    """A whole number; true and false are none, nor is 1.0."""

    low: int = 0
    high: int = I64_MAX

    def check(self, value: Any, where: str) -> None:
        """As in :class:`Shape`."""
        if type(value) is not int:
            raise _malformed(where, "is not an integer")
        if not self.low <= value <= self.high:
            raise _malformed(where, "is out of range")

    def schema(self) -> dict[str, Any]:
        """As in :class:`Shape`."""
        return {"type": "integer", "minimum": self.low, "maximum": self.high}


class Text(NamedTuple):
    """A short string that matches a pattern as a whole."""

    pattern: str

    def check(self, value: Any, where: str) -> None:
        """As in :class:`Shape`."""
        if type(value) is not str or _whole(self.pattern)(value) is None:
            raise _malformed(where, f"is not a string of the form {self.pattern}")

    def schema(self) -> dict[str, Any]:
        """As in :class:`Shape`. ``$`` would let a newline pass in Python."""
        return {"type": "string", "pattern": f"^{self.pattern}(?!\\n)$"}


class Choice(NamedTuple):
    """One of these words."""

    words: tuple[str, ...]

    def check(self, value: Any, where: str) -> None:
        """As in :class:`Shape`."""
        if type(value) is not str or value not in self.words:
            raise _malformed(where, f"is none of {', '.join(self.words)}")

    def schema(self) -> dict[str, Any]:
        """As in :class:`Shape`."""
        return {"enum": list(self.words)}


class OrNull(NamedTuple):
    """This shape, or null."""

    shape: Shape

    def check(self, value: Any, where: str) -> None:
        """As in :class:`Shape`."""
        if value is not None:
            self.shape.check(value, where)

    def schema(self) -> dict[str, Any]:
        """As in :class:`Shape`."""
        return {"anyOf": [self.shape.schema(), {"type": "null"}]}


class Named(NamedTuple):
    """An object of at most ``most`` members, whose names match ``name``, all of the shape ``values``."""

    name: str
    values: Shape
    most: int

    def check(self, value: Any, where: str) -> None:
        """As in :class:`Shape`."""
        if type(value) is not dict:
            raise _malformed(where, "is not an object")
        if len(value) > self.most:
            raise _malformed(where, f"has more than {self.most} members")
        matches = _whole(self.name)
        for name, member in value.items():
            if matches(name) is None:
                raise _malformed(where, f"has a name that is not of the form {self.name}")
            self.values.check(member, f"{where}.{name}")

    def schema(self) -> dict[str, Any]:
        """As in :class:`Shape`."""
        return {
            "type": "object",
            "propertyNames": Text(self.name).schema(),
            "additionalProperties": self.values.schema(),
            "maxProperties": self.most,
        }


class Listed(NamedTuple):
    """An array of at most ``most`` values of one shape."""

    values: Shape
    most: int

    def check(self, value: Any, where: str) -> None:
        """As in :class:`Shape`."""
        if type(value) is not list:
            raise _malformed(where, "is not an array")
        if len(value) > self.most:
            raise _malformed(where, f"has more than {self.most} elements")
        for element in value:
            self.values.check(element, f"{where}[]")

    def schema(self) -> dict[str, Any]:
        """As in :class:`Shape`."""
        return {"type": "array", "items": self.values.schema(), "maxItems": self.most}


class Member(NamedTuple):
    """A member of a record: ``unit`` and ``meaning`` are for readers."""

    shape: Shape
    meaning: str
    unit: str = ""


class Record(NamedTuple):
    """An object with exactly these members. ``agree`` returns what does not fit together, None = all does."""

    members: Mapping[str, Member]
    meaning: str
    agree: Callable[[Any], str | None] = lambda _: None

    def check(self, value: Any, where: str) -> None:
        """As in :class:`Shape`."""
        if type(value) is not dict:
            raise _malformed(where, "is not an object")
        if value.keys() != self.members.keys():
            lacking = next((name for name in self.members if name not in value), None)
            what = "has a member that the contract does not know" if lacking is None else f"has no {lacking}"
            raise _malformed(where, what)
        for name, member in self.members.items():
            member.shape.check(value[name], f"{where}.{name}")
        disagreement = self.agree(value)
        if disagreement is not None:
            raise _malformed(where, disagreement)

    def schema(self) -> dict[str, Any]:
        """As in :class:`Shape`; what members have to do with each other is in no JSON Schema."""
        return {
            "description": self.meaning,
            "type": "object",
            "properties": {
                name: m.shape.schema() | {"description": f"{m.meaning} ({m.unit})" if m.unit else m.meaning}
                for name, m in self.members.items()
            },
            "required": list(self.members),
            "additionalProperties": False,
        }
