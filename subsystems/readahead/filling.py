"""What a readahead decision puts into the page cache, folio by folio, as Linux 6.18 does it.

A decision *begins* a fill, which goes to ``log.fill``: the window of a stream in large folios
(``page_cache_ra_order``, ``mm/readahead.c``), or single pages (``page_cache_ra_unbounded``).
:func:`carry_out` does all of it, or as many folios as it is told, so that tasks which fill at the same time
can be replayed in turn.

All numbers are pages. Arithmetic is int64, array indices are unsigned.
"""

from __future__ import annotations

import numpy as np

from hindsight.subsystems.readahead.compiled import step
from hindsight.subsystems.readahead.pages import PAGE_SHIFT, insert, is_cached
from hindsight.subsystems.readahead.pressure import change, take_room, there_is_room
from hindsight.subsystems.readahead.recorded import NOWHERE
from hindsight.subsystems.readahead.state import RA_ORDER, RA_UNBOUNDED

CHUNK_PAGES = (2 << 20) >> PAGE_SHIFT
NOTHING, WINDOW, SINGLE_PAGES = range(3)
KIND, STREAM, INDEX, END, ORDER, MARK, START, LEFT, NEEDED_UNTIL = range(9)
"""Fields of ``log.fill``: what it is, of which stream; the next page; the page after the last one wanted; the
largest order; the page that gets the mark; where the window began; pages of later chunks; the page before
which pages are waited for.
"""
ALL = np.int64(1 << 62)


@step
def decide(log, kind, stream, index, req, order, size, async_size, ra_pages, prev_pos):  # type: ignore[no-untyped-def]
    """Write down a decision; see :class:`hindsight.subsystems.readahead.state.Log`."""
    at = log.n[0]
    log.n[0] = at + np.uint64(1)
    if at >= np.uint64(log.kind.shape[0]):
        return
    log.op[at] = log.n[2]
    log.kind[at] = kind
    log.stream[at] = stream
    log.index[at] = index
    log.req[at] = req
    log.order[at] = order
    log.size[at] = size
    log.async_size[at] = async_size
    log.ra_pages[at] = ra_pages
    log.prev_pos[at] = prev_pos


@step
def show_state(files, stream, kind, index, req, log):  # type: ignore[no-untyped-def]
    """Write down a decision with the state of its stream, as its tracepoint shows it."""
    s = np.uint64(stream)
    prev_pos = files.prev_pos[s] if kind != RA_ORDER else np.int64(0)
    decide(
        log,
        kind,
        stream,
        index,
        req,
        np.int64(files.order[s]),
        np.int64(files.size[s]),
        np.int64(files.async_size[s]),
        np.int64(files.ra_pages[s]),
        prev_pos,
    )


@step
def add(cache, file, index, order, mark, needed_until, log):  # type: ignore[no-untyped-def]
    """Insert a folio and log it; ``needed_until``: pages before this one are waited for."""
    room = cache.admitted.limited.shape[0] == 0 or there_is_room(cache, index, order)
    # What left later made no room for a folio that could not be had.
    if room and cache.changes.now[0] < cache.changes.op.shape[0]:
        change(cache, NOWHERE)
    if cache.admitted.limited.shape[0] > 0:
        cached = is_cached(cache, file, index)
        cache.admitted.now[1] = not cached and not room
        if cached or not room:
            return False
        take_room(cache)
    if not insert(cache, file, index, order, mark):
        return False
    at = log.n[1]
    log.n[1] = at + np.uint64(1)
    if at < np.uint64(log.add_file.shape[0]):
        log.add_file[at] = file
        log.add_index[at] = index
        log.add_order[at] = order
        log.add_async[at] = 1 if index >= needed_until else 0
    cache.changes.now[2] += 1
    return True


@step
def _last_page(cache, file):  # type: ignore[no-untyped-def]
    return (cache.size[file] - 1) >> PAGE_SHIFT


@step
def begin_pages(cache, files, stream, index, count, lookahead, needed_until, log):  # type: ignore[no-untyped-def]
    """Single pages from ``index``, skipping cached ones, to the end of the file at most."""
    log.fill[KIND] = NOTHING
    log.fill[LEFT] = 0
    file = np.uint64(files.file[np.uint64(stream)])
    last = _last_page(cache, file)
    if cache.size[file] == 0 or index > last:
        return
    if count > last - index:
        count = last - index + 1
    zero = np.int64(0)
    decide(log, np.int64(RA_UNBOUNDED), stream, index, count, zero, zero, lookahead, zero, zero)
    log.fill[KIND] = SINGLE_PAGES
    log.fill[STREAM] = stream
    log.fill[INDEX] = index
    log.fill[END] = index + count
    log.fill[MARK] = index + count - lookahead if lookahead <= count else np.int64(-1)
    log.fill[NEEDED_UNTIL] = needed_until


@step
def begin_forced(cache, files, stream, index, count, needed_until, log):  # type: ignore[no-untyped-def]
    """Exactly ``count`` pages, at most the larger of window and request limit, in chunks of 2 MiB."""
    s = np.uint64(stream)
    count = min(count, max(np.int64(files.io_pages[s]), np.int64(files.ra_pages[s])))
    chunk = min(count, np.int64(CHUNK_PAGES))
    log.fill[KIND] = NOTHING
    if chunk > 0:
        begin_pages(cache, files, stream, index, chunk, np.int64(0), needed_until, log)
        log.fill[LEFT] = count - chunk


