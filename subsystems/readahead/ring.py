"""Reads that one ``io_uring_enter(2)`` submitted together, as Linux 6.18 does them.

Each is tried at once. Where a page is missing, readahead is started and the read is put off until the page is
there; meanwhile the next one is tried, which is put off too where it meets a page that is under way
(behaviour of ``io_read``, ``io_uring/rw.c``, on files that can wait asynchronously). They go on in the order
in which they were submitted, as far as the device keeps that order: which page arrives when, no trace shows.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from hindsight.subsystems.readahead.compiled import step
from hindsight.subsystems.readahead.kernel import finish_read, read_batch, refused_batch
from hindsight.subsystems.readahead.pages import PAGE_SHIFT, is_cached
from hindsight.subsystems.readahead.transfers import forget_previous


@njit(cache=True, nogil=True)
def read_together(cache, files, stream, pos, count, log):  # type: ignore[no-untyped-def]
    """Reads of ``count`` bytes at byte ``pos`` of streams, shapes (K,), in the order of submission."""
    reads = stream.shape[0]
    at = pos.astype(np.int64)
    end = np.empty(reads, np.int64)
    waited = np.zeros(reads, np.bool_)
    # Pages that each read has had read in this round, and that are not there before the next: [first, end).
    first, beyond = np.zeros(reads, np.int64), np.zeros(reads, np.int64)
    left = np.int64(0)
    for i in range(reads):
        size = cache.size[np.uint64(files.file[np.uint64(stream[i])])]
        end[i] = min(at[i] + count[i], size)
        left += at[i] < end[i]
    while left > 0:
        beyond[:] = 0
        for i in range(reads):
            if at[i] < end[i]:
                _go_on(cache, files, i, stream, pos, count, at, end, waited, first, beyond, log)
                left -= at[i] >= end[i]


@step
def _under_way(files, stream, i, index, first, beyond):  # type: ignore[no-untyped-def]
    file = files.file[np.uint64(stream[i])]
    for other in range(i):
        if files.file[np.uint64(stream[other])] == file and first[other] <= index < beyond[other]:
            return True
    return False


@step
def _go_on(cache, files, i, stream, pos, count, at, end, waited, first, beyond, log):  # type: ignore[no-untyped-def]
    """One read until it is put off or done."""
    s = np.int64(stream[i])
    file = np.uint64(files.file[np.uint64(s)])
    last_index = (pos[i] + count[i] + (1 << PAGE_SHIFT) - 1) >> PAGE_SHIFT
    begin = at[i]
    while at[i] < end[i]:
        index = at[i] >> PAGE_SHIFT
        missing = not is_cached(cache, file, index)
        if not waited[i] and (missing or _under_way(files, stream, i, index, first, beyond)):
            refused_batch(cache, files, s, index, last_index, log)
            waited[i] = True
            first[i] = beyond[i] = index
            while missing and is_cached(cache, file, beyond[i]):
                beyond[i] += 1
            break
        waited[i] = False
        row = log.n[0]
        after = np.int64(read_batch(cache, files, s, index, last_index, log)) << PAGE_SHIFT
        # It may have been put off in between, and have begun anew, where a page was still under way.
        forget_previous(log, row, -1)
        at[i] = min(after, end[i])
    finish_read(cache, files, s, begin, at[i] - begin)
