"""What the host is: privileges, clock, memory, disk, pressure information, cgroups, lockdown."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from hindsight.capture import host
from hindsight.capture.operation.check import NO, OK, WARN, Check

CAPABILITIES = {
    "DAC_OVERRIDE": 1,
    "DAC_READ_SEARCH": 2,
    "SYS_PTRACE": 19,
    "SYS_ADMIN": 21,
    "SYS_NICE": 23,
    "SYS_RESOURCE": 24,
    "PERFMON": 38,
    "BPF": 39,
}
"""Numbers of include/uapi/linux/capability.h."""
_LOW_SPACE = 1 << 30
_GOOD_CLOCKS = ("tsc", "arch_sys_counter", "kvm-clock", "timebase", "riscv_clocksource", "tod", "hyperv")


def read(path: str) -> str | None:
    """The text of a small file without its last newline, None when it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").rstrip("\n")
    except OSError:
        return None


def effective_capabilities() -> set[str]:
    """Those of :data:`CAPABILITIES` that this process has."""
    match = re.search(r"^CapEff:\s*([0-9a-f]+)$", read("/proc/self/status") or "", re.MULTILINE)
    mask = int(match[1], 16) if match else 0
    return {name for name, number in CAPABILITIES.items() if mask >> number & 1}


def privileges() -> Iterator[Check]:
    """Root, and the capabilities that recording uses."""
    has = effective_capabilities()
    listed = ", ".join(sorted(has)) or "none of those that matter"
    if os.geteuid() == 0:
        yield Check("user", OK, "root", f"user id 0; capabilities: {listed}")
    else:
        yield Check(
            "user", NO, "root", f"user id {os.geteuid()}; capabilities: {listed}",
            "sudo hindsight capture doctor; without root only --source perf can work, with CAP_PERFMON",
            ("ftrace",),
        )  # fmt: skip
    if has & {"DAC_READ_SEARCH"}:
        yield Check("file-handles", OK, "files by inode number", "CAP_DAC_READ_SEARCH is there")
    else:
        yield Check(
            "file-handles", WARN, "files by inode number",
            "without CAP_DAC_READ_SEARCH the sizes of files that are closed at the end are not found",
            "give the recorder CAP_DAC_READ_SEARCH (the unit hindsight-capture.service does)",
        )  # fmt: skip
    if has & {"SYS_PTRACE"} or os.geteuid() == 0:
        yield Check("open-files", OK, "open files of all processes", "/proc/PID/fd can be read")
    else:
        yield Check(
            "open-files", WARN, "open files of all processes",
            "/proc/PID/fd of other users cannot be read: files opened before the recording stay unknown",
            "give the recorder CAP_SYS_PTRACE (the unit hindsight-capture.service does)",
        )  # fmt: skip


def machine() -> Iterator[Check]:
    """Byte order, clock source, lockdown."""
    if sys.byteorder == "little":
        yield Check("byte-order", OK, "little-endian machine", "it is")
    else:
        yield Check(
            "byte-order", NO, "little-endian machine", "recordings of others cannot be converted",
            blocks=("ftrace", "perf"),
        )  # fmt: skip
    source = read("/sys/devices/system/clocksource/clocksource0/current_clocksource")
    if source is None or source.startswith(_GOOD_CLOCKS):
        yield Check("clock-source", OK, "a fast clock", source or "unknown")
    else:
        yield Check(
            "clock-source", WARN, "a fast clock", f"{source}: each event costs more than usual",
            "look in the kernel log why the tsc was found unstable (tsc=reliable when it is not)",
        )  # fmt: skip
    yield _lockdown()


def _lockdown() -> Check:
    text = read("/sys/kernel/security/lockdown")
    mode = re.search(r"\[(\w+)\]", text or "")
    if mode is None or mode[1] == "none":
        return Check("lockdown", OK, "kernel lockdown", "off" if text else "not in this kernel, or not shown")
    if mode[1] == "integrity":
        return Check("lockdown", OK, "kernel lockdown", "integrity: tracing is still allowed")
    return Check(
        "lockdown", NO, "kernel lockdown", f"{mode[1]}: the kernel refuses tracefs and perf",
        "boot with lockdown=integrity, or without", ("ftrace", "perf"),
    )  # fmt: skip


