"""Another readahead limit for files that a running program has open, without touching the program.

A duplicate of its descriptor (pidfd_getfd(2), Linux 5.6 on; ptrace permission is needed) shares the open
file, and posix_fadvise(2) on the duplicate acts on it: RANDOM makes reads exact; NORMAL takes the limit that
the device has *at that moment*, so the device's limit is changed for the length of that call and put back.
A file that is opened meanwhile gets it, too: windows are serialised, and short.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hindsight.errors import NotPermittedError
from hindsight.lab.device import LabDevice, read_ahead, set_read_ahead

EXACT = 0
"""Instead of a limit in KiB: read what is asked for and nothing ahead."""

LOOK_SECONDS = 0.02
"""Between two looks at the descriptors of the programs when no file was opened."""
AGAIN_SECONDS = 0.0002
"""After a file was opened, if its descriptor is not there yet."""
_AGAIN = 5

_PIDFD_GETFD = 438
"""Number of pidfd_getfd(2), the same on every architecture (include/uapi/asm-generic/unistd.h)."""
_KCMP = {"x86_64": 312, "aarch64": 272, "riscv64": 272}.get(os.uname().machine, -1)
_KCMP_FILE = 0
_IN_OPEN = 0x20
"""include/uapi/linux/inotify.h"""

_window = threading.Lock()
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Advice:
    """``kilobytes`` (or :data:`EXACT`) for a file, ``after_ns`` from when it was first seen open."""

    after_ns: int
    kilobytes: int


Schedule = Mapping[int, Sequence[Advice]]
"""Inode -> what to do to its open files, sorted by time."""


def duplicate(pid: int, fd: int) -> int:
    """A descriptor of ours that shares the open file of ``fd`` in process ``pid``.

    Raises ProcessLookupError or OSError (EBADF) if either is gone, NotPermittedError where it is not allowed.
    """
    process = os.pidfd_open(pid)
    try:
        copy = int(_libc.syscall(_PIDFD_GETFD, process, fd, 0))
        if copy < 0:
            number = ctypes.get_errno()
            if number in (errno.EPERM, errno.ENOSYS):
                raise NotPermittedError(
                    f"cannot share a descriptor of process {pid}: {os.strerror(number)}",
                    "Run as root, on a kernel with pidfd_getfd (Linux 5.6 or later).",
                )
            raise OSError(number, os.strerror(number))
        return copy
    finally:
        os.close(process)


def rearm(device: LabDevice, fd: int, kilobytes: int) -> None:
    """Give the open file of our descriptor ``fd``, on ``device``, that limit, or exact reads."""
    if kilobytes == EXACT:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        return
    with _window:
        before = read_ahead(device)
        try:
            set_read_ahead(device, kilobytes)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_NORMAL)
        finally:
            set_read_ahead(device, before)


def same_open_file(ours: int, pid: int, fd: int) -> bool:
    """Whether our descriptor and theirs share one open file: kcmp(2), kernel/kcmp.c.

    Raises ProcessLookupError or OSError (EBADF) if theirs is gone, NotPermittedError where it cannot be told.
    """
    result = int(_libc.syscall(_KCMP, os.getpid(), pid, _KCMP_FILE, ours, fd))
    if result < 0:
        number = ctypes.get_errno()
        if number in (errno.EPERM, errno.ENOSYS):
            raise NotPermittedError(
                f"cannot compare descriptors with process {pid}: {os.strerror(number)}",
                "Run as root, on a kernel with CONFIG_KCMP.",
            )
        raise OSError(number, os.strerror(number))
    return result == 0


@dataclass
class _OpenFile:
    """One that was seen: our duplicate, when, and how much of the plan was done."""

    ours: int
    begun_ns: int
    done: int = 0


class Openings:
    """Waits for files to be opened in directories. Raises OSError when the kernel cannot tell."""

    def __init__(self, directories: Iterable[Path]) -> None:
        self._told = self._check(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self._woken, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            for directory in sorted(set(directories)):
                self._check(_libc.inotify_add_watch(self._told, os.fsencode(directory), _IN_OPEN))
        except OSError:
            self.close()
            raise

    @staticmethod
    def _check(result: int) -> int:
        if result < 0:
            raise OSError(ctypes.get_errno(), f"inotify: {os.strerror(ctypes.get_errno())}")
        return result

    def wait(self, seconds: float) -> bool:
        """Whether a file was opened, waiting for it at most so long."""
        ready, _, _ = select.select([self._told, self._woken], [], [], seconds)
        if self._told not in ready:
            return False
        with contextlib.suppress(BlockingIOError):
            while os.read(self._told, 1 << 16):
                pass
        return True

    def wake(self) -> None:
        """End a wait, from another thread."""
        os.write(self._wake, b"!")

    def close(self) -> None:
        """Watch no longer."""
        for descriptor in (self._told, self._woken, self._wake):
            os.close(descriptor)


class Rearming:
    """Follows a schedule while a ``with`` block lasts: every open file gets the advice for its inode, each
    time that the file is opened anew.

    ``directories``: those of the files; the kernel tells of every file that is opened there (inotify(7)).
    ``advised`` counts; ``late_ns`` is the worst delay from the time asked for to having acted. A duplicate of
    every open file is kept until the end, so that one that follows it is not taken for it.
    """

    def __init__(self, device: LabDevice, schedule: Schedule, directories: Iterable[Path]) -> None:
        self.device, self.schedule = device, schedule
        self.advised = self.late_ns = 0
        self._openings = Openings(directories)
        self._seen: dict[int, list[_OpenFile]] = {}
        self._end = threading.Event()
        self._failure: BaseException | None = None
        self._number = os.makedev(*map(int, device.number.split(":")))
        self._thread = threading.Thread(target=self._follow, name="rearming")

    def __enter__(self) -> Rearming:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._openings.wake()
        self._thread.join()
        self._openings.close()
        for opened in (one for several in self._seen.values() for one in several):
            os.close(opened.ours)
        if self._failure is not None:
            raise self._failure

    def _follow(self) -> None:
        try:
            again = 0
            while not self._end.is_set():
                known = sum(map(len, self._seen.values()))
                for pid in self.device.throttle.pids():
                    self._look(pid)
                if sum(map(len, self._seen.values())) > known:
                    again = 0
                wait = AGAIN_SECONDS if again else min(LOOK_SECONDS, self._until_due())
                again = _AGAIN if self._openings.wait(wait) else max(again - 1, 0)
        except BaseException as error:
            self._failure = error

    def _until_due(self) -> float:
        """Seconds until the next advice to a file that is open."""
        now = time.monotonic_ns()
        due = [
            opened.begun_ns + plan[opened.done].after_ns
            for inode, plan in self.schedule.items()
            for opened in self._seen.get(inode, ())
            if opened.done < len(plan)
        ]
        return max(min(due, default=now + 1_000_000_000) - now, 0) / 1e9

    def _look(self, pid: int) -> None:
        try:
            entries = list(os.scandir(f"/proc/{pid}/fd"))
        except OSError:
            return  # it ended
        for entry in entries:
            try:
                status = entry.stat()
                if status.st_dev == self._number and status.st_ino in self.schedule:
                    opened = self._opened(pid, int(entry.name), status.st_ino)
                    self._act(opened, self.schedule[status.st_ino])
            except (ProcessLookupError, FileNotFoundError):
                continue
            except OSError as error:
                if error.errno != errno.EBADF:  # closed meanwhile
                    raise

    def _opened(self, pid: int, fd: int, inode: int) -> _OpenFile:
        known = self._seen.setdefault(inode, [])
        for opened in known:
            if same_open_file(opened.ours, pid, fd):
                return opened
        ours = duplicate(pid, fd)
        status = os.fstat(ours)
        if (status.st_dev, status.st_ino) != (self._number, inode):
            os.close(ours)
            raise FileNotFoundError  # the number belongs to another file by now: it is looked at again
        known.append(_OpenFile(ours, time.monotonic_ns()))
        return known[-1]

    def _act(self, opened: _OpenFile, plan: Sequence[Advice]) -> None:
        while opened.done < len(plan):
            due = opened.begun_ns + plan[opened.done].after_ns
            if time.monotonic_ns() < due:
                return
            rearm(self.device, opened.ours, plan[opened.done].kilobytes)
            self.advised += 1
            self.late_ns = max(self.late_ns, time.monotonic_ns() - due)
            opened.done += 1


def every_file(paths: Sequence[Path], kilobytes: int) -> dict[int, list[Advice]]:
    """The schedule that gives all these files the same, at once."""
    return {path.stat().st_ino: [Advice(0, kilobytes)] for path in paths}
