"""Events of one group of tracepoints through perf_event_open: a tracer without a tracefs instance."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hindsight.capture import devices
from hindsight.capture.filters import event_filters
from hindsight.capture.perf import event as perf
from hindsight.capture.perf import tracepoints
from hindsight.capture.perf.family import Family
from hindsight.capture.perf.group import Group
from hindsight.capture.perf.ring import data_pages
from hindsight.capture.perf.rings import RECORD_BYTES, RingFiles
from hindsight.capture.profiles import FOLLOWING
from hindsight.errors import HindsightError, NotPermittedError, UsageError


class PerfTracer(RingFiles[Group]):
    """The ring buffers of ``events`` (``system/event``), one for each processor.

    ``wanted`` limits events that carry a device to these; ``filters`` are those of the profile. Events of the
    group ``devices`` fire in any context and are those of the whole host; others may be those of threads that
    are followed. What
    :class:`hindsight.capture.recording.tracer.Tracer` says holds, but: the events are opened by
    :meth:`follow`, :meth:`ignore` or :meth:`on`, whichever comes first (the kernel wants to know then
    whose they are), and filters cannot change after that. Processors that come online later are not recorded.

    Raises NotPermittedError when tracepoints may not be read or opened, UsageError for ``overwrite``.
    """

    source = "perf"

    def __init__(
        self,
        name: str,
        buffer_kb: int,
        events: Sequence[str],
        wanted: Iterable[devices.Device] = (),
        overwrite: bool = False,
        filters: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        if overwrite:
            raise UsageError(
                "perf's ring buffers cannot be overwritten in flight mode",
                "Leave out --flight or --source perf.",
            )
        super().__init__()
        self.name = name
        self.buffer_kb = data_pages(buffer_kb) * os.sysconf("SC_PAGE_SIZE") >> 10
        self._tracepoints = tracepoints.locate()
        ids = {event: tracepoints.number(self._tracepoints, event) for event in events}
        self._ids = {event: number for event, number in ids.items() if number is not None}
        self.events = list(self._ids)
        self.missing = [event for event in events if event not in self._ids]
        self._wanted = list(wanted)
        self._wanted_filters = filters
        self.filters = event_filters(self.events, self._wanted, filters)
        self._family: Family | None = None
        self._ignored: list[int] = []

    def open(self, directory: Path) -> None:
        """See :class:`Tracer`."""
        self._directory = directory
        if self.name not in FOLLOWING:
            self._open_events()

    def follow(self, pids: Iterable[int]) -> None:
        """See :class:`Tracer`; once, before it is switched on."""
        self._family = Family(pids)
        self._open_events()

    def followed(self) -> list[int] | None:
        """The followed processes and their descendants, as far as /proc shows them; None without."""
        return self._family.members() if self._family is not None else None

    def ignore(self, threads: Iterable[int]) -> None:
        """Never record these threads; of calls after the events were opened nothing comes."""
        self._ignored += threads
        self._open_events()

    def _open_events(self) -> None:
        if self._groups or not self.events:
            return
        assert self._directory is not None, "open() comes first"
        pids = self._family.pids if self._family is not None else None
        perf.raise_descriptor_limit((len(self.events) + 2) * len(self._cpus) * len(pids or [0]))
        ignored = self._ignored if self.name in FOLLOWING and pids is None else []
        self.filters = event_filters(self.events, self._wanted, self._wanted_filters, ignored)
        try:
            for cpu in self._cpus:
                self._groups[cpu] = Group(cpu, self._ids, pids, self.buffer_kb)
        except OSError as error:
            self.close()
            raise perf.refused(error, str(error.filename or "tracepoints")) from error
        except HindsightError:
            self.close()
            raise
        for event, text in self.filters.items():
            self._filter(event, text)
        self._begin(self._directory)

    def _filter(self, event: str, text: str) -> None:
        try:
            for group in self._groups.values():
                group.filter(event, text)
        except OSError as error:
            self.close()
            raise NotPermittedError(
                f"the kernel refuses the filter {text!r} on {event}: {error.strerror}",
                "Record without --device.",
            ) from error

    @property
    def descriptors(self) -> list[int]:
        """To be waited for: readable when a ring buffer is half full; none of threads that are followed.

        The end of each of these wakes who waits (perf_event_exit_event), which would cost more than it saves.
        """
        return [] if self._family is not None else [group.descriptor for group in self._groups.values()]

    def ignore_files(self, files: Sequence[tuple[int, int]]) -> None:
        """Nothing: filters cannot change once the events are open. Their events are recorded."""

    def on(self) -> None:
        """See :class:`Tracer`."""
        self._open_events()
        self._on = True
        for group in self._groups.values():
            group.switch(True)

    def off(self) -> None:
        """See :class:`Tracer`."""
        for group in self._groups.values():
            group.switch(False)
        self._on = False

    def formats(self) -> dict[str, str]:
        """See :class:`Tracer`."""
        return tracepoints.describe(self._tracepoints, self.events)

    def shed(self, events: Iterable[str]) -> None:
        """See :class:`Tracer`."""
        self._switch(events, False)

    def restore(self, events: Iterable[str]) -> None:
        """See :class:`Tracer`."""
        self._switch(events, True)

    def _switch(self, events: Iterable[str], on: bool) -> None:
        for event in events:
            for group in self._groups.values():
                group.switch_event(event, on)

    def facts(self) -> dict[str, Any]:
        """See :class:`Tracer`."""
        return {
            "source": self.source,
            "path": "",
            "events": self.events,
            "filters": self.filters,
            "buffer_kb": self.buffer_kb,
            "overwrite": False,
            "subbuffer_bytes": RECORD_BYTES,
        }
