"""One recording, from the first ring buffer to the last sealed segment: what happens when."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import select
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from hindsight.capture import devices, owner
from hindsight.capture.operation.publish import Activity, Publisher
from hindsight.capture.options import FLIGHT
from hindsight.capture.profiles import INSTANCES
from hindsight.capture.recording.budget import Governor, Pause, Restore, Shed
from hindsight.capture.recording.duty import Schedule
from hindsight.capture.recording.ending import Ending
from hindsight.capture.recording.footprint import Footprint
from hindsight.capture.recording.launch import Launch
from hindsight.capture.recording.ledger import Ledger
from hindsight.capture.recording.pressure import PressureWatch
from hindsight.capture.recording.recorder import FULL, Recorder, count
from hindsight.capture.recording.sampled import sources
from hindsight.capture.recording.sampler import Sampler
from hindsight.capture.recording.signals import Signals
from hindsight.capture.recording.vitals import Vitals
from hindsight.capture.segments.chain import Segments
from hindsight.capture.segments.opening import Description
from hindsight.capture.segments.sealer import Sealer, thread_ids
from hindsight.errors import HindsightError

_LOOK_S = 0.25
_LOOK_SHARE = 100
"""Looking at the counters of many processors takes at most this part of the time."""
_ANCHOR_NS = 60_000_000_000
_SUSPENDED_NS = 1_000_000
"""When CLOCK_BOOTTIME gained so much on CLOCK_MONOTONIC, the host was suspended."""
_THREADS_NS = 1_000_000_000
_HOST_THREADS_NS = 5_000_000_000
"""How often threads are looked for that were created meanwhile: of a command, of a whole host."""
_NICE = -10


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
    """The recording of what was launched. ``sealed`` is told the path of each segment once it is sealed.

    After :meth:`run`: ``segments`` (their paths), ``events`` and ``lost`` (as the kernel counted),
    ``unrecorded`` (why events were shed or all was paused), ``status`` (of the command).
    """

    def __init__(
        self,
        launch: Launch,
        signals: Signals,
        sealed: Callable[[Path], None],
    ) -> None:
        self.options = options = launch.options
        self.say = launch.say
        self.signals = signals
        self.segments: tuple[Path, ...] = ()
        self.events = 0
        self.lost = 0
        self.unrecorded: tuple[str, ...] = ()
        self.status: int | None = None
        self._on_sealed = sealed
        self._flight = options.mode == FLIGHT
        self._command = launch.command
        self._tracers = launch.tracers
        self._ending = Ending(launch.command, options.duration, signals, launch.say)
        self._closing: str | None = None
        self._throttle: devices.Throttle = {}
        self._poller = select.poll()
        self._poller.register(signals.wake, select.POLLIN)
        self._rings: set[int] = set()
        self._synced_ns = self._anchored_ns = self._offset_ns = self._threads_ns = 0

    # Beginning and end

    def run(self) -> None:
        """Record; returns when everything is sealed. Raises as the function ``record`` does."""
        with contextlib.ExitStack() as stack:
            self._tracers.wait()
            if self._tracers.probed:
                self.say(f"kprobes stand for: {', '.join(self._tracers.probed)}")
            if self._tracers.missing:
                self.say(f"this kernel does not have: {', '.join(self._tracers.missing)}")
            self._prepare(stack)
            begun = False
            try:
                with _priority():
                    self._begin()
                    begun = True
                    self._loop()
                self._end()
            except Exception as error:
                self._tracers.close()
                self._ending.without_recording(error, lambda: self._wait(1.0))
                raise
            finally:
                self._segments.abandon(keep=begun)

    def _prepare(self, stack: contextlib.ExitStack) -> None:
        options, tracers = self.options, self._tracers
        self._pressure = PressureWatch(options.pressure)
        stack.callback(self._pressure.close)
        me = owner.own()
        capture = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(4)}"
        self._devices = devices.device_facts(options.devices)
        description = Description(options, capture, me, tracers.all, self._devices)
        sealer = Sealer(self.signals.notify)
        stack.callback(sealer.close)
        ledger = Ledger(INSTANCES if self._flight else ())
        self._segments = Segments(description, sealer, ledger, self._subjects, self._on_sealed)
        self._recorder = Recorder(tracers, self._segments, ledger, self._flight, self.say)
        self._governor = Governor(
            options.budgets, {t.name: _event_ids(t.events, description.formats) for t in tracers.all}
        )
        self._footprint = Footprint(options.out)
        stack.callback(self._footprint.close)
        self._publisher = Publisher(options, capture, me)
        stack.callback(self._publisher.close)
        pids = [self._command.pid] if self._command is not None else None
        sampled = sources(options, pids[0] if pids else None, self.say)
        self._sampler = Sampler(sampled, self._segments.append, self.say)
        stack.callback(self._sampler.stop)
        self._recorder.open(pids)
        opened = self._segments.current
        assert opened is not None
        tracers.open(opened.raw_directory, pids, thread_ids())

    def _subjects(self) -> list[int] | None:
        """The processes that are recorded, None = all."""
        return self._tracers.followed() if self._command is not None else None

    def _begin(self) -> None:
        command = self._command
        now = time.monotonic_ns()
        self._ending.begin(now)
        self._synced_ns = self._anchored_ns = self._drained_ns = self._threads_ns = now
        self._offset_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - now
        self._schedule = Schedule(self.options.duty, now)
        self._recorder.begin()
        self._sampler.start()
        # Looked at after tracing began: what is opened meanwhile is seen twice rather than never.
        if command is None:
            self._segments.look_at_host()
        self._throttle = devices.read_throttle(command.pid if command is not None else os.getpid())
        if command is not None:
            command.release()
            self._poller.register(command.pidfd, select.POLLIN)
        else:
            until = f"for {self.options.duration:g} s" if self.options.duration else "until interrupted"
            self.say(f"recording the whole host {until}")
        for descriptor in self._pressure.descriptors:
            self._poller.register(descriptor, select.POLLPRI)
        for descriptor in self._tracers.descriptors:
            self._rings.add(descriptor)
            self._poller.register(descriptor, select.POLLIN)
        self._publisher.ready()

    def _end(self) -> None:
        """Seal what there is. Segments that cannot be sealed for now are tried once more."""
        self._recorder.stop()
        self._sampler.stop()
        self._recorder.miss(self._sampler.losses())
        self._publisher.stopping()
        if self._command is not None:
            self._poller.unregister(self._command.pidfd)  # it stays readable: nothing could be waited for
        for descriptor in self._rings:
            self._poller.unregister(descriptor)
        self._rings.clear()
        self._collect()
        if self._segments.current is not None:
            self._close_segment("end")
        left = self._segments.current
        if left is not None:
            raise HindsightError(
                f"{left.final.name} cannot be sealed: there is no space left",
                f"Make space, then: hindsight capture clean -o {self.options.out}",
            )
        self._segments.retry()
        while self._segments.busy:
            self._wait(1.0)
            self._segments.collect()
        self.segments = tuple(self._segments.sealed)
        self.events, self.lost = self._recorder.events, self._recorder.lost
        self.unrecorded = tuple(sorted(self._recorder.ledger.causes))
        self.status = self._command.poll() if self._command is not None else None

    # The loop

    def _loop(self) -> None:
        """Until the command has ended, or until time or a signal ends the recording of a whole host."""
        recorder = self._recorder
        while True:
            before, self._drained_ns = self._drained_ns, time.monotonic_ns()
            moved = recorder.drain()
            pause_s = self._tracers.pause(moved, (self._drained_ns - before) / 1e9)
            now = time.monotonic_ns()
            self._collect()
            if self._ending.over(now):
                return
            if now - recorder.looked_ns >= max(int(_LOOK_S * 1e9), recorder.look_cost_ns * _LOOK_SHARE):
                self._look()
            self._rotate(now)
            self._keep_duty(now)
            due = [at for at in (self._schedule.next_ns(now), self._ending.due_ns(now)) if at is not None]
            ready = self._wait(min([pause_s, *((at - now) / 1e9 for at in due if at > now)]))
            if ready and not sum(moved.values()):
                self._distrust(ready)

    def _wait(self, seconds: float) -> set[int]:
        """Wait for signals, pressure, ring buffers; returns the ring buffers that are about half full."""
        ready = set()
        for descriptor, event in self._poller.poll(max(int(seconds * 1000) + 1, 1)):
            if descriptor == self.signals.wake:
                self.signals.clear()
            elif descriptor in self._rings:
                ready.add(descriptor)
            elif descriptor in self._pressure.descriptors:
                if event & select.POLLERR:
                    self._poller.unregister(descriptor)
                elif self._pressure.heed(time.monotonic_ns()):
                    self.signals.triggered = True
        return ready

    def _distrust(self, ready: set[int]) -> None:
        """Ring buffers that claim to be filled, but have no full sub-buffer: the timer alone serves them."""
        for descriptor in ready:
            self._poller.unregister(descriptor)
            self._rings.discard(descriptor)

    # Looks

    def _look(self) -> None:
        recorder = self._recorder
        recorder.look()
        now = recorder.looked_ns
        recorder.miss(self._sampler.losses())
        if self._command is not None:
            # A command may join its block cgroup only after it has started: keep the latest that is known.
            self._throttle = devices.read_throttle(self._command.pid) or self._throttle
        if not recorder.full:
            self._keep_durable(now)
        if recorder.full and self._segments.current is not None:
            self._governor.no_space(now)
            self._close_segment("rotation")
        vitals = self._vitals()
        for action in self._governor.step(vitals):
            if isinstance(action, Shed):
                recorder.give_up(action.events, action.budget)
            elif isinstance(action, Restore):
                recorder.take_back(action.events)
            elif isinstance(action, Pause):
                recorder.halt(action.budget)
                # What a flight recorder holds would not fit: it stays in the ring buffers.
                if action.budget == "disk" and self._segments.current is not None and not self._flight:
                    self._close_segment("rotation")
            else:
                self._go_on(action.budget)
        self._publisher.publish(vitals, self._activity())

    def _keep_durable(self, now: int) -> None:
        offset = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
        with self._space_permitting():
            if now - self._anchored_ns >= _ANCHOR_NS or abs(offset - self._offset_ns) > _SUSPENDED_NS:
                self._anchored_ns, self._offset_ns = now, offset
                self._segments.note_anchor()
        if now - self._threads_ns >= (_THREADS_NS if self._command is not None else _HOST_THREADS_NS):
            self._threads_ns = now
            self._segments.look_at_new_threads()
        if now - self._synced_ns >= self.options.sync_s * 1e9:
            self._synced_ns = now
            self._segments.sync()

    @contextlib.contextmanager
    def _space_permitting(self) -> Iterator[None]:
        """Where there is no space, the recording pauses instead of failing."""
        try:
            yield
        except (OSError, HindsightError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(cause, OSError) or cause.errno not in FULL:
                raise
            self._recorder.full = True
            self._recorder.halt("disk")
            self._governor.no_space(time.monotonic_ns())

    def _collect(self) -> None:
        with self._space_permitting():
            self._segments.collect()

    def _vitals(self) -> Vitals:
        recorder = self._recorder
        use = self._footprint.look(recorder.raw_bytes)
        return Vitals(
            now_ns=time.monotonic_ns(),
            cpu_ns=use.cpu_ns,
            rss_bytes=use.rss_bytes,
            ring_bytes=self._tracers.ring_bytes,
            disk_bytes=use.disk_bytes,
            free_bytes=use.free_bytes,
            recorded=recorder.events + count(recorder.stats, "entries"),  # those in the ring buffers as well
            lost=recorder.lost,
            raw_bytes=recorder.raw_bytes,
            lag_bytes=count(recorder.stats, "bytes"),
            recent=self._tracers.recent,
        )

    def _activity(self) -> Activity:
        halts, sealed = self._recorder.halts, self._segments.sealed
        state = "recording"
        if halts:
            state = "resting" if halts == ["duty"] else f"paused: {halts[-1]}"
        last = sealed[-1] if sealed else None
        return Activity(state, self.options.mode, tuple(sorted(self._recorder.shed)), len(sealed), last)

    # Segments, duty, pauses

    def _go_on(self, reason: str) -> None:
        if not self._recorder.go_on(reason, self._subjects):
            self._governor.no_space(time.monotonic_ns())
        elif reason == "disk":
            self._segments.retry()

    def _keep_duty(self, now: int) -> None:
        if self.options.duty is None:
            return
        if self._schedule.on(now):
            self._go_on("duty")
        elif "duty" not in self._recorder.halts:
            self._recorder.halt("duty")
            if self._segments.current is not None:
                self._close_segment("rotation")

    def _close_segment(self, closed: str) -> None:
        self._set_throttle()
        with self._space_permitting():
            self._recorder.close(closed)

    def _rotate(self, now: int) -> None:
        """Close the segment when it is due, and begin the next one; recording goes on."""
        segments = self._segments
        if segments.current is None or self._recorder.halts:
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
        if segments.next is None:  # in flight mode it is always there: what is asked for is sealed at once
            segments.prepare(self._recorder.stats)
        elif self._closing is not None:
            self._set_throttle()
            with self._space_permitting():
                self._recorder.cut(self._closing)
            self._closing = None

    def _set_throttle(self) -> None:
        rows = [dict(row) for row in self._devices]
        devices.apply_throttle(rows, self._throttle)
        self._segments.devices = rows


def _event_ids(events: list[str], formats: Mapping[str, str]) -> dict[int, str]:
    ids = {}
    for event in events:
        found = re.search(r"^ID:\s*(\d+)", formats[event], re.MULTILINE)
        if found:
            ids[int(found[1])] = event
    return ids
