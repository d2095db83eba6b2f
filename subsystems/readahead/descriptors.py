"""Telling open files apart: the history of every process's descriptors, followed through its system calls.

A descriptor is a name; what holds a position and a readahead state is the *open file description* behind it,
which duplicates and children share. This module walks calls, forks, executions and ends of threads in order
of time and says, for each call, which description it acted on and at which byte.

Threads of a process share a descriptor table (CLONE_FILES, CLONE_THREAD); a fork copies it; an execution
makes it private and closes what is marked close-on-exec; unshare(CLONE_FILES) makes it private. A close
takes effect when it is entered, an open when it returns.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hindsight.subsystems.readahead.calls import (
    CLOSE,
    CLOSE_RANGE,
    COPY,
    DUP,
    DUP2,
    FCNTL,
    NO_RESULT,
    OPEN,
    PREAD,
    READ,
    RING_READ,
    SEEK,
    TRANSFER,
    UNSHARE,
    WRITE,
    Calls,
)

ENTER, EXIT, NEW_TASK, TASK_ENDS, EXEC, NAMED, FOUND_OPEN = range(7)
"""Events that the walk follows: a call is entered or returns (a = call); a thread is created (a = creator, b
= thread, c = clone flags), ends (a), executes (a = caller, b = the process it becomes), gets a name (a =
thread, b = name), is found to have a file open when recording begins (a = thread, b = descriptor slot, c =
ordinal).
"""

CLONE_FILES, CLONE_THREAD = 0x400, 0x10000
O_APPEND, O_CLOEXEC = 0o2000, 0o2000000
F_DUPFD, F_SETFD, F_SETFL, F_DUPFD_CLOEXEC = 0, 2, 4, 1030
CLOSE_RANGE_UNSHARE, CLOSE_RANGE_CLOEXEC = 2, 4
NONE = np.int32(-1)


class Timeline(NamedTuple):
    """Events in order of time; shapes (E,)."""

    ts: NDArray[np.int64]
    kind: NDArray[np.int64]
    a: NDArray[np.int64]
    b: NDArray[np.int64]
    c: NDArray[np.int64]


class Descriptions(NamedTuple):
    """Open file descriptions in order of creation; shapes (D,)."""

    from_ns: NDArray[np.int64]
    to_ns: NDArray[np.int64]
    """Last close; -1 if it was still open at the end."""
    flags: NDArray[np.int64]
    pos: NDArray[np.int64]
    """Position now, -1 = unknown."""
    found: NDArray[np.int64]
    """Ordinal among the files found open when recording began, -1 = opened since, -2 = of unknown origin."""
    references: NDArray[np.int64]
    name: NDArray[np.int64]
    """Name of the process that read it first (or opened it), -1 = unknown."""
    process: NDArray[np.int64]
    """Ordinal of that process's first thread."""


@njit(cache=True, nogil=True)
def _release(files, which, ts):  # type: ignore[no-untyped-def]
    if which >= 0:
        files.references[which] -= 1
        if files.references[which] == 0:
            files.to_ns[which] = ts


@njit(cache=True, nogil=True)
def _create(files, count, ts, flags, pos, found, name, process):  # type: ignore[no-untyped-def]
    files.from_ns[count] = ts
    files.to_ns[count] = -1
    files.flags[count] = flags
    files.pos[count] = pos
    files.found[count] = found
    files.references[count] = 1
    files.name[count] = name
    files.process[count] = process


@njit(cache=True, nogil=True)
def _set(tables, files, table, slot, which, on_exec, ts):  # type: ignore[no-untyped-def]
    _release(files, tables[0, table, slot], ts)
    tables[0, table, slot] = which
    tables[1, table, slot] = on_exec


@njit(cache=True, nogil=True)
def _copy(tables, files, users, source):  # type: ignore[no-untyped-def]
    """A private copy of a descriptor table; its number."""
    table = np.int64(0)
    while users[table] != 0:
        table += 1
    users[table] = 1
    for slot in range(tables.shape[2]):
        tables[0, table, slot] = NONE if source < 0 else tables[0, source, slot]
        tables[1, table, slot] = 0 if source < 0 else tables[1, source, slot]
        if tables[0, table, slot] >= 0:
            files.references[tables[0, table, slot]] += 1
    return table


@njit(cache=True, nogil=True)
def _close_all(tables, files, users, table, ts):  # type: ignore[no-untyped-def]
    users[table] -= 1
    if users[table] == 0:
        for slot in range(tables.shape[2]):
            _set(tables, files, table, slot, NONE, 0, ts)


