"""Folios that readahead inserted go to the device as bios, and what became of them is written down."""

from __future__ import annotations

import numpy as np

from hindsight.subsystems.readahead import device, features
from hindsight.subsystems.readahead.compiled import step
from hindsight.subsystems.readahead.metrics import PAGES_FETCHED, PAGES_WASTED, REQUESTS
from hindsight.subsystems.readahead.state import Log
from hindsight.subsystems.readahead.world import (
    BLOCK,
    DEVICE,
    ELIGIBLE,
    FETCH_NS,
    FILE,
    STREAM,
    Dirty,
    Record,
    State,
    World,
    touch_pages,
)


@step
def submit(
    world: World, state: State, record: Record, dirty: Dirty, log: Log, op: int, now: int, live: bool
) -> int:
    """Send the folios of the log to the device as bios; returns the time after it (fetching costs processor
    time)."""
    ready, devices = state.ready, state.devices
    o = np.uint64(op)
    stream = np.uint64(world.ops[o, STREAM])
    file = np.uint64(world.streams[stream, FILE])
    dev = world.streams[stream, DEVICE]
    base = state.cache.base[file]
    fetch_ns = world.costs[np.uint64(dev), FETCH_NS]
    rows = min(log.n[1], np.uint64(log.add_index.shape[0]))
    fetched = np.int64(0)
    bios = np.int64(0)
    row = np.uint64(0)
    one = np.uint64(1)
    while row < rows:
        begin = np.int64(log.add_index[row])
        end = begin
        head = row
        while (
            row < rows and np.int64(log.add_index[row]) == end and row - head < np.uint64(device.BIO_FOLIOS)
        ):
            end += np.int64(1) << np.int64(log.add_order[row])
            row += one
        now += (end - begin) * fetch_ns
        done = device.submit(devices, dev, now, end - begin)
        while head < row:
            ready[base + log.add_index[head]] = done
            head += one
        first = base + np.uint64(begin)
        touch_pages(dirty, np.int64(first), end - begin)
        fetched += end - begin
        bios += 1
        if live:
            for at in range(first, first + np.uint64(end - begin)):
                if record.fetcher[at] != 0 and record.used[at] == 0:
                    _waste(world, record, np.int64(record.fetcher[at]) - 1)
                record.fetcher[at] = op + 1
                record.used[at] = 0
    if live:
        state.streams[stream, features.FETCHED] += fetched
        state.streams[stream, features.BIOS] += bios
    if live and world.streams[stream, ELIGIBLE] != 0:
        block = np.uint64(world.ops[o, BLOCK])
        record.blocks[block, PAGES_FETCHED] += fetched
        record.blocks[block, REQUESTS] += bios
        record.streams[stream, PAGES_FETCHED] += fetched
        record.streams[stream, REQUESTS] += bios
    return now


@step
def _waste(world: World, record: Record, op: int) -> None:
    o = np.uint64(op)
    s = np.uint64(world.ops[o, STREAM])
    if world.streams[s, ELIGIBLE] != 0:
        record.blocks[np.uint64(world.ops[o, BLOCK]), PAGES_WASTED] += 1
        record.streams[s, PAGES_WASTED] += 1


@step
def count_waste(world: World, record: Record) -> None:
    """Count the pages that were fetched and not used (again from zero pages in ``used``, at the end)."""
    for at in range(np.uint64(record.fetcher.shape[0])):
        if record.fetcher[at] != 0 and record.used[at] == 0:
            _waste(world, record, np.int64(record.fetcher[at]) - 1)
