"""What a timed replay works on: constants of the capture, mutable state, and what is cheap to put back.

Two states exist side by side. The live one belongs to the run; the spare one is where a rollout happens. Both
are equal except for what :class:`Dirty` lists, so putting one back means to copy what was touched: chunks of
:data:`CHUNK` pages, rows of streams, and the small tables of tasks and devices.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hindsight.subsystems.readahead import device, features
from hindsight.subsystems.readahead.compiled import step
from hindsight.subsystems.readahead.metrics import N_METRICS
from hindsight.subsystems.readahead.pages import PageCache, page_cache
from hindsight.subsystems.readahead.state import OpenFiles, open_files

FOREVER = np.iinfo(np.int64).max
CHUNK_SHIFT = 6
CHUNK = 1 << CHUNK_SHIFT
"""Pages that are put back together."""

# Columns of World.ops (i64). THINK: time between the end of the task's previous simulated operation and this
# one. AFTER: the operation of another task on the same file that had ended when this one began, -1 if none
# or if the task's own order says as much; GAP: time since then, -1 if the task's own previous operation
# ended later; AWAITED: 1 if another operation comes AFTER it.
TS, END, STREAM, KIND, POS, COUNT, RET, ADVICE, THINK, BLOCK, AFTER, GAP, AWAITED = range(13)
N_OP = 13
# Columns of World.streams (i64), constant but for SETTING_RA.
FILE, DEVICE, ELIGIBLE, DEVICE_RA = range(4)
N_CONSTANT = 4
# Columns of World.costs (i64) per device: processor time of a read, of a page copied, of a page fetched.
READ_NS, COPY_NS, FETCH_NS = range(3)
N_COST = 3
# World.settings (i64).
EPOCH_LENGTH, EPOCH_READS = range(2)
# Columns of State.tasks (i64). CLOCK: when the task goes on, FOREVER at its end; NEXT: ordinal of its
# operation; PAGE: next page of the read it is in, -1 between operations; BEGUN: when that read began;
# EARLIEST: when a task that waits for another one could go on.
CLOCK, NEXT, PAGE, BEGUN, COPIED, MISSED, EARLIEST = range(7)
N_TASK = 7
# Further columns of State.streams: advice on its way (action, NO_ADVICE if none) and when it arrives.
ADVISED, DUE = features.N_STREAM, features.N_STREAM + 1
N_STREAM = features.N_STREAM + 2
NO_ADVICE = -1


class World(NamedTuple):
    """Constants of a capture: operations i64[N, N_OP] sorted by (task, ts), where each task's begin u64[T +
    1], streams i64[S, N_CONSTANT], costs i64[D, N_COST], what actions set (u32[A], u8[A]), settings i64[2],
    delays of advice i64[K] (ns, :mod:`hindsight.subsystems.readahead.advice`).
    """

    ops: NDArray[np.int64]
    first: NDArray[np.uint64]
    streams: NDArray[np.int64]
    costs: NDArray[np.int64]
    action_ra: NDArray[np.uint32]
    action_random: NDArray[np.uint8]
    settings: NDArray[np.int64]
    delays: NDArray[np.int64]


class State(NamedTuple):
    """What a policy changes. ``ready`` i64[P]: when the folio that begins at this page is (was) complete;
    ``ended`` i64[N]: when each operation ended, -1 before."""

    cache: PageCache
    files: OpenFiles
    devices: device.Devices
    ready: NDArray[np.int64]
    ended: NDArray[np.int64]
    tasks: NDArray[np.int64]
    streams: NDArray[np.int64]


class Record(NamedTuple):
    """What the live run writes down. ``used`` u8[P], ``fetcher`` u32[P] (ordinal of the operation that
    fetched the page + 1, 0 = none), metrics per block i64[B, M] and per stream i64[S, M].
    """

    used: NDArray[np.uint8]
    fetcher: NDArray[np.uint32]
    blocks: NDArray[np.int64]
    streams: NDArray[np.int64]


class Dirty(NamedTuple):
    """What differs between the two states: ``n`` i64[2] entries of ``chunks`` and ``streams`` (u32), with a
    flag (u8) for each that is listed.
    """

    n: NDArray[np.int64]
    chunks: NDArray[np.uint32]
    chunk_flag: NDArray[np.uint8]
    streams: NDArray[np.uint32]
    stream_flag: NDArray[np.uint8]


def new_state(
    size: NDArray[np.int64],
    max_order: NDArray[np.uint8],
    stream_file: NDArray[np.uint32],
    ra_pages: NDArray[np.uint32],
    io_pages: NDArray[np.uint32],
    device_params: NDArray[np.int64],
    operations: int,
    tasks: int,
) -> State:
    """Nothing cached, nothing begun: files (F,), streams (S,), device parameters i64[D, device.N_PARAMS]."""
    cache = page_cache(size, max_order)
    streams = np.zeros((len(stream_file), N_STREAM), np.int64)
    streams[:, features.EPOCH_NS] = features.NEVER
    streams[:, features.LAST_END] = features.NEVER
    streams[:, features.LAST_READ_NS] = features.NEVER
    streams[:, ADVISED] = NO_ADVICE
    return State(
        cache,
        open_files(stream_file, ra_pages, io_pages),
        device.make(device_params),
        np.zeros(len(cache.start), np.int64),
        np.full(operations, -1, np.int64),
        np.zeros((tasks, N_TASK), np.int64),
        streams,
    )


def new_record(pages: int, blocks: int, streams: int) -> Record:
    """Nothing written down yet."""
    return Record(
        np.zeros(pages, np.uint8),
        np.zeros(pages, np.uint32),
        np.zeros((blocks, N_METRICS), np.int64),
        np.zeros((streams, N_METRICS), np.int64),
    )


def new_dirty(pages: int, streams: int) -> Dirty:
    """Two equal states."""
    chunks = (pages >> CHUNK_SHIFT) + 1
    return Dirty(
        np.zeros(2, np.int64),
        np.zeros(chunks, np.uint32),
        np.zeros(chunks, np.uint8),
        np.zeros(streams, np.uint32),
        np.zeros(streams, np.uint8),
    )


@step
def touch_pages(dirty: Dirty, first: int, count: int) -> None:
    """List the chunks of the flat page positions [first, first + count)."""
    if count <= 0:
        return
    for chunk in range(first >> CHUNK_SHIFT, ((first + count - 1) >> CHUNK_SHIFT) + 1):
        c = np.uint64(chunk)
        if dirty.chunk_flag[c] == 0:
            dirty.chunk_flag[c] = 1
            dirty.chunks[np.uint64(dirty.n[0])] = chunk
            dirty.n[0] += 1


@step
def touch_stream(dirty: Dirty, stream: int) -> None:
    """List a stream."""
    s = np.uint64(stream)
    if dirty.stream_flag[s] == 0:
        dirty.stream_flag[s] = 1
        dirty.streams[np.uint64(dirty.n[1])] = stream
        dirty.n[1] += 1


@step
def put_back(source: State, target: State, dirty: Dirty) -> None:
    """Make ``target`` equal to ``source`` again, given all that differs, and empty the list."""
    pages = target.ready.shape[0]
    for i in range(dirty.n[0]):
        chunk = np.int64(dirty.chunks[np.uint64(i)])
        dirty.chunk_flag[np.uint64(chunk)] = 0
        a = chunk << CHUNK_SHIFT
        b = min(a + CHUNK, pages)
        for at in range(np.uint64(a), np.uint64(b)):
            target.cache.start[at] = source.cache.start[at]
            target.cache.order[at] = source.cache.order[at]
            target.cache.mark[at] = source.cache.mark[at]
            target.ready[at] = source.ready[at]
    for i in range(dirty.n[1]):
        s = np.uint64(dirty.streams[np.uint64(i)])
        dirty.stream_flag[s] = 0
        target.files.start[s] = source.files.start[s]
        target.files.size[s] = source.files.size[s]
        target.files.async_size[s] = source.files.async_size[s]
        target.files.ra_pages[s] = source.files.ra_pages[s]
        target.files.order[s] = source.files.order[s]
        target.files.prev_pos[s] = source.files.prev_pos[s]
        target.files.random[s] = source.files.random[s]
        for column in range(N_STREAM):
            target.streams[s, column] = source.streams[s, column]
    dirty.n[0] = 0
    dirty.n[1] = 0
    for task in range(np.uint64(target.tasks.shape[0])):
        a = min(source.tasks[task, NEXT], target.tasks[task, NEXT])
        b = max(source.tasks[task, NEXT], target.tasks[task, NEXT])
        for op in range(np.uint64(a), np.uint64(b)):
            target.ended[op] = source.ended[op]
        for column in range(N_TASK):
            target.tasks[task, column] = source.tasks[task, column]
    for d in range(np.uint64(target.devices.state.shape[0])):
        for column in range(device.N_STATE):
            target.devices.state[d, column] = source.devices.state[d, column]
        for slot in range(np.uint64(device.OUTSTANDING)):
            for column in range(3):
                target.devices.ring[d, slot, column] = source.devices.ring[d, slot, column]


def copy(source: State) -> State:
    """A second state, equal to the first."""
    return State(
        source.cache._replace(
            start=source.cache.start.copy(), order=source.cache.order.copy(), mark=source.cache.mark.copy()
        ),
        OpenFiles(*(column.copy() for column in source.files)),  # type: ignore[arg-type]
        device.Devices(source.devices.params, source.devices.state.copy(), source.devices.ring.copy()),
        source.ready.copy(),
        source.ended.copy(),
        source.tasks.copy(),
        source.streams.copy(),
    )
