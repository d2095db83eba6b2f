"""The tracers of a recording, as one: a ring buffer for each group of events and each processor."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from hindsight.capture import host
from hindsight.capture.budget import fit_buffers
from hindsight.capture.footprint import resident_bytes
from hindsight.capture.opening import Stats
from hindsight.capture.options import FLIGHT, PERF, RecordOptions
from hindsight.capture.profiles import INSTANCES, TASKS
from hindsight.capture.tracer import FtraceTracer, Tracer
from hindsight.errors import NotPermittedError

_DEVICES_SHARE = 4
"""Events of any context are few: their buffers are so many times smaller."""
_SHARE_OF_BUFFER = 8
"""The ring buffers are to be drained before more than this part of one is filled."""
_SHORTEST_S = 0.01
_LONGEST_S = 0.25


def together(jobs: Iterable[Callable[[], None]]) -> None:
    """Run each job in a thread of its own and wait for all; raises the first error of any."""
    failed: list[BaseException] = []

    def run(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


class Tracers:
    """Tracers for ``events`` (by group), switched off. Raises what a :class:`Tracer` raises when it is made.

    ``root`` is where tracefs is, None for other sources. The kernel takes its time to allocate ring buffers:
    they are made at the same time.
    """

    def __init__(
        self, root: Path | None, options: RecordOptions, events: Mapping[str, tuple[str, ...]]
    ) -> None:
        self._flight = options.mode == FLIGHT
        self._made: dict[str, Tracer] = {}
        wanted_kb = {
            name: options.buffer_kb if name == TASKS else max(options.buffer_kb // _DEVICES_SHARE, 64)
            for name in INSTANCES
        }
        cpus = os.cpu_count() or 1
        buffer_kb = fit_buffers(options.budgets, wanted_kb, cpus, resident_bytes())

        def make(name: str) -> None:
            if options.source == PERF:
                from hindsight.capture.perf.tracer import PerfTracer

                self._made[name] = PerfTracer(
                    name, buffer_kb[name], events[name], options.devices, self._flight
                )
            else:
                assert root is not None
                self._made[name] = FtraceTracer(
                    root, name, buffer_kb[name], events[name], options.devices, self._flight
                )

        try:
            together([lambda name=name: make(name) for name in INSTANCES])  # type: ignore[misc]
            self.all = [self._made[name] for name in INSTANCES]
            self.ring_bytes = sum(tracer.buffer_kb << 10 for tracer in self.all) * cpus
            if not any(tracer.events for tracer in self.all):
                raise NotPermittedError(
                    f"this kernel has none of the tracepoints of the profile {options.profile}",
                    "It needs CONFIG_FTRACE_SYSCALLS and the tracepoints that docs/capture.md names.",
                )
        except BaseException:
            self.all = list(self._made.values())
            self.close()
            raise

    def __getitem__(self, name: str) -> Tracer:
        return self._made[name]

    @property
    def missing(self) -> list[str]:
        """Events that this kernel does not have."""
        return [event for tracer in self.all for event in tracer.missing]

    def open(self, raw_directory: Callable[[str], Path], pids: list[int] | None, own: list[int]) -> None:
        """Open all, their files in ``raw_directory(name)``.

        Of the group of threads' events only ``pids`` are recorded, and what they create; None = all but the
        threads ``own``.
        """

        def opened(tracer: Tracer) -> None:
            tracer.open(raw_directory(tracer.name))
            if tracer.name == TASKS and pids is not None:
                tracer.follow(pids)
            elif tracer.name == TASKS:
                tracer.ignore(own)

        together([lambda tracer=tracer: opened(tracer) for tracer in self.all])  # type: ignore[misc]

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
        threads = self._made[TASKS].followed()
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
        failed: list[BaseException] = []
        for tracer in self.all:
            try:
                tracer.close()
            except Exception as error:
                failed.append(error)
        self.all = []
        if failed:
            raise failed[0]
