"""Memory that is used again: to touch fresh memory costs as much as to decode into it."""

from __future__ import annotations

import numpy as np


class Scratch:
    """Arrays by name, for what follows each other: slices of a recording, recordings."""

    def __init__(self) -> None:
        self._arrays: dict[object, np.ndarray] = {}

    def take(self, name: object, size: int, dtype: str) -> np.ndarray:
        """An array of any content; the one that was taken under that name before is overwritten."""
        array = self._arrays.get(name)
        if array is None or array.size < size:
            array = self._arrays[name] = np.empty(size + size // 8, dtype)
        return array[:size]
