"""In which order things are run: at random, the same for the same seed, whatever was interrupted."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def shuffled(items: Sequence[Item], *seed: object) -> list[Item]:
    """The items in an order that depends on the seed's parts alone (hashed as text, by SHA-512)."""
    order = list(items)
    random.Random("/".join(map(str, seed))).shuffle(order)
    return order
