"""The ways of reading, one module per family.

A way draws operations for a plan; :mod:`hindsight.lab.fuzz.program` does them. To add one, add a function
and its name to a module of this folder (or a module, and its name to :data:`FAMILIES`).
"""

from __future__ import annotations

from hindsight.lab.fuzz.ways import (
    advice,
    buffered,
    descriptors,
    mapping,
    sharing,
    transfers,
    writing,
)
from hindsight.lab.fuzz.ways.way import Way

FAMILIES: dict[str, dict[str, Way]] = {
    "buffered": buffered.WAYS,
    "descriptors": descriptors.WAYS,
    "advice": advice.WAYS,
    "sharing": sharing.WAYS,
    "transfers": transfers.WAYS,
    "mapping": mapping.WAYS,
    "writing": writing.WAYS,
}

CONDITIONS = {
    "warm": "buffered reads of files of which parts were cached before the recording",
    "evict": "buffered reads in a memory cgroup that is too small for the pages",
}
"""Ways that are not operations but circumstances of buffered reads."""

WAYS: dict[str, Way] = {name: way for family in FAMILIES.values() for name, way in family.items()}
NAMES = (*WAYS, *CONDITIONS)

__all__ = ["CONDITIONS", "FAMILIES", "NAMES", "WAYS", "Way"]
