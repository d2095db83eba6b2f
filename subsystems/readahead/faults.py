"""Page faults on a mapped file, as Linux 6.18 does them (``filemap_fault``, ``mm/filemap.c``).

Fault-around runs first: what it maps faults no more (:func:`map_pages`). A fault that finds its page reads
ahead where the page carries the mark; one that does not reads around the page, as long as not many more
faults missed than hit.
"""

from __future__ import annotations

import numpy as np

from hindsight.subsystems.readahead.compiled import step
from hindsight.subsystems.readahead.filling import ALL, add, begin_window, carry_out
from hindsight.subsystems.readahead.kernel import asynchronous, synchronous
from hindsight.subsystems.readahead.mappings import EXECUTABLE, HUGE, RAND_READ, SEQ_READ
from hindsight.subsystems.readahead.pages import ABSENT, is_cached, pages_of
from hindsight.subsystems.readahead.releases import EXECUTABLE_WINDOW

LOTS_OF_MISSES = 100
"""More misses than hits by so many: reading around stops (MMAP_LOTSAMISS)."""
_HUGE_ORDER, _HUGE_PAGES = 9, 512


@step
def map_pages(cache, files, mapped, stream, first, last, mapping):  # type: ignore[no-untyped-def]
    """Fault-around put the cached pages [first, last] into a mapping, but for folios that carry the mark;
    ``mapped`` u64[P]: a bit for each mapping (of 64) that a page is in. Each that comes in counts as a hit.
    """
    s = np.uint64(stream)
    file = np.uint64(files.file[s])
    hits = np.int64(0)
    for page in range(first, min(last, pages_of(cache, file) - 1) + 1):
        at = cache.base[file] + np.uint64(page)
        if cache.start[at] == ABSENT or cache.mark[cache.base[file] + np.uint64(cache.start[at])] != 0:
            continue
        bit = np.uint64(1) << np.uint64(mapping & 63)
        if mapped[at] & bit == 0:
            mapped[at] |= bit
            hits += 1
    files.mmap_miss[s] = max(np.int64(files.mmap_miss[s]) - hits, 0)


@step
def fault(cache, files, stream, page, flags, beyond, log):  # type: ignore[no-untyped-def]
    """A fault on ``page`` of the stream's file; the mapping has ``flags`` and ends before page ``beyond``."""
    s = np.uint64(stream)
    file = np.uint64(files.file[s])
    if page >= pages_of(cache, file):
        return
    ra_pages = np.int64(files.ra_pages[s])
    if is_cached(cache, file, page):
        if flags & RAND_READ or ra_pages == 0:
            return
        if files.mmap_miss[s] > 0:
            files.mmap_miss[s] -= 1
        at = cache.base[file] + np.uint64(page)
        if cache.mark[cache.base[file] + np.uint64(cache.start[at])] != 0:
            asynchronous(cache, files, stream, page, ra_pages, log)
        return
    _missed(cache, files, stream, page, flags, beyond, log)
    if not is_cached(cache, file, page):
        add(cache, file, page, np.int64(0), np.int64(0), page + 1, log)


@step
def _missed(cache, files, stream, page, flags, beyond, log):  # type: ignore[no-untyped-def]
    s = np.uint64(stream)
    ra_pages = np.int64(files.ra_pages[s])
    if flags & HUGE:
        start = files.start[s]
        files.start[s] = page // _HUGE_PAGES * _HUGE_PAGES
        files.size[s] = _HUGE_PAGES if flags & RAND_READ else 2 * _HUGE_PAGES
        files.async_size[s] = _HUGE_PAGES
        files.order[s] = _HUGE_ORDER
        begin_window(cache, files, stream, page + 1, log)
        carry_out(cache, files, log, ALL)
        files.start[s] = start
        return
    random = flags & RAND_READ and not (flags & EXECUTABLE and cache.behaviours[EXECUTABLE_WINDOW])
    if random or ra_pages == 0:
        return
    if flags & SEQ_READ:
        synchronous(cache, files, stream, page, ra_pages, log)
        return
    if files.mmap_miss[s] < 10 * LOTS_OF_MISSES:
        files.mmap_miss[s] += 1
    if files.mmap_miss[s] > LOTS_OF_MISSES:
        return
    if flags & EXECUTABLE and cache.behaviours[EXECUTABLE_WINDOW]:
        files.start[s] = page
        files.size[s] = min(page + ra_pages, beyond) - page
        files.async_size[s] = 0
    else:
        files.start[s] = max(page - ra_pages // 2, 0)
        files.size[s] = ra_pages
        files.async_size[s] = ra_pages // 4
    files.order[s] = 0
    begin_window(cache, files, stream, page + 1, log)
    carry_out(cache, files, log, ALL)
