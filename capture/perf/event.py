"""perf_event_open(2) for tracepoints: attributes, groups, counts, and what to do when it is refused.

Layouts: include/uapi/linux/perf_event.h of Linux 6.18. Only attributes of its fifth published size (112
bytes, Linux 4.8) are used; PERF_FORMAT_LOST, without which losses could not be told, came with 6.0.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import resource
import struct
import sys
from pathlib import Path

from hindsight.errors import HindsightError, NotPermittedError

TYPE_SOFTWARE, TYPE_TRACEPOINT = 1, 2
COUNT_SW_DUMMY, COUNT_SW_BPF_OUTPUT = 9, 10

SAMPLE_TIME, SAMPLE_RAW, SAMPLE_IDENTIFIER = 1 << 2, 1 << 10, 1 << 16
SAMPLE_TYPE = SAMPLE_TIME | SAMPLE_RAW | SAMPLE_IDENTIFIER
"""What a sample holds, in this order: u64 identifier, u64 time, u32 size of the tracepoint's record, it.

The record itself names the tracepoint (``common_type``) and the thread (``common_pid``, in the first pid
namespace, as ftrace gives it); the ring buffer is that of the processor. So nothing else is sampled.
"""
FORMAT_GROUP, FORMAT_LOST = 1 << 3, 1 << 4

DISABLED, INHERIT, WATERMARK, SAMPLE_ID_ALL, USE_CLOCKID = 1 << 0, 1 << 1, 1 << 14, 1 << 18, 1 << 25
_FLAG_FD_CLOEXEC = 1 << 3

_ATTR = struct.Struct("<IIQQQQQIIQQQQIiQIHH")
_CLOCK_MONOTONIC = 1

_IOC_ENABLE, _IOC_DISABLE, _IOC_SET_OUTPUT = 0x2400, 0x2401, 0x2405
_IOC_SET_FILTER = 0x40000006 | 0x2400 | struct.calcsize("P") << 16

_NUMBERS = {"x86_64": 298, "aarch64": 241, "riscv64": 241, "loongarch64": 241, "ppc64le": 319}
"""The system call's number by machine (arch/*/include/asm/unistd*, syscall tables)."""

_PARANOID = Path("/proc/sys/kernel/perf_event_paranoid")
_FTRACE_REMEDY = "Record with --source ftrace, as root."


def attribute(
    kind: int, config: int, *, sampled: bool, read_format: int, flags: int, wakeup_bytes: int = 0
) -> bytes:
    """A ``struct perf_event_attr``: every occurrence is sampled (``sampled``), time is CLOCK_MONOTONIC."""
    period, sample_type = (1, SAMPLE_TYPE) if sampled else (0, 0)
    flags |= USE_CLOCKID | (SAMPLE_ID_ALL | WATERMARK if sampled else 0)
    return _ATTR.pack(
        kind, _ATTR.size, config, period, sample_type, read_format, flags, wakeup_bytes,
        0, 0, 0, 0, 0, 0, _CLOCK_MONOTONIC, 0, 0, 0, 0,
    )  # fmt: skip


def supported() -> bool:
    """Whether this program knows how to call perf_event_open on this machine."""
    return platform.machine() in _NUMBERS and sys.maxsize > 1 << 32 and sys.byteorder == "little"


def open_event(attr: bytes, pid: int, cpu: int, group: int = -1) -> int:
    """Open an event; returns its descriptor (close-on-exec).

    ``pid`` -1: all threads; ``group``: the descriptor of the leader, -1 for none.
    Raises OSError as the kernel returns it, NotPermittedError on a machine that :func:`supported` excludes.
    """
    if not supported():
        raise NotPermittedError(f"perf events are not supported on {platform.machine()}", _FTRACE_REMEDY)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    buffer = ctypes.create_string_buffer(attr, len(attr))
    descriptor = libc.syscall(
        ctypes.c_long(_NUMBERS[platform.machine()]),
        buffer,
        ctypes.c_long(pid),
        ctypes.c_long(cpu),
        ctypes.c_long(group),
        ctypes.c_ulong(_FLAG_FD_CLOEXEC),
    )
    if descriptor < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(descriptor)


