"""What a recording does with its ring buffers, its ledger and its segments; the session says when."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from hindsight.capture import host
from hindsight.capture.recording.flight import last_gap
from hindsight.capture.recording.ledger import Ledger, Loss
from hindsight.capture.recording.tracer import Stats
from hindsight.capture.recording.tracers import Tracers
from hindsight.capture.schema.facts import NOT_IN_KERNEL
from hindsight.capture.segments.chain import Segments

FULL = (errno.ENOSPC, errno.EDQUOT)


class Recorder:
    """Drains, looks, cuts, pauses. All of it in one thread.

    ``full`` is set when something could not be written for lack of space: recording has stopped then, and
    what was taken from the ring buffers waits. ``halts`` are the reasons for which recording is off, ``shed``
    the events that are. ``events`` and ``lost`` are the kernel's counts since :meth:`begin`.
    """

    def __init__(
        self, tracers: Tracers, segments: Segments, ledger: Ledger, flight: bool, say: Callable[[str], None]
    ) -> None:
        self.tracers = tracers
        self.segments = segments
        self.ledger = ledger
        self.say = say
        self.full = False
        self.halts: list[str] = []
        self.shed: set[str] = set()
        self.stats: Stats = {}
        self.events = 0
        self.raw_bytes = 0
        self.looked_ns = 0
        self.look_cost_ns = 0
        self._flight = flight
        self._read_before = 0
        self._on = False

    @property
    def lost(self) -> int:
        """Events that the kernel counted as lost."""
        return self.ledger.lost

    # Files

    def open(self, pids: list[int] | None) -> None:
        """Open a segment while nothing is recorded; of ``pids`` its tables say what they are.

        Raises OSError when there is no space.
        """
        first = not self.looked_ns
        self._look()
        if first:
            self._read_before = count(self.stats, "read events")
            self.events = 0
        tables: dict[str, list[Any]] = {}
        if pids is not None:
            found = host.descriptors(pids, inherited=first)
            tables = {"tasks": self.segments.tasks(pids), "descriptors": list(found)}
        self.segments.open(self.stats, tables)

    def _move(self, moves: Mapping[str, Callable[[], int]]) -> dict[str, int]:
        moved = {}
        try:
            for name, move in moves.items():
                moved[name] = move()
        except OSError as error:
            self._no_space(error)
        total = sum(moved.values())
        self.raw_bytes += total
        self.segments.wrote(total)
        return moved

    def _no_space(self, error: OSError) -> None:
        if error.errno not in FULL:
            raise error
        self.full = True
        self.halt("disk")

    def drain(self) -> dict[str, int]:
        """Move whole sub-buffers to the files; returns bytes moved by group."""
        if self._flight or not self._on:
            return {}
        return self._move({tracer.name: tracer.drain for tracer in self.tracers.all})

    def _finish(self) -> int:
        return sum(self._move({tracer.name: tracer.finish for tracer in self.tracers.all}).values())

    # Counters

    def _look(self) -> list[Loss]:
        before = time.monotonic_ns()
        self.stats = self.tracers.stats()
        self.looked_ns = time.monotonic_ns()
        self.look_cost_ns = self.looked_ns - before
        self.events = count(self.stats, "read events") - self._read_before
        return self.ledger.look(before, self.looked_ns, self.stats)

    def look(self) -> list[Loss]:
        """Look at the kernel's counters; returns what was lost since the last look."""
        losses = self._look()
        try:
            # What is overwritten changes all the time, and means nothing until it is read.
            self.segments.look({} if self._flight else self.stats, self.looked_ns, losses)
        except OSError as error:
            self._no_space(error)
        return losses

    def _note(self, losses: list[Loss]) -> None:
        try:
            self.segments.note_losses(losses)
        except OSError as error:
            self._no_space(error)

    def _read_overwritten(self) -> None:
        """Ring buffers that overwrite were just read: account for what was gone."""
        segment = self.segments.current
        if not self._flight or segment is None:
            return
        gaps: dict[tuple[str, int], int] = {}
        for tracer in self.tracers.all:
            size = tracer.facts()["subbuffer_bytes"]
            for path in segment.raw_directory(tracer.name).glob("cpu*.pages"):
                gap = last_gap(path, size)
                if gap is not None:
                    gaps[tracer.name, int(path.stem[3:])] = gap
        self._note(self.ledger.read(self.stats, self.looked_ns, gaps))

    def miss(self, losses: Iterable[Loss]) -> None:
        """Somebody else found these losses."""
        found = list(losses)
        for loss in found:
            self.ledger.add(loss)
            self.ledger.causes.add(loss.cause)
        self._note(found)

    # Segments

    def cut(self, closed: str) -> None:
        """Everything up to now into the current segment, from now on into the next; recording goes on."""
        self.look()
        self._finish()
        if self.full:
            return
        uncertain = self.look()
        self._read_overwritten()
        if not self.full:
            following = self.segments.cut(closed, self.stats, uncertain)
            self.tracers.rotate(following.raw_directory)

    def close(self, closed: str) -> None:
        """Recording is off: the current segment ends and none follows yet.

        When there is no space, what the ring buffers still hold stays there: the segment says that so many
        events may be lost.
        """
        if not self.full:
            while self._finish():
                pass
        if self.full:
            self.segments.give_up_reserve()
            self.tracers.flush()
        self._look()
        self._read_overwritten()
        for loss in self._left_behind():
            self.ledger.add(loss)
        self.segments.close(closed, self.stats)

    def _left_behind(self) -> Iterable[Loss]:
        for instance, cpus in self.stats.items():
            for cpu, counters in cpus.items():
                entries = counters.get("entries", 0)
                if entries and self.full:
                    since = self.segments.opened_ns
                    yield Loss(instance, cpu, None, since, self.looked_ns, 0, entries, "paused: disk")

    # Pauses and shed events

    def begin(self) -> None:
        """Recording begins."""
        self._on = True
        now = time.monotonic_ns()
        self.ledger.resume(now)
        self.tracers.switch(True)
        # (What programs of this machine never could call is not missing.)
        absent = [event for event in self.tracers.missing if not event.startswith("syscalls/")]
        if absent:
            self._note(self.ledger.begin(NOT_IN_KERNEL, now, absent))

    def stop(self) -> None:
        """Recording ends."""
        if self._on:
            self._on = False
            self.tracers.switch(False)

    def halt(self, reason: str) -> None:
        """Recording is off, for this reason as well."""
        if reason in self.halts:
            return
        now = time.monotonic_ns()
        self.halts.append(reason)
        self.stop()
        if reason != "duty":
            self.say(f"the recording pauses ({reason})")
        self.look()
        losses = self.ledger.begin(f"paused: {reason}", now)
        if not self.full:
            self._note(losses)

    def go_on(self, reason: str, pids: Callable[[], list[int] | None]) -> bool:
        """This reason is gone; recording is on again when it was the last. Returns whether it worked.

        It does not when a segment is needed for which there is no space.
        """
        if reason not in self.halts:
            return True
        if self.halts == [reason]:
            try:
                self._reopen(pids)
            except OSError as error:
                if error.errno not in FULL:
                    raise
                return False
            self.begin()
        self.halts.remove(reason)
        self._note(self.ledger.end(time.monotonic_ns(), f"paused: {reason}"))
        if reason != "duty":
            self.say("the recording goes on" if not self.halts else f"still paused ({', '.join(self.halts)})")
        return True

    def _reopen(self, pids: Callable[[], list[int] | None]) -> None:
        if self.segments.current is None:
            followed = pids()
            self.open(followed)
            current = self.segments.current
            assert current is not None
            self.tracers.rotate(current.raw_directory)
            if followed is None:
                self.segments.look_at_host()
        self.full = False

    def give_up(self, events: tuple[str, ...], budget: str) -> None:
        """Do not record these events any more, because of a budget."""
        now = time.monotonic_ns()
        self.tracers.switch_events(events, False)
        self.shed.update(events)
        self.say(f"over the budget ({budget}): not recording {', '.join(events)} for now")
        self._note(self.ledger.begin(f"budget shed: {budget}", now, events))

    def take_back(self, events: tuple[str, ...]) -> None:
        """Record these events again."""
        self.tracers.switch_events(events, True)
        self.shed.difference_update(events)
        self.say(f"recording {', '.join(events)} again")
        self._note(self.ledger.end(time.monotonic_ns(), None, events))


def count(stats: Stats, counter: str) -> int:
    """The sum of a counter over all ring buffers."""
    return sum(s.get(counter, 0) for cpus in stats.values() for s in cpus.values())
