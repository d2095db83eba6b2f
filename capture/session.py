"""One recording: the loop that drains, looks at the counters, and does what time and events ask for."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from hindsight.capture import devices, host, owner, tracefs
from hindsight.capture.budget import Governor, Pause, Restore, Resume, Shed, fit_buffers
from hindsight.capture.child import StoppedCommand, choose_identity
from hindsight.capture.duty import Schedule
from hindsight.capture.footprint import Footprint, resident_bytes
from hindsight.capture.ledger import Ledger, Loss
from hindsight.capture.opening import Description, Stats
from hindsight.capture.operation.publish import Activity, Publisher
from hindsight.capture.options import FLIGHT, RecordOptions
from hindsight.capture.pressure import PressureWatch
from hindsight.capture.profiles import INSTANCES, TASKS, profile
from hindsight.capture.sealer import Sealer, thread_ids
from hindsight.capture.segments import FULL, Segments
from hindsight.capture.signals import Signals
from hindsight.capture.tracer import FtraceTracer, Tracer
from hindsight.capture.unsealed import OpenSegment
from hindsight.capture.vitals import Vitals
from hindsight.errors import ConfigurationError, NotPermittedError

_DRAIN_S = 0.04
_LOOK_S = 0.25
_ANCHOR_NS = 60_000_000_000
_GRACE_S = 5.0
_NICE = -10
_DEVICES_SHARE = 4
"""Events of any context are few: their buffers are so many times smaller."""
_LOOK_SHARE = 100
"""Looking at the counters of many processors takes at most this part of the time."""


@contextlib.contextmanager
def _priority() -> Iterator[None]:
    """Run ahead of the workload while draining: a starved recorder loses events. Of this thread alone."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, min(before, _NICE))
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, before)


