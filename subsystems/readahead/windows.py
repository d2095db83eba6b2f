"""How large windows are, as Linux decides (``mm/readahead.c``). All numbers are pages."""

from __future__ import annotations

import numpy as np

from hindsight.subsystems.readahead.compiled import step


@step
def window_limit(files, stream, req):  # type: ignore[no-untyped-def]
    """The largest window of a stream for a request of ``req`` pages."""
    s = np.uint64(stream)
    limit = np.int64(files.ra_pages[s])
    io_pages = np.int64(files.io_pages[s])
    return min(req, io_pages) if req > limit and io_pages > limit else limit


@step
def initial_window(req, limit):  # type: ignore[no-untyped-def]
    """Pages of the first window (``get_init_ra_size``)."""
    size = np.int64(1)
    while size < req:
        size <<= 1
    if size <= limit // 32:
        return size * 4
    return size * 2 if size <= limit // 4 else limit


@step
def next_window(size, limit):  # type: ignore[no-untyped-def]
    """Pages of the window after one of ``size`` (``get_next_ra_size``)."""
    if size < limit // 16:
        return size * 4
    return size * 2 if size <= limit // 2 else limit
