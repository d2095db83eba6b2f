"""Private tracefs instances: find tracefs, create an instance, configure it, read its counters, remove it.

Everything is probed for at run time; what a kernel lacks is reported and never inferred from its version.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from hindsight.capture.owner import Owner, own, parse
from hindsight.errors import HindsightError, NotPermittedError

MOUNT_POINT = Path("/sys/kernel/tracing")
_PREFIX = "hindsight-"
_ROOT_REMEDY = "Run it as root, for instance: sudo hindsight capture record …"
_MOUNT_REMEDY = f"As root: mount -t tracefs nodev {MOUNT_POINT}"


def locate() -> Path:
    """The directory where tracefs is mounted; mounts it when that is allowed.

    Raises NotPermittedError with the remedy when there is no tracefs or this process may not use it.
    """
    mounted = _mounted()
    if mounted is None and os.geteuid() == 0:
        _mount()
        mounted = _mounted()
    if mounted is None:
        raise NotPermittedError("tracefs is not mounted", _MOUNT_REMEDY)
    if not os.access(mounted / "instances", os.W_OK | os.X_OK):
        if not os.access(mounted, os.X_OK):
            raise NotPermittedError(f"this process may not use tracefs ({mounted})", _ROOT_REMEDY)
        if not (mounted / "instances").is_dir():
            raise NotPermittedError(
                "this kernel has no tracefs instances", "Its tracing support is too small."
            )
        raise NotPermittedError(f"this process may not create instances in {mounted}", _ROOT_REMEDY)
    return mounted


def _mounted() -> Path | None:
    found = []
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as mounts:
        for line in mounts:
            _, where, kind, *_ = line.split()
            if kind == "tracefs":
                found.append(Path(where))
    return MOUNT_POINT if MOUNT_POINT in found else min(found, default=None)


def _mount() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if not MOUNT_POINT.is_dir():
        raise NotPermittedError(
            "this kernel has no tracefs", "It needs CONFIG_TRACING and CONFIG_EVENT_TRACING."
        )
    if libc.mount(b"nodev", os.fsencode(MOUNT_POINT), b"tracefs", 0, None) != 0:
        number = ctypes.get_errno()
        if number != errno.EBUSY:
            raise NotPermittedError(f"tracefs cannot be mounted: {os.strerror(number)}", _MOUNT_REMEDY)


def parse_stats(text: bytes) -> dict[str, int]:
    """The whole numbers of a ring buffer's ``stats`` file, by their name."""
    counters = {}
    for line in text.splitlines():
        key, _, value = line.partition(b": ")
        if value.isdigit():
            counters[key.decode()] = int(value)
    return counters


def instance_name(owner: Owner, name: str) -> str:
    """What the instance ``name`` of a recorder is called: ``hindsight-<owner>-<name>``."""
    return f"{_PREFIX}{owner}-{name}"


def abandoned(tracefs: Path) -> list[Path]:
    """The instances of recorders that no longer live; those of other pid namespaces cannot be judged."""
    found = []
    for path in sorted((tracefs / "instances").glob(f"{_PREFIX}*")):
        owner = parse(path.name[len(_PREFIX) :].rpartition("-")[0])
        if owner is not None and owner.alive is False:
            found.append(path)
    return found


def remove_abandoned(tracefs: Path) -> list[str]:
    """Remove :func:`abandoned` instances; returns the names of those that could be removed."""
    removed = []
    for path in abandoned(tracefs):
        with contextlib.suppress(OSError):
            path.rmdir()
            removed.append(path.name)
    return removed


