"""The tracers of a recording, as one: a ring buffer for each group of events and each processor."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from hindsight.capture.ftrace.probes import StandIns
from hindsight.capture.ftrace.tracer import FtraceTracer
from hindsight.capture.options import FLIGHT, PERF, RecordOptions
from hindsight.capture.profiles import FILES, FOLLOWING, Profile, buffers_kb
from hindsight.capture.recording.tracer import Stats, Tracer
from hindsight.errors import NotPermittedError

_OF_THREADS = (*FOLLOWING, FILES)
_SHARE_OF_BUFFER = 8
"""The ring buffers are to be drained before more than this part of one is filled."""
_FEW_FILES = 16
_MOST_FILES = 96
"""Own files that are filtered: those of the last two segments and as many before as are few; a filter of the
kernel is short, and each comparison costs every page-cache event on that device a nanosecond or two."""
_SHORTEST_S = 0.01
_LONGEST_S = 0.25


class Together:
    """Jobs that run at the same time, each in a thread of its own."""

    def __init__(self, jobs: Iterable[Callable[[], object]]) -> None:
        self._failed: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, args=(job,)) for job in jobs]
        for thread in self._threads:
            thread.start()

    def _run(self, job: Callable[[], object]) -> None:
        try:
            job()
        except BaseException as error:
            self._failed.append(error)

    def wait(self) -> None:
        """Wait for all; raises the first error of any."""
        for thread in self._threads:
            thread.join()
        if self._failed:
            raise self._failed[0]


class Tracers:
    """Tracers for the events of a profile, switched off.

    ``root`` is where tracefs is, None for other sources. The kernel takes its time to allocate ring buffers
    and to enable events: that is only begun; everything but :meth:`close` needs :meth:`wait` first.
    """

    def __init__(self, root: Path | None, options: RecordOptions, profile: Profile) -> None:
        self._root = root
        self._options = options
        self._flight = options.mode == FLIGHT
        self._made: dict[str, Tracer] = {}
        self.all: list[Tracer] = []
        self._files: list[list[tuple[int, int]]] = []
        self._follows = False
        wanted_kb = buffers_kb(profile, options.buffer_kb)
        self._cpus = os.cpu_count() or 1
        buffer_kb = _fit(options, wanted_kb, self._cpus)

        def job(name: str) -> Callable[[], object]:
            return lambda: self._make(name, buffer_kb[name], profile)

        self._stand_ins = StandIns(root, profile.tracepoints) if root is not None else None
        self._making = Together(map(job, wanted_kb))
        self._groups = tuple(wanted_kb)

    def _make(self, name: str, buffer_kb: int, profile: Profile) -> None:
        wanted, events, filters = self._options.devices, profile.events[name], profile.filters
        if name == FILES:
            from hindsight.capture.bpf.tracer import OpenFilesTracer

            self._made[name] = OpenFilesTracer(name, buffer_kb, events, wanted, self._flight)
        elif self._options.source == PERF:
            from hindsight.capture.perf.tracer import PerfTracer

            self._made[name] = PerfTracer(name, buffer_kb, events, wanted, self._flight, filters)
        else:
            assert self._root is not None
            self._made[name] = FtraceTracer(
                self._root, name, buffer_kb, events, wanted, self._flight, filters, self.probed
            )

    def wait(self) -> None:
        """They are made. Raises what a :class:`Tracer` raises when it is made."""
        self._making.wait()
        self.all = [self._made[name] for name in self._groups]
        self.ring_bytes = sum(tracer.buffer_kb << 10 for tracer in self.all) * self._cpus
        if not any(tracer.events for tracer in self.all):
            raise NotPermittedError(
                f"this kernel has none of the tracepoints of the profile {self._options.profile}",
                "It needs CONFIG_FTRACE_SYSCALLS and the tracepoints that docs/capture.md names.",
            )

    def __getitem__(self, name: str) -> Tracer:
        return self._made[name]

    @property
    def probed(self) -> dict[str, str]:
        """What stands for tracepoints that this kernel lacks, by their names."""
        return dict(self._stand_ins.made) if self._stand_ins is not None else {}

    @property
    def missing(self) -> list[str]:
        """Events that this kernel does not have."""
        return [event for tracer in self.all for event in tracer.missing]

    def open(self, raw_directory: Callable[[str], Path], pids: list[int] | None, own: list[int]) -> None:
        """Open all, their files in ``raw_directory(name)``.

        Of the groups of threads' events only ``pids`` are recorded, and what they create; None = all but the
        threads ``own``.
        """

        self._follows = pids is not None
        for tracer in self.all:
            tracer.open(raw_directory(tracer.name))
            if tracer.name in _OF_THREADS and pids is not None:
                tracer.follow(pids)
            elif tracer.name in _OF_THREADS:
                tracer.ignore(own)
        self._ignore_files(raw_directory)

    def switch(self, on: bool) -> None:
        """Begin or stop recording; threads' events last and first, so that they have their causes."""
        for tracer in reversed(self.all) if on else self.all:
            (tracer.on if on else tracer.off)()

    def stats(self) -> Stats:
        """The kernel's counters."""
        return {tracer.name: tracer.stats() for tracer in self.all}

    def flush(self) -> None:
        """Write what waits for space. Raises OSError when there is none."""
        for tracer in self.all:
            tracer.flush()

    def rotate(self, raw_directory: Callable[[str], Path]) -> None:
        """Write to new files from now on."""
        for tracer in self.all:
            tracer.rotate(raw_directory(tracer.name))
        self._ignore_files(raw_directory)

    def _ignore_files(self, raw_directory: Callable[[str], Path]) -> None:
        """The recorder's own files, and those before them (being sealed), stay out of page-cache events."""
        found = []
        for tracer in self.all:
            with os.scandir(raw_directory(tracer.name)) as entries:
                found += [(status.st_dev, status.st_ino) for status in (entry.stat() for entry in entries)]
        self._files.append(found)
        while len(self._files) > 2 and sum(map(len, self._files)) > _FEW_FILES:
            self._files.pop(0)
        files = [file for generation in self._files for file in generation][-_MOST_FILES:]
        for tracer in self.all:
            # Threads that are followed are not the recorder's; a filter would cost each of their events.
            if not (self._follows and tracer.name in _OF_THREADS):
                tracer.ignore_files(files)

    def switch_events(self, events: Iterable[str], on: bool) -> None:
        """Record these events, or do not."""
        wanted = set(events)
        for tracer in self.all:
            own = [event for event in tracer.events if event in wanted]
            if own:
                (tracer.restore if on else tracer.shed)(own)

    def recent(self, name: str, count: int) -> list[bytes]:
        """The latest sub-buffers of a group."""
        return self._made[name].recent(count)

    def followed(self) -> list[int] | None:
        """The processes that are recorded, None = all."""
        from hindsight.capture import host

        threads = next(t for t in self.all if t.name in FOLLOWING).followed()
        return host.thread_groups(threads) if threads is not None else None

    @property
    def descriptors(self) -> list[int]:
        """Readable when a ring buffer is about half full; none of those that overwrite."""
        return [] if self._flight else [fd for tracer in self.all for fd in tracer.descriptors]

    def pause(self, moved: Mapping[str, int], elapsed_s: float) -> float:
        """Seconds until the ring buffers should be drained again, if events keep coming as they did.

        ``moved``: bytes by group, in ``elapsed_s`` seconds.
        """
        pauses = [_LONGEST_S]
        for name, count in moved.items():
            if count:
                share = (self._made[name].buffer_kb << 10) / _SHARE_OF_BUFFER
                pauses.append(elapsed_s * share / count)
        return max(min(pauses), _SHORTEST_S)

    def close(self) -> None:
        """Release everything; every one is tried, the first error is raised."""
        with contextlib.suppress(BaseException):
            self._making.wait()
        made, self._made, self.all = list(self._made.values()), {}, []
        try:
            Together(tracer.close for tracer in made).wait()
        finally:
            if self._stand_ins is not None:
                self._stand_ins.close()


def _fit(options: RecordOptions, wanted_kb: dict[str, int], cpus: int) -> dict[str, int]:
    if options.budgets.max_memory is None:
        return wanted_kb
    from hindsight.capture.recording.budget import fit_buffers
    from hindsight.capture.recording.footprint import resident_bytes

    return fit_buffers(options.budgets, wanted_kb, cpus, resident_bytes())
