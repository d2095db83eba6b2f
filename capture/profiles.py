"""What each recording profile records: an allowlist of tracepoints, and the ring buffer that each goes to.

Each group of events has a private tracefs instance. ``tasks`` holds events that belong to the thread that
runs and follows the traced threads; ``devices`` holds events that fire in any context (interrupts, the idle
thread, kernel threads), which a filter on threads would lose. Two groups more follow threads, so that sealing
has to look at little: ``inodes`` holds the events whose files are described then, ``scrubbed`` those of which
something is taken out (page frame numbers, names: :mod:`hindsight.capture.hiding`).
"""

from __future__ import annotations

from typing import NamedTuple

from hindsight.capture.schema import reading, syscalls
from hindsight.errors import UsageError

TASKS = "tasks"
INODES = "inodes"
SCRUBBED = "scrubbed"
DEVICES = "devices"
INSTANCES = (TASKS, INODES, SCRUBBED, DEVICES)
FOLLOWING = (TASKS, INODES, SCRUBBED)
"""Groups of events that belong to the thread that runs; those of the others fire in any context."""


class Profile(NamedTuple):
    """A recording profile: for each instance its tracepoints, as ``system/event``."""

    name: str
    events: dict[str, tuple[str, ...]]

    @property
    def tracepoints(self) -> tuple[str, ...]:
        """All tracepoints of the profile."""
        return tuple(event for instance in INSTANCES for event in self.events.get(instance, ()))


_GROUPS = {
    "readahead/page_cache_sync_ra": INODES,
    "readahead/page_cache_async_ra": INODES,
    "filemap/mm_filemap_add_to_page_cache": SCRUBBED,
    "task/task_newtask": SCRUBBED,
    "task/task_rename": SCRUBBED,
    "sched/sched_process_exec": SCRUBBED,
    "sched/sched_process_exit": SCRUBBED,
    "filemap/mm_filemap_delete_from_page_cache": DEVICES,
    "block/block_rq_issue": DEVICES,
    "block/block_rq_complete": DEVICES,
}
"""The group of an event; those that are not here are of :data:`TASKS`."""


def _readahead() -> Profile:
    events = [table.tracepoint for table in (*reading.EVENTS, *syscalls.EVENTS)]
    return Profile(
        "readahead",
        {name: tuple(e for e in events if _GROUPS.get(e, TASKS) == name) for name in INSTANCES},
    )


PROFILES = {"readahead": _readahead}


def profile(name: str) -> Profile:
    """The profile of that name. Raises UsageError when there is none."""
    try:
        return PROFILES[name]()
    except KeyError:
        known = ", ".join(sorted(PROFILES))
        raise UsageError(f"there is no recording profile {name!r}", f"Known profiles: {known}.") from None


DEVICE_FIELDS = {"readahead": "s_dev", "filemap": "s_dev", "block": "dev"}
"""For each trace system whose events carry a device: the field that holds it."""


def kernel_device(major: int, minor: int) -> int:
    """The kernel's internal device number, as events hold it (``MKDEV`` of include/linux/kdev_t.h)."""
    return major << 20 | minor
