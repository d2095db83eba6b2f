"""The timed replay: tasks that read in closed loops, each batch of a read decided as the kernel decides it.

A task's operations keep their order; the time that it spends between them is the recorded one. The
operations on a file keep their order as well, whichever task they belong to: one that began after another
task's had ended waits for it, and then for the recorded time between them, if that was what it came after. A
read goes in batches, as in ``filemap_get_pages`` (mm/filemap.c, Linux 6.18): a batch ends after a folio that
carries the readahead mark or that is not ready; there the task waits. The task that is earliest goes on; of
equal ones, the one with the lower ordinal.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hindsight.subsystems.readahead import features
from hindsight.subsystems.readahead.advice import take_advice
from hindsight.subsystems.readahead.compiled import step
from hindsight.subsystems.readahead.fadvise import advise
from hindsight.subsystems.readahead.fetching import submit
from hindsight.subsystems.readahead.filling import add
from hindsight.subsystems.readahead.kernel import (
    BATCH_FOLIOS,
    asynchronous,
    finish_read,
    synchronous,
)
from hindsight.subsystems.readahead.metrics import (
    PAGES_MISSED,
    READS,
    STALL_NS,
)
from hindsight.subsystems.readahead.pages import ABSENT, PAGE_SHIFT, pages_of
from hindsight.subsystems.readahead.state import FADV_DONTNEED, FADV_WILLNEED, Log
from hindsight.subsystems.readahead.world import (
    ADVICE,
    ADVISED,
    AFTER,
    AWAITED,
    BEGUN,
    BLOCK,
    CLOCK,
    COPIED,
    COPY_NS,
    COUNT,
    DEVICE,
    DEVICE_RA,
    DUE,
    EARLIEST,
    ELIGIBLE,
    END,
    EPOCH_LENGTH,
    EPOCH_READS,
    FILE,
    FOREVER,
    GAP,
    KIND,
    MISSED,
    NEXT,
    NO_ADVICE,
    PAGE,
    POS,
    READ_NS,
    RET,
    STREAM,
    THINK,
    TS,
    Dirty,
    Record,
    State,
    World,
    touch_pages,
    touch_stream,
)  # fmt: skip

READ, FADVISE, OPEN, CLOSE, READAHEAD = range(5)
"""Kinds of operations, as ``demand`` numbers them; OPEN and CLOSE are not simulated."""

ENDED, OVERFLOW = -1, -2
"""What :func:`run` returns instead of a stream."""

_PAGE_MASK = (1 << PAGE_SHIFT) - 1


@step
def _arrange(world: World, state: State, task: int, earliest: int) -> None:
    """A task is before its next operation, which begins at ``earliest`` unless another task has to end
    first.
    """
    tasks = state.tasks
    t = np.uint64(task)
    if tasks[t, NEXT] >= np.int64(world.first[t + np.uint64(1)]):
        tasks[t, CLOCK] = FOREVER
        return
    o = np.uint64(tasks[t, NEXT])
    after = world.ops[o, AFTER]
    if after < 0:
        tasks[t, CLOCK] = earliest
    elif state.ended[np.uint64(after)] >= 0:
        tasks[t, CLOCK] = max(earliest, state.ended[np.uint64(after)] + max(world.ops[o, GAP], 0))
    else:
        tasks[t, CLOCK] = FOREVER
        tasks[t, EARLIEST] = earliest


@step
def start_tasks(world: World, state: State) -> None:
    """Put every task before its first operation, at the operation's recorded time."""
    for task in range(state.tasks.shape[0]):
        t = np.uint64(task)
        state.tasks[t, NEXT] = np.int64(world.first[t])
        state.tasks[t, PAGE] = -1
        if world.first[t] < world.first[t + np.uint64(1)]:
            begins = world.ops[world.first[t], TS] if world.ops[world.first[t], GAP] < 0 else np.int64(0)
            _arrange(world, state, task, begins)
        else:
            state.tasks[t, CLOCK] = FOREVER


@step
def _other_operation(
    world: World, state: State, record: Record, dirty: Dirty, log: Log, op: int, now: int, live: bool
) -> int:
    """fadvise(2) and readahead(2); returns when the call ends. It takes the recorded time."""
    cache = state.cache
    o = np.uint64(op)
    stream = np.int64(world.ops[o, STREAM])
    s = np.uint64(stream)
    file = np.uint64(world.streams[s, FILE])
    advice = world.ops[o, ADVICE] if world.ops[o, KIND] == FADVISE else np.int64(FADV_WILLNEED)
    if advice == FADV_DONTNEED:
        touch_pages(dirty, np.int64(cache.base[file]), pages_of(cache, file))
    log.n[1] = 0
    advise(
        cache, state.files, stream, advice, world.ops[o, POS], world.ops[o, COUNT],
        world.streams[s, DEVICE_RA], log,
    )  # fmt: skip
    submit(world, state, record, dirty, log, op, now, live)
    return now + world.ops[o, END] - world.ops[o, TS]


