"""What each recording profile records: an allowlist of tracepoints, and the ring buffer that each goes to.

Each group of events has a private tracefs instance. ``tasks`` holds events that belong to the thread that
runs and follows the traced threads; ``devices`` holds events that fire in any context (interrupts, the idle
thread, kernel threads), which a filter on threads would lose. Three groups more follow threads: ``inodes``
holds the events whose files are described at sealing, ``scrubbed`` those of which something is taken out then
(page frame numbers, names: :mod:`hindsight.capture.hiding`), so that sealing has to look at little.
``switches`` holds the scheduler's events, of which the kernel records those that concern a followed thread
whoever runs at the moment: switches from and to it, wakeups of it and by it (kernel/trace/trace_events.c).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from hindsight.capture.schema import (
    blockio,
    damon,
    faults,
    pagecache,
    power,
    reading,
    scheduling,
    syscalls,
    writeback,
)
from hindsight.capture.schema.table import Table
from hindsight.errors import UsageError

TASKS = "tasks"
INODES = "inodes"
SCRUBBED = "scrubbed"
SWITCHES = "switches"
DEVICES = "devices"
FILES = "files"
"""What BPF programs tell of open files; no tracefs instance, and only where it is asked for."""
INSTANCES = (TASKS, INODES, SCRUBBED, SWITCHES, DEVICES)
FOLLOWING = (TASKS, INODES, SCRUBBED, SWITCHES)
"""Groups of events that belong to a thread; those of the others fire in any context."""


class Profile(NamedTuple):
    """A recording profile: for each instance its tracepoints, as ``system/event``.

    ``filters``: of which of an event's occurrences it wants, in the kernel's language; others are wanted
    all. ``ftrace_only``: perf would miss what fires in idle processors, or for another thread than runs.
    """

    name: str
    events: dict[str, tuple[str, ...]]
    filters: Mapping[str, str] = {}
    ftrace_only: bool = False

    @property
    def tracepoints(self) -> tuple[str, ...]:
        """All tracepoints of the profile."""
        return tuple(event for instance in INSTANCES for event in self.events.get(instance, ()))


DESCRIBING = ("readahead/page_cache_sync_ra", "readahead/page_cache_async_ra", "filemap/mm_filemap_fault")
"""Events whose files are described at sealing: those on which readahead is decided."""
_GROUPS = {
    **dict.fromkeys(DESCRIBING, INODES),
    "filemap/mm_filemap_add_to_page_cache": SCRUBBED,
    "task/task_newtask": SCRUBBED,
    "task/task_rename": SCRUBBED,
    "sched/sched_process_exec": SCRUBBED,
    "sched/sched_process_exit": SCRUBBED,
    "filemap/mm_filemap_delete_from_page_cache": DEVICES,
    "writeback/writeback_dirty_folio": TASKS,
    "writeback/writeback_dirty_inode": TASKS,
    "writeback/folio_wait_writeback": TASKS,
    "writeback/balance_dirty_pages": TASKS,
    "vmscan/mm_vmscan_direct_reclaim_begin": TASKS,
    "vmscan/mm_vmscan_direct_reclaim_end": TASKS,
    "vmscan/mm_vmscan_memcg_reclaim_begin": TASKS,
    "vmscan/mm_vmscan_memcg_reclaim_end": TASKS,
    "vmscan/mm_vmscan_throttled": TASKS,
}
_GROUP_OF_SYSTEM = {
    "sched": SWITCHES, "block": DEVICES, "writeback": DEVICES, "vmscan": DEVICES, "power": DEVICES,
    "timer": DEVICES, "damon": DEVICES,
}  # fmt: skip
"""The group of an event, else that of its system, else :data:`TASKS`."""

_IDENTITY = ("task/task_newtask", "task/task_rename", "sched/sched_process_exec", "sched/sched_process_exit")
"""Who the threads are: in every profile."""
_PAGES = (
    "filemap/mm_filemap_get_pages", "filemap/mm_filemap_add_to_page_cache",
    "filemap/mm_filemap_delete_from_page_cache", "filemap/mm_filemap_fault", "filemap/mm_filemap_map_pages",
)  # fmt: skip
_REQUESTS = ("block/block_rq_issue", "block/block_rq_complete")
_WRITES = 'rwbs ~ "*W*"'


def group_of(event: str) -> str:
    """The group that an event (``system/event``) is recorded with."""
    return _GROUPS.get(event) or _GROUP_OF_SYSTEM.get(event.partition("/")[0], TASKS)


def _names(tables: Iterable[Table]) -> tuple[str, ...]:
    return tuple(table.tracepoint for table in tables)


class Choice(NamedTuple):
    """What can be chosen by one name: see :class:`Profile`; ``events`` not yet by group."""

    meaning: str
    events: tuple[str, ...]
    filters: Mapping[str, str] = {}
    ftrace_only: bool = False


CHOICES = {
    "readahead": Choice(
        "buffered reads: system calls, the page cache, readahead decisions, block requests",
        _names((*reading.EVENTS, *syscalls.EVENTS)),
    ),
    "pagecache": Choice(
        "the page cache: what is looked up, added, dirtied and evicted, and reclaim",
        (*_PAGES, "writeback/writeback_dirty_folio", *_names(pagecache.EVENTS), *_IDENTITY),
    ),
    "blockio": Choice(
        "block I/O from the bio to its completion: queueing, merging, splitting, requeueing, errors",
        (*_names(blockio.EVENTS), *_REQUESTS, *_IDENTITY),
    ),
    "writeback": Choice(
        "dirty pages: who makes them, who waits, what the flusher threads write, and the writes to devices",
        (*_names(writeback.EVENTS), *_REQUESTS, *_IDENTITY),
        dict.fromkeys(_REQUESTS, _WRITES),
    ),
    "sched": Choice(
        "the scheduler: switches, wakeups, migrations",
        (*_names(scheduling.EVENTS), *_IDENTITY),
        ftrace_only=True,
    ),
    "cpuidle": Choice(
        "idle processors: states entered and left, wrong guesses, ticks stopped, frequencies",
        (*_names(power.EVENTS), *_IDENTITY),
        ftrace_only=True,
    ),
    "faults": Choice(
        "page faults of programs with their addresses, which tell several mappings of one file apart",
        (*_names(faults.EVENTS), *_IDENTITY),
    ),
    "damon": Choice(
        "DAMON: regions and how often they were accessed, what schemes do (set DAMON up yourself)",
        (*_names(damon.EVENTS), *_IDENTITY),
    ),
}

PROFILES: dict[str, str] = {name: choice.meaning for name, choice in CHOICES.items()}
"""The profiles, and what each records."""


def profile(name: str) -> Profile:
    """The profile of that name; several are joined by ``+``, and record what any of them does.

    Raises UsageError when there is none.
    """
    names = list(dict.fromkeys(name.split("+")))
    unknown = [one for one in names if one not in CHOICES]
    if unknown:
        known = ", ".join(sorted(CHOICES))
        raise UsageError(
            f"there is no recording profile {unknown[0]!r}", f"Known profiles: {known}; join several by +."
        )
    chosen = [CHOICES[one] for one in names]
    events = tuple(dict.fromkeys(event for choice in chosen for event in choice.events))
    filters = {}
    for event in events:
        texts = [choice.filters.get(event) for choice in chosen if event in choice.events]
        wanted = list(dict.fromkeys(text for text in texts if text is not None))
        if None not in texts:
            filters[event] = wanted[0] if len(wanted) == 1 else " || ".join(f"({text})" for text in wanted)
    groups = {group: tuple(e for e in events if group_of(e) == group) for group in INSTANCES}
    return Profile(
        "+".join(names),
        {group: members for group, members in groups.items() if members},
        filters,
        any(choice.ftrace_only for choice in chosen),
    )


_SHARE = {TASKS: 1, INODES: 4, SCRUBBED: 4, SWITCHES: 2, DEVICES: 4, FILES: 1}
"""Other events are fewer than those of threads: their buffers are so many times smaller."""
_LEAST_KB = 64


def buffers_kb(wanted: Profile, buffer_kb: int) -> dict[str, int]:
    """The ring buffers of a profile by group, KiB per CPU; ``buffer_kb`` is that of the threads' events."""
    return {group: max(buffer_kb // _SHARE[group], min(buffer_kb, _LEAST_KB)) for group in wanted.events}


def kernel_device(major: int, minor: int) -> int:
    """The kernel's internal device number, as events hold it (``MKDEV`` of include/linux/kdev_t.h)."""
    return major << 20 | minor
