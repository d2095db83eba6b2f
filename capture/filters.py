"""What the kernel is to filter of an event: occurrences that are wanted, devices, threads that are not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hindsight.capture import devices
from hindsight.capture.profiles import kernel_device
from hindsight.capture.schema import TABLES

_FIELDS = ("s_dev", "dev", "sb_dev")
_NAMES = ("bdi", "name")
_TABLES = {table.tracepoint: table for table in TABLES.values() if table.tracepoint}


def device_field(event: str) -> str | None:
    """The field of an event (``system/event``) that tells a device, None when it has none.

    ``s_dev`` and ``sb_dev`` are those of file systems, ``dev`` of disks; ``name`` and ``bdi`` of writeback
    events hold the disk as text.
    """
    table = _TABLES.get(event)
    if table is None:
        return None
    names = {column.name for column in table.columns}
    for field in _FIELDS:
        if f"{field}_major" in names and not (field == "sb_dev" and "name" in names):
            return field
    if table.tracepoint.startswith("writeback/"):
        return next((field for field in _NAMES if field in names), None)
    return None


def device_filter(event: str, wanted: Iterable[devices.Device]) -> str:
    """The filter that leaves only these devices, empty when the event has none."""
    field = device_field(event)
    chosen = list(wanted)
    if field is None or not chosen:
        return ""
    # Requests carry the disk, the page cache carries the partition.
    numbers = {device if field == "s_dev" else devices.whole_disk(device) for device in chosen}
    if field in _NAMES:
        return " || ".join(f'{field} == "{major}:{minor}"' for major, minor in sorted(numbers))
    return " || ".join(f"{field} == {kernel_device(*number)}" for number in sorted(numbers))


def event_filters(
    events: Iterable[str],
    wanted: Iterable[devices.Device],
    filters: Mapping[str, str],
    ignored: Iterable[int] = (),
) -> dict[str, str]:
    """Filter texts by event (``system/event``), for those that need one.

    ``wanted``: devices to which events that carry one are limited, all when empty. ``filters``: those of the
    profile. ``ignored``: threads whose events are left out (``common_pid``).
    """
    threads = " && ".join(f"common_pid != {thread}" for thread in sorted(set(ignored)))
    chosen = list(wanted)
    found = {}
    for event in events:
        parts = [text for text in (device_filter(event, chosen), filters.get(event, "")) if text]
        if threads:
            parts.insert(0, threads)
        if parts:
            found[event] = parts[0] if len(parts) == 1 else " && ".join(f"({part})" for part in parts)
    return found
