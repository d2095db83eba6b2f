"""What each recording profile records: an allowlist of tracepoints, and the ring buffer that each goes to.

Two private tracefs instances are used. ``tasks`` holds events that belong to the thread that runs and follow
the traced threads; ``devices`` holds events that fire in any context (interrupts, the idle thread, kernel
threads), which a filter on threads would lose.
"""

from __future__ import annotations

from dataclasses import dataclass

from hindsight.capture import schema
from hindsight.errors import UsageError

TASKS = "tasks"
DEVICES = "devices"
INSTANCES = (TASKS, DEVICES)


@dataclass(frozen=True)
class Profile:
    """A recording profile: for each instance its tracepoints, as ``system/event``."""

    name: str
    events: dict[str, tuple[str, ...]]

    @property
    def tracepoints(self) -> tuple[str, ...]:
        """All tracepoints of the profile."""
        return tuple(event for instance in INSTANCES for event in self.events[instance])


_ANY_CONTEXT = ("block_rq_issue", "block_rq_complete", "mm_filemap_delete_from_page_cache")


def _readahead() -> Profile:
    tables = [table for table in schema.TABLES.values() if table.tracepoint]
    return Profile(
        "readahead",
        {
            TASKS: tuple(t.tracepoint for t in tables if t.name not in _ANY_CONTEXT),
            DEVICES: tuple(t.tracepoint for t in tables if t.name in _ANY_CONTEXT),
        },
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
