"""What the kernel keeps about an open file to decide on readahead, and the log of what it decided."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SYNC_RA = 0
ASYNC_RA = 1
RA_ORDER = 2
RA_UNBOUNDED = 3
DECISION_TABLES = (
    "page_cache_sync_ra",
    "page_cache_async_ra",
    "page_cache_ra_order",
    "page_cache_ra_unbounded",
)
"""Tracepoint of each kind of decision, in the order of their numbers."""

NOT_DETERMINED = np.int64(-2)
"""``prev_pos`` of an emitted decision that hangs on a race which no trace shows; nothing hangs on it."""

FADV_NORMAL, FADV_RANDOM, FADV_SEQUENTIAL, FADV_WILLNEED, FADV_DONTNEED = range(5)


class OpenFiles(NamedTuple):
    """The readahead state of every stream (open file description), shapes (S,): ``struct file_ra_state``."""

    start: NDArray[np.uint64]
    size: NDArray[np.uint32]
    async_size: NDArray[np.uint32]
    ra_pages: NDArray[np.uint32]
    order: NDArray[np.uint32]
    prev_pos: NDArray[np.int64]
    """Byte after the last one read, -1 before the first read."""
    random: NDArray[np.uint8]
    """1 after POSIX_FADV_RANDOM."""
    mmap_miss: NDArray[np.uint32]
    """Faults that missed beyond those that hit."""
    io_pages: NDArray[np.uint32]
    """The device's largest request."""
    file: NDArray[np.uint32]
    """Ordinal of the file in the page cache."""


class Log(NamedTuple):
    """What the kernel did. ``n[0]`` decision rows, ``n[1]`` insertion rows; set them to 0 to reuse the log.
    ``n[2]``: the operation in progress.

    Nothing is written past the end: rows are still counted, so a count above the capacity tells of an
    overflow. A decision row shows the state as its tracepoint does; of page_cache_ra_unbounded ``req`` is
    nr_to_read and ``async_size`` the lookahead.
    """

    n: NDArray[np.uint64]
    op: NDArray[np.uint64]
    """The operation that each decision belongs to."""
    kind: NDArray[np.uint8]
    stream: NDArray[np.uint32]
    index: NDArray[np.uint64]  # type: ignore[assignment]
    req: NDArray[np.uint64]
    order: NDArray[np.uint32]
    size: NDArray[np.uint64]
    async_size: NDArray[np.uint64]
    ra_pages: NDArray[np.uint32]
    prev_pos: NDArray[np.int64]
    add_file: NDArray[np.uint32]
    add_index: NDArray[np.uint64]
    add_order: NDArray[np.uint8]
    add_async: NDArray[np.uint8]
    """1 where the reader does not wait for it: asynchronous readahead, or beyond what the read asked for."""
    fill: NDArray[np.int64]
    """What a decision has still to add (:mod:`hindsight.subsystems.readahead.filling`)."""


def open_files(
    file: NDArray[np.uint32], ra_pages: NDArray[np.uint32], io_pages: NDArray[np.uint32]
) -> OpenFiles:
    """Freshly opened files; shapes (S,): ordinal of the file, limit of readahead, largest request of its
    device.
    """
    count = len(file)
    return OpenFiles(
        np.zeros(count, np.uint64),
        np.zeros(count, np.uint32),
        np.zeros(count, np.uint32),
        np.array(ra_pages, np.uint32),
        np.zeros(count, np.uint32),
        np.full(count, -1, np.int64),
        np.zeros(count, np.uint8),
        np.zeros(count, np.uint32),
        np.array(io_pages, np.uint32),
        np.array(file, np.uint32),
    )


def new_log(decisions: int, insertions: int) -> Log:
    """An empty log with room for that many rows of each sort."""
    return Log(
        np.zeros(3, np.uint64),
        np.zeros(decisions, np.uint64),
        np.zeros(decisions, np.uint8),
        np.zeros(decisions, np.uint32),
        np.zeros(decisions, np.uint64),
        np.zeros(decisions, np.uint64),
        np.zeros(decisions, np.uint32),
        np.zeros(decisions, np.uint64),
        np.zeros(decisions, np.uint64),
        np.zeros(decisions, np.uint32),
        np.zeros(decisions, np.int64),
        np.zeros(insertions, np.uint32),
        np.zeros(insertions, np.uint64),
        np.zeros(insertions, np.uint8),
        np.zeros(insertions, np.uint8),
        np.zeros(9, np.int64),
    )