@step
def _finish(world: World, state: State, record: Record, task: int, now: int, live: bool) -> int:
    """A read ends at ``now``: returns its stall, 0 where the stream carries no verdict."""
    tasks = state.tasks
    t = np.uint64(task)
    o = np.uint64(tasks[t, NEXT])
    s = np.uint64(world.ops[o, STREAM])
    finish_read(state.cache, state.files, np.int64(s), world.ops[o, POS], world.ops[o, RET])
    cost = np.uint64(world.streams[s, DEVICE])
    from_cache = world.costs[cost, READ_NS] + tasks[t, COPIED] * world.costs[cost, COPY_NS]
    stall = now - tasks[t, BEGUN] - from_cache
    if live:
        state.streams[s, features.STALL_NS] += stall
    if world.streams[s, ELIGIBLE] == 0:
        return 0
    if live:
        block = np.uint64(world.ops[o, BLOCK])
        record.blocks[block, STALL_NS] += stall
        record.blocks[block, PAGES_MISSED] += tasks[t, MISSED]
        record.blocks[block, READS] += 1
        record.streams[s, STALL_NS] += stall
        record.streams[s, PAGES_MISSED] += tasks[t, MISSED]
        record.streams[s, READS] += 1
    return stall


@step
def _proceed(world: World, state: State, task: int, now: int) -> None:
    """The operation of a task has ended at ``now``."""
    tasks = state.tasks
    t = np.uint64(task)
    op = tasks[t, NEXT]
    state.ended[np.uint64(op)] = now
    tasks[t, PAGE] = -1
    tasks[t, NEXT] += 1
    think = np.int64(0)
    if op + 1 < np.int64(world.first[t + np.uint64(1)]) and world.ops[np.uint64(op + 1), GAP] < 0:
        think = world.ops[np.uint64(op + 1), THINK]
    _arrange(world, state, task, now + think)
    if world.ops[np.uint64(op), AWAITED] == 0:
        return
    for other in range(tasks.shape[0]):
        w = np.uint64(other)
        following = tasks[w, NEXT]
        if (
            tasks[w, CLOCK] == FOREVER
            and following < np.int64(world.first[w + np.uint64(1)])
            and world.ops[np.uint64(following), AFTER] == op
        ):
            _arrange(world, state, other, tasks[w, EARLIEST])


@step
def _batch(world: World, state: State, record: Record, dirty: Dirty, log: Log, task: int, live: bool) -> bool:
    """One batch of the read that a task is in; True at the end of the read. Moves the task's clock and
    page.
    """
    cache, files, ready, tasks, streams = state.cache, state.files, state.ready, state.tasks, state.streams
    t = np.uint64(task)
    op = np.int64(tasks[t, NEXT])
    o = np.uint64(op)
    stream = np.int64(world.ops[o, STREAM])
    s = np.uint64(stream)
    file = np.uint64(world.streams[s, FILE])
    base = cache.base[file]
    now = tasks[t, CLOCK]
    page = tasks[t, PAGE]
    last = (world.ops[o, POS] + world.ops[o, COUNT] + _PAGE_MASK) >> PAGE_SHIFT
    until = ((world.ops[o, POS] + world.ops[o, RET] - 1) >> PAGE_SHIFT) + 1
    if streams[s, ADVISED] != NO_ADVICE and streams[s, DUE] <= now:
        take_advice(world, state, stream)
    if cache.start[base + np.uint64(page)] == ABSENT:
        log.n[1] = 0
        synchronous(cache, files, stream, page, last - page, log)
        if cache.start[base + np.uint64(page)] == ABSENT:
            add(cache, file, page, 0, False, last, log)
        now = submit(world, state, record, dirty, log, op, now, live)
    end = page
    wait = np.int64(0)
    folio = page
    for _ in range(BATCH_FOLIOS):
        if end >= until or cache.start[base + np.uint64(end)] == ABSENT:
            break
        folio = np.int64(cache.start[base + np.uint64(end)])
        head = base + np.uint64(folio)
        end = folio + (np.int64(1) << np.int64(cache.order[head]))
        wait = ready[head]
        if cache.mark[head] != 0:
            touch_pages(dirty, np.int64(head), np.int64(1))
            log.n[1] = 0
            asynchronous(cache, files, stream, folio, last - folio, log)
            now = submit(world, state, record, dirty, log, op, now, live)
            break
        if wait > now:
            break
    now = max(now, wait)
    end = min(end, until)
    if live:
        first_uses = np.int64(0)
        missed = np.int64(0)
        begun = tasks[t, BEGUN]
        for at in range(base + np.uint64(page), base + np.uint64(end)):
            if record.used[at] == 0:
                record.used[at] = 1
                first_uses += 1
            if ready[base + np.uint64(cache.start[at])] > begun:
                missed += 1
        tasks[t, MISSED] += missed
        streams[s, features.PAGES] += end - page
        streams[s, features.CACHED] += end - page - missed
        streams[s, features.FIRST_USES] += first_uses
    tasks[t, COPIED] += end - page
    tasks[t, PAGE] = end
    tasks[t, CLOCK] = now + (end - page) * world.costs[np.uint64(world.streams[s, DEVICE]), COPY_NS]
    return end >= until


