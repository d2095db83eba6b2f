"""Memory that is used again: to touch fresh memory costs as much as to decode into it."""

from __future__ import annotations

import contextlib
import mmap

import numpy as np

_HUGE = 2 << 20
_LARGE = 1 << 20
"""From so many bytes on, memory is asked for in huge pages: one fault for each, not 512."""


class Scratch:
    """Arrays by name, for what follows each other: slices of a recording, recordings."""

    def __init__(self) -> None:
        self._arrays: dict[object, np.ndarray] = {}

    def take(self, name: object, size: int, dtype: str) -> np.ndarray:
        """An array of any content; the one that was taken under that name before is overwritten."""
        array = self._arrays.get(name)
        if array is None or array.size < size:
            array = self._arrays[name] = _fresh(size + size // 8, np.dtype(dtype))
        return array[:size]


def _fresh(size: int, dtype: np.dtype) -> np.ndarray:
    if size * dtype.itemsize < _LARGE:
        return np.empty(size, dtype)
    pages = mmap.mmap(-1, -(-size * dtype.itemsize // _HUGE) * _HUGE, flags=mmap.MAP_PRIVATE)
    with contextlib.suppress(OSError):  # a kernel without them
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, dtype, size)