@njit(cache=True, nogil=True)
def _walk(timeline, calls, slots, leader, tables, users, files, name_of, found_pos, found_flags, of, at):  # type: ignore[no-untyped-def]
    """The walk. ``slots``: the descriptor numbers that occur, sorted; a descriptor is its place there.

    Fills ``of`` (description of each call, -1 = none) and ``at`` (its position in bytes, -1 = unknown);
    returns the number of descriptions.
    """
    table_of = np.full(leader.shape[0], -1, np.int64)
    ended = np.zeros(leader.shape[0], np.uint8)
    count = np.int64(0)
    for event in range(timeline.ts.shape[0]):
        ts = timeline.ts[event]
        kind = timeline.kind[event]
        a = timeline.a[event]
        b = timeline.b[event]
        c = timeline.c[event]
        if kind == NAMED:
            name_of[a] = b
            continue
        if kind == TASK_ENDS:
            if table_of[a] >= 0:
                _close_all(tables, files, users, table_of[a], ts)
                table_of[a] = -1
            ended[a] = 1
            continue
        task = calls.task[a] if kind in (ENTER, EXIT) else a
        if table_of[task] < 0:
            # First seen: a thread of a known process shares its table, any other has an empty one.
            if table_of[leader[task]] >= 0:
                table_of[task] = table_of[leader[task]]
                users[table_of[task]] += 1
            else:
                table_of[task] = _copy(tables, files, users, np.int64(-1))
                if leader[task] != task and ended[leader[task]] == 0:
                    table_of[leader[task]] = table_of[task]
                    users[table_of[task]] += 1
        table = table_of[task]
        if kind == NEW_TASK:
            if table_of[b] >= 0:
                _close_all(tables, files, users, table_of[b], ts)
            leader[b] = leader[a] if c & CLONE_THREAD else b
            ended[b] = 0
            if c & (CLONE_FILES | CLONE_THREAD):
                table_of[b] = table
                users[table] += 1
            else:
                table_of[b] = _copy(tables, files, users, table)
            continue
        if kind == EXEC:
            if b != a:
                if table_of[b] >= 0:
                    _close_all(tables, files, users, table_of[b], ts)
                table_of[b] = table
                table_of[a] = -1
            leader[b] = b
            if users[table] > 1:
                users[table] -= 1
                table = _copy(tables, files, users, table)
                table_of[b] = table
            for slot in range(slots.shape[0]):
                if tables[1, table, slot] != 0:
                    _set(tables, files, table, slot, NONE, 0, ts)
            continue
        process = leader[task]
        if kind == FOUND_OPEN:
            if tables[0, table, b] < 0:
                _create(files, count, ts, found_flags[c], found_pos[c], c, name_of[process], process)
                _set(tables, files, table, b, count, (found_flags[c] & O_CLOEXEC) != 0, ts)
                count += 1
            continue
        call = a
        code = calls.code[call]
        ret = calls.ret[call]
        if kind == ENTER:
            if calls.fd[call] < 0 or code in (OPEN, CLOSE_RANGE):
                slot = np.int64(-1)  # type: ignore[assignment]
            else:
                slot = np.int64(np.searchsorted(slots, calls.fd[call]))  # type: ignore[assignment]
            if slot >= 0 and code != CLOSE:
                if tables[0, table, slot] < 0:
                    _create(files, count, ts, -1, -1, -2, name_of[process], process)
                    _set(tables, files, table, slot, count, 0, ts)
                    count += 1
                of[call] = tables[0, table, slot]
            if code == CLOSE and slot >= 0:
                of[call] = tables[0, table, slot]
                _set(tables, files, table, slot, NONE, 0, ts)
            elif code == CLOSE_RANGE:
                if calls.b[call] & CLOSE_RANGE_UNSHARE and users[table] > 1:
                    users[table] -= 1
                    table = _copy(tables, files, users, table)
                    table_of[task] = table
                for i in range(slots.shape[0]):
                    if calls.fd[call] <= slots[i] <= calls.a[call]:
                        if calls.b[call] & CLOSE_RANGE_CLOEXEC:
                            tables[1, table, i] = 1
                        else:
                            _set(tables, files, table, i, NONE, 0, ts)
            continue
        which = of[call]
        if code == OPEN:
            if ret >= 0:
                _create(files, count, ts, calls.a[call], 0, -1, name_of[process], process)
                slot = np.searchsorted(slots, ret)
                on_exec = calls.a[call] >= 0 and (calls.a[call] & O_CLOEXEC) != 0
                _set(tables, files, table, slot, count, on_exec, ts)
                of[call] = count
                count += 1
            continue
        if code == UNSHARE and ret == 0 and calls.a[call] & CLONE_FILES and users[table] > 1:
            users[table] -= 1
            table_of[task] = _copy(tables, files, users, table)
        if which < 0 or code in (CLOSE, CLOSE_RANGE):
            continue
        if code in (READ, WRITE, TRANSFER, COPY):
            if code == WRITE and files.flags[which] >= 0 and files.flags[which] & O_APPEND:
                files.pos[which] = -1
            at[call] = files.pos[which]
            if ret == NO_RESULT or code in (TRANSFER, COPY):
                # Whether a transfer moves the position hangs on a pointer that is not recorded.
                files.pos[which] = -1
            elif ret > 0 and files.pos[which] >= 0:
                files.pos[which] += ret
        elif code == SEEK:
            if ret >= 0:
                files.pos[which] = ret
        else:
            duplicate = np.int64(-1)
            on_exec = False
            if code == DUP:
                duplicate = ret
            elif code == DUP2 and ret >= 0 and calls.a[call] != calls.fd[call]:
                duplicate = ret
                on_exec = calls.b[call] >= 0 and (calls.b[call] & O_CLOEXEC) != 0
            elif code == FCNTL and ret >= 0:
                if calls.a[call] == F_DUPFD or calls.a[call] == F_DUPFD_CLOEXEC:
                    duplicate = ret
                    on_exec = calls.a[call] == F_DUPFD_CLOEXEC
                elif calls.a[call] == F_SETFD:
                    tables[1, table, np.searchsorted(slots, calls.fd[call])] = calls.b[call] & 1
                elif calls.a[call] == F_SETFL and files.flags[which] >= 0:
                    kept = files.flags[which] & (O_CLOEXEC | 3)
                    files.flags[which] = kept | (calls.b[call] & ~np.int64(O_CLOEXEC | 3))
            if duplicate >= 0:
                files.references[which] += 1
                _set(tables, files, table, np.searchsorted(slots, duplicate), which, on_exec, ts)
            if code in (PREAD, RING_READ):
                at[call] = calls.b[call]
        if code in (READ, PREAD, RING_READ) and ret > 0 and files.name[which] >= -1:
            # The first read names the stream: an opener may execute something else, or pass the file on.
            files.name[which] = -2 - name_of[process]
            files.process[which] = process
    return count


