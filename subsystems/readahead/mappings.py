"""Which open file, and which advice, a page fault acted on: what mmap, munmap and madvise set up.

A fault row shows the file and the page, not the address. It belongs to the mapping of its process that holds
that page; where mappings of several open files do, the address tells which (``page_fault_user``), and without
it, or where no mapping is known, nothing is said. The mappings that an execution makes by itself are not
known.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hindsight.subsystems.readahead import calls as sc
from hindsight.subsystems.readahead.calls import Calls
from hindsight.subsystems.readahead.descriptors import ENTER, EXEC, NEW_TASK, TASK_ENDS, Timeline
from hindsight.subsystems.readahead.pages import PAGE_SHIFT

RAND_READ, SEQ_READ, EXECUTABLE, HUGE = 1, 2, 4, 8
"""What a mapping is (VM_RAND_READ, VM_SEQ_READ, VM_EXEC, VM_HUGEPAGE)."""
MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED = range(4)
MADV_HUGEPAGE, MADV_NOHUGEPAGE = 14, 15
_CLONE_VM, _PROT_EXEC = 0x100, 4
_PAGE = 1 << PAGE_SHIFT
_EVERYWHERE = np.int64(1 << 62)
_ENOMEM = -12
_MOST = 1 << 20
"""Mappings beyond so many at once are not followed."""


class Mapped(NamedTuple):
    """Of each moment that was asked for, shapes (K,): the mapping that it acted on."""

    of: NDArray[np.int64]
    """Its open file description, -1 = not known."""
    flags: NDArray[np.int64]
    mapping: NDArray[np.int64]
    """Which it is: a number for each mmap(2) in each process."""
    first: NDArray[np.int64]
    """The first page of the file in it."""
    beyond: NDArray[np.int64]
    """The page after the last one."""


class _Table(NamedTuple):
    """Mappings, the living ones first: process, addresses in pages [begin, beyond), page of the file at
    ``begin``, description, flags, call."""

    rows: NDArray[np.int64]
    count: NDArray[np.int64]  # type: ignore[assignment]


_PROCESS, _BEGIN, _BEYOND, _PAGE_OFFSET, _OF, _FLAGS, _CALL = range(7)


@njit(cache=True, nogil=True)
def _put(table, process, begin, beyond, offset, of, flags, call):  # type: ignore[no-untyped-def]
    row = table.count[0]
    if begin >= beyond or row >= table.rows.shape[0]:
        return
    table.rows[row, 0] = process
    table.rows[row, 1] = begin
    table.rows[row, 2] = beyond
    table.rows[row, 3] = offset
    table.rows[row, 4] = of
    table.rows[row, 5] = flags
    table.rows[row, 6] = call
    table.count[0] = row + 1


@njit(cache=True, nogil=True)
def _cut_out(table, process, begin, beyond, again, set_flags, clear_flags):  # type: ignore[no-untyped-def]
    """Take addresses out of the mappings of a process; ``again``: put them back with other flags."""
    row = np.int64(0)
    until = table.count[0]
    while row < until:
        r = table.rows[row].copy()
        low, high = max(r[1], begin), min(r[2], beyond)
        if r[0] != process or low >= high:
            row += 1
            continue
        # The last one takes its place; what is left of it comes to the end.
        table.count[0] -= 1
        until -= 1
        table.rows[row] = table.rows[until]
        if until < table.count[0]:
            table.rows[until] = table.rows[table.count[0]]
        _put(table, process, r[1], low, r[3], r[4], r[5], r[6])
        _put(table, process, high, r[2], r[3] + high - r[1], r[4], r[5], r[6])
        if again:
            flags = (r[5] | set_flags) & ~clear_flags
            _put(table, process, low, high, r[3] + low - r[1], r[4], flags, r[6])


@njit(cache=True, nogil=True)
def _find(table, process, file_of, file, page, last, address):  # type: ignore[no-untyped-def]
    """The only mapping of a process that holds a page of a file, at ``address`` (a page, -1 = not known) if
    that is among the pages [page, last]; -1 if none does or several differ.
    """
    found, several = np.int64(-1), False
    for row in range(table.count[0]):
        r = table.rows[row]
        if r[0] != process or file_of[r[4]] != file or not r[3] <= page < r[3] + r[2] - r[1]:
            continue
        if address >= 0 and r[1] <= address < r[2] and page <= r[3] + address - r[1] <= last:
            return np.int64(row)
        if found >= 0:
            several |= table.rows[found, 4] != r[4] or table.rows[found, 5] != r[5]
        found = np.int64(row)
    return np.int64(-1) if several else found


@njit(cache=True, nogil=True)
def _advise(table, process, begin, beyond, advice):  # type: ignore[no-untyped-def]
    if advice == MADV_NORMAL:
        _cut_out(table, process, begin, beyond, True, 0, RAND_READ | SEQ_READ)
    elif advice == MADV_RANDOM:
        _cut_out(table, process, begin, beyond, True, RAND_READ, SEQ_READ)
    elif advice == MADV_SEQUENTIAL:
        _cut_out(table, process, begin, beyond, True, SEQ_READ, RAND_READ)
    elif advice == MADV_HUGEPAGE:
        _cut_out(table, process, begin, beyond, True, HUGE, 0)
    elif advice == MADV_NOHUGEPAGE:
        _cut_out(table, process, begin, beyond, True, 0, HUGE)


@njit(cache=True, nogil=True)
def _walk(timeline, calls, of, file_of, mm, moments, willneed, table, result):  # type: ignore[no-untyped-def]
    """Follow all events; ``willneed`` i64[N, 2]: of MADV_WILLNEED calls, the description and the byte."""
    ts, task, file, page, last_page, address = moments
    at = np.int64(0)
    for event in range(timeline.ts.shape[0] + 1):
        last = event == timeline.ts.shape[0]
        while at < ts.shape[0] and (last or ts[at] < timeline.ts[event]):
            row = _find(table, mm[task[at]], file_of, file[at], page[at], last_page[at], address[at])
            if row >= 0:
                r = table.rows[row]
                result[at, 0], result[at, 1], result[at, 2] = r[4], r[5], r[6]
                result[at, 3], result[at, 4] = r[3], r[3] + r[2] - r[1]
            at += 1
        if last:
            break
        kind, a, b = timeline.kind[event], timeline.a[event], timeline.b[event]
        if kind == NEW_TASK:
            if timeline.c[event] & _CLONE_VM:
                mm[b] = mm[a]
            else:
                mm[b] = b
                _cut_out(table, b, 0, _EVERYWHERE, False, 0, 0)  # (an earlier process of that number)
                for row in range(table.count[0]):
                    r = table.rows[row]
                    if r[0] == mm[a]:
                        # Its page tables are empty: the pages of a file are mapped anew by faults.
                        own = r[6] % calls.ts.shape[0] + (b + 1) * calls.ts.shape[0]
                        _put(table, b, r[1], r[2], r[3], r[4], r[5], own)
        elif kind == TASK_ENDS and mm[a] == a:
            _cut_out(table, a, 0, _EVERYWHERE, False, 0, 0)
        elif kind == EXEC:
            mm[b] = b
            _cut_out(table, b, 0, _EVERYWHERE, False, 0, 0)
        elif kind == ENTER:
            code, process = calls.code[a], mm[calls.task[a]]
            length = (calls.a[a] + _PAGE - 1) >> PAGE_SHIFT
            if code == sc.MMAP and calls.ret[a] > 0:
                begin = calls.ret[a] >> PAGE_SHIFT
                _cut_out(table, process, begin, begin + length, False, 0, 0)
                if of[a] >= 0 and file_of[of[a]] >= 0:
                    flags = EXECUTABLE if calls.c[a] & _PROT_EXEC else 0
                    offset = calls.b[a] >> PAGE_SHIFT
                    _put(table, process, begin, begin + length, offset, of[a], flags, a)
            elif code == sc.MUNMAP and calls.ret[a] == 0:
                begin = calls.b[a] >> PAGE_SHIFT
                _cut_out(table, process, begin, begin + length, False, 0, 0)
            elif code == sc.MADVISE and calls.ret[a] in (0, _ENOMEM):
                # (ENOMEM: it was taken for what is mapped, though not all is.)
                begin = calls.b[a] >> PAGE_SHIFT
                _advise(table, process, begin, begin + length, calls.c[a])
                if calls.c[a] == MADV_WILLNEED:
                    for row in range(table.count[0]):
                        r = table.rows[row]
                        if r[0] == process and r[1] <= begin and begin + length <= r[2]:
                            willneed[a, 0] = r[4]
                            willneed[a, 1] = (r[3] + begin - r[1]) << PAGE_SHIFT


def follow(
    timeline: Timeline,
    calls: Calls,
    of: NDArray[np.int64],
    file_of: NDArray[np.int64],
    leader: NDArray[np.int64],
    moments: tuple[NDArray[np.int64], ...],
) -> tuple[Mapped, NDArray[np.int64]]:
    """The mapping of each moment, and for each call i64[N, 2] the description and the byte of an
    MADV_WILLNEED that lies in one mapping (-1 otherwise).

    ``of`` (N,) the description of each call, ``file_of`` (D,) the file of each description, ``leader`` (T,)
    the first thread of each thread's process. ``moments``: ts, task, file, first and last page, and the
    page of the address or -1; shapes (K,).
    """
    order = np.lexsort((moments[1], moments[0]))
    ordered = tuple(np.ascontiguousarray(m[order]) for m in moments)
    mapping = (calls.code == sc.MMAP) & (calls.ret > 0) & (of >= 0)
    changes = np.isin(calls.code, (sc.MUNMAP, sc.MADVISE)) | (calls.code == sc.MMAP)
    forks = int(((timeline.kind == NEW_TASK) & (timeline.c & _CLONE_VM == 0)).sum())
    room = min((16 + int(mapping.sum()) + 2 * int(changes.sum())) * (1 + forks), _MOST)
    table = _Table(np.zeros((room, 7), np.int64), np.zeros(1, np.int64))
    result = np.full((len(order), 5), -1, np.int64)
    willneed = np.full((len(calls.ts), 2), -1, np.int64)
    _walk(timeline, calls, of, file_of, leader.copy(), ordered, willneed, table, result)
    back = np.empty_like(result)
    back[order] = result
    return Mapped(*(np.ascontiguousarray(back[:, i]) for i in range(5))), willneed
