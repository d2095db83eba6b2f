"""How kernels up to Linux 6.10 decide on readahead: one function for misses and marks.

Behaviour of ``ondemand_readahead`` and ``try_context_readahead``, ``mm/readahead.c`` of Linux 6.1, on file
systems without large folios. :mod:`hindsight.subsystems.readahead.kernel` has what came after it, and calls
this where the recorded kernel was older.
"""

from __future__ import annotations

import numpy as np

from hindsight.subsystems.readahead.compiled import step
from hindsight.subsystems.readahead.filling import begin_pages, begin_window
from hindsight.subsystems.readahead.pages import PAGE_SHIFT, next_miss, previous_miss
from hindsight.subsystems.readahead.windows import initial_window, next_window, window_limit


@step
def begin_on_demand(cache, files, stream, index, req, marked, needed_until, log):  # type: ignore[no-untyped-def]
    """``req`` pages from ``index`` on are asked for; ``marked``: the page there is cached, with the mark."""
    s = np.uint64(stream)
    file = np.uint64(files.file[s])
    limit = window_limit(files, stream, req)
    start, size, async_size = np.int64(files.start[s]), np.int64(files.size[s]), np.int64(files.async_size[s])
    # Before the first read prev_pos is -1, which is no page of any file.
    since_previous = index - (files.prev_pos[s] >> PAGE_SHIFT) if files.prev_pos[s] >= 0 else np.int64(-1)
    sequential = index != 0 and (index == start + size - async_size or index == start + size)
    if sequential:
        start += size
        size = max(size, next_window(size, limit))  # (a fix that 6.1.y has as well)
        async_size = size
    elif index != 0 and marked:
        # Where none of them is missing, page_cache_next_miss says the last one: the window begins there.
        start = min(next_miss(cache, file, index + 1, limit), index + limit)
        size = next_window(start - index + req, limit)
        async_size = size
    elif index == 0 or req > limit or since_previous == 0 or since_previous == 1:
        start = index
        size = initial_window(req, limit)
        async_size = size - req if size > req else size
    else:
        contiguous = index - 1 - previous_miss(cache, file, index - 1, limit)
        if contiguous <= req:
            begin_pages(cache, files, stream, index, req, np.int64(0), needed_until, log)
            return
        if contiguous >= index:
            contiguous *= 2
        start = index
        size = min(contiguous + req, limit)
        async_size = np.int64(1)
    if start == index and size == async_size:
        # The read would meet the mark that it is about to make: the next window is joined to this one.
        more = next_window(size, limit)
        if size + more <= limit:
            async_size = more
            size += more
        else:
            size = limit
            async_size = limit >> 1
    files.start[s] = start
    files.size[s] = size
    files.async_size[s] = async_size
    files.order[s] = 0
    begin_window(cache, files, stream, needed_until, log)
