"""How the step functions of the replay are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

step: Callable[..., Any] = njit(cache=True, nogil=True, _nrt=False)  # type: ignore[call-overload]
"""Compiled without reference counts: these functions allocate nothing and keep no reference to the arrays of
their arguments, which the caller holds. With counts, every access to a field of a nested tuple of arrays
changes those of all its arrays (about eight times slower).
"""

inlined: Callable[..., Any] = njit(cache=True, nogil=True, _nrt=False, forceinline=True)  # type: ignore[call-overload]
"""The same, for what runs once a read: a call copies the fields of all arrays in its arguments, some 3 KiB,
which takes longer than a read that finds its pages.
"""
