"""Record: private tracefs instances, a command that they follow (or the whole host), a sealed segment."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hindsight import __version__
from hindsight.capture import devices, files, host, tracefs
from hindsight.capture.child import StoppedCommand, choose_identity
from hindsight.capture.formats import parse_event
from hindsight.capture.options import RecordOptions
from hindsight.capture.profiles import INSTANCES, TASKS, profile
from hindsight.capture.schema import SCHEMA_VERSION
from hindsight.capture.segment import FORMATS, SegmentWriter
from hindsight.capture.tracer import FtraceTracer
from hindsight.errors import HindsightError, NotPermittedError

_DRAIN_S = 0.04
_LOOK_S = 0.25
_GRACE_S = 5.0
_NICE = -10
_DEVICES_SHARE = 4
"""Events of any context are few: their buffers are so many times smaller."""
_INODE_EVENTS = ("readahead/page_cache_sync_ra", "readahead/page_cache_async_ra")
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)


@dataclass(frozen=True)
class Recording:
    """A sealed recording; ``status``: the command's exit status (negative: a signal), None without one."""

    path: Path
    events: int
    lost: int
    status: int | None


def _say(message: str) -> None:
    print(f"hindsight: {message}", file=sys.stderr, flush=True)


def record(options: RecordOptions, say: Callable[[str], None] = _say) -> Recording:
    """Record as ``options`` say; returns when the recording is sealed.

    Raises NotPermittedError without root or tracefs, CommandNotStarted when the command cannot be executed,
    ConfigurationError for an unusable output directory or user, UsageError for an unknown profile. The
    tracefs instances are removed in every case; ``options.out`` only ever shows sealed segments.
    """
    with _Signals() as signals:
        return _Recorder(options, say, signals).run()


class _Signals:
    """SIGINT, SIGTERM and SIGHUP are noted instead of ending the process; ``wake`` becomes readable."""

    def __init__(self) -> None:
        self.came: list[int] = []
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        self.wake, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        with contextlib.suppress(ValueError):  # not the main thread: the caller handles signals
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                    continue  # nohup
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        os.close(self.wake)
        os.close(self._write)

    def _note(self, number: int, _frame: object) -> None:
        self.came.append(number)
        with contextlib.suppress(OSError):
            os.write(self._write, b"s")