def enable(descriptor: int, enabled: bool = True) -> None:
    """Let an event count and sample, or stop it (a leader: its whole group)."""
    fcntl.ioctl(descriptor, _IOC_ENABLE if enabled else _IOC_DISABLE, 0)


def set_output(descriptor: int, ring: int) -> None:
    """Let an event write to the ring buffer of another one of the same processor."""
    fcntl.ioctl(descriptor, _IOC_SET_OUTPUT, ring)


def set_filter(descriptor: int, text: str) -> None:
    """Filter an event as tracefs' ``filter`` files do. Can be done once only (EEXIST)."""
    fcntl.ioctl(descriptor, _IOC_SET_FILTER, text.encode() + b"\0")


def read_count(descriptor: int) -> tuple[int, int]:
    """How often the event occurred, and how many of its samples did not fit into the ring buffer.

    The event was opened with the read format FORMAT_LOST; children's counts are included.
    """
    count, lost = struct.unpack("<QQ", os.read(descriptor, 16))
    return count, lost


def read_group(leader: int, members: int) -> tuple[int, int]:
    """The same, summed over a group of so many members that was opened with FORMAT_GROUP and FORMAT_LOST.

    The leader itself, a dummy, counts nothing.
    """
    data = os.read(leader, 8 + 16 * (members + 1))
    values = struct.unpack(f"<{len(data) // 8}Q", data)[1:]
    return sum(values[0::2]), sum(values[1::2])


def raise_descriptor_limit(needed: int) -> None:
    """Make room for so many descriptors more. Raises NotPermittedError when the hard limit is too low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    wanted = used + needed + 64
    if soft == resource.RLIM_INFINITY or wanted <= soft:
        return
    if hard != resource.RLIM_INFINITY and wanted > hard:
        try:  # CAP_SYS_RESOURCE may raise the hard limit, up to fs.nr_open
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
            return
        except (OSError, ValueError):
            raise NotPermittedError(
                f"perf events need {wanted} descriptors (one per event and processor), the limit is {hard}",
                f"Raise it: LimitNOFILE={wanted} in the systemd unit, or: ulimit -Hn {wanted}",
            ) from None
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def refused(error: OSError, what: str, buffer_kb: int = 0) -> HindsightError:
    """What to tell the user about an error of perf_event_open or of mapping its ring buffer."""
    number = error.errno
    if number in (errno.EACCES, errno.EPERM) and buffer_kb:
        return NotPermittedError(
            f"a ring buffer of {buffer_kb} KiB per CPU may not be locked in memory",
            "Grant CAP_IPC_LOCK, raise LimitMEMLOCK, or use a smaller --buffer-kb.",
        )
    if number in (errno.EACCES, errno.EPERM):
        level = ""
        with contextlib.suppress(OSError):
            level = f" (kernel.perf_event_paranoid is {_PARANOID.read_text().strip()})"
        return NotPermittedError(
            f"this process may not open perf events{level}",
            "Grant it CAP_PERFMON (Linux 5.8 or later), or: sysctl kernel.perf_event_paranoid=-1",
        )
    if number == errno.ENOMEM and buffer_kb:
        return HindsightError(
            f"ring buffers of {buffer_kb} KiB per CPU cannot be allocated", "Use a smaller --buffer-kb."
        )
    if number in (errno.ENOSYS, errno.ENOENT, errno.EINVAL, errno.EOPNOTSUPP, errno.E2BIG):
        return NotPermittedError(
            f"this kernel cannot record {what} through perf events: {error.strerror}",
            f"It needs Linux 6.0 or later (PERF_FORMAT_LOST). {_FTRACE_REMEDY}",
        )
    return HindsightError(f"{what} cannot be recorded through perf events: {error.strerror}", _FTRACE_REMEDY)
