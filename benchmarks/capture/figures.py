"""A measured figure next to what is required of it, and the arithmetic of repeated measurements."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One line of the table. ``met`` None: nothing is required of it. ``details`` go to ``--json`` alone."""

    name: str
    value: str
    required: str = ""
    met: bool | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """Repeated measurements of one thing."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median."""
        return median(self.values)

    @property
    def spread(self) -> float:
        """The median distance from the median, relative to it: the noise of one measurement."""
        middle = self.median
        return median(abs(value - middle) for value in self.values) / middle if middle else 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"median": self.median, "spread": self.spread, "values": list(self.values)}


def sample(values: list[float]) -> Sample:
    """Of a list."""
    return Sample(tuple(values))