@contextlib.contextmanager
def _priority() -> Iterator[None]:
    """Run ahead of the workload while draining: a starved recorder loses events."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, min(before, _NICE))
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, before)


class _Recorder:
    """One recording, from the first instance to the sealed segment."""

    def __init__(self, options: RecordOptions, say: Callable[[str], None], signals: _Signals) -> None:
        self.options = options
        self.say = say
        self.signals = signals
        self.tracers: list[FtraceTracer] = []
        self.command: StoppedCommand | None = None
        self.throttle: devices.Throttle = {}
        self.inode_events: dict[str, list[tuple[int, int, int]]] = {}

    def run(self) -> Recording:
        options = self.options
        wanted = profile(options.profile)
        identity, sentence = choose_identity(options.user) if options.command else (None, "")
        root = tracefs.locate()
        tracefs.remove_abandoned(root)
        self.capture = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(4)}"
        writer = SegmentWriter(options.out, f"{self.capture}-0000")
        try:
            if options.command:
                self.command = StoppedCommand(options.command, identity)
            if sentence:
                self.say(sentence)
            for name in INSTANCES:
                buffer_kb = (
                    options.buffer_kb if name == TASKS else max(options.buffer_kb // _DEVICES_SHARE, 64)
                )
                tracer = FtraceTracer(root, name, buffer_kb, wanted.events[name], options.devices)
                self.tracers.append(tracer)
            self._prepare(root, writer)
            with _priority():
                self._record()
            return self._seal(writer)
        except OSError as error:
            remedy = "Nothing was kept of this recording."
            if error.errno in _DISK_ERRORS:
                remedy += " Choose a directory (-o) with more space."
            raise HindsightError(f"recording into {options.out} failed: {error}", remedy) from error
        finally:
            for tracer in self.tracers:
                tracer.close()
            if self.command is not None:
                self.command.close()
            writer.discard()

    def _prepare(self, root: Path, writer: SegmentWriter) -> None:
        missing = [event for tracer in self.tracers for event in tracer.missing]
        if missing:
            self.say(f"this kernel does not have: {', '.join(missing)}")
        if not any(tracer.events for tracer in self.tracers):
            raise NotPermittedError(
                f"this kernel has none of the tracepoints of the profile {self.options.profile}",
                "It needs CONFIG_FTRACE_SYSCALLS and the tracepoints that docs/capture.md names.",
            )
        for tracer in self.tracers:
            tracer.open(writer.raw_directory(tracer.name))
            if tracer.name == TASKS and self.command is not None:
                tracer.instance.follow([self.command.pid])
            elif tracer.name == TASKS:
                tracer.instance.ignore([int(thread) for thread in os.listdir("/proc/self/task")])
        self.formats_sha256 = self._formats(root, writer)

    def _formats(self, root: Path, writer: SegmentWriter) -> str:
        digest = hashlib.sha256()
        formats = {}
        for tracer in self.tracers:
            found = self.inode_events.setdefault(tracer.name, [])
            for event in sorted(tracer.events):
                text = tracer.instance.read(f"events/{event}/format")
                formats[event] = text
                # The id of an event changes from boot to boot; its layout is what identifies a kernel.
                layout = "".join(line for line in text.splitlines(True) if not line.startswith("ID:"))
                digest.update(f"{event}\n{layout}".encode())
                if event in _INODE_EVENTS:
                    parsed = parse_event(event.split("/")[0], text)
                    found.append((parsed.id, parsed.fields["i_ino"].offset, parsed.fields["s_dev"].offset))
        for name in ("header_page", "header_event"):
            own = self.tracers[0].instance.path / "events" / name
            path = own if own.exists() else root / "events" / name
            formats[name] = path.read_text()
        writer.add(FORMATS, formats)
        return digest.hexdigest()

    def _record(self) -> None:
        command = self.command
        self.devices = devices.device_facts(self.options.devices)
        self.first_anchor = host.clock_anchor()
        for tracer in reversed(self.tracers):
            tracer.instance.on()
        # Looked at after tracing began: what is opened meanwhile is seen twice rather than never.
        subjects = [command.pid] if command is not None else host.processes()
        self.tasks = list(host.tasks(subjects))
        self.descriptors = list(host.descriptors(subjects, inherited=command is not None))
        self.throttle = devices.read_throttle(command.pid if command is not None else os.getpid())
        if command is not None:
            command.release()
        else:
            until = f"for {self.options.duration:g} s" if self.options.duration else "until interrupted"
            self.say(f"recording the whole host {until}")
        self._follow()
        for tracer in self.tracers:
            tracer.instance.off()
        for tracer in self.tracers:
            tracer.finish()
        self.last_anchor = host.clock_anchor()
        if command is None:
            self.tasks += host.tasks(host.processes())

    def _follow(self) -> None:
        """Drain until the command has ended, or until time or a signal ends the recording of a whole host."""
        begun = looked = time.monotonic()
        ending: float | None = None
        poller = select.poll()
        poller.register(self.signals.wake, select.POLLIN)
        if self.command is not None:
            poller.register(self.command.pidfd, select.POLLIN)
        while True:
            moved = sum(tracer.drain() for tracer in self.tracers)
            now = time.monotonic()
            if self.command is not None and self.command.poll() is not None:
                return
            expired = self.options.duration is not None and now - begun >= self.options.duration
            if (self.signals.came or expired) and ending is None:
                if self.command is None:
                    return
                if expired:
                    self.say("the time is over: the command is asked to end")
                self.command.signal(self.signals.came[0] if self.signals.came else signal.SIGTERM)
                ending = now
            if ending is not None and now - ending > _GRACE_S and self.command is not None:
                self.command.signal(signal.SIGKILL)
            if now - looked >= _LOOK_S or moved >= self.options.buffer_kb * 256:
                looked = now
                self._look()
            if moved < self.options.buffer_kb * 256:  # else a quarter of a buffer in one round: no pause
                timeout = _DRAIN_S
                if self.options.duration is not None and ending is None:
                    timeout = min(timeout, max(self.options.duration - (now - begun), 0.0))
                for descriptor, _ in poller.poll(int(timeout * 1000) + 1):
                    if descriptor == self.signals.wake:
                        os.read(descriptor, 64)

    def _look(self) -> None:
        for tracer in self.tracers:
            tracer.watch.look()
        if self.command is not None:
            # A command may join its block cgroup only after it has started: keep the latest that is known.
            self.throttle = devices.read_throttle(self.command.pid) or self.throttle

    def _seal(self, writer: SegmentWriter) -> Recording:
        raw = {tracer.name: tracer.facts() for tracer in self.tracers}
        inodes: set[files.Inode] = set()
        known = {mount.device for mount in devices.mounts()}
        for tracer in self.tracers:
            size = raw[tracer.name]["subbuffer_bytes"]
            for path in tracer.seal_files():
                inodes |= files.find_inodes(path, self.inode_events[tracer.name], known, size)
        devices.apply_throttle(self.devices, self.throttle)
        pids = [] if self.command is not None else host.processes()
        losses = [asdict(loss) for tracer in self.tracers for loss in tracer.watch.losses]
        for loss in losses:
            loss["from_ns"] = max(loss["from_ns"], self.first_anchor.ts)  # the first look came before
        key = host.host_key(self.options.out)
        facts = {
            "capture": self.capture,
            "date": time.strftime("%Y-%m-%d", time.gmtime(self.first_anchor.realtime_ns // 10**9)),
            "schema_version": SCHEMA_VERSION,
            "byteorder": sys.byteorder,
            # Conversion hashes names of programs with it; it does not reveal the host's own key.
            "comm_key": host.derived_key(key, "comm"),
            "instances": raw,
            "ring_losses": losses,
            "tables": {
                "captures": [self._capture_row(key, raw)],
                "clock_anchors": [asdict(self.first_anchor), asdict(self.last_anchor)],
                "devices": self.devices,
                "descriptors": self.descriptors,
                "tasks": self.tasks,
                "files": files.file_facts(inodes, pids, self.options.paths),
            },
        }
        path = writer.seal(facts)
        read = sum(s.get("read events", 0) for i in raw.values() for s in i["stats_after"].values())
        status = self.command.poll() if self.command is not None else None
        return Recording(path, read, sum(loss["count"] for loss in losses), status)

    def _capture_row(self, key: bytes, raw: dict[str, Any]) -> dict[str, Any]:
        options = self.options
        config: dict[str, Any] = {
            name: {k: facts[k] for k in ("events", "filters", "buffer_kb", "overwrite")}
            for name, facts in raw.items()
        }
        config["options"] = {"profile": options.profile, "clock": "mono", "paths": options.paths}
        uname = os.uname()
        return {
            "capture": self.capture,
            "host": host.pseudonym(key, f"host:{host.machine_id()}"),
            "boot_id": host.pseudonym(key, f"boot:{host.boot_id()}"),
            "kernel_release": uname.release,
            "machine": uname.machine,
            "page_size": os.sysconf("SC_PAGE_SIZE"),
            "cpus": len(raw[TASKS]["stats_before"]),
            "clock": "mono",
            "profile": options.profile,
            "label": options.label,
            "program": os.path.basename(options.command[0]) if options.command else "",
            "start_ns": self.first_anchor.ts,
            "end_ns": self.last_anchor.ts,
            "realtime_start_ns": self.first_anchor.realtime_ns,
            "buffer_kb": options.buffer_kb,
            "config_sha256": hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest(),
            "formats_sha256": self.formats_sha256,
            "tool_version": __version__,
        }
