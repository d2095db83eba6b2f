"""The source of events that reads a private tracefs instance."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hindsight.capture import devices
from hindsight.capture.filters import event_filters
from hindsight.capture.ftrace.ring import Drain
from hindsight.capture.ftrace.tracefs import Instance
from hindsight.capture.profiles import kernel_device
from hindsight.errors import NotPermittedError

_FILE_EVENTS = ("filemap/", "readahead/")


class FtraceTracer:
    """A private tracefs instance.

    ``wanted`` limits events that carry a device to these; ``filters`` are those of the profile;
    ``stand_ins`` what stands for tracepoints that this kernel lacks (:mod:`hindsight.capture.ftrace.probes`).
    ``overwrite``: the ring buffers keep the latest events, and :meth:`drain` is called only when they are
    asked for. Raises what :class:`Instance` raises; the instance is removed when anything fails.
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
        filters: Mapping[str, str] = MappingProxyType({}),
        stand_ins: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.name = name
        self.buffer_kb = buffer_kb
        self.overwrite = overwrite
        self.instance = Instance(root, name, stand_ins=stand_ins)
        self._stand_ins = stand_ins
        self._root = root
        self._drain: Drain | None = None
        self._followed = False
        try:
            self.instance.configure(buffer_kb, overwrite)
            self.events = [event for event in events if self.instance.has(event)]
            self.missing = [event for event in events if event not in self.events]
            self.filters = event_filters(self.events, wanted, filters)
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
        texts = {event: self.instance.format(event) for event in sorted(self.events)}
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
        probed = [event for event in self.events if event in self._stand_ins]
        return ({"probed": probed} if probed else {}) | {
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
