"""What differs between kernel releases, by the name of the behaviour; chosen by the release that recorded.

Held against the kernel itself: Linux 6.1 (Debian's) and 6.18. Of the releases between them it is known when
the source changed, no more.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

ON_DEMAND, EXECUTABLE_WINDOW, EXT4_LARGE_FOLIOS, MOVES_IN_READ, SMALL_BATCHES = range(5)
"""``ON_DEMAND`` (before 6.11): one function decides for misses and marks alike; a window whose own mark is
where the read is takes the next one in at once (``ondemand_readahead``, ``mm/readahead.c``).
``EXECUTABLE_WINDOW`` (from 6.16): faults on executable mappings read on from the page, to the end of the
mapping. ``EXT4_LARGE_FOLIOS`` (from 6.16): ext4 keeps files in folios of several pages. ``MOVES_IN_READ`` and
``SMALL_BATCHES`` (of 6.1, not of 6.18; where they changed was not looked up): the previous position moves
with every batch of a read, not at its end; a batch has 15 folios at most, not 31.
"""

_CHANGES = {
    ON_DEMAND: (False, (6, 11)),
    EXECUTABLE_WINDOW: (True, (6, 16)),
    EXT4_LARGE_FOLIOS: (True, (6, 16)),
    MOVES_IN_READ: (False, (6, 11)),
    SMALL_BATCHES: (False, (6, 11)),
}
"""Of each behaviour whether it is that of newer kernels, and the release that changed it."""


def behaviours(release: str) -> NDArray[np.uint8]:
    """1 for each behaviour, by number, that a kernel of that release (``uname -r``) has; those of the newest
    where the release says nothing.
    """
    found = re.match(r"(\d+)\.(\d+)", release)
    version = (int(found[1]), int(found[2])) if found else (1 << 30, 0)
    result = np.zeros(len(_CHANGES), np.uint8)
    for behaviour, (newer, since) in _CHANGES.items():
        result[behaviour] = (version >= since) == newer
    return result
