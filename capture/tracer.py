"""What a source of events offers to a recording, and the one that reads a private tracefs instance."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from hindsight.capture import devices
from hindsight.capture.profiles import DEVICE_FIELDS, kernel_device
from hindsight.capture.ring import Drain
from hindsight.capture.tracefs import Instance
from hindsight.errors import NotPermittedError

Stats = Mapping[str, Mapping[int, Mapping[str, int]]]
"""Group of events, CPU, counter of the kernel: its value."""


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

    @property
    def descriptors(self) -> list[int]:
        """To be waited for: readable when a ring buffer is about half full."""

    def open(self, directory: Path) -> None:
        """Open the ring buffers, and files for them in ``directory``; enable the events, stay off."""

    def follow(self, pids: Iterable[int]) -> None:
        """Record only these threads and those that they will create."""

    def followed(self) -> list[int] | None:
        """The threads that are recorded now; None when all are."""

    def ignore(self, threads: Iterable[int]) -> None:
        """Never record these threads."""

    def ignore_files(self, files: Sequence[tuple[int, int]]) -> None:
        """Never record page-cache events of these files, given as st_dev and inode; replaces earlier ones."""

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

    def flush(self) -> None:
        """Write what a call that failed had taken from a ring buffer already; raises OSError if it cannot."""

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


_FILE_EVENTS = ("filemap/", "readahead/")


class FtraceTracer:
    """A private tracefs instance.

    ``wanted`` limits events that carry a device to these. ``overwrite``: the ring buffers keep the latest
    events, and :meth:`drain` is called only when they are asked for. Raises what :class:`Instance` raises;
    the instance is removed when anything fails.
    """

    source = "ftrace"

    def __init__(
        self,
        root: Path,
        name: str,
        buffer_kb: int,
        events: Sequence[str],
        wanted: Iterable[devices.Device] = (),
        overwrite: bool = False,
    ) -> None:
        self.name = name
        self.buffer_kb = buffer_kb
        self.overwrite = overwrite
        self.instance = Instance(root, name)
        self._root = root
        self._drain: Drain | None = None
        self._followed = False
        try:
            self.instance.configure(buffer_kb, overwrite)
            self.events = [event for event in events if self.instance.has(event)]
            self.missing = [event for event in events if event not in self.events]
            self.filters = _device_filters(self.events, list(wanted))
            self._drain = Drain(self.instance, buffer_kb)
            self._subbuffer = self.instance.subbuffer_bytes()
            for event, text in self.filters.items():
                self.instance.filter(event, text)
            self.instance.enable(self.events)  # of an instance that is off
            self._formats = self._read_formats()
        except BaseException:
            self.close()
            raise

    @property
    def ring(self) -> Drain:
        """What moves its ring buffers."""
        assert self._drain is not None, "the tracer is closed"
        return self._drain

    @property
    def descriptors(self) -> list[int]:
        """See :class:`Tracer`."""
        return self.ring.descriptors

    def open(self, directory: Path) -> None:
        """See :class:`Tracer`."""
        self.rotate(directory)

    def rotate(self, directory: Path) -> None:
        """See :class:`Tracer`."""
        self.ring.rotate(directory)

    def ignore_files(self, files: Sequence[tuple[int, int]]) -> None:
        """See :class:`Tracer`."""
        for event in self.events:
            if not event.startswith(_FILE_EVENTS) or not files:
                continue
            parts = [f"({self.filters[event]})"] if event in self.filters else []
            for device in sorted({device for device, _ in files}):
                number = kernel_device(os.major(device), os.minor(device))
                inodes = " && ".join(f"i_ino != {inode}" for other, inode in files if other == device)
                parts.append(f"(s_dev != {number} || ({inodes}))")
            # Without it the recording is as complete, only noisier.
            with contextlib.suppress(NotPermittedError):
                self.instance.filter(event, " && ".join(parts))

    def follow(self, pids: Iterable[int]) -> None:
        """See :class:`Tracer`."""
        self._followed = True
        self.instance.follow(pids)

    def followed(self) -> list[int] | None:
        """See :class:`Tracer`."""
        return self.instance.followed() if self._followed else None

    def ignore(self, threads: Iterable[int]) -> None:
        """See :class:`Tracer`."""
        self.instance.ignore(threads)

    def on(self) -> None:
        """See :class:`Tracer`."""
        self.instance.on()

    def off(self) -> None:
        """See :class:`Tracer`."""
        self.instance.off()

    def drain(self) -> int:
        """See :class:`Tracer`."""
        return self.ring.drain()

    def finish(self) -> int:
        """See :class:`Tracer`."""
        return self.ring.finish()

    def flush(self) -> None:
        """See :class:`Tracer`."""
        self.ring.flush()

    def stats(self) -> dict[int, dict[str, int]]:
        """See :class:`Tracer`."""
        return self.ring.stats()

    def formats(self) -> dict[str, str]:
        """See :class:`Tracer`."""
        return self._formats

    def _read_formats(self) -> dict[str, str]:
        texts = {event: self.instance.read(f"events/{event}/format") for event in sorted(self.events)}
        for name in ("header_page", "header_event"):
            path = self.instance.path / "events" / name
            texts[name] = (path if path.exists() else self._root / "events" / name).read_text()
        return texts

    def shed(self, events: Iterable[str]) -> None:
        """See :class:`Tracer`."""
        self.instance.enable(events, enabled=False)

    def restore(self, events: Iterable[str]) -> None:
        """See :class:`Tracer`."""
        self.instance.enable(events)

    def recent(self, count: int) -> list[bytes]:
        """See :class:`Tracer`."""
        return self.ring.recent(count)

    def facts(self) -> dict[str, Any]:
        """See :class:`Tracer`."""
        return {
            "source": self.source,
            "path": self.instance.path.name,
            "events": self.events,
            "filters": self.filters,
            "buffer_kb": self.buffer_kb,
            "overwrite": self.overwrite,
            "subbuffer_bytes": self._subbuffer,
        }

    def close(self) -> None:
        """See :class:`Tracer`."""
        try:
            if self._drain is not None:
                self._drain.close()
                self._drain = None
        finally:
            self.instance.remove()


def _device_filters(events: Iterable[str], wanted: list[devices.Device]) -> dict[str, str]:
    filters = {}
    for event in events:
        field = DEVICE_FIELDS.get(event.split("/")[0])
        if wanted and field:
            # Requests carry the disk, the page cache carries the partition.
            numbers = {device if field == "s_dev" else devices.whole_disk(device) for device in wanted}
            filters[event] = " || ".join(f"{field} == {kernel_device(*number)}" for number in sorted(numbers))
    return filters
