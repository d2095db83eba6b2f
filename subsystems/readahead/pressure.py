"""What a record says of memory while the replay goes on: which folios leave, and which could not be had.

The replay knows no clock: it asks before each operation, and before each folio that it adds.
"""

from __future__ import annotations

import numpy as np

from hindsight.subsystems.readahead.compiled import step
from hindsight.subsystems.readahead.pages import remove


@step
def begin_operation(cache, op):  # type: ignore[no-untyped-def]
    """What leaves until operation ``op`` begins has left."""
    cache.leaving.now[1] = op
    cache.leaving.now[2] = -1
    leave(cache)
    cache.leaving.now[2] = 0
    admitted = cache.admitted
    row = np.uint64(admitted.now[0])
    while row < np.uint64(admitted.op.shape[0]) and admitted.op[row] < op:
        row += np.uint64(1)
    admitted.now[0] = np.int64(row)


@step
def there_is_room(cache, page, order):  # type: ignore[no-untyped-def]
    """Whether the operation in progress could have a folio for this page of its file."""
    admitted = cache.admitted
    op = np.uint64(cache.leaving.now[1])
    if op >= np.uint64(admitted.limited.shape[0]) or admitted.limited[op] == 0:
        return True
    row = np.uint64(admitted.now[0])
    if row >= np.uint64(admitted.op.shape[0]) or np.uint64(admitted.op[row]) != op:
        return False
    if admitted.index[row] != page or admitted.order[row] != order:
        return False
    admitted.now[0] += 1
    return True


@step
def leave(cache):  # type: ignore[no-untyped-def]
    """Remove what has left by now: by this operation, and by this number of folios that it has added."""
    leaving = cache.leaving
    row = np.uint64(leaving.now[0])
    while row < np.uint64(leaving.op.shape[0]) and (
        leaving.op[row] < leaving.now[1]
        or (leaving.op[row] == leaving.now[1] and leaving.after[row] <= leaving.now[2])
    ):
        first = leaving.index[row]
        last = first + (np.int64(1) << leaving.order[row]) - 1
        remove(cache, np.uint64(leaving.file[row]), first, last, leaving.reclaimed[row] != 0)
        row += np.uint64(1)
    leaving.now[0] = np.int64(row)
