"""A proven lower bound of the stall that any readahead policy leaves, under the model of time."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hindsight.subsystems.readahead import device
from hindsight.subsystems.readahead.pages import PAGE_SHIFT
from hindsight.subsystems.readahead.world import (
    AFTER,
    COPY_NS,
    DEVICE,
    ELIGIBLE,
    END,
    FETCH_NS,
    FILE,
    GAP,
    KIND,
    POS,
    READ_NS,
    RET,
    STREAM,
    THINK,
    TS,
    World,
)

_READ = 0
_PAGE_MASK = (1 << PAGE_SHIFT) - 1
_UNKNOWN = np.int64(1) << 61
"""Longer than any path: no bound follows from it."""


@njit(cache=True, nogil=True)
def _paths(world: World, order: np.ndarray, task: np.ndarray, earliest: int) -> np.ndarray:
    """The longest way (ns) to the end of each operation without any stall, from ``earliest`` on; i64[N].

    ``order`` u64[N]: operations by recorded time; ``task`` u64[N]: the task of each.
    """
    path = np.zeros(len(order), np.int64)
    for op in order:
        s = np.uint64(world.ops[op, STREAM])
        d = np.uint64(world.streams[s, DEVICE])
        after = world.ops[op, AFTER]
        gap = world.ops[op, GAP]
        begin = np.int64(0)
        if op > world.first[task[op]]:
            think = world.ops[op, THINK] if gap < 0 else np.int64(0)
            begin = path[op - np.uint64(1)] + think
        elif gap < 0:
            begin = world.ops[op, TS] - earliest
        if after >= 0:
            begin = max(begin, path[np.uint64(after)] + max(gap, 0))
        if world.ops[op, KIND] != _READ:
            begin += world.ops[op, END] - world.ops[op, TS]
        elif world.streams[s, ELIGIBLE] == 0:
            begin = _UNKNOWN
        else:
            begin += world.costs[d, READ_NS]
            if world.ops[op, RET] > 0:
                last = (world.ops[op, POS] + world.ops[op, RET] - 1) >> PAGE_SHIFT
                begin += (last + 1 - (world.ops[op, POS] >> PAGE_SHIFT)) * world.costs[d, COPY_NS]
        path[op] = min(begin, _UNKNOWN)
    return path


@njit(cache=True, nogil=True)
def _task_bound(
    world: World,
    task: int,
    base: np.ndarray,
    params: np.ndarray,
    seen: np.ndarray,
    path: np.ndarray,
    owner: np.ndarray,
) -> tuple[int, int]:
    """What the pages that a task wants and its first reads of files say about stall (ns, see the proof).

    ``seen`` u32[P] holds the task where it has wanted a page; ``owner`` i64[F]: the task that reads a file
    first.
    """
    t = np.uint64(task)
    wanted = np.zeros(params.shape[0], np.int64)
    alone = np.int64(0)
    best = np.int64(0)
    for op in range(world.first[t], world.first[t + np.uint64(1)]):
        s = np.uint64(world.ops[op, STREAM])
        d = np.uint64(world.streams[s, DEVICE])
        f = np.uint64(world.streams[s, FILE])
        if world.ops[op, KIND] != _READ or world.ops[op, RET] <= 0 or world.streams[s, ELIGIBLE] == 0:
            continue
        page = world.ops[op, POS] >> PAGE_SHIFT
        until = ((world.ops[op, POS] + world.ops[op, RET] - 1) >> PAGE_SHIFT) + 1
        new = np.int64(0)
        for at in range(base[f] + np.uint64(page), base[f] + np.uint64(until)):
            if seen[at] != task:
                seen[at] = task
                new += 1
        if owner[f] == task:
            owner[f] = -1
            alone += device.least_time(params[d], 1) + world.costs[d, FETCH_NS]
        if new > 0:
            wanted[d] += new
            best = max(best, device.least_time(params[d], wanted[d]) - path[op])
    return best, alone  # type: ignore[return-value]


def _groups(world: World, task: NDArray[np.int64]) -> list[int]:
    """Tasks that wait for each other have one number: the lowest of them; list of T."""
    group = list(range(len(world.first) - 1))

    def find(member: int) -> int:
        while group[member] != member:
            member = group[member]
        return member

    waiting = np.flatnonzero(world.ops[:, AFTER] >= 0)
    pairs = zip(task[waiting].tolist(), task[world.ops[waiting, AFTER]].tolist(), strict=True)
    for one, other in sorted(set(pairs)):
        low, high = sorted((find(one), find(other)))
        group[high] = low
    return [find(member) for member in range(len(group))]


def _owners(world: World, task: NDArray[np.int64], order: NDArray[np.int64], files: int) -> NDArray[np.int64]:
    """The task whose read is the first operation on a file whatever the policy; -1: not known. Shape (F,)."""
    owner = np.full(files, -1, np.int64)
    file = world.streams[world.ops[:, STREAM], FILE]
    by_file = order[np.argsort(file[order], kind="stable")]
    first = np.append(True, file[by_file][1:] != file[by_file][:-1])
    head = by_file[first]
    reads = (world.ops[head, KIND] == _READ) & (world.ops[head, RET] > 0)
    reads &= world.streams[world.ops[head, STREAM], ELIGIBLE] != 0
    owner[file[head]] = np.where(reads, task[head], -1)
    # Tasks that overlap on a file may overtake each other there.
    before, here = by_file[:-1], by_file[1:]
    overlap = (file[before] == file[here]) & (task[before] != task[here]) & (world.ops[here, AFTER] < 0)
    owner[file[here[overlap]]] = -1
    return owner


def least_stall(world: World, size: NDArray[np.int64], params: NDArray[np.int64]) -> int:
    """Lower bound (ns) of the sum of the stalls of all reads, for any sequence of actions of this subsystem.

    ``size`` i64[F] bytes of each file (0: not simulated), ``params`` i64[D, device.N_PARAMS].

    Proof. Let t0 be the beginning of the first operation: nothing is submitted before, and nothing is
    cached. Take a task and one of its reads, r. When r ends, every page that the task has asked for so far
    from device d has been fetched at least once since t0: if these are U different pages, r ends no earlier
    than t0 + least_time(d, U) (``device.least_time`` holds for bios of any size and order; other bios only
    come in addition).

    An operation begins when its task's previous one has ended and the task has thought, or when the
    operation of another task that it comes after has ended and the recorded time has passed, whichever is
    later. Following the later one back to t0 gives a chain of operations, none of them twice, and r ends at
    t0 + what the chain takes without stall + the stalls of the chain's reads. The first is at most path(r),
    the longest such way, on which no policy has an influence; the second is at most the stall of the tasks
    that wait for each other (a *group*). So the group's stall is at least least_time(d, U) - path(r), for
    every r and d. (Paths through reads that are simulated without being counted are unknown, and give no
    bound.)

    A policy of this subsystem reads ahead in a file only while the file is read. As operations on a file
    keep their order, the first of them is known; if it is a read, it waits for at least one request of one
    page. These waits are of different reads and add up.

    Either bounds the stall of the group, so the larger does; different groups' stalls are different reads,
    so the sum over the groups bounds the total.
    """
    if not len(world.ops):
        return 0
    pages = (np.maximum(size, 0) + _PAGE_MASK) >> PAGE_SHIFT
    base = np.zeros(len(size) + 1, np.uint64)
    base[1:] = np.cumsum(pages).astype(np.uint64)
    tasks = len(world.first) - 1
    counts: NDArray[np.int64] = np.diff(world.first.astype(np.int64))  # type: ignore[assignment]
    task = np.repeat(np.arange(tasks), counts)
    order = np.lexsort((task, world.ops[:, TS]))
    earliest = int(world.ops[:, TS].min())
    path = _paths(world, order.astype(np.uint64), task.astype(np.uint64), earliest)
    owner = _owners(world, task, order, len(size))
    seen = np.full(int(base[-1]), tasks, np.uint32)
    from_pages: dict[int, int] = {}
    from_files: dict[int, int] = {}
    for member, group in enumerate(_groups(world, task)):
        wanted, alone = _task_bound(world, member, base, params, seen, path, owner)
        from_pages[group] = max(from_pages.get(group, 0), int(wanted))
        from_files[group] = from_files.get(group, 0) + int(alone)
    return sum(max(from_pages[group], from_files[group]) for group in from_pages)
