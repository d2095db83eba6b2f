"""What is known of a stream and its device when a read begins, as compiled functions over flat accumulators.

A simulation and a live advisor keep the same accumulators (:data:`N_STREAM` columns of int64 per stream,
``device.N_STATE`` per device) with :func:`observe_read` and :func:`begin_epoch`, and call the same
:func:`compute`. Everything is about the time since the stream's last decision (the *epoch*); the read at
whose beginning the decision is taken counts with its position alone. Arithmetic is integer until the last
division by a power of two, so the values are the same on every machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hindsight.subsystems.contract import Feature
from hindsight.subsystems.readahead.compiled import step
from hindsight.subsystems.readahead.device import (
    BUSY_NS,
    LATENCY_NS,
    N_BIOS,
    N_COMPLETE,
    N_PAGES,
    PAGE_BYTES,
    WAIT_NS,
)

# Accumulators of a stream (columns, i64). The first group begins again with every epoch.
EPOCH_NS, READS, BYTES, SEQUENTIAL, FORWARD, BACKWARD, DISTANCE, SAME_STRIDE = range(8)
RUNS, RUN_LOG, PAGES, CACHED, FETCHED, FIRST_USES, STALL_NS, BIOS = range(8, 16)
# Counters of the device when the epoch began, in the order of DEVICE_COUNTERS.
DEVICE_BEFORE = 16
DEVICE_COUNTERS = (N_BIOS, N_PAGES, N_COMPLETE, WAIT_NS, LATENCY_NS, BUSY_NS)
# What outlives an epoch: where the last read began and ended, its jump, bytes of the run, when it ended.
LAST_POS, LAST_END, LAST_JUMP, RUN_BYTES, LAST_READ_NS = range(22, 27)
N_STREAM = 27

NEVER = -1
"""EPOCH_NS of a stream that was not opened; LAST_END and LAST_READ_NS of one that has not read."""

_SECOND = 1_000_000_000
_LOG = 256
_SHARE = 1024

FEATURES = (
    Feature("read_bytes", "log2 bytes", 0.0, 48.0, "mean size of a read"),
    Feature("sequential", "share", 0.0, 1.0, "reads that begin where the previous one ended"),
    Feature("forward", "share", 0.0, 1.0, "reads that jump forward"),
    Feature("backward", "share", 0.0, 1.0, "reads that jump backward"),
    Feature("jump_distance", "log2 pages", 0.0, 48.0, "mean logarithm of the distance of the jumps"),
    Feature(
        "same_stride", "share", 0.0, 1.0, "jumps whose distance from begin to begin is that of the one before"
    ),
    Feature("run_length", "log2 pages", 0.0, 48.0, "mean logarithm of the runs of sequential reads"),
    Feature("cached", "share", 0.0, 1.0, "demanded pages that were ready when their read began"),
    Feature("unused", "share", 0.0, 1.0, "fetched pages beyond those used for the first time"),
    Feature("fetched_per_page", "log2 ratio", -8.0, 16.0, "pages fetched per page demanded"),
    Feature("ra_pages", "log2 pages", 0.0, 32.0, "readahead limit of the open file"),
    Feature("random", "flag", 0.0, 1.0, "the open file reads exactly what is asked for"),
    Feature("position", "share", 0.0, 1.0, "where in the file the read begins"),
    Feature("file_size", "log2 pages", 0.0, 48.0, "size of the file"),
    Feature("read_rate", "log2 1/s", 0.0, 40.0, "reads per second"),
    Feature("stall", "share", 0.0, 1.0, "time in which the stream's reads waited"),
    Feature("stall_per_read", "log2 ns", 0.0, 48.0, "mean wait of a read"),
    Feature("device_bio_rate", "log2 1/s", 0.0, 40.0, "bios that the device took per second"),
    Feature("device_page_rate", "log2 pages/s", 0.0, 40.0, "pages that the device read per second"),
    Feature("device_bio_pages", "log2 pages", 0.0, 48.0, "mean length of a bio on the device"),
    Feature("device_wait", "log2 ns", 0.0, 48.0, "mean wait of a bio before it was served"),
    Feature("device_latency", "log2 ns", 0.0, 48.0, "mean time of a bio from submission to completion"),
    Feature("device_busy", "share", 0.0, 1.0, "time in which the device had something to do"),
    Feature("others", "share", 0.0, 1.0, "pages of the device that other streams fetched"),
    Feature("streams", "log2 count", 0.0, 16.0, "streams that read from the device"),
    Feature("io_pages", "log2 pages", 0.0, 32.0, "largest request of the device"),
)
"""The features in order. Quantised: logarithms to 1/256, shares to 1/1024."""


@step
def log2_q8(value: int) -> int:
    """log2 of ``value + 1`` in units of 1/256, rounded down, exactly; 0 for values below 1 (integer
    squaring).
    """
    if value < 1:
        return 0
    x = np.uint64(value) + np.uint64(1)
    whole = 0
    y = x
    while y > np.uint64(1):
        y >>= np.uint64(1)
        whole += 1
    # x as 1.31 fixed point, then one bit of the fraction by each squaring.
    m = x >> np.uint64(whole - 31) if whole > 31 else x << np.uint64(31 - whole)
    fraction = 0
    for _ in range(8):
        m = (m * m) >> np.uint64(31)
        fraction <<= 1
        if m >= np.uint64(1) << np.uint64(32):
            m >>= np.uint64(1)
            fraction |= 1
    return whole * _LOG + fraction


@step
def _share(part: int, whole: int) -> np.float32:
    if whole <= 0 or part <= 0:
        return np.float32(0.0)
    return np.float32(min(part * _SHARE // whole, _SHARE) / _SHARE)


@step
def _mean_log(part: int, count: int) -> np.float32:
    """log2(1 + part / count)."""
    return np.float32(min(log2_q8(part // count), 48 * _LOG) / _LOG) if count > 0 else np.float32(0.0)


@step
def _rate(count: int, elapsed_ns: int) -> np.float32:
    """log2(1 + events per second)."""
    rate = min(count, 1 << 33) * _SECOND // max(elapsed_ns, 1)
    return np.float32(min(log2_q8(rate), 40 * _LOG) / _LOG)


@step
def observe_read(s: NDArray[np.int64], pos: int, nbytes: int, now: int) -> None:
    """A read of ``nbytes`` bytes (its result) at byte ``pos`` begins at ``now``: the pattern of accesses.

    ``s``: the stream's accumulators, i64[N_STREAM]. Reads that return nothing are not observed.
    """
    s[READS] += 1
    s[BYTES] += nbytes
    if s[LAST_END] != NEVER:
        if pos == s[LAST_END]:
            s[SEQUENTIAL] += 1
        else:
            gap = pos - s[LAST_END]
            if gap > 0:
                s[FORWARD] += 1
            else:
                s[BACKWARD] += 1
            s[DISTANCE] += log2_q8(abs(gap) // PAGE_BYTES)
            if pos - s[LAST_POS] == s[LAST_JUMP]:
                s[SAME_STRIDE] += 1
            s[RUNS] += 1
            s[RUN_LOG] += log2_q8(s[RUN_BYTES] // PAGE_BYTES)
            s[RUN_BYTES] = 0
        s[LAST_JUMP] = pos - s[LAST_POS]
    s[RUN_BYTES] += nbytes
    s[LAST_POS] = pos
    s[LAST_END] = pos + nbytes
    s[LAST_READ_NS] = now


@step
def begin_epoch(s: NDArray[np.int64], device: NDArray[np.int64], now: int) -> None:
    """A new epoch of a stream begins: ``s`` i64[N_STREAM], ``device`` i64[device.N_STATE] of its device."""
    for column in range(READS, DEVICE_BEFORE):
        s[column] = 0
    s[EPOCH_NS] = now
    for i in range(len(DEVICE_COUNTERS)):
        s[DEVICE_BEFORE + i] = device[DEVICE_COUNTERS[i]]


@step
def compute(
    s: NDArray[np.int64],
    device: NDArray[np.int64],
    now: int,
    pos: int,
    file_bytes: int,
    ra_pages: int,
    random: int,
    io_pages: int,
    active: int,
    out: NDArray[np.float32],
) -> None:
    """Write :data:`FEATURES` to ``out`` (f32[26]).

    ``s`` and ``device`` (after ``device.observe``) as for :func:`begin_epoch`; ``pos``: where the read that
    begins at ``now`` (ns) starts (bytes); ``active``: streams that read from the device in this epoch.
    """
    elapsed = now - s[EPOCH_NS]
    reads = s[READS]
    jumps = s[FORWARD] + s[BACKWARD]
    runs = s[RUNS] + 1
    bios = device[N_BIOS] - s[DEVICE_BEFORE]
    pages = device[N_PAGES] - s[DEVICE_BEFORE + 1]
    complete = device[N_COMPLETE] - s[DEVICE_BEFORE + 2]
    out[0] = _mean_log(s[BYTES], reads)
    out[1] = _share(s[SEQUENTIAL], reads)
    out[2] = _share(s[FORWARD], reads)
    out[3] = _share(s[BACKWARD], reads)
    out[4] = np.float32(min(s[DISTANCE] // jumps, 48 * _LOG) / _LOG) if jumps > 0 else np.float32(0.0)
    out[5] = _share(s[SAME_STRIDE], jumps)
    out[6] = np.float32(min((s[RUN_LOG] + log2_q8(s[RUN_BYTES] // PAGE_BYTES)) // runs, 48 * _LOG) / _LOG)
    out[7] = _share(s[CACHED], s[PAGES])
    out[8] = _share(s[FETCHED] - s[FIRST_USES], s[FETCHED])
    out[9] = np.float32((log2_q8(s[FETCHED] * 256) - log2_q8(s[PAGES] * 256)) / _LOG) if s[PAGES] > 0 else 0.0
    out[9] = min(max(out[9], np.float32(-8.0)), np.float32(16.0))
    out[10] = np.float32(log2_q8(ra_pages - 1) / _LOG)
    out[11] = np.float32(1.0) if random != 0 else np.float32(0.0)
    out[12] = _share(pos // PAGE_BYTES, file_bytes // PAGE_BYTES + 1)
    out[13] = np.float32(log2_q8(file_bytes // PAGE_BYTES) / _LOG)
    out[14] = _rate(reads, elapsed)
    out[15] = _share(s[STALL_NS] // _SHARE, elapsed // _SHARE)
    out[16] = _mean_log(s[STALL_NS], reads)
    out[17] = _rate(bios, elapsed)
    out[18] = _rate(pages, elapsed)
    out[19] = _mean_log(pages, bios)
    out[20] = _mean_log(device[WAIT_NS] - s[DEVICE_BEFORE + 3], complete)
    out[21] = _mean_log(device[LATENCY_NS] - s[DEVICE_BEFORE + 4], complete)
    out[22] = _share((device[BUSY_NS] - s[DEVICE_BEFORE + 5]) // _SHARE, elapsed // _SHARE)
    out[23] = _share(pages - s[FETCHED], pages)
    out[24] = np.float32(log2_q8(active - 1) / _LOG) if active > 0 else np.float32(0.0)
    out[25] = np.float32(log2_q8(io_pages - 1) / _LOG)
