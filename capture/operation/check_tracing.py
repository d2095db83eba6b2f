"""What the kernel's tracing offers: tracefs, a private instance, the tracepoints, the control files.

With root an instance is created, tried, and removed; nothing else of the host is touched.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from hindsight.capture.filters import device_filter
from hindsight.capture.ftrace import probes, tracefs
from hindsight.capture.ftrace.btf import Btf
from hindsight.capture.operation.check import NO, OK, WARN, Check
from hindsight.capture.operation.status import CLEAN, abandoned_instances
from hindsight.capture.profiles import Profile
from hindsight.errors import HindsightError

_BTF = Path("/sys/kernel/btf/vmlinux")
_SUDO = "sudo hindsight capture doctor"
_ABSENT = {
    "readahead": "what the kernel decided is not recorded, only the demand (these came after Linux 6.12): "
    "no verdict on readahead from this host; a kernel with CONFIG_KPROBE_EVENTS and CONFIG_DEBUG_INFO_BTF "
    "shows them through kprobes",
    "filemap": "what the page cache held is not recorded",
    "block": "requests to devices are not recorded",
    "task": "threads that start are not told apart",
    "sched": "programs that start and threads that end are not told apart",
    "syscalls": "what programs asked for is not recorded: no replay (it needs CONFIG_FTRACE_SYSCALLS)",
}


def tracing(profile: Profile) -> Iterator[Check]:
    """Everything about tracefs."""
    root = tracefs._mounted()
    if root is None:
        yield _not_mounted()
        yield from _events_by_btf(profile)
        return
    yield Check("tracefs", OK, "tracefs", f"mounted at {root}")
    if not os.access(root / "instances", os.W_OK | os.X_OK):
        yield Check(
            "instances", NO, "private instances", f"this user may not create any in {root}",
            f"{_SUDO}; its output then tells about the tracepoints and filters too", ("ftrace", "flight"),
        )  # fmt: skip
        yield from _events_by_btf(profile)
        return
    try:
        instance = tracefs.Instance(root, "doctor")
    except HindsightError as error:
        remedy = error.remedy or "The kernel's tracing support is too small."
        yield Check("instances", NO, "private instances", error.message, remedy, ("ftrace", "flight"))
        return
    try:
        yield Check("instances", OK, "private instances", "one was created, and is removed again")
        yield from _events(profile, instance.has, _stand_ins(root, profile))
        yield from _instance(instance, profile)
    finally:
        instance.remove()
    yield from _others(root)


def _not_mounted() -> Check:
    if not tracefs.MOUNT_POINT.is_dir():
        return Check(
            "tracefs", NO, "tracefs", f"no {tracefs.MOUNT_POINT}: this kernel has none",
            "a kernel with CONFIG_TRACING and CONFIG_EVENT_TRACING (every distribution's has them)",
            ("ftrace", "flight", "perf"),
        )  # fmt: skip
    if os.geteuid() == 0:
        return Check("tracefs", WARN, "tracefs", "not mounted; record mounts it", "mount -t tracefs nodev "
                     f"{tracefs.MOUNT_POINT}, then run doctor again: it mounts nothing")  # fmt: skip
    return Check(
        "tracefs", NO, "tracefs", "not mounted, or not shown to this user",
        f"sudo mount -t tracefs nodev {tracefs.MOUNT_POINT}", ("ftrace", "flight", "perf"),
    )  # fmt: skip


def _systems(profile: Profile) -> dict[str, list[str]]:
    systems: dict[str, list[str]] = {}
    for event in profile.tracepoints:
        systems.setdefault(event.split("/")[0], []).append(event)
    return systems


def _stand_ins(root: Path, profile: Profile) -> frozenset[str]:
    """Tracepoints that this kernel lacks and a kprobe can stand for."""
    wanted = probes.lacking(root, profile.tracepoints)
    if not wanted or not probes.possible(root):
        return frozenset()
    try:
        return frozenset(probes.probes_for(wanted, Btf()))
    except HindsightError:
        return frozenset()


def _events(
    profile: Profile, has: Callable[[str], bool], stand_ins: frozenset[str] = frozenset()
) -> Iterator[Check]:
    any_found = False
    for system, events in _systems(profile).items():
        missing = [event for event in events if not has(event) and event not in stand_ins]
        any_found |= len(missing) < len(events)
        check = event_check(system, events, missing)
        probed = len(stand_ins & set(events))
        yield replace(check, why=f"{check.why}; {probed} through kprobes") if probed else check
    if not any_found:
        yield Check(
            "events", NO, f"tracepoints of the profile {profile.name}", "this kernel has none of them",
            "a kernel with CONFIG_FTRACE_SYSCALLS and CONFIG_EVENT_TRACING", ("ftrace", "flight", "perf"),
        )  # fmt: skip


def event_check(system: str, events: list[str], missing: list[str]) -> Check:
    """The check of one trace system: which of its tracepoints are there, and what follows from a lack."""
    what = f"tracepoints {system}:*"
    there = f"{len(events) - len(missing)} of {len(events)}"
    if not missing:
        return Check(f"events-{system}", OK, what, there)
    names = ", ".join(event.split("/")[1] for event in missing)
    if system == "syscalls" and len(missing) < len(events):
        # Some machines have never had open, dup2, fork …: their programs use the others.
        return Check(f"events-{system}", OK, what, f"{there}; not on this machine: {names}")
    return Check(
        f"events-{system}", WARN, what, f"{there}; missing: {names}", _ABSENT.get(system, "they are left out")
    )


def _events_by_btf(profile: Profile) -> Iterator[Check]:
    """What the kernel's type information says: it may be read by everybody."""
    for system, events in _systems(profile).items():
        if system == "syscalls":
            events = ["raw_syscalls/sys_enter", "raw_syscalls/sys_exit"]
        missing = btf_lacks(events)
        if missing is None:
            return
        check = event_check(system, events, missing)
        yield Check(check.id, check.state, check.what, f"{check.why} (by BTF)", check.remedy)


