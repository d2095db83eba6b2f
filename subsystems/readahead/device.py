"""A model of a block device in time: a throttle, then one server, first come first served; integers only.

A *bio* is what readahead submits: pages that follow each other in a file, at most :data:`BIO_FOLIOS` folios.
It passes two stages:

1. The throttle of the block cgroup (block/blk-throttle.c, Linux 6.18, behaviour observed on 6.18.44). Time
   is cut into ticks and slices. In the slices since its window began, a group may have dispatched ``limit x
   (elapsed time rounded up to whole slices)``: the allowance of a slice is there at its beginning, so that a
   throttled device works in bursts. Bytes are charged once per bio, before it is split; requests are charged
   for each piece of at most ``io_pages`` pages. A group that was idle until its window expired begins a new
   one; a window that lasts is moved forward, keeping one slice of unused allowance.
2. The device: each request occupies it for ``service_ns + pages x page_ns``.

A bio is complete when its last request is: none of its pages is ready before.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hindsight.subsystems.readahead.compiled import step

PAGE_BYTES = 4096
BIO_FOLIOS = 256
"""BIO_MAX_VECS (include/linux/bio.h): a bio holds at most so many folios."""

TICK_NS = 4_000_000
"""Timer tick (CONFIG_HZ=250) unless calibrated otherwise."""
SLICES_PER_SECOND = 10
"""DFL_THROTL_SLICE = HZ / 10 (block/blk-throttle.c)."""

# Columns of Devices.params (i64).
SERVICE_NS, PAGE_NS, IOPS, BPS, TICK, SLICE_TICKS, SPLIT_PAGES = range(7)
N_PARAMS = 7
# Columns of Devices.state (i64). Times of the throttle's window are in ticks, all others in ns.
STARTED, SLICE_START, SLICE_END, IOS, BYTES, LAST_DISPATCH, FREE_AT, BUSY_UNTIL, HEAD, TAIL = range(10)
# Cumulative counters, for features. Submitted: bios, pages. Complete: bios, time from submission to service
# and to completion, time with something outstanding.
N_BIOS, N_PAGES, N_COMPLETE, WAIT_NS, LATENCY_NS, BUSY_NS = range(10, 16)
N_STATE = 16

OUTSTANDING = 256
"""Bios whose completion is remembered per device; beyond that the oldest is counted as complete early."""


class Devices(NamedTuple):
    """All devices of a capture: ``params`` i64[D, N_PARAMS] (constant), ``state`` i64[D, N_STATE] and a ring
    of what is outstanding, ``ring`` i64[D, OUTSTANDING, 3] (submitted, served, complete; ns).
    """

    params: NDArray[np.int64]
    state: NDArray[np.int64]
    ring: NDArray[np.int64]


def make(params: NDArray[np.int64]) -> Devices:
    """Idle devices with these parameters (i64[D, N_PARAMS]); a limit of 0 is no limit."""
    count = params.shape[0]
    return Devices(
        np.ascontiguousarray(params, np.int64),
        np.zeros((count, N_STATE), np.int64),
        np.zeros((count, OUTSTANDING, 3), np.int64),
    )


@step
def _round_up(value: int, unit: int) -> int:
    return (value + unit - 1) // unit * unit


@step
def _allowance(limit: int, ticks: int, tick_ns: int) -> int:
    """What a limit per second allows in so many ticks."""
    return limit * (ticks * tick_ns // 1000) // 1_000_000


@step
def _wait_ticks(p: NDArray[np.int64], s: NDArray[np.int64], now: int, nbytes: int, queued: bool) -> int:
    """Ticks until one more request and ``nbytes`` bytes may be dispatched; 0 = now. Keeps the window."""
    unit = p[SLICE_TICKS]
    if s[STARTED] == 0 or (now > s[SLICE_END] and not queued):
        s[STARTED] = 1
        s[SLICE_START] = now
        s[IOS] = 0
        s[BYTES] = 0
        s[SLICE_END] = now + unit
    elif s[SLICE_END] < now + unit:
        s[SLICE_END] = _round_up(now + unit, unit)
    elapsed = now - s[SLICE_START]
    wait = 0
    if p[BPS] > 0 and nbytes > 0:
        rounded = _round_up(max(elapsed, 1), unit)
        extra = s[BYTES] + nbytes - _allowance(p[BPS], rounded, p[TICK])
        if extra > 0:
            per_tick = max(p[BPS] * (p[TICK] // 1000) // 1_000_000, 1)
            wait = max(extra // per_tick, 1) + rounded - elapsed
    if p[IOPS] > 0:
        rounded = _round_up(elapsed + 1, unit)
        if s[IOS] + 1 > _allowance(p[IOPS], rounded, p[TICK]):
            one = 1_000_000_000 // (p[IOPS] * p[TICK]) + 1
            wait = max(wait, rounded - elapsed, one)
    if wait > 0 and s[SLICE_END] < now + wait:
        s[SLICE_END] = _round_up(now + wait, unit)
    return wait


@step
def _trim(p: NDArray[np.int64], s: NDArray[np.int64], now: int) -> None:
    """Move a window that has lasted two slices forward, so that unused allowance does not pile up."""
    unit = p[SLICE_TICKS]
    if now > s[SLICE_END]:
        return
    s[SLICE_END] = _round_up(now + unit, unit)
    elapsed = (now - s[SLICE_START]) // unit * unit
    if elapsed < 2 * unit:
        return
    elapsed -= unit
    s[IOS] = max(s[IOS] - _allowance(p[IOPS], elapsed, p[TICK]), 0)
    s[BYTES] = max(s[BYTES] - _allowance(p[BPS], elapsed, p[TICK]), 0)
    s[SLICE_START] += elapsed


@step
def _dispatch(p: NDArray[np.int64], s: NDArray[np.int64], at: int, nbytes: int) -> int:
    """When the throttle lets a request go that came at ``at`` (ns) and charges ``nbytes`` bytes (0: a further
    piece of a bio, whose bytes are paid)."""
    if p[IOPS] == 0 and p[BPS] == 0:
        return at
    tick = p[TICK]
    queued = at < s[LAST_DISPATCH]
    time = max(at, s[LAST_DISPATCH])
    while True:
        now = time // tick
        wait = _wait_ticks(p, s, now, nbytes, queued)
        if wait == 0:
            break
        time = (now + wait) * tick
        queued = True
    s[IOS] += 1
    s[BYTES] += nbytes
    _trim(p, s, time // tick)
    s[LAST_DISPATCH] = time
    return time


@step
def _complete_oldest(s: NDArray[np.int64], ring: NDArray[np.int64]) -> None:
    slot = s[HEAD] % OUTSTANDING
    at, served, done = ring[slot, 0], ring[slot, 1], ring[slot, 2]
    s[HEAD] += 1
    s[N_COMPLETE] += 1
    s[WAIT_NS] += served - at
    s[LATENCY_NS] += done - at
    s[BUSY_NS] += max(done - max(at, s[BUSY_UNTIL]), 0)
    s[BUSY_UNTIL] = max(done, s[BUSY_UNTIL])


@step
def observe(devices: Devices, device: int, now: int) -> None:
    """Bring the counters of complete bios to the time ``now`` (ns): what has not ended is not known yet."""
    s = devices.state[device]
    ring = devices.ring[device]
    while s[HEAD] < s[TAIL] and ring[s[HEAD] % OUTSTANDING, 2] <= now:
        _complete_oldest(s, ring)


@step
def submit(devices: Devices, device: int, at: int, pages: int) -> int:
    """Submit a bio of ``pages`` pages at ``at`` (ns); returns when its pages are ready (ns).

    Bios are served in the order of the calls.
    """
    p = devices.params[device]
    s = devices.state[device]
    left = pages
    nbytes = pages * PAGE_BYTES
    served = at
    done = at
    while left > 0:
        piece = min(left, p[SPLIT_PAGES])
        start = max(_dispatch(p, s, at, nbytes), s[FREE_AT])
        if nbytes > 0:
            served = start
        nbytes = 0
        done = start + p[SERVICE_NS] + piece * p[PAGE_NS]
        s[FREE_AT] = done
        left -= piece
    s[N_BIOS] += 1
    s[N_PAGES] += pages
    ring = devices.ring[device]
    if s[TAIL] - s[HEAD] >= OUTSTANDING:
        _complete_oldest(s, ring)
    slot = s[TAIL] % OUTSTANDING
    ring[slot, 0] = at
    ring[slot, 1] = served
    ring[slot, 2] = done
    s[TAIL] += 1
    return done


@step
def least_time(p: NDArray[np.int64], pages: int) -> int:
    """A lower bound (ns) of the time from the first submission until ``pages`` pages are ready, whatever the
    order and size of the bios, on a device with parameters ``p`` that was idle.

    Proof. The server needs ``pages x page_ns`` and, as no request is longer than ``split_pages``, at least
    ``ceil(pages / split_pages)`` times ``service_ns``, one after the other. The throttle: let W be a
    window's start. At tick t it has let go at most ``limit x roundup(t - W + 1)`` <= ``limit x (t - W +
    slice)``. Moving the window forward subtracts what the skipped slices allowed, or less than that was
    used: never a gain. A new window begins at N only after ``slice_end >= L + slice`` (L: the last
    dispatch), so that ``limit x (L - W + slice)`` of the old and ``limit x slice`` of the new one are
    together at most ``limit x (N - W + slice)``. Hence, by induction, what was let go until t since the
    first submission is at most ``limit x (t - W + slice)``, where ticks are cut off (one tick more), and
    requests are not fewer, nor bytes less, than what the pages need. Nothing is ready before it is let go.
    """
    if pages <= 0:
        return 0
    requests = (pages + p[SPLIT_PAGES] - 1) // p[SPLIT_PAGES]
    least = requests * p[SERVICE_NS] + pages * p[PAGE_NS]
    burst = (p[SLICE_TICKS] + 1) * p[TICK]
    if p[IOPS] > 0:
        least = max(least, requests * 1_000_000_000 // p[IOPS] - burst)
    if p[BPS] > 0:
        least = max(least, pages * PAGE_BYTES * 1_000_000 // p[BPS] * 1000 - burst)
    return least
