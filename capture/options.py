"""What a recording is asked for: the options of ``hindsight capture record``, as plain values.

Named tuples, here and in what else a recorder loads first: `dataclasses` alone takes 20 ms to import.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from hindsight.capture.devices import Device

STREAM = "stream"
FLIGHT = "flight"
FTRACE = "ftrace"
PERF = "perf"
BPF = "bpf"
RECORDS = (PERF, BPF)
"""Sources of events whose raw files hold perf records."""


class Budgets(NamedTuple):
    """What a recorder may use; None = unlimited.

    ``max_cpu``: its own processor time, percent of one processor. ``max_disk``: bytes that the recordings in
    the output directory may take; ``min_free``: bytes that its file system must keep free. ``max_memory``:
    bytes of ring buffers and of the recorder itself. ``max_rate``: recorded events per second.
    """

    max_cpu: float | None = None
    max_disk: int | None = None
    min_free: int = 64 << 20
    max_memory: int | None = None
    max_rate: float | None = None


class Duty(NamedTuple):
    """Record for ``on_s`` seconds out of every ``every_s``."""

    on_s: float
    every_s: float


class Pressure(NamedTuple):
    """A threshold of pressure stall information: ``stall_us`` of stall within a window of ``window_us``.

    ``resource`` is cpu, memory or io; ``kind`` is some or full (Documentation/accounting/psi.rst).
    """

    resource: str
    kind: str
    stall_us: int
    window_us: int


class RecordOptions(NamedTuple):
    """What to record.

    ``command`` empty = the whole host, until ``duration`` seconds passed or a signal came. ``devices`` limits
    page-cache and block events to these (major, minor). ``buffer_kb`` is the ring buffer per CPU of the
    threads' events; ``paths`` stores the names of the files on which readahead was seen, ``comm`` those of
    threads (else keyed hashes of them).

    ``mode`` STREAM keeps everything; FLIGHT lets the ring buffers overwrite and keeps what they hold when
    asked: SIGUSR1, ``hindsight capture trigger``, a threshold of ``pressure``, and at the end. A segment is
    sealed after ``rotate_bytes`` of raw trace or ``rotate_s`` seconds. What was drained is made durable every
    ``sync_s`` seconds. ``metrics`` is a textfile for Prometheus, rewritten while it records. ``source`` is
    FTRACE or PERF. The sets ``counters`` (:mod:`hindsight.capture.counters.source`) and those of the control
    groups ``cgroups`` are sampled every ``every_s`` seconds. ``open_files`` tells open files apart by
    BPF programs. ``proxies`` are lists of names (docs/proxy.md), read every ``every_s`` seconds.
    """

    out: Path
    command: tuple[str, ...] = ()
    profile: str = "readahead"
    duration: float | None = None
    user: str | None = None
    label: str = ""
    devices: tuple[Device, ...] = ()
    buffer_kb: int = 16384
    paths: bool = False
    comm: bool = False
    mode: str = STREAM
    pressure: tuple[Pressure, ...] = ()
    rotate_bytes: int | None = 256 << 20
    rotate_s: float | None = None
    sync_s: float = 5.0
    duty: Duty | None = None
    budgets: Budgets = Budgets()
    metrics: Path | None = None
    source: str = FTRACE
    counters: tuple[str, ...] = ()
    cgroups: tuple[str, ...] = ()
    every_s: float = 1.0
    open_files: bool = False
    proxies: tuple[str, ...] = ()