def btf_lacks(events: list[str], path: Path = _BTF) -> list[str] | None:
    """Those tracepoints that the kernel's BTF does not name (``btf_trace_<event>``); None without BTF."""
    try:
        with open(path, "rb") as file:
            try:
                data: bytes | mmap.mmap = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError):  # sysfs files cannot be mapped before Linux 6.16
                data = file.read()
            return [e for e in events if data.find(b"\0btf_trace_%s\0" % e.split("/")[1].encode()) < 0]
    except OSError:
        return None


def _instance(instance: tracefs.Instance, profile: Profile) -> Iterator[Check]:
    clocks = instance.read("trace_clock").replace("[", " ").replace("]", " ").split()
    yield _needed("clock", "mono" in clocks, "trace clock 'mono'", "events could not be placed in time")
    yield _needed("event-fork", (instance.path / "options/event-fork").exists(), "following a command",
                  "the option event-fork is missing: children of the command would be missed")  # fmt: skip
    yield _needed("notrace", (instance.path / "set_event_notrace_pid").exists(), "own threads kept out",
                  "no set_event_notrace_pid: a whole host would be recorded with its recorder")  # fmt: skip
    yield _filters(instance, profile)
    if (instance.path / "buffer_subbuf_size_kb").exists():
        yield Check("sub-buffer", OK, "size of sub-buffers", f"{instance.subbuffer_bytes()} bytes")
    else:
        yield Check("sub-buffer", OK, "size of sub-buffers", "a page: this kernel has no other")
    yield _overwrite(instance)
    yield _splice(instance)
    for name, what, found in (
        ("hist", "hist triggers", (instance.path / "events/sched/sched_process_exit/hist").exists()),
        ("snapshot", "snapshots", (instance.path / "snapshot").exists()),
    ):
        why = "there, not used" if found else "not there, not needed"
        yield Check(name, OK, what, why)


def _needed(name: str, found: bool, what: str, lack: str) -> Check:
    if found:
        return Check(name, OK, what, "there")
    return Check(name, NO, what, lack, "a newer kernel, or --source perf", ("ftrace", "flight"))


def _filters(instance: tracefs.Instance, profile: Profile) -> Check:
    for event in profile.tracepoints:
        text = device_filter(event, [(0, 1)])
        if text and instance.has(event):
            try:
                instance.write(f"events/{event}/filter", text)
                instance.write(f"events/{event}/filter", "0")
            except OSError as error:
                return Check(
                    "filters", WARN, "filters on events", f"refused: {error.strerror}",
                    "record without --device; the recorder's own files are in the trace too",
                )  # fmt: skip
            return Check("filters", OK, "filters on events", f"accepted by {event}")
    return Check("filters", WARN, "filters on events", "no event of the profile carries a device")


