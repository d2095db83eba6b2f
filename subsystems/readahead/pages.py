"""The page cache of the files of one capture: which pages are there, in which folios, with which marks.

Flat arrays, seven bytes a page. Looking a page up is an array access; *counting* cached pages before or after
an index is not, because the kernel walks its tree (an XArray of 64 slots a node) with a cursor whose slot and
whose index drift apart inside large folios. :func:`previous_miss` and :func:`next_miss` do the same walk,
since its results decide window sizes (behaviour of ``page_cache_prev_miss``, ``page_cache_next_miss``,
``mm/filemap.c``, and ``xas_prev``, ``xas_next``, ``lib/xarray.c``, of Linux 6.18; written from their observed
behaviour).

Reclaim leaves a *shadow* in the place of a folio (:func:`evict`), of the same order. It is no page, but the
walk takes the slots of a large one, other than its first, for cached pages. A folio that comes into the place
of a larger shadow splits it (behaviour of ``__filemap_add_folio``, ``mm/filemap.c``).

Units are pages; arithmetic is int64, array indices are unsigned.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hindsight.subsystems.readahead.compiled import step
from hindsight.subsystems.readahead.recorded import (
    NOWHERE,
    Admitted,
    Changes,
    Columns,
    Corrections,
    admitted_of,
    changes_of,
    corrections_of,
)
from hindsight.subsystems.readahead.releases import behaviours

ABSENT = np.uint32(0xFFFFFFFF)
PAGE_SHIFT = 12
NODE_SHIFT = 6
"""log2 of the slots of a node of the kernel's tree (CONFIG_BASE_SMALL unset)."""
NODE_MASK = 63


class PageCache(NamedTuple):
    """All files of a capture. Page p of file f stands at ``base[f] + p`` in ``start``, ``order`` and
    ``mark``.
    """

    base: NDArray[np.uint64]
    """(F + 1,) first position of each file."""
    size: NDArray[np.int64]
    """(F,) bytes, now."""
    max_order: NDArray[np.uint8]
    """(F,) largest folio order of the mapping; 0 = the file system has no large folios."""
    start: NDArray[np.uint32]
    """(P,) first page, in its file, of the cached folio that holds this page; ABSENT if none does."""
    order: NDArray[np.uint8]
    """(P,) order of that folio."""
    mark: NDArray[np.uint8]
    """(P,) 1 on the first page of a folio that carries the readahead mark."""
    shadow: NDArray[np.uint8]
    """(P,) 1 + order of the shadow that stands for this page; 0 if none does."""
    shadows: NDArray[np.uint8]
    """(F,) 1 where the file ever had a shadow."""
    changes: Changes
    admitted: Admitted
    behaviours: NDArray[np.uint8]
    """Those of the kernel's release (:mod:`hindsight.subsystems.readahead.releases`)."""
    corrections: Corrections


def page_cache(
    size: NDArray[np.int64],
    max_order: NDArray[np.uint8],
    changes: Columns | None = None,
    admitted: Columns | None = None,
    release: str = "",
    corrections: Columns | None = None,
) -> PageCache:
    """An empty cache for files of at most these sizes in bytes; shapes (F,). ``changes``, ``admitted`` and
    ``corrections``: columns of the classes of :mod:`recorded`. ``release``: that of the kernel, empty: the
    newest.
    """
    pages = (np.maximum(size, 0) + (1 << PAGE_SHIFT) - 1) >> PAGE_SHIFT
    base = np.zeros(len(size) + 1, np.uint64)
    base[1:] = np.cumsum(pages).astype(np.uint64)
    total = int(base[-1])
    return PageCache(
        base,
        np.array(size, np.int64),
        np.ascontiguousarray(max_order, np.uint8),
        np.full(total, ABSENT, np.uint32),
        np.zeros(total, np.uint8),
        np.zeros(total, np.uint8),
        np.zeros(total, np.uint8),
        np.zeros(len(size), np.uint8),
        changes_of(changes),
        admitted_of(admitted),
        behaviours(release),
        corrections_of(corrections),
    )


def empty(cache: PageCache) -> None:
    """Drop everything from the cache, as at the beginning."""
    cache.start.fill(ABSENT)
    cache.order.fill(0)
    cache.mark.fill(0)
    cache.shadow.fill(0)
    cache.shadows.fill(0)
    cache.changes.now.fill(0)
    cache.admitted.now[:] = 0, 0, NOWHERE


@step
def pages_of(cache, file):  # type: ignore[no-untyped-def]
    """Number of pages of a file."""
    return np.int64(cache.base[file + np.uint64(1)]) - np.int64(cache.base[file])