class Instance:
    """One private tracefs instance, switched off until :meth:`on` is called; :meth:`remove` it in the end.

    ``stand_ins``: events that are recorded under the name of a tracepoint, by that name.
    """

    def __init__(
        self,
        tracefs: Path,
        name: str,
        owner: Owner | None = None,
        stand_ins: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._stand_ins = stand_ins
        self.path = tracefs / "instances" / instance_name(owner or own(), name)
        self.name = name
        try:
            self.path.mkdir()
        except OSError as error:
            raise NotPermittedError(
                f"a tracefs instance cannot be created: {error.strerror}",
                _ROOT_REMEDY if error.errno in (errno.EACCES, errno.EPERM) else None,
            ) from error
        self.write("tracing_on", "0")

    def write(self, name: str, text: str) -> None:
        """Write one control file; raises OSError as the kernel returns it."""
        descriptor = os.open(self.path / name, os.O_WRONLY | os.O_TRUNC)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)

    def append(self, name: str, text: str) -> None:
        """Add a line to one control file."""
        descriptor = os.open(self.path / name, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(descriptor, text.encode() + b"\n")
        finally:
            os.close(descriptor)

    def read(self, name: str) -> str:
        """The text of one file of the instance."""
        return (self.path / name).read_text(encoding="utf-8", errors="replace")

    def configure(self, buffer_kb: int, overwrite: bool = False) -> None:
        """Clock ``mono``, ``buffer_kb`` KiB per CPU; ``overwrite`` keeps the latest events, not the first.

        Raises NotPermittedError when the kernel lacks the clock or cannot allocate the buffer.
        """
        if "mono" not in self.read("trace_clock").replace("[", " ").replace("]", " ").split():
            raise NotPermittedError(
                "this kernel's tracing has no clock 'mono'", "Events could not be placed in time."
            )
        self.write("trace_clock", "mono")
        self.write("options/overwrite", "1" if overwrite else "0")
        try:
            self.write("buffer_size_kb", str(buffer_kb))
        except OSError as error:
            raise HindsightError(
                f"ring buffers of {buffer_kb} KiB per CPU cannot be allocated: {error.strerror}",
                "Use a smaller --buffer-kb.",
            ) from error

    def has(self, event: str) -> bool:
        """Whether this kernel has the tracepoint ``system/event``, or something that stands for it."""
        return (self.path / self._place(event) / "enable").exists()

    def _place(self, event: str) -> str:
        return f"events/{self._stand_ins.get(event, event)}"

    def format(self, event: str) -> str:
        """The layout of an event, as the kernel describes it."""
        return self.read(f"{self._place(event)}/format")

    def filter(self, event: str, text: str) -> None:
        """Record only occurrences of ``event`` for which the filter holds ("0": all of them).

        Raises NotPermittedError when the kernel does not take it.
        """
        try:
            self.write(f"{self._place(event)}/filter", text)
        except OSError as error:
            raise NotPermittedError(
                f"the kernel refuses the filter {text!r} on {event}: {error.strerror}",
                "Record without --device.",
            ) from error

    def enable(self, events: Iterable[str], enabled: bool = True) -> None:
        """Switch tracepoints (``system/event``) on or off."""
        for event in events:
            self.write(f"{self._place(event)}/enable", "1" if enabled else "0")

    def follow(self, pids: Iterable[int]) -> None:
        """Record only these threads and, from now on, the threads that they create."""
        self.write("options/event-fork", "1")
        self.append("set_event_pid", " ".join(map(str, pids)))

    def followed(self) -> list[int]:
        """The threads that are recorded now, those of :meth:`follow` and their offspring."""
        return [int(word) for word in self.read("set_event_pid").split() if word.isdigit()]

    def ignore(self, pids: Iterable[int]) -> None:
        """Never record these threads."""
        # At once: for each later write the kernel waits until nobody uses the list before it.
        self.append("set_event_notrace_pid", " ".join(map(str, pids)))

    def on(self) -> None:
        """Start recording."""
        self.write("tracing_on", "1")

    def off(self) -> None:
        """Stop recording; what is in the buffers stays."""
        self.write("tracing_on", "0")

    def cpus(self) -> list[int]:
        """The processors that have a ring buffer, ascending."""
        return sorted(int(p.name[3:]) for p in (self.path / "per_cpu").iterdir() if p.name.startswith("cpu"))

    def stats(self, cpu: int) -> dict[str, int]:
        """The kernel's counters of one ring buffer: entries, overrun, commit overrun, dropped events, …"""
        return parse_stats((self.path / f"per_cpu/cpu{cpu}/stats").read_bytes())

    def subbuffer_bytes(self) -> int:
        """Size of one sub-buffer (a page, unless somebody changed it)."""
        try:
            return int(self.read("buffer_subbuf_size_kb")) * 1024
        except (FileNotFoundError, ValueError):
            return os.sysconf("SC_PAGE_SIZE")

    def remove(self) -> None:
        """Remove the instance; everything that read it must be closed."""
        with contextlib.suppress(OSError):
            self.off()
        for _ in range(50):
            try:
                self.path.rmdir()
                return
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.02)  # EBUSY while the kernel still lets go of a reader
        raise HindsightError(
            f"the tracefs instance {self.path} could not be removed", f"As root: rmdir {self.path}"
        )
