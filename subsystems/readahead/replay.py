"""Factual replay: the kernel's own logic, driven by the demand of one capture alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hindsight.subsystems.readahead import operations as d
from hindsight.subsystems.readahead.compiled import inlined, step
from hindsight.subsystems.readahead.fadvise import advise, not_needed
from hindsight.subsystems.readahead.faults import fault, map_pages
from hindsight.subsystems.readahead.interleaving import read_at_once
from hindsight.subsystems.readahead.kernel import finish_read, read_batch, refused_batch
from hindsight.subsystems.readahead.pages import PAGE_SHIFT, drop_shadows, page_cache, pages_of
from hindsight.subsystems.readahead.pressure import begin_operation
from hindsight.subsystems.readahead.recorded import ADDED
from hindsight.subsystems.readahead.releases import MOVES_IN_READ
from hindsight.subsystems.readahead.ring import read_together
from hindsight.subsystems.readahead.state import (
    DECISION_TABLES,
    FADV_DONTNEED,
    FADV_WILLNEED,
    Log,
    new_log,
    open_files,
)
from hindsight.subsystems.readahead.transfers import forget_previous, transfer

RWF_NOWAIT = 8
"""Flag of preadv2: pages that are not there yet are not waited for (include/uapi/linux/fs.h)."""
EAGAIN = 11
ADVISED_PAGES = "advised_pages"
"""A column that operations may have: the limit of a file that is advised then, if not that of its opening."""

Columns = Mapping[str, NDArray[Any]]
_NONE = np.zeros(0, np.int64)


@njit(cache=True, nogil=True)
def _run(cache, files, ops, limits, steps, log):  # type: ignore[no-untyped-def]
    """All operations in order."""
    kind, stream, pos, _, count, ret, _, together = ops
    step_group, step_op, step_kind, step_page, step_limit, otherwise = steps
    in_group = np.zeros(kind.shape[0], np.bool_)
    in_group[step_op] = True
    mapped = np.zeros(cache.start.shape[0] if (kind == d.MAP).any() else 0, np.uint64)
    told = (cache.changes.how != ADDED).any()
    step = np.int64(0)
    op = np.int64(0)
    while True:
        op = _run_alone(cache, files, ops, op, in_group, limits, mapped, told, log)
        if op == kind.shape[0]:
            return
        if in_group[op]:
            begin = step
            while step < step_group.shape[0] and step_group[step] == op:
                step += 1
            if begin < step:
                columns = (stream, pos, count, ret)
                read_at_once(
                    cache, files, columns, begin, step, step_op, step_kind, step_page, step_limit, otherwise,
                    log,
                )  # fmt: skip
        elif op == 0 or together[op] != together[op - 1]:
            stop = op + 1
            while stop < kind.shape[0] and together[stop] == together[op]:
                stop += 1
            read_together(cache, files, stream[op:stop], pos[op:stop], count[op:stop], log)
        op += 1


@step
def _run_alone(cache, files, ops, op, in_group, limits, mapped, told, log):  # type: ignore[no-untyped-def]
    """The operations from ``op`` on, up to one that reads together with others (``in_group``, RING_READ),
    which has begun then; returns which one that is, or the number of operations.
    """
    kind, stream, pos, size, count, ret, advice, _ = ops
    while op < kind.shape[0]:
        log.n[2] = op
        s = np.int64(stream[op])
        file = np.uint64(files.file[np.uint64(s)])
        begin_operation(cache, op)
        if size[op] >= 0:
            _resize(cache, file, size[op])
        if pos[op] < 0:
            pass
        elif in_group[op] or kind[op] == d.RING_READ:
            return op
        elif kind[op] == d.READ:
            _read(cache, files, s, pos[op], count[op], ret[op], advice[op], log)
        elif kind[op] == d.TRANSFER or kind[op] == d.COPY:
            if ret[op] > 0 and count[op] >= 0:
                # A copy is asked for no more than the file has; a transfer is not.
                asked = min(count[op], cache.size[file] - pos[op]) if kind[op] == d.COPY else count[op]
                transfer(cache, files, s, pos[op], asked, ret[op], log)
        elif kind[op] == d.MAP:
            first_page = pos[op] >> PAGE_SHIFT
            map_pages(cache, files, mapped, s, first_page, (pos[op] + count[op] >> PAGE_SHIFT) - 1, ret[op])
        elif kind[op] == d.FAULT and ret[op] != d.FAULT_AGAIN and advice[op] >= 0:
            fault(cache, files, s, pos[op] >> PAGE_SHIFT, advice[op], pos[op] + count[op] >> PAGE_SHIFT, log)
        elif (kind[op] == d.FADVISE or kind[op] == d.READAHEAD) and ret[op] == 0:
            what = np.int64(advice[op]) if kind[op] == d.FADVISE else np.int64(FADV_WILLNEED)
            if what == FADV_DONTNEED and told:
                # The record has what the kernel dropped, not what it was asked to: pages under I/O stay.
                drop_shadows(cache, file, *not_needed(cache, file, pos[op], count[op]))
            else:
                advise(cache, files, s, what, pos[op], count[op], np.int64(limits[np.uint64(op)]), log)
        op += 1
    return op


@inlined
def _read(cache, files, stream, pos, count, ret, flags, log):  # type: ignore[no-untyped-def]
    """A read of ``count`` bytes at byte ``pos`` that returned ``ret``, with these flags of preadv2 (-1 =
    none).
    """
    file_end = cache.size[np.uint64(files.file[np.uint64(stream)])]
    asked = max(count, ret)
    # A read whose return was not recorded is taken to have got all that it asked for.
    got = ret if ret > d.NO_RESULT else asked
    impatient = flags >= 0 and flags & RWF_NOWAIT != 0
    if impatient and got == -EAGAIN:
        got = 0
    elif got <= 0:
        return
    end = min(pos + got, file_end)
    last_index = (pos + asked + (1 << PAGE_SHIFT) - 1) >> PAGE_SHIFT
    if got > 0 and pos < end:
        index = pos >> PAGE_SHIFT
        beyond = (end - 1 >> PAGE_SHIFT) + 1
        while index < beyond:
            row = log.n[0]
            index = np.int64(read_batch(cache, files, stream, index, last_index, log))
            if cache.behaviours[MOVES_IN_READ]:
                forget_previous(log, row, pos >> PAGE_SHIFT)
                reached = min(index << PAGE_SHIFT, end)
                finish_read(cache, files, stream, pos, reached - pos)
    if impatient and end < min(pos + asked, file_end):
        refused_batch(cache, files, stream, end >> PAGE_SHIFT, last_index, log)
    finish_read(cache, files, stream, pos, end - pos)


@step
def _resize(cache, file, size):  # type: ignore[no-untyped-def]
    """The file has ``size`` bytes from now on; what was reclaimed beyond leaves no shadow any more."""
    if size < cache.size[file]:
        drop_shadows(cache, file, (size + (1 << PAGE_SHIFT) - 1) >> PAGE_SHIFT, pages_of(cache, file) - 1)
    cache.size[file] = size


def _replay(
    demand: Mapping[str, Columns],
    insertions: int,
    corrections: Columns | None = None,
    otherwise: NDArray[np.int64] = _NONE,
) -> Log:
    """The log of a whole replay, with room for that many insertions. ``otherwise``: see
    :func:`added_otherwise`.
    """
    ops, streams, files = demand["ops"], demand["streams"], demand["files"]
    room = 1024 + 4 * len(ops["ts"])
    columns = tuple(ops[c] for c in ("kind", "stream", "pos", "size", "count", "ret", "advice", "together"))
    steps = (*(demand["steps"][c] for c in ("group", "op", "kind", "page", "limit")), otherwise)
    limits = ops.get(ADVISED_PAGES)
    if limits is None:
        of_stream = np.asarray(streams["ra_pages"])
        limits = np.zeros(len(ops["ts"]), of_stream.dtype)
        advised = np.flatnonzero(ops["kind"] == d.FADVISE)
        limits[advised] = of_stream[ops["stream"][advised].astype(np.int64)]
    while True:
        memory = demand["changes"], demand["admitted"]
        cache = page_cache(files["size"], files["max_order"], *memory, _release(demand), corrections)
        opened = open_files(streams["file_id"], streams["ra_pages"], streams["io_pages"])
        log = new_log(room, insertions)
        _run(cache, opened, columns, limits, steps, log)
        if log.n[0] <= room and (insertions == 0 or log.n[1] <= insertions):
            return log
        # Too small: once more from the beginning with the room that it turned out to need.
        room, insertions = max(room, int(log.n[0])), int(log.n[1]) if insertions else 0


def _release(demand: Mapping[str, Columns]) -> str:
    release = demand["captures"]["kernel_release"]
    return str(release[0]) if len(release) else ""


def insertions(demand: Mapping[str, Columns]) -> dict[str, NDArray[Any]]:
    """Folios that the stock logic puts into the page cache: ``file_id``, ``index`` (page), ``order``, in
    order.
    """
    log = _replay(demand, 1024 + 8 * len(demand["ops"]["ts"]))
    rows = int(log.n[1])
    return {"file_id": log.add_file[:rows], "index": log.add_index[:rows], "order": log.add_order[:rows]}


def added_otherwise(demand: Mapping[str, Columns]) -> NDArray[np.int64]:
    """Of each operation that is read at the same time as others (N,): how many of its steps added another
    folio than the record has.
    """
    counts = np.zeros(len(demand["ops"]["ts"]), np.int64)
    _replay(demand, 0, otherwise=counts)
    return counts


def largest_folios(demand: Mapping[str, Columns]) -> NDArray[np.uint8]:
    """The largest folio order that the stock logic uses in each file, shape (F,)."""
    added = insertions(demand)
    largest = np.zeros(len(demand["files"]["size"]), np.uint8)
    np.maximum.at(largest, added["file_id"], added["order"])
    return largest


def run(demand: Mapping[str, Columns], corrections: Columns | None = None) -> dict[str, NDArray[Any]]:
    """Decisions of the stock logic, in the order of the operations that caused them. (``corrections``: see
    :mod:`onestep`.)

    Columns: ``op`` (row of ``ops``), ``ts`` (when that operation began), ``pid``, ``stream``, ``event`` (name
    of the tracepoint), ``kind`` (its number), the file (``s_dev_major``, ``s_dev_minor``, ``i_ino``), and the
    state as the tracepoint shows it: ``index``, ``req``, ``order``, ``size``, ``async_size``, ``ra_pages``,
    ``prev_pos``; of page_cache_ra_unbounded ``req`` is nr_to_read and ``async_size`` the lookahead.
    Operations of all streams are replayed, also of those that carry no verdict; the ones whose position is
    unknown are not.
    """
    log = _replay(demand, 0, corrections)
    ops, streams, files = demand["ops"], demand["streams"], demand["files"]
    rows = int(log.n[0])
    order: slice | NDArray[np.int64] = slice(rows)
    # Only reads at the same time decide in another order.
    if (log.op[1:rows] < log.op[: max(rows - 1, 0)]).any():
        order = np.argsort(log.op[:rows], kind="stable")
    op = log.op[order].astype(np.int64)
    file = streams["file_id"][log.stream[order]]
    kind = log.kind[order]
    result: dict[str, NDArray[Any]] = {
        "op": op.astype(np.uint64),
        "ts": ops["ts"][op],
        "pid": demand["tasks"]["pid"][ops["task"][op]],
        "stream": log.stream[order],
        "event": np.array(DECISION_TABLES, object)[kind],
        "kind": kind,
        "s_dev_major": files["s_dev_major"][file],
        "s_dev_minor": files["s_dev_minor"][file],
        "i_ino": files["i_ino"][file],
    }
    for name in ("index", "req", "order", "size", "async_size", "ra_pages", "prev_pos"):
        result[name] = getattr(log, name)[order]
    return result
