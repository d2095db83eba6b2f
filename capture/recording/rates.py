"""Which event has which rate: estimated from a few of the latest sub-buffers when a budget is nearly used.

The kernel counts the events of a ring buffer, not of a tracepoint (hist triggers would, where they exist). A
sub-buffer says which events it holds and how much time they span, so that a few of them tell the mix; the
kernel's own count gives the total. In plain Python: it runs on the recorded host, some ten pages a look.

Format of a sub-buffer: kernel/trace/ring_buffer.c, include/linux/ring_buffer.h of Linux 6.18.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from hindsight.capture.recording.vitals import Vitals

_HEAD_BYTES = 8 + struct.calcsize("l")
"""A time stamp, then ``local_t commit`` (struct buffer_data_page)."""
_LENGTH_MASK = 0xFFFFF
_TYPE_DATA_MAX = 28
_PADDING = 29
_TIME_EXTEND = 30
_TIME_STAMP = 31
_SHORTEST_NS = 50
"""No processor records events faster: a bound for spans that are too short to divide by."""
_SECOND = 1_000_000_000

PAGES = 8
"""Sub-buffers per instance that are walked when something has to be shed; 30–40 µs each."""
FRESH_NS = 2 * _SECOND
"""Sub-buffers older than this say nothing of the present."""

DEMAND, DESCRIPTORS, TASKS = range(3)
"""Classes of events in the order in which they are given up, see :func:`units_of`."""

_DESCRIPTOR_NAMES = "open openat openat2 creat close close_range dup dup2 dup3 fcntl"
"""What a descriptor stands for."""
_TASK_NAMES = (
    "clone clone3 fork vfork execve execveat task_newtask task_rename sched_process_exec sched_process_exit "
    "sched_process_fork"
)
"""Who a thread is, and which descriptors it inherited."""
_RANKS = dict.fromkeys(_DESCRIPTOR_NAMES.split(), DESCRIPTORS) | dict.fromkeys(_TASK_NAMES.split(), TASKS)

_USUAL = (
    "read pread64 mm_filemap_get_pages write mm_filemap_map_pages mmap lseek mm_filemap_add_to_page_cache "
    "mm_filemap_delete_from_page_cache mm_filemap_fault pwrite64 munmap block_rq_issue block_rq_complete "
    "io_uring_enter preadv readv writev page_cache_ra_order page_cache_async_ra page_cache_sync_ra madvise "
    "close openat fcntl clone sched_process_exit task_newtask"
)
"""From the usually most frequent on. Where no sub-buffer can be looked at, each of these is taken to be half
as frequent as the one before: few are shed at a time, and what identifies at the very last."""


@dataclass(frozen=True)
class Unit:
    """Events that are shed and restored together: a system call's entry and exit, or one other tracepoint.

    ``rank``: DEMAND, DESCRIPTORS or TASKS; higher ranks are shed later and restored earlier.
    """

    name: str
    events: tuple[str, ...]
    rank: int


def _short_name(event: str) -> str:
    name = event.rpartition("/")[2]
    return name.removeprefix("sys_enter_").removeprefix("sys_exit_")


def units_of(events: Iterable[str]) -> tuple[Unit, ...]:
    """The units of these events (``system/event``), sorted by name.

    An entry without its exit has no result, an exit without its entry no arguments: they go together. What
    was read can be missing for a while and leaves a gap of known extent. Without the descriptor's history
    (open, close, dup, fcntl), later reads cannot be tied to a file, and without the threads' history (clone,
    exec, exit, rename) not even a descriptor to its table: such a gap spoils what comes after it. So what was
    read is given up first, then descriptors, then threads.
    """
    members: dict[tuple[str, str], set[str]] = {}
    for event in events:
        members.setdefault((event.rpartition("/")[0], _short_name(event)), set()).add(event)
    units = []
    for (_, name), group in members.items():
        units.append(Unit(name, tuple(sorted(group)), _RANKS.get(name, DEMAND)))
    return tuple(sorted(units, key=lambda unit: (unit.name, unit.events)))


@dataclass(frozen=True)
class Sample:
    """A sub-buffer: its first and last event (CLOCK_MONOTONIC, ns), and its number of events by id."""

    first_ns: int
    last_ns: int
    counts: dict[int, int]

    @property
    def span_ns(self) -> int:
        """The time that its events took, never 0."""
        return max(self.last_ns - self.first_ns, sum(self.counts.values()) * _SHORTEST_NS)


def page_time(page: bytes) -> int:
    """Time of a sub-buffer's first event in ns, -1 when it is too short to have one."""
    return int.from_bytes(page[:8], "little") if len(page) >= _HEAD_BYTES else -1


