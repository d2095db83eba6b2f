"""How loops over arrays are compiled here: to machine code that is cached, and lets other threads run.

Arrays are arguments, and belong to the caller as long as a loop runs. Counting references to them all the
same costs two locked instructions for each call of another compiled function and at each way out of a block:
up to six times the loop itself. So it is off, and what is compiled can make no arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import config, njit

from hindsight.compiled import chosen, directory

_DIRECTORY = str(directory(Path(__file__).resolve().parent, chosen()))


def compiled(function: Callable[..., Any]) -> Any:
    """Decorator of a function of numbers and arrays that makes no arrays of its own."""
    before, config.CACHE_DIR = config.CACHE_DIR, _DIRECTORY
    try:
        return njit(cache=True, nogil=True, _nrt=False)(function)  # type: ignore[call-overload]
    finally:
        config.CACHE_DIR = before
