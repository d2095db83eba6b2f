"""Merge the rows of several processors by (time, processor, position in the ring buffer)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hindsight.capture.compiled import compiled


@dataclass(frozen=True)
class Run:
    """Rows in order of time: ``ts`` i64 (ns), ``at`` u32 (payload position in words), ``cpu`` u16."""

    ts: np.ndarray
    at: np.ndarray
    cpu: np.ndarray


@compiled
def count_descents(ts: Any) -> int:
    """How many values of ``ts`` (i64) are less than the one before."""
    count = 0
    for i in range(1, ts.size):
        count += ts[i] < ts[i - 1]
    return count


@compiled
def merge_two(
    ts_a: Any, at_a: Any, cpu_a: Any, ts_b: Any, at_b: Any, cpu_b: Any, ts: Any, at: Any, cpu: Any
) -> None:
    """Merge two ascending runs; at equal times, the rows of the first come first."""
    a = np.uint64(0)
    b = np.uint64(0)
    one = np.uint64(1)
    size_a = np.uint64(ts_a.size)
    size_b = np.uint64(ts_b.size)
    for i in range(ts.size):
        slot = np.uint64(i)
        if b >= size_b or (a < size_a and ts_a[a] <= ts_b[b]):
            ts[slot] = ts_a[a]
            at[slot] = at_a[a]
            cpu[slot] = cpu_a[a]
            a += one
        else:
            ts[slot] = ts_b[b]
            at[slot] = at_b[b]
            cpu[slot] = cpu_b[b]
            b += one


def ordered(ts: np.ndarray, at: np.ndarray, cpu: int) -> Run:
    """The rows of one processor as a run; those that are not in order of time are sorted, stably."""
    if count_descents(ts):
        order = np.argsort(ts, kind="stable")
        ts, at = ts[order], at[order]
    return Run(ts, at, np.full(ts.size, cpu, np.uint16))


def merge(runs: list[Run]) -> Run:
    """One run of several: neighbours are merged in pairs, so that equal times keep the order of ``runs``."""
    if not runs:
        return Run(np.empty(0, np.int64), np.empty(0, np.uint32), np.empty(0, np.uint16))
    while len(runs) > 1:
        pairs = [_merge_pair(*runs[i : i + 2]) for i in range(0, len(runs) - 1, 2)]
        runs = pairs + runs[len(runs) // 2 * 2 :]
    return runs[0]


def _merge_pair(a: Run, b: Run) -> Run:
    size = a.ts.size + b.ts.size
    out = Run(np.empty(size, np.int64), np.empty(size, np.uint32), np.empty(size, np.uint16))
    merge_two(a.ts, a.at, a.cpu, b.ts, b.at, b.cpu, out.ts, out.at, out.cpu)
    return out