def _overwrite(instance: tracefs.Instance) -> Check:
    try:
        for value in ("1", "0"):
            instance.write("options/overwrite", value)
    except OSError as error:
        return Check(
            "overwrite", NO, "flight mode", f"the ring buffer's mode cannot be set: {error.strerror}",
            "record in stream mode", ("flight",),
        )  # fmt: skip
    return Check("overwrite", OK, "flight mode", "ring buffers can be overwritten")


def _splice(instance: tracefs.Instance) -> Check:
    """Fill a sub-buffer of the own instance through its marker, and move it as a recorder does."""
    what = "moving sub-buffers by splice"
    try:
        instance.write("buffer_size_kb", "64")
        instance.on()
        marker = os.open(instance.path / "trace_marker", os.O_WRONLY)
        try:
            for _ in range(4 * instance.subbuffer_bytes() // 900):
                os.write(marker, b"x" * 900)
        finally:
            os.close(marker)
            instance.off()
        moved = sum(_moved(instance, cpu) for cpu in instance.cpus())
    except OSError as error:
        return Check("splice", NO, what, f"{error.strerror}", "report this kernel", ("ftrace", "flight"))
    if moved:
        return Check("splice", OK, what, f"{moved} bytes moved")
    return Check("splice", NO, what, "nothing came through", "report this kernel", ("ftrace", "flight"))


def _moved(instance: tracefs.Instance, cpu: int) -> int:
    raw = os.open(instance.path / f"per_cpu/cpu{cpu}/trace_pipe_raw", os.O_RDONLY | os.O_NONBLOCK)
    read, write = os.pipe2(os.O_CLOEXEC)
    try:
        with contextlib.suppress(BlockingIOError):
            return os.splice(raw, write, 1 << 16, flags=os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK)
        return 0
    finally:
        for descriptor in (raw, read, write):
            os.close(descriptor)


def _others(root: Path) -> Iterator[Check]:
    left = [path.name for path in abandoned_instances()]
    if left:
        yield Check("abandoned", WARN, "remains of killed recorders", ", ".join(left), CLEAN)
    else:
        yield Check("abandoned", OK, "remains of killed recorders", "none")
    found = []
    with contextlib.suppress(OSError):
        found = [
            f"instance {n}" for n in sorted(os.listdir(root / "instances")) if not n.startswith("hindsight-")
        ]
        tracer = (root / "current_tracer").read_text().strip()
        if tracer != "nop":
            found.append(f"tracer {tracer}")
        events = (root / "set_event").read_text().split()
        if events:
            found.append(f"{len(events)} events")
    if found:
        yield Check(
            "other-tracers", WARN, "other tracing", ", ".join(found),
            "it is not disturbed; it makes the host slower and the recorder's figures worse",
        )  # fmt: skip
    else:
        yield Check("other-tracers", OK, "other tracing", "none")


def bpf() -> Iterator[Check]:
    """What BPF and probes need; recording uses BPF for --open-files alone."""
    size = 0
    with contextlib.suppress(OSError):
        size = _BTF.stat().st_size
    yield Check("btf", OK, "type information (BTF)", f"{size >> 10} KiB" if size else "none, not needed")
    yield Check("bpf", OK, "bpf(2)", _bpf_map())
    root = tracefs._mounted()
    kprobes = root is not None and os.access(root / "kprobe_events", os.F_OK)
    functions = root is not None and os.access(root / "available_filter_functions", os.F_OK)
    yield Check(
        "probes", OK, "kprobes and fentry",
        f"kprobes: {'there' if kprobes else 'not there, or not shown'}; "
        f"fentry: {'possible' if functions and size else 'not possible, or not shown'}; neither is needed",
    )  # fmt: skip


def _bpf_map() -> str:
    """Try the smallest thing that bpf(2) does: an array of one word, closed at once."""
    import ctypes
    import platform
    import struct

    numbers = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "loongarch64": 280}
    if platform.machine() not in numbers:
        return "not tried on this machine"
    attr = struct.pack("<IIII", 2, 4, 4, 1).ljust(72, b"\0")  # BPF_MAP_TYPE_ARRAY
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.syscall(numbers[platform.machine()], 0, attr, len(attr))
    if descriptor >= 0:
        os.close(descriptor)
        return "allowed"
    number = ctypes.get_errno()
    return {
        errno.EPERM: "not allowed to this user",
        errno.ENOSYS: "not in this kernel",
    }.get(number, os.strerror(number))
