"""What an operation of the demand is."""

from __future__ import annotations

from hindsight.subsystems.readahead import calls

READ, FADVISE, OPEN, CLOSE, READAHEAD, FAULT, WRITE, TRUNCATE, TRANSFER, COPY, RING_READ = range(11)
"""Kinds of rows of the demand's table ``ops``."""

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