class Session:
    """A recording, from the first ring buffer to the last sealed segment.

    ``sealed`` is told the path of each segment once it is sealed. After :meth:`run`: ``segments`` (their
    paths), ``events`` and ``lost`` (as the kernel counted), ``status`` (of the command).
    """

    def __init__(
        self,
        options: RecordOptions,
        say: Callable[[str], None],
        signals: Signals,
        sealed: Callable[[Path], None],
    ) -> None:
        self.options = options
        self.say = say
        self.signals = signals
        self.status: int | None = None
        self.events = 0
        self._on_sealed = sealed
        self._flight = options.mode == FLIGHT
        self._command: StoppedCommand | None = None
        self._tracers: list[Tracer] = []
        self._ledger = Ledger(INSTANCES if self._flight else ())
        self._halts: list[str] = []
        self._shed: set[str] = set()
        self._closing: str | None = None
        self._full = False
        self._ending_ns: int | None = None
        self._throttle: devices.Throttle = {}
        self._raw_bytes = 0
        self._read_at_start = 0
        self._stats: Stats = {}
        self._looked_ns = self._synced_ns = self._anchored_ns = 0
        self._look_cost_ns = 0
        self._offset_ns = 0

    @property
    def lost(self) -> int:
        """Events that the kernel counted as lost."""
        return self._ledger.lost

    @property
    def segments(self) -> tuple[Path, ...]:
        """The sealed segments."""
        return tuple(self._segments.sealed)

    # Beginning and end

    def run(self) -> None:
        """Record; returns when everything is sealed. Raises as :func:`hindsight.capture.record.record`."""
        options = self.options
        wanted = profile(options.profile)
        with contextlib.ExitStack() as stack:
            identity, sentence = choose_identity(options.user) if options.command else (None, "")
            root = tracefs.locate()
            tracefs.remove_abandoned(root)
            self._make_directory()
            self._pressure = PressureWatch(options.pressure)
            stack.callback(self._pressure.close)
            if options.command:
                self._command = StoppedCommand(options.command, identity)
                stack.callback(self._command.close)
            if sentence:
                self.say(sentence)
            stack.callback(self._close_tracers)
            self._make_tracers(root, wanted.events)
            self._prepare(stack)
            released = False
            try:
                with _priority():
                    self._begin()
                    released = True
                    self._loop()
                    self._end()
            finally:
                self._segments.abandon(keep=released)

    def _make_directory(self) -> None:
        out = self.options.out
        try:
            out.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"recordings cannot be written to {out}: {error.strerror}", "Choose another -o DIR."
            ) from error

    def _make_tracers(self, root: Path, events: Mapping[str, tuple[str, ...]]) -> None:
        """The instances in threads of their own: the kernel takes its time to allocate ring buffers."""
        options = self.options
        wanted_kb = {
            name: options.buffer_kb if name == TASKS else max(options.buffer_kb // _DEVICES_SHARE, 64)
            for name in INSTANCES
        }
        cpus = os.cpu_count() or 1
        buffer_kb = fit_buffers(options.budgets, wanted_kb, cpus, resident_bytes())
        self._ring_bytes = sum(buffer_kb.values()) * 1024 * cpus
        made: dict[str, Tracer] = {}
        failed: list[BaseException] = []

        def make(name: str) -> None:
            try:
                made[name] = FtraceTracer(
                    root, name, buffer_kb[name], events[name], options.devices, self._flight
                )
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=make, args=(name,)) for name in INSTANCES]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._tracers = [made[name] for name in INSTANCES if name in made]
        if failed:
            raise failed[0]
        missing = [event for tracer in self._tracers for event in tracer.missing]
        if missing:
            self.say(f"this kernel does not have: {', '.join(missing)}")
        if not any(tracer.events for tracer in self._tracers):
            raise NotPermittedError(
                f"this kernel has none of the tracepoints of the profile {options.profile}",
                "It needs CONFIG_FTRACE_SYSCALLS and the tracepoints that docs/capture.md names.",
            )

    def _prepare(self, stack: contextlib.ExitStack) -> None:
        options = self.options
        me = owner.own()
        capture = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(4)}"
        self._devices = devices.device_facts(options.devices)
        self._description = Description(options, capture, me, self._tracers, self._devices)
        self._sealer = Sealer(self.signals.notify)
        stack.callback(self._sealer.close)
        self._segments = Segments(
            self._description, self._sealer, self._ledger, self._subjects, self._on_sealed
        )
        self._governor = Governor(
            options.budgets,
            {t.name: _event_ids(t.events, self._description.formats) for t in self._tracers},
        )
        self._footprint = Footprint(options.out)
        stack.callback(self._footprint.close)
        self._publisher = Publisher(options, capture, me)
        stack.callback(self._publisher.close)
        self._open_segment()
        opened = self._segments.current
        assert opened is not None
        threads = []
        for tracer in self._tracers:
            thread = threading.Thread(target=tracer.open, args=(opened.raw_directory(tracer.name),))
            threads.append(thread)
            thread.start()
        for thread in threads:
            thread.join()
        for tracer in self._tracers:
            if tracer.name == TASKS and self._command is not None:
                tracer.follow([self._command.pid])
            elif tracer.name == TASKS:
                tracer.ignore(thread_ids())

    def _close_tracers(self) -> None:
        for tracer in self._tracers:
            tracer.close()

    def _begin(self) -> None:
        command = self._command
        now = time.monotonic_ns()
        self._begun_ns = self._synced_ns = self._anchored_ns = now
        self._offset_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - now
        self._schedule = Schedule(self.options.duty, now)
        for tracer in reversed(self._tracers):
            tracer.on()
        # Looked at after tracing began: what is opened meanwhile is seen twice rather than never.
        if command is None:
            self._segments.look_at_host()
        self._throttle = devices.read_throttle(command.pid if command is not None else os.getpid())
        if command is not None:
            command.release()
        else:
            until = f"for {self.options.duration:g} s" if self.options.duration else "until interrupted"
            self.say(f"recording the whole host {until}")
        self._publisher.ready()

    def _end(self) -> None:
        if not self._halts:
            self._tracing(False)
        self._publisher.stopping()
        if self._segments.current is not None:
            self._close_segment("end")
        while self._sealer.pending:
            self._wait(1.0)
            self._segments.collect()
        self.status = self._command.poll() if self._command is not None else None

    def _subjects(self) -> list[int] | None:
        """The processes that are recorded, None = all."""
        if self._command is None:
            return None
        for tracer in self._tracers:
            threads = tracer.followed()
            if threads is not None:
                return host.thread_groups(threads)
        return [self._command.pid]

    # The loop

    def _loop(self) -> None:
        """Until the command has ended, or until time or a signal ends the recording of a whole host."""
        self._poller = select.poll()
        self._poller.register(self.signals.wake, select.POLLIN)
        for descriptor in self._pressure.descriptors:
            self._poller.register(descriptor, select.POLLPRI)
        if self._command is not None:
            self._poller.register(self._command.pidfd, select.POLLIN)
        busy = self.options.buffer_kb * 256  # a quarter of a buffer in one round
        while True:
            moved = self._drain()
            now = time.monotonic_ns()
            self._segments.collect()
            if self._over(now):
                return
            every = max(int(_LOOK_S * 1e9), self._look_cost_ns * _LOOK_SHARE)
            if now - self._looked_ns >= every or moved >= busy:
                self._look()
            self._rotate(now)
            self._keep_duty(now)
            if moved < busy:
                self._wait(self._until(now))

    def _until(self, now: int) -> float:
        """Seconds until something is due."""
        wait_s = _LOOK_S if self._flight or self._halts else _DRAIN_S
        due = [self._schedule.next_ns(now)]
        if self.options.duration is not None and self._ending_ns is None:
            due.append(self._begun_ns + int(self.options.duration * 1e9))
        return min([wait_s, *((at - now) / 1e9 for at in due if at is not None and at > now)])

    def _wait(self, seconds: float) -> None:
        if not hasattr(self, "_poller"):
            self._poller = select.poll()
        for descriptor, event in self._poller.poll(max(int(seconds * 1000) + 1, 1)):
            if descriptor == self.signals.wake:
                self.signals.clear()
            elif descriptor in self._pressure.descriptors and event & (select.POLLPRI | select.POLLERR):
                if event & select.POLLERR:
                    self._poller.unregister(descriptor)
                elif self._pressure.heed(time.monotonic_ns()):
                    self.signals.triggered = True

    def _over(self, now: int) -> bool:
        """Whether the recording is over; asks a command to end when it is time."""
        command = self._command
        if command is not None and command.poll() is not None:
            return True
        duration = self.options.duration
        expired = duration is not None and now - self._begun_ns >= duration * 1e9
        if (self.signals.ending or expired) and self._ending_ns is None:
            if command is None:
                return True
            if expired:
                self.say("the time is over: the command is asked to end")
            command.signal(self.signals.ending[0] if self.signals.ending else signal.SIGTERM)
            self._ending_ns = now
        if self._ending_ns is not None and now - self._ending_ns > _GRACE_S * 1e9 and command is not None:
            command.signal(signal.SIGKILL)
        return False

    def _drain(self) -> int:
        if self._flight or self._halts:
            return 0
        return self._move([tracer.drain for tracer in self._tracers])

    def _move(self, moves: list[Callable[[], int]]) -> int:
        """Move events to the files; when there is no space the recording pauses, and nothing is lost yet."""
        moved = 0
        try:
            for move in moves:
                moved += move()
        except OSError as error:
            if error.errno not in FULL:
                raise
            self._disk_is_full()
        self._raw_bytes += moved
        self._segments.wrote(moved)
        return moved

    # Looks

    def _counters(self) -> tuple[int, int, Stats]:
        before = time.monotonic_ns()
        stats = {tracer.name: tracer.stats() for tracer in self._tracers}
        after = time.monotonic_ns()
        self._look_cost_ns = after - before
        return before, after, stats

    def _note_counters(self) -> list[Loss]:
        """Look at the kernel's counters; returns what was lost since the last look."""
        before, after, stats = self._counters()
        self._stats = stats
        losses = self._ledger.look(before, after, stats)
        self._looked_ns = after
        self.events = _sum(stats, "read events") - self._read_at_start
        try:
            self._segments.look(stats, after, losses)
        except OSError as error:
            if error.errno not in FULL:
                raise
            self._disk_is_full()
        return losses

    def _look(self) -> None:
        self._note_counters()
        now = self._looked_ns
        if self._command is not None:
            # A command may join its block cgroup only after it has started: keep the latest that is known.
            self._throttle = devices.read_throttle(self._command.pid) or self._throttle
        offset = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
        if now - self._anchored_ns >= _ANCHOR_NS or abs(offset - self._offset_ns) > 1_000_000:
            self._anchored_ns, self._offset_ns = now, offset  # (the offset grows when the host was suspended)
            self._segments.note_anchor()
        if now - self._synced_ns >= self.options.sync_s * 1e9:
            self._synced_ns = now
            self._segments.sync()
        vitals = self._vitals()
        for action in self._governor.step(vitals):
            self._act(action)
        if self._full and self._segments.current is None:
            self._try_again()
        self._publisher.publish(vitals, self._activity())

    def _vitals(self) -> Vitals:
        use = self._footprint.look(self._raw_bytes)
        tracers = {tracer.name: tracer for tracer in self._tracers}
        return Vitals(
            now_ns=time.monotonic_ns(),
            cpu_ns=use.cpu_ns,
            rss_bytes=use.rss_bytes,
            ring_bytes=self._ring_bytes,
            disk_bytes=use.disk_bytes,
            free_bytes=use.free_bytes,
            recorded=self.events,
            lost=self.lost,
            raw_bytes=self._raw_bytes,
            lag_bytes=_sum(self._stats, "bytes"),
            recent=lambda name, count: tracers[name].recent(count),
        )

    def _activity(self) -> Activity:
        state = "recording"
        if self._halts:
            state = "resting" if self._halts == ["duty"] else f"paused: {self._halts[-1]}"
        sealed = self._segments.sealed
        return Activity(
            state, self.options.mode, tuple(sorted(self._shed)), len(sealed), sealed[-1] if sealed else None
        )

    # Budgets, pauses, duty

    def _act(self, action: Shed | Restore | Pause | Resume) -> None:
        now = time.monotonic_ns()
        if isinstance(action, Shed | Restore):
            for tracer in self._tracers:
                own = [event for event in action.events if event in tracer.events]
                if own:
                    (tracer.shed if isinstance(action, Shed) else tracer.restore)(own)
            if isinstance(action, Shed):
                self._shed.update(action.events)
                losses = self._ledger.begin(f"budget shed: {action.budget}", now, action.events)
                self.say(
                    f"over the budget ({action.budget}): not recording {', '.join(action.events)} for now"
                )
            else:
                self._shed.difference_update(action.events)
                losses = self._ledger.end(time.monotonic_ns(), None, action.events)
                self.say(f"recording {', '.join(action.events)} again")
            self._segments.note_losses(losses)
        elif isinstance(action, Pause):
            self._halt(action.budget)
            if action.budget == "disk" and self._segments.current is not None:
                self._close_segment("rotation")
        else:
            self._go_on(action.budget)

    def _tracing(self, on: bool) -> None:
        for tracer in self._tracers:
            (tracer.on if on else tracer.off)()

    def _halt(self, reason: str) -> None:
        """Tracing is off for this reason as well."""
        if reason in self._halts:
            return
        now = time.monotonic_ns()
        if not self._halts:
            self._tracing(False)
        self._halts.append(reason)
        if reason != "duty":
            self.say(f"the recording pauses ({reason})")
        losses = self._ledger.begin(f"paused: {reason}", now)
        with contextlib.suppress(OSError):
            self._segments.note_losses(losses)

    def _go_on(self, reason: str) -> None:
        """This reason is gone; tracing is on again when it was the last."""
        if reason not in self._halts:
            return
        if self._segments.current is None and self._halts == [reason]:
            try:
                self._reopen()
            except OSError as error:
                if error.errno not in FULL:
                    raise
                if reason != "disk":
                    self._halt("disk")
                self._full = True
        if self._halts == [reason]:
            self._tracing(True)
        self._halts.remove(reason)
        self._segments.note_losses(self._ledger.end(time.monotonic_ns(), f"paused: {reason}"))
        if reason != "duty":
            self.say("the recording goes on")

    def _reopen(self) -> None:
        segment = self._open_segment()
        for tracer in self._tracers:
            tracer.rotate(segment.raw_directory(tracer.name))
        self._segments.look_at_host()

    def _disk_is_full(self) -> None:
        self._full = True
        self._halt("disk")

    def _try_again(self) -> None:
        self._full = False
        self._go_on("disk")

    def _keep_duty(self, now: int) -> None:
        if self._schedule.on(now):
            self._go_on("duty")
        elif "duty" not in self._halts:
            self._halt("duty")
            if self._segments.current is not None:
                self._close_segment("rotation")

    # Segments

    def _open_segment(self) -> OpenSegment:
        _, after, stats = self._counters()
        if not self._looked_ns:
            self._ledger.look(after, after, stats)
            self._read_at_start = _sum(stats, "read events")
        tables = {}
        if self._command is not None:
            pids = self._subjects() or []
            tables = {
                "tasks": list(host.tasks(pids)),
                "descriptors": list(host.descriptors(pids, inherited=not self._looked_ns)),
            }
        return self._segments.open(stats, tables)

    def _rotate(self, now: int) -> None:
        """Close the segment when it is due, and begin the next one."""
        segments = self._segments
        if segments.current is None or self._full:
            self.signals.triggered = False
            return
        if self.signals.triggered:
            self.signals.triggered = False
            self._closing = "trigger"
        elif self._closing is None and not self._flight and not segments.behind:
            due_bytes, due_s = self.options.rotate_bytes, self.options.rotate_s
            if (due_bytes is not None and segments.raw_bytes >= due_bytes) or (
                due_s is not None and now - segments.opened_ns >= due_s * 1e9
            ):
                self._closing = "rotation"
        if self._closing is None and not self._flight:
            return
        if segments.next is None:
            segments.prepare(self._stats)
        elif self._closing is not None:
            self._cut(self._closing)
            self._closing = None

    def _cut(self, closed: str) -> None:
        """Everything up to now into the current segment, from now on into the next; tracing stays on."""
        self._note_counters()
        self._move([tracer.finish for tracer in self._tracers])
        if self._full:
            return
        uncertain = self._note_counters()
        self._read_overwritten()
        self._set_throttle()
        following = self._segments.cut(closed, self._stats, uncertain)
        for tracer in self._tracers:
            tracer.rotate(following.raw_directory(tracer.name))

    def _close_segment(self, closed: str) -> None:
        """Tracing is off: the current segment ends and none follows yet."""
        while self._move([tracer.finish for tracer in self._tracers]):
            pass
        self._note_counters()
        self._read_overwritten()
        self._set_throttle()
        self._segments.close(closed, self._stats)

    def _read_overwritten(self) -> None:
        if self._flight:
            oldest = self._oldest()
            self._segments.note_losses(self._ledger.read(self._stats, self._looked_ns, oldest))

    def _oldest(self) -> dict[tuple[str, int], int]:
        """Time stamp of the first sub-buffer of each ring buffer (the u64 that it begins with)."""
        found = {}
        segment = self._segments.current
        assert segment is not None
        for tracer in self._tracers:
            for path in segment.raw_directory(tracer.name).glob("cpu*.pages"):
                with open(path, "rb") as file:
                    head = file.read(8)
                if len(head) == 8:
                    found[tracer.name, int(path.stem[3:])] = int.from_bytes(head, "little")
        return found

    def _set_throttle(self) -> None:
        rows = [dict(row) for row in self._devices]
        devices.apply_throttle(rows, self._throttle)
        self._segments.devices = rows


def _sum(stats: Stats, counter: str) -> int:
    return sum(s.get(counter, 0) for cpus in stats.values() for s in cpus.values())


def _event_ids(events: list[str], formats: Mapping[str, str]) -> dict[int, str]:
    ids = {}
    for event in events:
        found = re.search(r"^ID:\s*(\d+)", formats[event], re.MULTILINE)
        if found:
            ids[int(found[1])] = event
    return ids
