"""Numbers that may stand in a report: each says its unit and what kind of number it is.

A report is a tree of dictionaries and lists. :func:`seal` turns it into plain JSON values and refuses a bare
number, so that a figure without a label cannot reach a reader by accident.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hindsight.subsystems.contract import Label

SIGNIFICANT_DIGITS = 6
"""Digits that survive the boundary; more than any figure here deserves, few enough to be stable."""


def quantise(value: float) -> float | None:
    """``value`` rounded to :data:`SIGNIFICANT_DIGITS`; None where it is not finite; never minus zero."""
    if not math.isfinite(value):
        return None
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}") + 0.0


@dataclass(frozen=True)
class Figure:
    """One figure: a value (None: not identified, ``note`` says why), its unit, its label, its interval."""

    value: float | int | None
    unit: str
    label: Label
    interval: tuple[float, float] | None = None
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """``{value, unit, label[, low, high][, note]}``; integers stay exact, floats are quantised."""
        if not isinstance(self.label, Label):
            raise TypeError(f"a figure needs a Label, not {self.label!r}")
        out: dict[str, Any] = {"value": _number(self.value), "unit": self.unit, "label": self.label.value}
        if self.interval is not None:
            out["low"], out["high"] = (_number(bound) for bound in self.interval)
        if self.note:
            out["note"] = self.note
        return out


@dataclass(frozen=True)
class Series:
    """A row of values of one unit and one label, such as the quantiles of a distribution."""

    values: Sequence[float | int]
    unit: str
    label: Label

    def as_json(self) -> dict[str, Any]:
        """``{values, unit, label}``."""
        return {"values": [_number(v) for v in self.values], "unit": self.unit, "label": self.label.value}


@dataclass(frozen=True)
class Count:
    """How many: blocks, captures, hosts. Exact by nature; an integer in the JSON."""

    value: int


@dataclass(frozen=True)
class Quoted:
    """An input repeated as it was given (parameters, provenance): not a claim, so it carries no label."""

    value: Any = field(default=None)


def percent(
    fraction: float, label: Label, interval: tuple[float, float] | None = None, note: str = ""
) -> Figure:
    """A fraction as a figure in per cent."""
    scaled = None if interval is None else (interval[0] * 100.0, interval[1] * 100.0)
    return Figure(fraction * 100.0, "%", label, scaled, note)


def seal(tree: Any, path: str = "report") -> Any:
    """Plain JSON values of ``tree``. Raises TypeError, naming the place, for a number without a label."""
    if isinstance(tree, Figure | Series):
        return tree.as_json()
    if isinstance(tree, Count):
        return int(tree.value)
    if isinstance(tree, Quoted):
        return quoted(tree.value)
    if isinstance(tree, Label):
        return tree.value
    if tree is None or isinstance(tree, str | bool):
        return tree
    if isinstance(tree, Mapping):
        return {str(key): seal(value, f"{path}.{key}") for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [seal(value, f"{path}[{i}]") for i, value in enumerate(tree)]
    raise TypeError(f"{path}: {tree!r} ({type(tree).__name__}) has no label; use Figure, Series or Count")


def quoted(value: Any) -> Any:
    """An input as plain JSON values: floats quantised, numpy scalars unwrapped, keys as text."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): quoted(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value) if isinstance(value, set | frozenset) else value
        return [quoted(item) for item in items]
    if hasattr(value, "item"):
        return quoted(value.item())
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return quantise(value)
    return str(value)


def _number(value: Any) -> int | float | None:
    if value is None:
        return None
    if isinstance(value, bool):
        raise TypeError("a truth value is not a figure")
    if hasattr(value, "item"):
        value = value.item()
    return value if isinstance(value, int) else quantise(float(value))