def memory(buffer_kb: int, cpus: int) -> Check:
    """Whether the ring buffers fit: ``buffer_kb`` per CPU in all instances together."""
    wanted = buffer_kb * cpus
    text = read("/proc/meminfo") or ""
    match = re.search(r"^MemAvailable:\s*(\d+)", text, re.MULTILINE)
    available = int(match[1]) if match else 0
    why = f"{wanted >> 10} MiB for {cpus} CPUs, {available >> 10} MiB available"
    if not match or wanted * 10 <= available:
        return Check("memory", OK, "memory for ring buffers", why)
    remedy = "use a smaller --buffer-kb, or --max-memory"
    if wanted > available:
        return Check("memory", NO, "memory for ring buffers", why, remedy, ("ftrace", "perf"))
    return Check("memory", WARN, "memory for ring buffers", why, remedy)


def disk(out: Path, min_free: int) -> Check:
    """Whether ``out``, or the nearest directory above it that exists, can hold recordings."""
    place = out.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        status = os.statvfs(place)
    except OSError as error:
        return Check("disk", NO, "space for recordings", f"{place}: {error.strerror}", "name another -o DIR")
    free = status.f_bavail * status.f_frsize
    why = f"{free >> 20} MiB free in {place}"
    if not os.access(place, os.W_OK | os.X_OK) or not place.is_dir():
        return Check(
            "disk", NO, "space for recordings", f"{place} cannot be written", "name another -o DIR",
            ("ftrace", "perf"),
        )  # fmt: skip
    if free <= min_free:
        remedy = "free some space, or name another -o DIR"
        return Check("disk", NO, "space for recordings", why, remedy, ("ftrace", "perf"))
    if free < _LOW_SPACE:
        remedy = "a busy host records about 0.4 MiB a second: use --max-disk, --duty, or another -o DIR"
        return Check("disk", WARN, "space for recordings", why, remedy)
    return Check("disk", OK, "space for recordings", why)


def pressure() -> Check:
    """Pressure stall information, for --psi."""
    found = [name for name in ("cpu", "io", "memory") if os.path.exists(f"/proc/pressure/{name}")]
    if not found:
        return Check(
            "psi", NO, "pressure stall information", "no /proc/pressure",
            "boot with psi=1 (needs CONFIG_PSI); without it there is no --psi", ("psi",),
        )  # fmt: skip
    if not all(os.access(f"/proc/pressure/{name}", os.W_OK) for name in found):
        return Check(
            "psi", NO, "pressure stall information", "/proc/pressure may not be written by this user",
            "run it as root for --psi", ("psi",),
        )  # fmt: skip
    # kernel/sched/psi.c of Linux 6.5: who lacks the capability gets the averages' own period only.
    windows = "" if "SYS_RESOURCE" in effective_capabilities() else "; windows of 2 s, 4 s, … only"
    return Check("psi", OK, "pressure stall information", f"thresholds on {', '.join(found)}{windows}")


def cgroups() -> Check:
    """Which block and memory controllers there are: throttling is recorded as a fact of a device."""
    found = []
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mounts").read_text(errors="replace").splitlines():
            _, where, kind, options, *_ = line.split(" ")
            if kind == "cgroup":
                found += [f"{name} (v1)" for name in ("blkio", "memory") if name in options.split(",")]
            elif kind == "cgroup2":
                names = (read(f"{where}/cgroup.controllers") or "").split()
                found += [f"{name} (v2)" for name in ("io", "memory") if name in names]
    if any(name.startswith(("blkio", "io")) for name in found):
        return Check("cgroups", OK, "block and memory cgroups", ", ".join(sorted(found)))
    return Check(
        "cgroups", WARN, "block and memory cgroups", ", ".join(sorted(found)) or "none is mounted",
        "limits of a block cgroup are not recorded: they cannot be told from a slow device",
    )  # fmt: skip


def host_key() -> Check:
    """Where the key of the pseudonyms is, or would be."""
    place = host.KEY_PATH
    if os.access(place, os.R_OK):
        return Check("host-key", OK, "key of the pseudonyms", f"{place}")
    parent = place.parent if place.parent.exists() else place.parent.parent
    if not place.exists() and os.access(parent, os.W_OK):
        return Check("host-key", OK, "key of the pseudonyms", f"{place} will be made")
    return Check(
        "host-key", WARN, "key of the pseudonyms",
        f"{place} cannot be used by this user: each output directory gets a key and pseudonyms of its own",
        "record as root once, or run: sudo hindsight capture install",
    )  # fmt: skip
