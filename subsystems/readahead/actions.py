"""What may be recommended for an open file: a readahead limit, or to read exactly what is asked for.

An advised limit acts as ``POSIX_FADV_NORMAL`` does while the device has that limit: it sets ``ra_pages`` of
the open file and clears ``FMODE_RANDOM``. ``exact`` acts as ``POSIX_FADV_RANDOM``. A limit of 0 pages is
never recommended: it makes every buffered read fetch one page at a time. Advice of the application that
comes later overrides a recommendation.

An encoding is (log2 of the limit, reads are exact). A further kind of action, such as fetching pages of a
pattern that the kernel does not recognise, would be one more row of :data:`ACTIONS` with a column of its own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hindsight.subsystems.contract import Action

RA_PAGES = (4, 16, 32, 64, 128, 256, 512, 1024, 2048)
"""Limits that may be recommended, pages of 4 KiB."""

EXACT = len(RA_PAGES)
"""Index of the action `exact`."""

ACTIONS = (
    *(
        Action(f"ra_pages={pages}", f"read ahead up to {pages * 4} KiB", (float(pages.bit_length() - 1), 0.0))
        for pages in RA_PAGES
    ),
    Action("exact", "read what is asked for and nothing ahead", (0.0, 1.0)),
)

KEEP_ENCODING = (-1.0, 0.0)
"""Encoding of leaving the open file as it is."""

KEEP_RA = 0
"""In :func:`table`: do not touch ``ra_pages``."""


def table() -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
    """What the actions set: ``ra_pages`` u32[A] (:data:`KEEP_RA`: untouched) and ``random`` u8[A]."""
    ra_pages = np.array([*RA_PAGES, KEEP_RA], np.uint32)
    random = np.zeros(len(ACTIONS), np.uint8)
    random[EXACT] = 1
    return ra_pages, random


def index_of_limit(pages: int) -> int:
    """Index of the action that sets this limit; ValueError if none does."""
    return RA_PAGES.index(pages)
