"""Events of one group of tracepoints through perf_event_open: a tracer without a tracefs instance."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hindsight.capture import devices
from hindsight.capture.filters import event_filters
from hindsight.capture.perf import event as perf
from hindsight.capture.perf import tracepoints
from hindsight.capture.perf.blocks import as_subbuffer, count_samples
from hindsight.capture.perf.family import Family
from hindsight.capture.perf.group import Group
from hindsight.capture.perf.ring import Ring, data_pages
from hindsight.capture.profiles import FOLLOWING
from hindsight.errors import HindsightError, NotPermittedError, UsageError

RECORD_BYTES = 8
"""What the size of every record in a raw file is a multiple of."""
_ONLINE = Path("/sys/devices/system/cpu/online")
_BLOCK_BYTES = 4096
_MOVES = 256
_COUNTERS = ("read events", "dropped events", "overrun", "commit overrun", "entries", "bytes")


def online_cpus(path: Path = _ONLINE) -> list[int]:
    """The processors that are online, ascending."""
    cpus: list[int] = []
    for part in path.read_text().strip().split(","):
        first, _, last = part.partition("-")
        cpus += range(int(first), int(last or first) + 1)
    return cpus


@contextlib.contextmanager
def _running_on(cpu: int) -> Iterator[bool]:
    """Run the calling thread on one processor; False when that is not allowed."""
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {cpu})
    except OSError:
        yield False
        return
    try:
        yield True
    finally:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, before)


class PerfTracer:
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
        self._cpus = online_cpus()
        self._groups: dict[int, Group] = {}
        self._exact: dict[int, tuple[int, int, int]] = {}
        self._family: Family | None = None
        self._ignored: list[int] = []
        self._directory: Path | None = None
        self._on = False
        self._moves: deque[tuple[int, int, int]] = deque(maxlen=_MOVES)

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
        self._use_files(self._directory)
        self._exact = {cpu: (0, 0, 0) for cpu in self._groups}

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

    def _use_files(self, directory: Path) -> None:
        files: dict[int, int] = {}
        try:
            for cpu, ring in self._rings():
                files[cpu] = ring.write_to(directory / f"cpu{cpu}.perf")
        except OSError:
            for descriptor in files.values():
                os.close(descriptor)
            raise
        for cpu, ring in self._rings():
            ring.use(files[cpu])
        self._moves.clear()

    def _rings(self) -> Iterator[tuple[int, Ring]]:
        for cpu, group in self._groups.items():
            yield cpu, group.ring

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

    def drain(self) -> int:
        """See :class:`Tracer`; without sub-buffers, all that is there is moved."""
        return sum(self._copy(cpu, ring, None) for cpu, ring in self._rings())

    def finish(self) -> int:
        """Move everything that is there, on each processor up to a position at which the counts are exact."""
        return sum(self._settle(group) for group in self._groups.values())

    def flush(self) -> None:
        """Nothing waits outside the ring buffers."""

    def _copy(self, cpu: int, ring: Ring, until: int | None) -> int:
        offset = ring.written
        try:
            return ring.copy(until)
        finally:
            if ring.written > offset:
                self._moves.append((cpu, offset, ring.written - offset))

    def rotate(self, directory: Path) -> None:
        """See :class:`Tracer`."""
        self._directory = directory
        self._use_files(directory)

    def _settle(self, group: Group) -> int:
        """Copy up to a position for which the counts are known, and remember them; returns bytes."""
        found = None
        if self._on:
            with _running_on(group.cpu) as here:
                found = group.settled() if here else None
        else:
            found = (group.ring.head, *group.count())
        if found is None:  # the processor may not be used, or never rests: count what is in the file
            count, lost = self._counted(group)
            found = group.ring.tail, count, lost
        position, count, lost = found
        moved = self._copy(group.cpu, group.ring, position)
        self._exact[group.cpu] = position, count, lost
        return moved

    def _counted(self, group: Group) -> tuple[int, int]:
        """Samples up to where the ring buffer was copied, counted one by one; what was lost until now."""
        ring = group.ring
        position, count, lost = self._exact[group.cpu]
        taken = count - lost + count_samples(ring.file, ring.written - (ring.tail - position), ring.written)
        lost_now = group.count()[1]
        return taken + lost_now, lost_now

    def stats(self) -> dict[int, dict[str, int]]:
        """See :class:`Tracer`.

        ``read events`` is exact after :meth:`finish`, until more is drained, and while it is off. In between
        it includes what still waits in the ring buffer. Events that the kernel counts and then neither writes
        nor counts as lost (docs/perf-source.md) are in it as well.
        """
        found = {}
        for cpu in self._cpus:
            if cpu not in self._groups:
                found[cpu] = dict.fromkeys(_COUNTERS, 0)
                continue
            group = self._groups[cpu]
            ring = group.ring
            position, count, lost = self._exact[cpu]
            if ring.tail != position or not self._on:
                count, lost = group.count()
                if not self._on:
                    count -= ring.samples(ring.head)
            found[cpu] = dict(zip(_COUNTERS, (count - lost, lost, 0, 0, 0, ring.pending), strict=True))
        return found

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

    def recent(self, count: int) -> list[bytes]:
        """See :class:`Tracer`; the latest records, put into ftrace's sub-buffers."""
        rings = dict(self._rings())
        moves = list(self._moves)
        if len(moves) > count:
            moves = [moves[(2 * i + 1) * len(moves) // (2 * count)] for i in range(count)]
        blocks = (os.pread(rings[c].file, min(size, _BLOCK_BYTES), offset) for c, offset, size in moves)
        return [page for page in map(as_subbuffer, blocks) if page]

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

    def close(self) -> None:
        """See :class:`Tracer`."""
        groups, self._groups = list(self._groups.values()), {}
        for group in groups:
            group.close()
