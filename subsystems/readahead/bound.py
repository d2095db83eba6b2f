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


@njit(cache=True, nogil=True)
def _task_bound(
    world: World,
    task: int,
    base: np.ndarray,
    params: np.ndarray,
    seen: np.ndarray,
    mark: int,
    earliest: int,
    owned: np.ndarray,
) -> int:
    """Lower bound of the stall of one task; ``seen`` u32[P] holds ``mark`` where it has wanted a page."""
    t = np.uint64(task)
    devices = params.shape[0]
    wanted = np.zeros(devices, np.int64)
    alone = np.int64(0)
    path = np.int64(0)
    best = np.int64(0)
    known = True
    for op in range(world.first[t], world.first[t + np.uint64(1)]):
        s = np.uint64(world.ops[op, STREAM])
        d = np.uint64(world.streams[s, DEVICE])
        f = np.uint64(world.streams[s, FILE])
        if world.ops[op, AFTER] >= 0:
            # It waits for another task, whose stall depends on the policy: the path is not known any more.
            known = False
        path += world.ops[op, TS] - earliest if op == world.first[t] else world.ops[op, THINK]
        if world.ops[op, KIND] != _READ:
            path += world.ops[op, END] - world.ops[op, TS]
            continue
        if world.streams[s, ELIGIBLE] == 0:
            # What this read waits for depends on the policy and counts nowhere: the path is not known any
            # more.
            known = False
            owned[f] = -1
            continue
        path += world.costs[d, READ_NS]
        if world.ops[op, RET] <= 0:
            continue
        page = world.ops[op, POS] >> PAGE_SHIFT
        until = ((world.ops[op, POS] + world.ops[op, RET] - 1) >> PAGE_SHIFT) + 1
        new = np.int64(0)
        for at in range(base[f] + np.uint64(page), base[f] + np.uint64(until)):
            if seen[at] != mark:
                seen[at] = mark
                new += 1
        path += max(until - page, 0) * world.costs[d, COPY_NS]
        if new > 0:
            if owned[f] == task:
                # Nothing of the file was asked for before: its first page is not on its way.
                owned[f] = -1
                alone += device.least_time(params[d], 1) + world.costs[d, FETCH_NS]
            wanted[d] += new
            if known:
                best = max(best, device.least_time(params[d], wanted[d]) - path)
    return max(best, alone)  # type: ignore[return-value]


def least_stall(world: World, size: NDArray[np.int64], params: NDArray[np.int64]) -> int:
    """Lower bound (ns) of the sum of the stalls of all reads, for any sequence of actions of this subsystem.

    ``size`` i64[F] bytes of each file (0: not simulated), ``params`` i64[D, device.N_PARAMS].

    Proof. Let t0 be the beginning of the first operation: nothing is submitted before, and nothing is
    cached. Take a task and one of its reads, r. When r ends, every page that the task has asked for so far
    from device d has been fetched at least once since t0: if these are U different pages, r ends no earlier
    than t0 + least_time(d, U) (``device.least_time`` holds for bios of any size and order, and other tasks'
    bios only come in addition). The same moment is t0 + path + stall, where *path* is what the task spent
    from t0 until then without stall (its later beginning, the time between operations, the processor time of
    reads from the cache; none of which a policy changes) and *stall* is the stall of its reads until then.
    So the task's stall is at least least_time(d, U) - path, for every r and d, and never negative.

    A policy of this subsystem reads ahead in a file only while the file is read: the first read of a file
    whose first wanted page nobody asked for before waits for at least one request of one page. Where all
    operations on a file belong to one task these waits are that task's, one after the other, and add up.

    Both bound the stall of the one task, so the larger does; different tasks' stalls are different reads, so
    the sum over the tasks bounds the total.
    """
    pages = (np.maximum(size, 0) + _PAGE_MASK) >> PAGE_SHIFT
    base = np.zeros(len(size) + 1, np.uint64)
    base[1:] = np.cumsum(pages).astype(np.uint64)
    tasks = len(world.first) - 1
    seen = np.full(int(base[-1]), tasks, np.uint32)
    owned = np.full(len(size), -1, np.int64)
    shared = np.zeros(len(size), bool)
    for task in range(tasks):
        ops = world.ops[int(world.first[task]) : int(world.first[task + 1])]
        for file in np.unique(world.streams[ops[:, STREAM], FILE]).tolist():
            shared[file] |= owned[file] >= 0
            owned[file] = task
            mine = ops[world.streams[ops[:, STREAM], FILE] == file]
            # readahead(2) or WILLNEED before the first read may have fetched its page in time.
            shared[file] |= bool((mine[:, KIND] != _READ).any())
    owned[shared] = -1
    earliest = int(world.ops[:, TS].min(initial=np.iinfo(np.int64).max))
    return sum(
        int(_task_bound(world, task, base, params, seen, task, earliest, owned)) for task in range(tasks)
    )
