"""A block cgroup whose reads of some devices are throttled, and a memory cgroup that limits what is cached.

Of either cgroup version: version 1 has ``blkio.throttle.read_{iops,bps}_device`` (block/blk-throttle.c) and
``memory.limit_in_bytes``, version 2 ``io.max`` and ``memory.max`` (Documentation/admin-guide/cgroup-v2.rst).
Which one exists is probed from the mounts, never from a version.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hindsight.errors import HindsightError, NotPermittedError

_JOIN = 'while [ "$1" != -- ]; do echo 0 > "$1/cgroup.procs" || exit 1; shift; done; shift; exec "$@"'
_GROUP_REMEDY = (
    "Mount one: `mount -t cgroup -o blkio blkio /sys/fs/cgroup/blkio`, or a cgroup2 hierarchy with the io "
    "controller; the kernel needs CONFIG_BLK_DEV_THROTTLING."
)


_MEMORY_REMEDY = (
    "Mount one: `mount -t cgroup -o memory memory /sys/fs/cgroup/memory`, or a cgroup2 hierarchy with the "
    "memory controller; the kernel needs CONFIG_MEMCG."
)


@dataclass(frozen=True)
class Hierarchy:
    """A mounted cgroup hierarchy with a controller; ``version`` is 1 or 2."""

    version: int
    root: Path


def rules(version: int, device: str, read_iops: int | None, read_bps: int | None) -> list[tuple[str, str]]:
    """The (file, line) pairs that limit reads of ``device`` (``major:minor``); None lifts a limit."""
    if version == 1:
        return [
            ("blkio.throttle.read_iops_device", f"{device} {read_iops or 0}"),
            ("blkio.throttle.read_bps_device", f"{device} {read_bps or 0}"),
        ]
    return [("io.max", f"{device} riops={read_iops or 'max'} rbps={read_bps or 'max'}")]


def find_hierarchy(mountinfo: str | None = None) -> Hierarchy:
    """The hierarchy that can throttle, version 1 first (a controller is in one of the two at a time).

    ``mountinfo`` is the text of /proc/self/mountinfo. Raises NotPermittedError if there is none.
    """
    found = _hierarchies("blkio.throttle.read_iops_device", "io", mountinfo)
    if not found:
        raise NotPermittedError("no cgroup hierarchy here can throttle a block device", _GROUP_REMEDY)
    return min(found, key=lambda hierarchy: hierarchy.version)


def find_memory_hierarchy(mountinfo: str | None = None) -> Hierarchy:
    """The hierarchy that can limit memory, as :func:`find_hierarchy`. NotPermittedError if there is none."""
    found = _hierarchies("memory.limit_in_bytes", "memory", mountinfo)
    if not found:
        raise NotPermittedError("no cgroup hierarchy here can limit memory", _MEMORY_REMEDY)
    return min(found, key=lambda hierarchy: hierarchy.version)


def _hierarchies(file: str, controller: str, mountinfo: str | None) -> list[Hierarchy]:
    """Those of version 1 whose root has ``file``, those of version 2 that have ``controller``."""
    text = Path("/proc/self/mountinfo").read_text() if mountinfo is None else mountinfo
    found: list[Hierarchy] = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields, (fstype, *_) = left.split(), right.split()
        root = Path(fields[4])
        if fstype == "cgroup" and (root / file).exists():
            found.append(Hierarchy(1, root))
        elif fstype == "cgroup2" and controller in _read(root / "cgroup.controllers").split():
            found.append(Hierarchy(2, root))
    return found


def joining(groups: Sequence[Path], argv: Sequence[str]) -> list[str]:
    """``argv`` so wrapped that it starts as a member of all of ``groups`` (a shell joins and execs it)."""
    return ["/bin/sh", "-c", _JOIN, "sh", *map(str, groups), "--", *argv]


class ThrottleGroup:
    """One cgroup under the root of a hierarchy; create it, limit devices, run commands in it, remove it."""

    controller = "io"

    def __init__(self, name: str, hierarchy: Hierarchy) -> None:
        self.hierarchy = hierarchy
        self.path = hierarchy.root / name

    def create(self) -> None:
        """Make the group. Raises NotPermittedError where the kernel refuses."""
        try:
            if self.hierarchy.version == 2:
                (self.hierarchy.root / "cgroup.subtree_control").write_text(f"+{self.controller}")
            self.path.mkdir(exist_ok=True)
        except OSError as error:
            raise NotPermittedError(f"cannot make the cgroup {self.path}: {error}", "Run as root.") from error

    def limit(self, device: str, read_iops: int | None, read_bps: int | None) -> None:
        """Limit reads of ``device`` (``major:minor``) by the group's processes, per second; None lifts."""
        for file, line in rules(self.hierarchy.version, device, read_iops, read_bps):
            try:
                (self.path / file).write_text(line)
            except OSError as error:
                raise NotPermittedError(
                    f"cannot write {line!r} to {self.path / file}: {error}",
                    "Run as root on a kernel with CONFIG_BLK_DEV_THROTTLING.",
                ) from error

    def command(self, argv: Sequence[str]) -> list[str]:
        """``argv`` so wrapped that it starts as a member of the group (the shell execs it)."""
        return joining([self.path], argv)

    def pids(self) -> list[int]:
        """Processes in the group now."""
        return [int(pid) for pid in _read(self.path / "cgroup.procs").split()]

    def empty(self) -> None:
        """End the group's processes: SIGTERM, SIGKILL after a second.

        Raises HindsightError if it still has some after five seconds.
        """
        deadline = time.monotonic() + 5
        kill_after = time.monotonic() + 1
        while pids := self.pids():
            if time.monotonic() > deadline:
                raise HindsightError(
                    f"processes {', '.join(map(str, pids))} of {self.path} do not end",
                    "They wait for something in the kernel: see /proc/PID/stack.",
                )
            for pid in pids:
                _kill(pid, signal.SIGTERM if time.monotonic() < kill_after else signal.SIGKILL)
            time.sleep(0.05)

    def remove(self) -> None:
        """End the group's processes, as :meth:`empty`, and remove it; no error if absent.

        Raises HindsightError if that is not done after five seconds.
        """
        deadline = time.monotonic() + 5
        while self.path.exists():
            self.empty()
            try:
                self.path.rmdir()
            except OSError as error:
                if time.monotonic() > deadline:
                    raise HindsightError(
                        f"cannot remove the cgroup {self.path}: {error}",
                        f"End its processes ({self.path}/cgroup.procs), then `rmdir {self.path}`.",
                    ) from error
                time.sleep(0.05)


