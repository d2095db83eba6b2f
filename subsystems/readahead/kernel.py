"""The kernel's own readahead logic for buffered reads, as Linux 6.18 decides.

Behaviour of ``mm/readahead.c`` and ``mm/filemap.c`` as step functions over flat arrays. One buffered read is
a loop of :func:`read_batch` calls (each one an iteration of ``filemap_get_pages``) closed by
:func:`finish_read`. What a call decides goes to a :class:`Log` in the terms of the tracepoints.

All numbers are pages unless named bytes. Arithmetic is int64, array indices are unsigned.
"""

from __future__ import annotations

import numpy as np

from hindsight.subsystems.readahead.compiled import inlined, step
from hindsight.subsystems.readahead.filling import (
    ALL,
    KIND,
    NOTHING,
    add,
    begin_forced,
    begin_pages,
    begin_window,
    carry_out,
    show_state,
)
from hindsight.subsystems.readahead.ondemand import begin_on_demand
from hindsight.subsystems.readahead.onestep import correct
from hindsight.subsystems.readahead.pages import (
    ABSENT,
    PAGE_SHIFT,
    PageCache,
    next_miss,
    pages_of,
    previous_miss,
)
from hindsight.subsystems.readahead.pressure import begin_batch
from hindsight.subsystems.readahead.releases import ON_DEMAND, SMALL_BATCHES
from hindsight.subsystems.readahead.state import (
    ASYNC_RA,
    DECISION_TABLES,
    RA_ORDER,
    RA_UNBOUNDED,
    SYNC_RA,
    Log,
    OpenFiles,
    new_log,
    open_files,
)
from hindsight.subsystems.readahead.windows import initial_window, next_window, window_limit

BATCH_FOLIOS, _SMALL_BATCH = 31, 15


@step
def begin_synchronous(cache, files, stream, index, req, log):  # type: ignore[no-untyped-def]
    """A page that a read needs is missing: ``page_cache_sync_ra``."""
    log.fill[KIND] = NOTHING
    if cache.corrections.next.shape[0] > 0:
        correct(cache, files, stream, SYNC_RA, index, np.int64(log.n[2]))
    s = np.uint64(stream)
    file = np.uint64(files.file[s])
    needed_until = index + req
    show_state(files, stream, np.int64(SYNC_RA), index, req, log)
    if files.ra_pages[s] == 0:
        begin_forced(cache, files, stream, index, np.int64(1), needed_until, log)
        return
    if files.random[s] != 0:
        begin_forced(cache, files, stream, index, req, needed_until, log)
        return
    if cache.behaviours[ON_DEMAND]:
        begin_on_demand(cache, files, stream, index, req, False, needed_until, log)
        return
    limit = window_limit(files, stream, req)
    # Before the first read prev_pos is -1, which is no page of any file.
    since_previous = index - (files.prev_pos[s] >> PAGE_SHIFT) if files.prev_pos[s] >= 0 else np.int64(-1)
    if index == 0 or req > limit or since_previous == 0 or since_previous == 1:
        size = initial_window(req, limit)
        async_size = size - req if size > req else size >> 1
    else:
        miss = previous_miss(cache, file, index - 1, limit)
        contiguous = index - miss - 1
        if contiguous <= req:
            begin_pages(cache, files, stream, index, req, np.int64(0), needed_until, log)
            return
        if miss == -1:
            contiguous *= 2
        size = min(contiguous + req, limit)
        async_size = np.int64(1)
    files.start[s] = index
    files.size[s] = size
    files.async_size[s] = async_size
    files.order[s] = 0
    begin_window(cache, files, stream, needed_until, log)


@step
def begin_asynchronous(cache, files, stream, index, req, log):  # type: ignore[no-untyped-def]
    """The mark was met on the folio of page ``index``: ``page_cache_async_ra``. A read asks at the first page
    of the folio, a fault at its own.
    """
    log.fill[KIND] = NOTHING
    s = np.uint64(stream)
    file = np.uint64(files.file[s])
    if files.ra_pages[s] == 0:
        return
    if cache.corrections.next.shape[0] > 0:
        correct(cache, files, stream, ASYNC_RA, index, np.int64(log.n[2]))
    show_state(files, stream, np.int64(ASYNC_RA), index, req, log)
    at = cache.base[file] + np.uint64(index)
    folio_order = np.int64(cache.order[at])
    cache.mark[cache.base[file] + np.uint64(cache.start[at])] = 0
    if cache.behaviours[ON_DEMAND]:
        begin_on_demand(cache, files, stream, index, req, True, np.int64(0), log)
        return
    limit = window_limit(files, stream, req)
    start = np.int64(files.start[s])
    size = np.int64(files.size[s])
    expected = start + size - np.int64(files.async_size[s])
    if index == (expected >> folio_order) << folio_order:
        start += size
        size = max(size, next_window(size, limit))
    else:
        start = next_miss(cache, file, index + 1, limit)
        if start - index > limit:
            return
        size = next_window(start - index + req, limit)
    order = np.int64(files.order[s]) + 2
    alignment = np.int64(0)
    while alignment < order and not (limit >> alignment) & 1:
        alignment += 1
    end = start + size
    aligned = (end >> alignment) << alignment
    if aligned > start:
        size -= end - aligned
    files.start[s] = start
    files.size[s] = size
    files.async_size[s] = size
    files.order[s] = order
    begin_window(cache, files, stream, np.int64(0), log)


