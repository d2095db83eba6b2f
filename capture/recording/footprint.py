"""What a recorder itself uses: processor time, memory, disk. Cheap enough for every look."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")
_RESCAN_S = 60.0
_SETTLED_NS = 100_000_000
"""A directory's time is that of the kernel's tick: until so long after, another change may share it."""
_UNSEALED = ".recording-"
_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Use:
    """``cpu_ns``: user and system time of all threads of this process, ended ones as well, children not.

    ``rss_bytes``: resident memory. ``disk_bytes``: allocated to recordings in the output directory;
    ``free_bytes``: what its file system has left for unprivileged writers.
    """

    cpu_ns: int
    rss_bytes: int
    disk_bytes: int
    free_bytes: int


def resident_bytes() -> int:
    """Resident memory of this process (/proc/self/statm)."""
    with open("/proc/self/statm", "rb", buffering=0) as file:
        return int(file.read().split()[1]) * _PAGE


def peak_resident_bytes() -> int:
    """The largest resident memory so far (VmHWM); unlike ru_maxrss not that of the program before exec."""
    with open("/proc/self/status", "rb") as file:
        for line in file:
            if line.startswith(b"VmHWM:"):
                return int(line.split()[1]) * 1024
    return resident_bytes()


def own_cpu_ns() -> int:
    """Processor time of this process, all its threads (CLOCK_PROCESS_CPUTIME_ID)."""
    return time.process_time_ns()


class Footprint:
    """Measures this process and its output directory ``out``, which must exist.

    Recordings of others in ``out`` count as well; other files do not. The directory is scanned when its
    entries changed, and each minute; sealed recordings, which never change, only once. In between, it grows
    by the raw bytes that the caller wrote.
    """

    def __init__(self, out: Path) -> None:
        self._out = os.open(out, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._sealed: dict[str, tuple[int, int]] = {}  # name → time of its last change, bytes
        self._scanned_bytes = 0
        self._scanned_raw = 0
        self._scanned_at = float("-inf")
        self._changed_ns = -1

    def close(self) -> None:
        """Let go of the directory."""
        if self._out >= 0:
            os.close(self._out)
        self._out = -1

    def look(self, raw_bytes: int) -> Use:
        """Measure; ``raw_bytes``: what this process has written into ``out`` since it began."""
        changed_ns = os.fstat(self._out).st_mtime_ns
        if changed_ns != self._changed_ns or time.monotonic() - self._scanned_at >= _RESCAN_S:
            self._scan(raw_bytes)
            settled = time.time_ns() - changed_ns > _SETTLED_NS
            self._changed_ns = changed_ns if settled else -1
        grown = self._scanned_bytes + raw_bytes - self._scanned_raw
        space = os.fstatvfs(self._out)
        return Use(own_cpu_ns(), resident_bytes(), max(grown, 0), space.f_bavail * space.f_frsize)

    def _scan(self, raw_bytes: int) -> None:
        sealed: dict[str, tuple[int, int]] = {}
        total = 0
        with os.scandir(self._out) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):  # it went away meanwhile
                    if not entry.is_dir(follow_symlinks=False):
                        continue
                    if entry.name.startswith(_UNSEALED):
                        total += _allocated(entry.name, self._out)
                        continue
                    changed_ns = entry.stat(follow_symlinks=False).st_mtime_ns
                    known = self._sealed.get(entry.name)
                    if known is None or known[0] != changed_ns:
                        known = (changed_ns, self._recording_bytes(entry.name))
                    sealed[entry.name] = known
                    total += known[1]
        self._sealed = sealed
        self._scanned_bytes, self._scanned_raw, self._scanned_at = total, raw_bytes, time.monotonic()

    def _recording_bytes(self, name: str) -> int:
        try:
            os.stat(f"{name}/{_MANIFEST}", dir_fd=self._out)
        except OSError:
            return 0  # not a recording
        return _allocated(name, self._out)


def _allocated(name: str, parent: int) -> int:
    """Bytes allocated to a directory and all below it (st_blocks counts 512 bytes, stat(2))."""
    total = 0
    for _, _, files, directory in os.fwalk(name, dir_fd=parent):
        total += os.fstat(directory).st_blocks * 512
        for file in files:
            with contextlib.suppress(OSError):
                total += os.stat(file, dir_fd=directory, follow_symlinks=False).st_blocks * 512
    return total
