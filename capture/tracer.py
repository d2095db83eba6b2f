"""One private instance with what belongs to it: the drain to files and the loss accounting."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hindsight.capture import devices
from hindsight.capture.profiles import DEVICE_FIELDS, kernel_device
from hindsight.capture.ring import Drain, LossWatch
from hindsight.capture.tracefs import Instance


class Tracer:
    """An instance that is ready to record ``events`` (``system/event``) but not yet switched on.

    ``missing`` are those that this kernel lacks; ``wanted`` limits events that carry a
    device to these. Raises what :class:`Instance` raises; the instance is removed when anything fails.
    """

    def __init__(
        self, root: Path, name: str, buffer_kb: int, events: Sequence[str], wanted: Iterable[devices.Device]
    ) -> None:
        self.name = name
        self.buffer_kb = buffer_kb
        self.instance = Instance(root, name)
        self._drain: Drain | None = None
        try:
            self.instance.configure(buffer_kb)
            self.events = [event for event in events if self.instance.has(event)]
            self.missing = [event for event in events if not self.instance.has(event)]
            self.filters = _device_filters(self.events, list(wanted))
            self.watch = LossWatch(self.instance)
        except BaseException:
            self.instance.remove()
            raise

    def open(self, directory: Path) -> None:
        """Open the ring buffers, to be drained into ``directory``, and switch the events on."""
        self._drain = Drain(self.instance, directory)
        self.instance.enable(self.events, self.filters)

    def drain(self) -> int:
        """Move full sub-buffers to the files; returns bytes moved."""
        assert self._drain is not None
        return self._drain.drain()

    def finish(self) -> None:
        """After the instance was switched off: move the rest and read the counters a last time."""
        assert self._drain is not None
        self._drain.finish()
        self.watch.look()

    def seal_files(self) -> list[Path]:
        """Close the files; returns those that hold something (the others are removed)."""
        assert self._drain is not None
        self._drain.close()
        kept = []
        for path in self._drain.files.values():
            if path.stat().st_size:
                kept.append(path)
            else:
                path.unlink()
        return kept

    def close(self) -> None:
        """Close the ring buffers and remove the instance."""
        try:
            if self._drain is not None:
                self._drain.close()
        finally:
            self.instance.remove()

    def facts(self) -> dict[str, Any]:
        """What was configured and what the kernel counted."""
        return {
            "events": self.events,
            "filters": self.filters,
            "buffer_kb": self.buffer_kb,
            "overwrite": False,
            "subbuffer_bytes": self.instance.subbuffer_bytes(),
            "stats_before": {str(cpu): stats for cpu, stats in self.watch.first.items()},
            "stats_after": {str(cpu): stats for cpu, stats in self.watch.last.items()},
        }


def _device_filters(events: Iterable[str], wanted: list[devices.Device]) -> dict[str, str]:
    filters = {}
    for event in events:
        field = DEVICE_FIELDS.get(event.split("/")[0])
        if wanted and field:
            # Requests carry the disk, the page cache carries the partition.
            numbers = {device if field == "s_dev" else devices.whole_disk(device) for device in wanted}
            filters[event] = " || ".join(f"{field} == {kernel_device(*number)}" for number in sorted(numbers))
    return filters
