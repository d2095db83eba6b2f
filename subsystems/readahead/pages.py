"""The page cache of the files of one capture: which pages are there, in which folios, with which marks.

Flat arrays, six bytes a page. Looking a page up is an array access; *counting* cached pages before or after
an index is not, because the kernel walks its tree (an XArray of 64 slots a node) with a cursor whose slot and
whose index drift apart inside large folios. :func:`previous_miss` and :func:`next_miss` do the same walk,
since its results decide window sizes (behaviour of ``page_cache_prev_miss``, ``page_cache_next_miss``,
``mm/filemap.c``, and ``xas_prev``, ``xas_next``, ``lib/xarray.c``, of Linux 6.18; written from their observed
behaviour).

Units are pages; arithmetic is int64, array indices are unsigned. Eviction is not modelled: nothing here
leaves the shadows that the kernel leaves when it reclaims a folio.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

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
    """(F,) bytes."""
    max_order: NDArray[np.uint8]
    """(F,) largest folio order of the mapping; 0 = the file system has no large folios."""
    start: NDArray[np.uint32]
    """(P,) first page, in its file, of the cached folio that holds this page; ABSENT if none does."""
    order: NDArray[np.uint8]
    """(P,) order of that folio."""
    mark: NDArray[np.uint8]
    """(P,) 1 on the first page of a folio that carries the readahead mark."""


def page_cache(size: NDArray[np.int64], max_order: NDArray[np.uint8]) -> PageCache:
    """An empty cache for files of these sizes in bytes; shapes (F,)."""
    pages = (np.maximum(size, 0) + (1 << PAGE_SHIFT) - 1) >> PAGE_SHIFT
    base = np.zeros(len(size) + 1, np.uint64)
    base[1:] = np.cumsum(pages).astype(np.uint64)
    total = int(base[-1])
    return PageCache(
        base,
        np.ascontiguousarray(size, np.int64),
        np.ascontiguousarray(max_order, np.uint8),
        np.full(total, ABSENT, np.uint32),
        np.zeros(total, np.uint8),
        np.zeros(total, np.uint8),
    )


def empty(cache: PageCache) -> None:
    """Drop everything from the cache, as at the beginning."""
    cache.start.fill(ABSENT)
    cache.order.fill(0)
    cache.mark.fill(0)


@njit(cache=True, nogil=True)
def pages_of(cache, file):  # type: ignore[no-untyped-def]
    """Number of pages of a file."""
    return np.int64(cache.base[file + np.uint64(1)]) - np.int64(cache.base[file])


@njit(cache=True, nogil=True)
def is_cached(cache, file, page):  # type: ignore[no-untyped-def]
    """Whether a page is in the cache; False outside the file."""
    if page < 0 or page >= pages_of(cache, file):
        return False
    return cache.start[cache.base[file] + np.uint64(page)] != ABSENT


@njit(cache=True, nogil=True)
def insert(cache, file, page, order, mark):  # type: ignore[no-untyped-def]
    """Add a folio of 2**order pages; False, and nothing changes, if any of its pages is cached already."""
    count = np.int64(1) << np.int64(order)
    if page < 0 or page + count > pages_of(cache, file):
        return False
    at = cache.base[file] + np.uint64(page)
    for i in range(count):
        if cache.start[at + np.uint64(i)] != ABSENT:
            return False
    for i in range(count):
        cache.start[at + np.uint64(i)] = page
        cache.order[at + np.uint64(i)] = order
    cache.mark[at] = mark
    return True


@njit(cache=True, nogil=True)
def drop(cache, file, first, last):  # type: ignore[no-untyped-def]
    """Drop the folios that lie wholly in the pages [first, last]; returns the number of pages dropped."""
    end = min(last, pages_of(cache, file) - 1)
    page = max(first, np.int64(0))
    dropped = np.int64(0)
    while page <= end:
        at = cache.base[file] + np.uint64(page)
        if cache.start[at] == ABSENT:
            page += 1
            continue
        begin = np.int64(cache.start[at])
        count = np.int64(1) << np.int64(cache.order[at])
        if begin >= first and begin + count - 1 <= last:
            at = cache.base[file] + np.uint64(begin)
            for i in range(count):
                cache.start[at + np.uint64(i)] = ABSENT
                cache.order[at + np.uint64(i)] = 0
            cache.mark[at] = 0
            dropped += count
        page = begin + count
    return dropped


@njit(cache=True, nogil=True)
def drop_file(cache, file):  # type: ignore[no-untyped-def]
    """Drop every page of a file; returns the number of pages dropped."""
    return drop(cache, file, np.int64(0), pages_of(cache, file))


@njit(cache=True, nogil=True)
def _load(cache, file, page):  # type: ignore[no-untyped-def]
    """Cursor at a cached page: (level shift, slot, node number at that level); the folio's first slot."""
    at = cache.base[file] + np.uint64(page)
    begin = np.int64(cache.start[at])
    shift = np.int64(NODE_SHIFT) if cache.order[at] >= NODE_SHIFT else np.int64(0)
    return shift, (begin >> shift) & NODE_MASK, begin >> (shift + NODE_SHIFT)


@njit(cache=True, nogil=True)
def _descend(cache, file, index, shift, slot, node):  # type: ignore[no-untyped-def]
    """Read the slot under the cursor, going down by the *index* where it holds a node.

    Returns (present, shift, slot, node).
    """
    while True:
        page = ((node << NODE_SHIFT) + slot) << shift
        if shift == 0:
            return is_cached(cache, file, page), shift, slot, node
        if (
            shift == NODE_SHIFT
            and is_cached(cache, file, page)
            and cache.order[cache.base[file] + np.uint64(page)] >= NODE_SHIFT
        ):
            return True, shift, slot, node
        shift -= NODE_SHIFT
        node = (node << NODE_SHIFT) + slot
        slot = (index >> shift) & NODE_MASK


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
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
