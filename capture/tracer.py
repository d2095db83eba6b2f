"""What a source of events offers to a recording, and the one that reads a private tracefs instance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from hindsight.capture import devices
from hindsight.capture.profiles import DEVICE_FIELDS, kernel_device
from hindsight.capture.ring import Drain, LossWatch
from hindsight.capture.tracefs import Instance


class Tracer(Protocol):
    """The ring buffers of one group of events, and the files that they are moved to.

    A tracer is made switched off; :meth:`open`, then :meth:`follow` or :meth:`ignore`, then :meth:`on`. Only
    the thread that drains calls it. ``events`` are recorded, ``missing`` are those that this kernel lacks,
    both as ``system/event``; ``buffer_kb`` is the size of a ring buffer in KiB per CPU.
    """

    name: str
    source: str
    events: list[str]
    missing: list[str]
    buffer_kb: int

    def open(self, directory: Path) -> None:
        """Open the ring buffers, and files for them in ``directory``; enable the events; stay off."""

    def follow(self, pids: Iterable[int]) -> None:
        """Record only these threads and those that they will create."""

    def ignore(self, threads: Iterable[int]) -> None:
        """Never record these threads."""

    def on(self) -> None:
        """Begin, or go on."""

    def off(self) -> None:
        """Stop; what the ring buffers hold stays there."""

    def drain(self) -> int:
        """Move what fills whole sub-buffers to the files; returns bytes moved.

        Bounded: at most about what the ring buffers held when it was called. Raises OSError when a file
        cannot be written; nothing is lost by that, the next call goes on where this one failed.
        """

    def finish(self) -> int:
        """Move everything that was there when it was called, partly filled sub-buffers as well.

        On or off; raises what :meth:`drain` raises. Returns bytes moved.
        """

    def rotate(self, directory: Path) -> None:
        """From now on write to new files in ``directory``; the old ones are closed.

        What :meth:`drain` took from the ring buffers before goes to the old ones.
        """

    def stats(self) -> dict[int, dict[str, int]]:
        """Counters of the kernel by CPU, since the tracer was made.

        ``read events`` (those that drain and finish took), ``dropped events`` (a full ring buffer),
        ``overrun`` and ``commit overrun`` (overwritten), ``entries`` and ``bytes`` (still there).
        """

    def formats(self) -> dict[str, str]:
        """The kernel's own descriptions: of each event, ``header_page`` and ``header_event``, by name."""

    def shed(self, events: Iterable[str]) -> None:
        """Stop recording these events."""

    def restore(self, events: Iterable[str]) -> None:
        """Record these events again."""

    def recent(self, count: int) -> list[bytes]:
        """Up to ``count`` of the latest sub-buffers that were written to the current files, oldest first."""

    def facts(self) -> dict[str, Any]:
        """What was configured, for the segment: source, path, events, filters, buffer_kb, overwrite,
        subbuffer_bytes."""

    def close(self) -> None:
        """Release everything, on whatever path; nothing stays enabled or allocated in the kernel."""


class FtraceTracer:
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
