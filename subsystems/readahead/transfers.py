"""Reads into a pipe: ``sendfile``, ``splice`` and ``copy_file_range``, as Linux 6.18 does them.

A transfer is a loop of reads, each no longer than the pipe has room for, and each a loop of batches as a
buffered read has (behaviour of ``filemap_splice_read``, ``mm/filemap.c``, and ``splice_direct_to_actor``,
``fs/splice.c``). Two things differ from a read: the pages asked for are those of one pipe, and the position
of the previous read moves with every batch, not at the end of the call.

Where a batch ends depends on which pages the device has delivered by then, which no trace shows. It decides
nothing: a page that is missing is always the one after the last. But the event of an asynchronous readahead
shows a position that depends on it, so there it is :data:`NOT_DETERMINED`.
"""

from __future__ import annotations

import numpy as np

from hindsight.subsystems.readahead.compiled import step
from hindsight.subsystems.readahead.kernel import finish_read, read_batch
from hindsight.subsystems.readahead.pages import PAGE_SHIFT
from hindsight.subsystems.readahead.state import ASYNC_RA, NOT_DETERMINED

PIPE_PAGES = 16
"""Buffers of a pipe unless it is told otherwise (PIPE_DEF_BUFFERS, include/linux/pipe_fs_i.h)."""
_PAGE = 1 << PAGE_SHIFT


@step
def forget_previous(log, row, first):  # type: ignore[no-untyped-def]
    """Where a batch ended is not known: the asynchronous decisions from ``row`` on do not say it, but for one
    at the page ``first``, which no batch came before (-1: none is).
    """
    while row < min(log.n[0], np.uint64(log.kind.shape[0])):
        if log.kind[row] == ASYNC_RA and np.int64(log.index[row]) != first:
            log.prev_pos[row] = NOT_DETERMINED
        row += np.uint64(1)


@step
def transfer(cache, files, stream, pos, asked, moved, log):  # type: ignore[no-untyped-def]
    """One call that asked for ``asked`` bytes from byte ``pos`` of a stream and moved ``moved`` of them."""
    file = np.uint64(files.file[np.uint64(stream)])
    end = min(pos + moved, cache.size[file])
    left = np.int64(asked)
    while pos < end and left > 0:
        want = min(left, np.int64(PIPE_PAGES * _PAGE))
        # A buffer of the pipe holds no more than a page, and no parts of two.
        room = (PIPE_PAGES << PAGE_SHIFT) - (pos & (_PAGE - 1))
        stop = min(pos + min(want, room), end)
        last_index = (pos + want + _PAGE - 1) >> PAGE_SHIFT
        left -= stop - pos
        while pos < stop:
            index = pos >> PAGE_SHIFT
            row = log.n[0]
            after = np.int64(read_batch(cache, files, stream, index, last_index, log)) << PAGE_SHIFT
            forget_previous(log, row, -1)
            reached = min(after, stop)
            finish_read(cache, files, stream, pos, reached - pos)
            pos = reached
