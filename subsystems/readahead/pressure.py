"""What a record says of memory while the replay goes on: which folios come and leave, and which could not be
had.

The replay knows no clock: it asks before each operation, and before each folio that it adds.
"""

from __future__ import annotations

import numpy as np

from hindsight.subsystems.readahead.compiled import step
from hindsight.subsystems.readahead.pages import insert, is_cached, remove, split
from hindsight.subsystems.readahead.recorded import ADDED, NOWHERE, RECLAIMED, TRUNCATED


@step
def begin_operation(cache, op):  # type: ignore[no-untyped-def]
    """What changes until operation ``op`` begins has changed."""
    cache.changes.now[1] = op
    if cache.changes.now[0] < cache.changes.op.shape[0]:
        cache.changes.now[2] = -1
        change(cache, NOWHERE)
    cache.changes.now[2] = 0
    admitted = cache.admitted
    row = np.uint64(admitted.now[0])
    while row < np.uint64(admitted.op.shape[0]) and admitted.op[row] < op:
        row += np.uint64(1)
    admitted.now[0] = np.int64(row)
    admitted.now[2] = NOWHERE


@step
def begin_batch(cache, page):  # type: ignore[no-untyped-def]
    """A batch of a read begins at this page: what changed by then has changed."""
    cache.admitted.now[2] = page
    change(cache, page)


@step
def there_is_room(cache, page, order):  # type: ignore[no-untyped-def]
    """Whether the operation in progress could have a folio for this page of its file."""
    admitted = cache.admitted
    op = np.uint64(cache.changes.now[1])
    if op >= np.uint64(admitted.limited.shape[0]) or admitted.limited[op] == 0:
        return True
    row = np.uint64(admitted.now[0])
    if row >= np.uint64(admitted.op.shape[0]) or np.uint64(admitted.op[row]) != op:
        return False
    later = admitted.since[row] >= admitted.now[2]
    return admitted.index[row] == page and admitted.order[row] == order and not later


@step
def take_room(cache):  # type: ignore[no-untyped-def]
    """The operation in progress has the folio that :func:`there_is_room` was asked for."""
    op = np.uint64(cache.changes.now[1])
    if op < np.uint64(cache.admitted.limited.shape[0]) and cache.admitted.limited[op] != 0:
        cache.admitted.now[0] += 1


@step
def change(cache, page):  # type: ignore[no-untyped-def]
    """Do what has changed by now: by this operation, by this number of folios that it has added, and by this
    page of its read (NOWHERE: wherever it is).
    """
    changes = cache.changes
    row = np.uint64(changes.now[0])
    while row < np.uint64(changes.op.shape[0]) and (
        changes.op[row] < changes.now[1]
        or (
            changes.op[row] == changes.now[1]
            and changes.after[row] <= changes.now[2]
            and changes.reach[row] <= page
        )
    ):
        file = np.uint64(changes.file[row])
        first = changes.index[row]
        if changes.how[row] == ADDED:
            insert(cache, file, first, changes.order[row], np.int64(0))
        else:
            if changes.how[row] == TRUNCATED and changes.split[row] >= 0:
                _split(cache, file, first, changes.order[row], changes.split[row])
            last = first + (np.int64(1) << changes.order[row]) - 1
            remove(cache, file, first, last, changes.how[row] == RECLAIMED)
        row += np.uint64(1)
    changes.now[0] = np.int64(row)


@step
def _split(cache, file, first, order, page):  # type: ignore[no-untyped-def]
    """Split the folio of which the 2**order pages from ``first`` on are a part, around ``page``."""
    if not is_cached(cache, file, first):
        return
    at = cache.base[file] + np.uint64(first)
    whole = np.int64(cache.order[at])
    if whole > order and page >> whole == first >> whole:
        split(cache, file, page)