@step
def _log2(value):  # type: ignore[no-untyped-def]
    result = np.int64(0)
    while value > 1:
        value >>= 1
        result += 1
    return result


@step
def begin_window(cache, files, stream, needed_until, log):  # type: ignore[no-untyped-def]
    """The stream's window, in folios of its order where they fit."""
    s = np.uint64(stream)
    file = np.uint64(files.file[s])
    start = np.int64(files.start[s])
    size = np.int64(files.size[s])
    async_size = np.int64(files.async_size[s])
    show_state(files, stream, np.int64(RA_ORDER), start, np.int64(0), log)
    if cache.max_order[file] == 0:
        files.order[s] = 0
        begin_pages(cache, files, stream, start, size, async_size, needed_until, log)
        return
    order = min(np.int64(files.order[s]), np.int64(cache.max_order[file]), _log2(size))
    files.order[s] = order
    log.fill[KIND] = WINDOW
    log.fill[LEFT] = 0
    log.fill[STREAM] = stream
    log.fill[INDEX] = start
    log.fill[END] = start + size
    log.fill[ORDER] = order
    log.fill[MARK] = start + size - async_size
    log.fill[START] = start
    log.fill[NEEDED_UNTIL] = needed_until


@step
def carry_out(cache, files, log, most):  # type: ignore[no-untyped-def]
    """Add what the fill in ``log.fill`` wants, at most so many folios. Returns how many were added; where
    that is less than ``most``, the fill is done.
    """
    added = np.int64(0)
    while log.fill[KIND] != NOTHING and added < most:
        if log.fill[KIND] == WINDOW:
            added += _fill_window(cache, files, log, most - added)
        else:
            added += _fill_pages(cache, files, log, most - added)
            if log.fill[KIND] == NOTHING and log.fill[LEFT] > 0:
                begin_forced(
                    cache, files, log.fill[STREAM], log.fill[END], log.fill[LEFT], log.fill[NEEDED_UNTIL], log
                )
    return added


@step
def _fill_window(cache, files, log, most):  # type: ignore[no-untyped-def]
    file = np.uint64(files.file[np.uint64(log.fill[STREAM])])
    index, order, mark = log.fill[INDEX], log.fill[ORDER], log.fill[MARK]
    needed_until = log.fill[NEEDED_UNTIL]
    limit = min(_last_page(cache, file), log.fill[END] - 1)
    added = np.int64(0)
    while index <= limit and added < most:
        fit = _fitting(index, order, limit)
        if not add(cache, file, index, fit, np.int64(index == (mark >> fit) << fit), needed_until, log):
            _go_page_by_page(cache, files, index, log)
            return added
        index += np.int64(1) << fit
        added += 1
    log.fill[INDEX] = index
    if index > limit:
        log.fill[KIND] = NOTHING
    return added


@step
def _fitting(index, order, limit):  # type: ignore[no-untyped-def]
    """The largest order up to ``order`` of a folio at ``index`` that is aligned and ends at ``limit``."""
    while index & ((np.int64(1) << order) - 1):
        order -= 1
    while order > 0 and index + (np.int64(1) << order) - 1 > limit:
        order -= 1
    return order


@step
def _go_page_by_page(cache, files, index, log):  # type: ignore[no-untyped-def]
    """Pages of the window are cached already at ``index``: the rest goes page by page. How many that are the
    state of the stream says, which another task may have changed meanwhile.
    """
    stream = log.fill[STREAM]
    s = np.uint64(stream)
    count = np.int64(files.size[s]) - (index - log.fill[START])
    lookahead = np.int64(files.async_size[s])
    begin_pages(cache, files, stream, index, count, lookahead, log.fill[NEEDED_UNTIL], log)


@step
def settle(cache, files, log):  # type: ignore[no-untyped-def]
    """Go on with the fill in ``log.fill`` as far as that adds nothing."""
    file = np.uint64(files.file[np.uint64(log.fill[STREAM])])
    if log.fill[KIND] == WINDOW:
        index, limit = log.fill[INDEX], min(_last_page(cache, file), log.fill[END] - 1)
        if index > limit:
            log.fill[KIND] = NOTHING
            return
        fit = _fitting(index, log.fill[ORDER], limit)
        for page in range(index, index + (np.int64(1) << fit)):
            if is_cached(cache, file, page):
                _go_page_by_page(cache, files, index, log)
                break
    if log.fill[KIND] == SINGLE_PAGES and log.fill[LEFT] == 0:
        while log.fill[INDEX] < log.fill[END] and is_cached(cache, file, log.fill[INDEX]):
            log.fill[INDEX] += 1
        if log.fill[INDEX] >= log.fill[END]:
            log.fill[KIND] = NOTHING


@step
def _fill_pages(cache, files, log, most):  # type: ignore[no-untyped-def]
    file = np.uint64(files.file[np.uint64(log.fill[STREAM])])
    index, end, mark = log.fill[INDEX], log.fill[END], log.fill[MARK]
    needed_until = log.fill[NEEDED_UNTIL]
    added = np.int64(0)
    while index < end and added < most:
        added += add(cache, file, index, np.int64(0), np.int64(index == mark), needed_until, log)
        index += 1
        if cache.admitted.now[1] != 0:
            index = end
    log.fill[INDEX] = index
    if index >= end:
        log.fill[KIND] = NOTHING
    return added
