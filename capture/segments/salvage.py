"""What the ring buffers of a recorder that died still hold: read into its files; its instances removed."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from dataclasses import dataclass
from pathlib import Path

from hindsight.capture.ftrace.tracefs import parse_stats

_ROOM_BYTES = 1 << 20
_TRIES = 50


@dataclass(frozen=True)
class Salvaged:
    """When the instance was switched off (CLOCK_MONOTONIC, ns), the bytes read, the last counters by CPU."""

    off_ns: int
    bytes: int
    stats: dict[str, dict[str, int]]


def salvage(instance: Path, directory: Path, subbuffer_bytes: int) -> Salvaged:
    """Switch a tracefs instance off and append what its ring buffers hold to ``directory/cpu<N>.pages``.

    The files there hold whole sub-buffers. May be repeated: what was read is no longer in the ring buffers.
    Raises OSError, ENOSPC before anything is read when there is no room for it.
    """
    _write(instance / "tracing_on", b"0")
    off_ns = time.monotonic_ns()
    cpus = {p.name[3:]: p for p in (instance / "per_cpu").iterdir() if p.name.startswith("cpu")}
    waiting = sum(
        parse_stats((path / "stats").read_bytes()).get("bytes", 0) * 2 + subbuffer_bytes
        for path in cpus.values()
    )
    space = os.statvfs(directory)
    if space.f_bavail * space.f_frsize < waiting + _ROOM_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    moved = sum(
        _append(path / "trace_pipe_raw", directory / f"cpu{cpu}.pages", subbuffer_bytes)
        for cpu, path in cpus.items()
    )
    return Salvaged(
        off_ns, moved, {cpu: parse_stats((path / "stats").read_bytes()) for cpu, path in cpus.items()}
    )


def _append(ring: Path, file: Path, subbuffer_bytes: int) -> int:
    moved = 0
    raw = os.open(ring, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        out = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(out, "ab", buffering=1 << 20) as opened:
            while True:
                try:
                    page = os.read(raw, subbuffer_bytes)
                except BlockingIOError:
                    break
                if not page:
                    break
                moved += opened.write(page.ljust(subbuffer_bytes, b"\0"))
    finally:
        os.close(raw)
    return moved


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


def remove_instance(instance: Path) -> str | None:
    """Remove a tracefs instance; None when it is gone, else why it could not be removed."""
    with contextlib.suppress(OSError):
        _write(instance / "tracing_on", b"0")
    why = ""
    for _ in range(_TRIES):
        try:
            instance.rmdir()
            return None
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENODEV):  # somebody else removes it
                return None
            why = error.strerror or str(error)
            if error.errno != errno.EBUSY:
                break
            time.sleep(0.02)  # while the kernel lets go of a reader
    return why