def certain(files: Descriptions, looked: NDArray[np.int64] | None = None) -> NDArray[np.bool_]:
    """Which descriptions (D,) are one open file for certain, and no other is the same one.

    Not those that a descriptor was found to name although nothing was seen to put it there: it came in a
    message, from another process, by a call that is not recorded. Nor those found open when recording
    began, of a file that was found more than once: they may be duplicates. ``looked`` (K,): the file of each
    file found open.
    """
    result = files.found != -2
    if looked is not None and len(looked):
        at = np.flatnonzero(files.found >= 0)
        of = looked[files.found[at]]
        result[at] = np.bincount(of)[of] == 1
    return result


def follow(
    timeline: Timeline,
    calls: Calls,
    leader: NDArray[np.int64],
    found_fd: NDArray[np.int64],
    found_pos: NDArray[np.int64],
    found_flags: NDArray[np.int64],
) -> tuple[Descriptions, NDArray[np.int64], NDArray[np.int64]]:
    """Follow the descriptors of a capture.

    ``leader`` (T,): for each thread the first thread of its process, as far as known at the beginning;
    ``found_*`` (K,): files found open, to which FOUND_OPEN events refer (their b is the descriptor).
    Returns the descriptions, the description of each call (-1 = none), and for calls that act at the position
    of the file that position in bytes before the call (-1 = unknown).
    """
    opened = np.isin(calls.code, (OPEN, DUP, DUP2, FCNTL)) & (calls.ret >= 0)
    used = ~np.isin(calls.code, (OPEN, CLOSE_RANGE)) & (calls.fd >= 0)
    slots = np.unique(np.concatenate([calls.fd[used], calls.ret[opened], found_fd])).astype(np.int64)
    b = timeline.b.copy()
    looks = timeline.kind == FOUND_OPEN
    b[looks] = np.searchsorted(slots, b[looks])
    room = int(np.count_nonzero(np.isin(timeline.kind, (NEW_TASK, EXEC)))) + len(leader) + 1
    tables = np.empty((2, room, len(slots)), np.int32)
    size = len(calls.ts) + len(found_fd) + 1
    files = Descriptions(*(np.zeros(size, np.int64) for _ in range(8)))
    of = np.full(len(calls.ts), -1, np.int64)
    at = np.full(len(calls.ts), -1, np.int64)
    count = _walk(
        timeline._replace(b=b),
        calls,
        slots,
        leader.copy(),
        tables,
        np.zeros(room, np.int64),
        files,
        np.full(len(leader), -1, np.int64),
        found_pos,
        found_flags,
        of,
        at,
    )
    files = Descriptions(*(np.ascontiguousarray(x[:count]) for x in files))
    files.name[files.name < -1] = -2 - files.name[files.name < -1]
    return files, of, at
