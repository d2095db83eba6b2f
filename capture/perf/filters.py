"""What the kernel filters of each event: devices that are wanted, threads that are not."""

from __future__ import annotations

from collections.abc import Iterable

from hindsight.capture import devices
from hindsight.capture.profiles import DEVICE_FIELDS, kernel_device


def event_filters(
    events: Iterable[str], wanted: Iterable[devices.Device], ignored: Iterable[int] = ()
) -> dict[str, str]:
    """Filter texts by event (``system/event``), for those that need one.

    ``wanted``: devices to which events that carry one are limited, all when empty. ``ignored``: threads whose
    events are left out (``common_pid``).
    """
    threads = " && ".join(f"common_pid != {thread}" for thread in sorted(set(ignored)))
    chosen = list(wanted)
    filters = {}
    for event in events:
        parts = [threads] if threads else []
        field = DEVICE_FIELDS.get(event.split("/")[0])
        if chosen and field:
            # Requests carry the disk, the page cache carries the partition.
            numbers = {device if field == "s_dev" else devices.whole_disk(device) for device in chosen}
            text = " || ".join(f"{field} == {kernel_device(*number)}" for number in sorted(numbers))
            parts.append(f"({text})" if parts else text)
        if parts:
            filters[event] = " && ".join(parts)
    return filters