@step
def _begin_read(world: World, state: State, dirty: Dirty, task: int, live: bool) -> bool:
    """A task's read begins at its clock; True if there is anything to look up."""
    tasks = state.tasks
    t = np.uint64(task)
    o = np.uint64(tasks[t, NEXT])
    s = np.uint64(world.ops[o, STREAM])
    now = tasks[t, CLOCK]
    touch_stream(dirty, np.int64(s))
    if live and world.ops[o, RET] > 0:
        features.observe_read(state.streams[s], world.ops[o, POS], world.ops[o, RET], now)
    tasks[t, BEGUN] = now
    tasks[t, COPIED] = 0
    tasks[t, MISSED] = 0
    tasks[t, CLOCK] = now + world.costs[np.uint64(world.streams[s, DEVICE]), READ_NS]
    tasks[t, PAGE] = world.ops[o, POS] >> PAGE_SHIFT
    return world.ops[o, RET] > 0


@step
def _epoch_ends(world: World, state: State, op: int, now: int) -> bool:
    """Whether the stream of a read that begins at ``now`` may decide. Its first read begins its first
    epoch.
    """
    o = np.uint64(op)
    s = np.uint64(world.ops[o, STREAM])
    if world.streams[s, ELIGIBLE] == 0:
        return False
    if state.streams[s, features.EPOCH_NS] == features.NEVER:
        features.begin_epoch(state.streams[s], state.devices.state[np.uint64(world.streams[s, DEVICE])], now)
        return False
    return (
        state.streams[s, features.READS] >= world.settings[EPOCH_READS]
        and now - state.streams[s, features.EPOCH_NS] >= world.settings[EPOCH_LENGTH]
    )


@step
def run(
    world: World,
    state: State,
    record: Record,
    dirty: Dirty,
    log: Log,
    live: bool,
    resumed: bool,
    targets: np.ndarray,
    stalls: np.ndarray,
) -> tuple[int, int, int]:
    """Go on until a stream may decide (``live``), or until every task has passed its target (a rollout).

    ``resumed``: the read at which the run stands has had its decision. ``targets`` i64[T]: ordinal of the
    operation at which a task's demand ends (rollout). ``stalls`` i64[N] or empty: where the time that each
    read took is written. Returns (stream, task, cost): the stream that may decide and its task, or
    :data:`ENDED` or :data:`OVERFLOW`; cost is the stall of the reads before the targets.
    """
    tasks = state.tasks
    cost: Any = np.int64(0)
    pending = 0
    if not live:
        for k in range(np.uint64(tasks.shape[0])):
            if tasks[k, NEXT] < targets[k]:
                pending += 1
    room = np.uint64(log.add_index.shape[0])
    while live or pending > 0:
        task: Any = np.int64(-1)
        second: Any = np.int64(-1)
        for k in range(tasks.shape[0]):
            clock = tasks[np.uint64(k), CLOCK]
            if clock == FOREVER:
                continue
            if task < 0 or clock < tasks[np.uint64(task), CLOCK]:
                second = task
                task = k
            elif second < 0 or clock < tasks[np.uint64(second), CLOCK]:
                second = k
        if task < 0:
            return ENDED, -1, cost
        t = np.uint64(task)
        limit = tasks[np.uint64(second), CLOCK] if second >= 0 else FOREVER
        while tasks[t, CLOCK] < limit or (tasks[t, CLOCK] == limit and task < second):
            op = np.int64(tasks[t, NEXT])
            o = np.uint64(op)
            ended = False
            if tasks[t, PAGE] >= 0:
                ended = _batch(world, state, record, dirty, log, task, live)
            elif world.ops[o, KIND] == READ:
                if live and not resumed and _epoch_ends(world, state, op, tasks[t, CLOCK]):
                    return world.ops[o, STREAM], task, cost
                resumed = False
                ended = not _begin_read(world, state, dirty, task, live)
            else:
                touch_stream(dirty, np.int64(world.ops[o, STREAM]))
                end = _other_operation(world, state, record, dirty, log, op, tasks[t, CLOCK], live)
                _proceed(world, state, task, end)
                if not live and tasks[t, NEXT] == targets[t]:
                    pending -= 1
            if log.n[1] > room:
                return OVERFLOW, task, cost
            if ended:
                now = tasks[t, CLOCK]
                stall = _finish(world, state, record, task, now, live)
                if op < targets[t]:
                    cost += stall
                if stalls.shape[0] > 0:
                    stalls[o] = now - tasks[t, BEGUN]
                _proceed(world, state, task, now)
                if not live and tasks[t, NEXT] == targets[t]:
                    pending -= 1
            if not live and pending == 0:
                break
    return ENDED, -1, cost
