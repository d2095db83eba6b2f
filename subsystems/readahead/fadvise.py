"""``posix_fadvise(2)`` and what it leaves in an open file, as Linux 6.18 does it (``mm/fadvise.c``)."""

from __future__ import annotations

import numpy as np

from hindsight.subsystems.readahead.compiled import step
from hindsight.subsystems.readahead.filling import ALL, begin_forced, carry_out
from hindsight.subsystems.readahead.pages import PAGE_SHIFT, PageCache, drop
from hindsight.subsystems.readahead.state import (
    FADV_DONTNEED,
    FADV_NORMAL,
    FADV_RANDOM,
    FADV_SEQUENTIAL,
    FADV_WILLNEED,
    Log,
    OpenFiles,
)

_LAST_BYTE = np.int64(0x7FFFFFFFFFFFFFFF)


@step
def set_ra(files: OpenFiles, stream: int, ra_pages: int, random: int) -> None:
    """What an advice does to one open file: its readahead limit in pages, and whether reads are exact."""
    files.ra_pages[np.uint64(stream)] = ra_pages
    files.random[np.uint64(stream)] = random


@step
def advise(
    cache: PageCache,
    files: OpenFiles,
    stream: int,
    advice: int,
    offset: int,
    length: int,
    device_ra_pages: int,
    log: Log,
) -> None:
    """``posix_fadvise(2)`` on a stream; offset and length in bytes, length 0 = to the end.

    ``device_ra_pages`` is the device's limit now (NORMAL takes it, SEQUENTIAL twice that). DONTNEED drops the
    folios that lie wholly in the range; that pages under I/O stay in the kernel's cache is not modelled.
    """
    s = np.uint64(stream)
    begin = np.int64(offset)
    count = np.int64(length)
    if begin < 0 or count < 0:
        return
    file = np.uint64(files.file[s])
    if advice == FADV_NORMAL:
        set_ra(files, stream, device_ra_pages, 0)
    elif advice == FADV_RANDOM:
        files.random[s] = 1
    elif advice == FADV_SEQUENTIAL:
        set_ra(files, stream, 2 * device_ra_pages, 0)
    elif advice == FADV_WILLNEED:
        first = begin >> PAGE_SHIFT
        pages = (_last_byte(begin, count) >> PAGE_SHIFT) - first + 1
        begin_forced(cache, files, stream, first, pages, np.int64(0), log)
        carry_out(cache, files, log, ALL)
    elif advice == FADV_DONTNEED:
        first, end = not_needed(cache, file, begin, count)
        drop(cache, file, first, end)


@step
def _last_byte(begin, count):  # type: ignore[no-untyped-def]
    return begin + count - 1 if 0 < count <= _LAST_BYTE - begin else _LAST_BYTE


@step
def not_needed(cache, file, begin, count):  # type: ignore[no-untyped-def]
    """The first and last page of what POSIX_FADV_DONTNEED on ``count`` bytes from byte ``begin`` on drops."""
    last = _last_byte(begin, count)
    first = (begin + (1 << PAGE_SHIFT) - 1) >> PAGE_SHIFT
    end = last >> PAGE_SHIFT
    # The last page goes only if the range covers it to its end or to the end of the file.
    if (last + 1) & ((1 << PAGE_SHIFT) - 1) and last != cache.size[file] - 1:
        end -= 1
    return first, end