def count_events(page: bytes) -> Sample | None:
    """Walk one sub-buffer of this machine. Damage ends the walk; None when there is nothing before it."""
    if len(page) < _HEAD_BYTES + 8:
        return None
    words = memoryview(page[: len(page) & ~3]).cast("I")
    first = clock = words[0] | words[1] << 32
    at = _HEAD_BYTES // 4
    end = min(at + ((words[2] & _LENGTH_MASK) >> 2), len(words) - 1)  # the last word cannot begin an event
    counts: dict[int, int] = {}
    get = counts.get
    while at < end:
        head = words[at]
        kind = head & 31
        if 0 < kind <= _TYPE_DATA_MAX:
            event = words[at + 1] & 0xFFFF
            counts[event] = get(event, 0) + 1
            clock += head >> 5
            at += kind + 1
        elif kind == 0:
            size = words[at + 1] >> 2
            if at + 2 >= len(words) or size < 2:
                break
            event = words[at + 2] & 0xFFFF
            counts[event] = get(event, 0) + 1
            clock += head >> 5
            at += size + 1
        elif kind == _TIME_EXTEND:
            clock += (head >> 5) + (words[at + 1] << 27)
            at += 2
        elif kind == _TIME_STAMP:  # 59 bits; the upper ones are those of the clock
            clock = (clock >> 59 << 59) | (head >> 5) + (words[at + 1] << 27)
            at += 2
        else:  # padding: a discarded event, or with delta 0 the rest of the page
            if head >> 5 == 0:
                break
            clock += head >> 5
            at += (words[at + 1] >> 2) + 1
    return Sample(first, clock, counts) if counts else None


def _is_full(page: bytes) -> bool:
    """Whether half of it is used; others were cut short, and their span says nothing."""
    return (int.from_bytes(page[8:12], "little") & _LENGTH_MASK) * 2 >= len(page)


class Estimator:
    """Estimates the rate of each unit of an instance → event id → ``system/event`` map."""

    def __init__(self, events: Mapping[str, Mapping[int, str]]) -> None:
        self.units = units_of(name for ids in events.values() for name in ids.values())
        index = {event: unit for unit in self.units for event in unit.events}
        self._unit = {instance: {i: index[e] for i, e in ids.items()} for instance, ids in events.items()}
        self._samples: dict[tuple[str, int], Sample] = {}
        order = {name: place for place, name in enumerate(_USUAL.split())}
        usual = sorted(self.units, key=lambda u: (u.rank, order.get(u.name, len(order)), u.name))
        self._usual = {unit: 0.5**place for place, unit in enumerate(usual)}

    def look(self, vitals: Vitals, pages: int = PAGES) -> None:
        """Walk up to ``pages`` of each instance's latest sub-buffers; forget old ones."""
        now = vitals.now_ns
        self._samples = {k: s for k, s in self._samples.items() if now - s.last_ns <= FRESH_NS}
        for instance in self._unit:
            for page in vitals.recent(instance, pages):
                first = page_time(page)
                # What is not a sub-buffer of this moment (another source's records) is not taken for one.
                if not now - 60 * _SECOND < first <= now or (instance, first) in self._samples:
                    continue
                sample = count_events(page) if _is_full(page) else None
                if sample is not None and first <= sample.last_ns and 0 <= now - sample.last_ns <= FRESH_NS:
                    self._samples[instance, first] = sample

    @property
    def sighted(self) -> bool:
        """Whether there are sub-buffers to judge by."""
        return bool(self._samples)

    def rates(self, total: float, shed: Collection[Unit]) -> dict[Unit, float]:
        """Events per second of each unit that is not shed; together ``total``.

        Within an instance the sub-buffers, which are equally large, are counted; instances are weighed by the
        events per time of their typical (median) sub-buffer. Without any usable one it is a guess.
        """
        density: dict[Unit, float] = {}
        for instance, ids in self._unit.items():
            samples = [sample for (name, _), sample in self._samples.items() if name == instance]
            if not samples:
                continue
            spans = sorted(sample.span_ns for sample in samples)
            weight = 1 / (spans[len(spans) // 2] * len(samples))
            for sample in samples:
                for event, count in sample.counts.items():
                    unit = ids.get(event)
                    if unit is not None and unit not in shed:
                        density[unit] = density.get(unit, 0.0) + count * weight
        if not density:
            density = {unit: weight for unit, weight in self._usual.items() if unit not in shed}
        whole = sum(density.values())
        return {unit: total * value / whole for unit, value in density.items()}