@step
def is_cached(cache, file, page):  # type: ignore[no-untyped-def]
    """Whether a page is in the cache; False outside the file."""
    if page < 0 or page >= pages_of(cache, file):
        return False
    return cache.start[cache.base[file] + np.uint64(page)] != ABSENT


@step
def insert(cache, file, page, order, mark):  # type: ignore[no-untyped-def]
    """Add a folio of 2**order pages; False, and nothing changes, if any of its pages is cached already."""
    count = np.int64(1) << np.int64(order)
    if page < 0 or page + count > pages_of(cache, file):
        return False
    at = cache.base[file] + np.uint64(page)
    for i in range(count):
        if cache.start[at + np.uint64(i)] != ABSENT:
            return False
    if cache.shadows[file]:
        _take_place_of_shadows(cache, file, page, np.int64(order))
    for i in range(count):
        cache.start[at + np.uint64(i)] = page
        cache.order[at + np.uint64(i)] = order
    cache.mark[at] = mark
    return True


@step
def _take_place_of_shadows(cache, file, page, order):  # type: ignore[no-untyped-def]
    """No shadow stands for the 2**order pages from ``page`` on any more; what is left of a larger one is in
    pieces, each as large as the kernel's tree can have it.
    """
    base = cache.base[file]
    size = np.int64(cache.shadow[base + np.uint64(page)]) - 1
    while size > order:
        piece = max(size - 1 if size % NODE_SHIFT == 0 else size - size % NODE_SHIFT, order)
        begin = (page >> size) << size
        for i in range(np.int64(1) << size):
            cache.shadow[base + np.uint64(begin + i)] = piece + 1
        size = piece
    for i in range(np.int64(1) << order):
        cache.shadow[base + np.uint64(page + i)] = 0


@step
def drop(cache, file, first, last):  # type: ignore[no-untyped-def]
    """Drop the folios, and the shadows, that lie wholly in the pages [first, last]; returns the number of
    pages dropped.
    """
    return remove(cache, file, first, last, False)


@step
def evict(cache, file, first, last):  # type: ignore[no-untyped-def]
    """Reclaim the folios that lie wholly in the pages [first, last]: shadows take their place. Returns the
    number of pages reclaimed.
    """
    return remove(cache, file, first, last, True)


@step
def remove(cache, file, first, last, leave_shadows):  # type: ignore[no-untyped-def]
    """:func:`evict` where ``leave_shadows``, else :func:`drop`."""
    end = min(last, pages_of(cache, file) - 1)
    page = max(first, np.int64(0))
    dropped = np.int64(0)
    while page <= end:
        at = cache.base[file] + np.uint64(page)
        if cache.start[at] == ABSENT:
            page = page + 1 if leave_shadows else _drop_shadow(cache, file, page, first, last)
            continue
        begin = np.int64(cache.start[at])
        order = cache.order[at]
        count = np.int64(1) << np.int64(order)
        if begin >= first and begin + count - 1 <= last:
            at = cache.base[file] + np.uint64(begin)
            for i in range(count):
                cache.start[at + np.uint64(i)] = ABSENT
                cache.order[at + np.uint64(i)] = 0
                cache.shadow[at + np.uint64(i)] = order + 1 if leave_shadows else 0
            cache.mark[at] = 0
            cache.shadows[file] |= leave_shadows
            dropped += count
        page = begin + count
    return dropped


@step
def split(cache, file, page):  # type: ignore[no-untyped-def]
    """Split the folio that holds ``page`` in halves, of which the one with that page is split on, to a single
    page. The mark stays on the first page (behaviour of ``folio_split``, ``mm/huge_memory.c``, of 6.18).
    """
    if not is_cached(cache, file, page):
        return
    base = cache.base[file]
    begin = np.int64(cache.start[base + np.uint64(page)])
    order = np.int64(cache.order[base + np.uint64(page)])
    while order > 0:
        order -= 1
        middle = begin + (np.int64(1) << order)
        for i in range(middle, middle + (np.int64(1) << order)):
            cache.start[base + np.uint64(i)] = middle
        for i in range(begin, middle + (np.int64(1) << order)):
            cache.order[base + np.uint64(i)] = order
        if page >= middle:
            begin = middle


@step
def drop_shadows(cache, file, first, last):  # type: ignore[no-untyped-def]
    """Drop the shadows that lie wholly in the pages [first, last], and no folio."""
    if cache.shadows[file] == 0:
        return
    page = max(first, np.int64(0))
    while page <= min(last, pages_of(cache, file) - 1):
        page = _drop_shadow(cache, file, page, first, last)