@step
def synchronous(cache, files, stream, index, req, log):  # type: ignore[no-untyped-def]
    """:func:`begin_synchronous`, and all that it decided."""
    begin_synchronous(cache, files, stream, index, req, log)
    carry_out(cache, files, log, ALL)


@step
def asynchronous(cache, files, stream, index, req, log):  # type: ignore[no-untyped-def]
    """:func:`begin_asynchronous`, and all that it decided."""
    begin_asynchronous(cache, files, stream, index, req, log)
    carry_out(cache, files, log, ALL)


@step
def look_up(cache, file, first, until):  # type: ignore[no-untyped-def]
    """Cached folios from page ``first`` on: to ``until``, the end of the file, a page that is not cached, or
    a folio that carries the readahead mark. Returns the page after the last one, and its first (-1 if none).
    """
    stop = min(until, pages_of(cache, file))
    end = first
    folio = np.int64(-1)
    for _ in range(_SMALL_BATCH if cache.behaviours[SMALL_BATCHES] else BATCH_FOLIOS):
        if end >= stop:
            break
        at = cache.base[file] + np.uint64(end)
        if cache.start[at] == ABSENT:
            break
        folio = np.int64(cache.start[at])
        end = folio + (np.int64(1) << np.int64(cache.order[at]))
        if cache.mark[cache.base[file] + np.uint64(folio)] != 0:
            break
    return end, folio


@inlined
def read_batch(cache: PageCache, files: OpenFiles, stream: int, index: int, last_index: int, log: Log) -> int:
    """One batch of a buffered read of the pages [index, last_index) by a stream.

    ``last_index`` is the page after the last one that the *rest of the read call* asks for, not clamped to
    the end of the file; ``index`` must lie before the end of the file. Looks up cached folios from ``index``
    (31 at most, up to a folio that carries the readahead mark), reads ahead where none is cached or where the
    mark is met. Returns the page after the batch, ``last_index`` at most. Folios that are still being read
    are not told apart here: the kernel ends a batch there, which changes the batches and no decision.
    """
    first = np.int64(index)
    until = np.int64(last_index)
    file = np.uint64(files.file[np.uint64(stream)])
    if cache.changes.now[0] < cache.changes.op.shape[0] or cache.admitted.limited.shape[0] > 0:
        begin_batch(cache, first)
    end, folio = look_up(cache, file, first, until)
    if folio < 0:
        synchronous(cache, files, stream, first, until - first, log)
        end, folio = look_up(cache, file, first, until)
    if folio < 0:
        # Nothing was read ahead: the kernel reads the page alone, without a readahead event.
        add(cache, file, first, np.int64(0), np.int64(0), until, log)
        return first + 1  # type: ignore[return-value]
    at = cache.base[file] + np.uint64(folio)
    if cache.mark[at] != 0:
        asynchronous(cache, files, stream, folio, until - folio, log)
    return min(end, until)  # type: ignore[return-value]


@step
def refused_batch(cache, files, stream, index, last_index, log):  # type: ignore[no-untyped-def]
    """The batch at page ``index`` that a read does not get since it does not wait (RWF_NOWAIT) or is put off:
    readahead is started, the page is not there yet.
    """
    file = np.uint64(files.file[np.uint64(stream)])
    at = cache.base[file] + np.uint64(index)
    if cache.start[at] == ABSENT:
        synchronous(cache, files, stream, index, last_index - index, log)
    if cache.start[at] == ABSENT:
        return
    folio = np.int64(cache.start[at])
    if cache.mark[cache.base[file] + np.uint64(folio)] != 0:
        asynchronous(cache, files, stream, folio, last_index - folio, log)


@step
def finish_read(cache: PageCache, files: OpenFiles, stream: int, pos: int, ret: int) -> None:
    """The end of a read call that began at byte ``pos`` and returned ``ret`` bytes: remembers where it ended.

    A read at or beyond the end of the file leaves the state as it is.
    """
    if ret > 0:
        files.prev_pos[np.uint64(stream)] = pos + ret


__all__ = [
    "ASYNC_RA",
    "DECISION_TABLES",
    "RA_ORDER",
    "RA_UNBOUNDED",
    "SYNC_RA",
    "Log",
    "OpenFiles",
    "finish_read",
    "new_log",
    "open_files",
    "read_batch",
    "refused_batch",
]