class CacheGroup(ThrottleGroup):
    """A cgroup whose memory, and with it the page cache that its processes fill, is limited."""

    controller = "memory"

    def limit_memory(self, size: int) -> None:
        """At most ``size`` bytes. Raises NotPermittedError where the kernel does not take it."""
        file = self.path / ("memory.limit_in_bytes" if self.hierarchy.version == 1 else "memory.max")
        try:
            file.write_text(str(size))
            taken = int(file.read_text())
        except (OSError, ValueError) as error:
            raise NotPermittedError(f"cannot write {size} to {file}: {error}", "Run as root.") from error
        if not size - (64 << 10) < taken <= size:
            raise NotPermittedError(f"the kernel took {taken} for {size} in {file}", "Ask for whole MiB.")


@contextlib.contextmanager
def cache_group(name: str, size: int) -> Iterator[CacheGroup]:
    """A group of ``size`` bytes of memory for the length of a ``with`` block.

    Raises NotPermittedError where it cannot be made or limited.
    """
    group = CacheGroup(name, find_memory_hierarchy())
    try:
        group.create()
        group.limit_memory(size)
        yield group
    finally:
        group.remove()


def _kill(pid: int, number: int) -> None:
    if pid <= 0:
        return  # 0: a process that this name space does not see
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