@step
def _drop_shadow(cache, file, page, first, last):  # type: ignore[no-untyped-def]
    """Drop the shadow that stands for ``page``, if there is one that lies wholly in [first, last]; the page
    after it.
    """
    shadow = np.int64(cache.shadow[cache.base[file] + np.uint64(page)])
    if shadow == 0:
        return page + 1
    begin = (page >> (shadow - 1)) << (shadow - 1)
    after = begin + (np.int64(1) << (shadow - 1))
    if begin >= first and after - 1 <= last:
        for i in range(begin, after):
            cache.shadow[cache.base[file] + np.uint64(i)] = 0
    return after


@step
def drop_file(cache, file):  # type: ignore[no-untyped-def]
    """Drop every page of a file; returns the number of pages dropped."""
    return drop(cache, file, np.int64(0), pages_of(cache, file))


@step
def _load(cache, file, page):  # type: ignore[no-untyped-def]
    """Cursor at a cached page: (level shift, slot, node number at that level); the folio's first slot."""
    at = cache.base[file] + np.uint64(page)
    begin = np.int64(cache.start[at])
    shift = np.int64(NODE_SHIFT) if cache.order[at] >= NODE_SHIFT else np.int64(0)
    return shift, (begin >> shift) & NODE_MASK, begin >> (shift + NODE_SHIFT)


@step
def _shadow_at(cache, file, page):  # type: ignore[no-untyped-def]
    """1 + order of the shadow that stands for a page, 0 if none does or the page is outside the file."""
    if cache.shadows[file] == 0 or page < 0 or page >= pages_of(cache, file):
        return np.int64(0)
    return np.int64(cache.shadow[cache.base[file] + np.uint64(page)])


@step
def _descend(cache, file, index, shift, slot, node):  # type: ignore[no-untyped-def]
    """Read the slot under the cursor, going down by the *index* where it holds a node.

    Returns (present, shift, slot, node).
    """
    while True:
        page = ((node << NODE_SHIFT) + slot) << shift
        shadow = _shadow_at(cache, file, page)
        # The slots of a large shadow but its first hold no value of their own, so they pass for pages.
        inside = shadow > 0 and page & ((np.int64(1) << (shadow - 1)) - 1) != 0
        if shift == 0:
            return inside or is_cached(cache, file, page), shift, slot, node
        if shift == NODE_SHIFT and shadow > NODE_SHIFT:
            return inside, shift, slot, node
        if (
            shift == NODE_SHIFT
            and is_cached(cache, file, page)
            and cache.order[cache.base[file] + np.uint64(page)] >= NODE_SHIFT
        ):
            return True, shift, slot, node
        shift -= NODE_SHIFT
        node = (node << NODE_SHIFT) + slot
        slot = (index >> shift) & NODE_MASK


@step
def previous_miss(cache, file, page, limit):  # type: ignore[no-untyped-def]
    """Going back from ``page`` over at most ``limit`` pages: where the kernel meets a page that is not
    cached.

    ``page - (limit - 1)`` if it meets none; -1 if it walks past the start of the file.
    """
    if not is_cached(cache, file, page):
        return page
    index = page
    shift, slot, node = _load(cache, file, page)
    for _ in range(limit - 1):
        index -= 1
        if shift == 0 and slot > 0:
            slot -= 1
        else:
            if slot != (index >> shift) & NODE_MASK:
                slot -= 1
            while slot < 0:
                if node == 0:
                    return index
                shift += NODE_SHIFT
                slot = (node & NODE_MASK) - 1
                node >>= NODE_SHIFT
        present, shift, slot, node = _descend(cache, file, index, shift, slot, node)
        if not present or index < 0:
            return index
    return index


@step
def next_miss(cache, file, page, limit):  # type: ignore[no-untyped-def]
    """Going forward from ``page`` over at most ``limit`` pages: where the kernel meets a page that is not
    cached.

    ``page + limit`` if it meets none.
    """
    if not is_cached(cache, file, page):
        return page
    index = page
    shift, slot, node = _load(cache, file, page)
    for _ in range(limit - 1):
        index += 1
        if shift == 0 and slot < NODE_MASK:
            slot += 1
        else:
            if slot != (index >> shift) & NODE_MASK:
                slot += 1
            while slot > NODE_MASK:
                shift += NODE_SHIFT
                slot = (node & NODE_MASK) + 1
                node >>= NODE_SHIFT
        present, shift, slot, node = _descend(cache, file, index, shift, slot, node)
        if not present:
            return index
    return page + limit
