"""What an operation of the demand is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hindsight.subsystems.readahead import calls

(
    READ, FADVISE, OPEN, CLOSE, READAHEAD, FAULT, WRITE, TRUNCATE, TRANSFER, COPY, RING_READ, MAP,
) = range(12)  # fmt: skip
"""Kinds of rows of the demand's table ``ops``."""

ACTING = (READ, FADVISE, READAHEAD, TRANSFER, COPY, RING_READ, FAULT)
"""Kinds that may decide on readahead."""

FAULT_AGAIN = 1
"""``ret`` of a FAULT that is the retry of the one before."""

NO_RESULT = int(calls.NO_RESULT)
"""``ret`` of an operation whose return was not recorded."""

KIND_OF_CALL = {
    calls.READ: READ,
    calls.PREAD: READ,
    calls.FADVISE: FADVISE,
    calls.OPEN: OPEN,
    calls.CLOSE: CLOSE,
    calls.READAHEAD: READAHEAD,
    calls.WRITE: WRITE,
    calls.PWRITE: WRITE,
    calls.TRUNCATE: TRUNCATE,
    calls.TRANSFER: TRANSFER,
    calls.COPY: COPY,
    calls.RING_READ: RING_READ,
}
"""Kind of the operation that a system call is."""


def of_calls(calls_of: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The operation of each of ``count`` calls, -1 = none; last that of no call. ``calls_of``: the call of
    each operation, -1 = none.
    """
    result = np.full(count + 1, -1, np.int64)
    result[calls_of] = np.arange(len(calls_of))
    result[-1] = -1  # (faults are no calls)
    return result
