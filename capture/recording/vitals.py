"""What a running recorder knows of itself: the input of its budgets, its status and its metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Vitals:
    """A look at a running recorder, taken about four times a second.

    Counts and bytes are sums since the recording began. ``now_ns``: CLOCK_MONOTONIC. ``cpu_ns``: user and
    system time of the recorder, all its threads. ``rss_bytes``: its resident memory; ``ring_bytes``: the
    kernel's ring buffers that it holds. ``disk_bytes``: what the recordings in the output directory take;
    ``free_bytes``: what its file system has left. ``recorded`` and ``lost`` events are the kernel's own
    counts; ``lag_bytes`` waits in the ring buffers. ``recent`` returns up to so many of the latest
    sub-buffers of an instance, newest last, as they were drained.
    """

    now_ns: int
    cpu_ns: int
    rss_bytes: int
    ring_bytes: int
    disk_bytes: int
    free_bytes: int
    recorded: int
    lost: int
    raw_bytes: int
    lag_bytes: int
    recent: Callable[[str, int], list[bytes]]
