"""What a way of reading is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hindsight.lab.fuzz.plan import Op
from hindsight.lab.fuzz.sketch import Sketch


@dataclass(frozen=True)
class Way:
    """A way of reading: how often it is drawn, and how its operations are."""

    draw: Callable[[Sketch], list[Op]]
    weight: int = 4
    meaning: str = ""
