"""Control groups, version 1 and 2: where their hierarchies are mounted, and which groups a thread is in."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from hindsight.capture.devices import unescape

UNIFIED = ""
"""The hierarchy of version 2, as /proc/PID/cgroup names it."""


class Hierarchy(NamedTuple):
    """A mounted hierarchy: ``name`` is a controller or ``name=…`` of version 1, or :data:`UNIFIED`.

    ``root`` is what of the hierarchy is mounted at ``where``.
    """

    name: str
    root: PurePosixPath
    where: Path

    def directory(self, path: str) -> Path | None:
        """The directory of the group ``path`` (as /proc/PID/cgroup gives it); None when it is not mounted."""
        inner = PurePosixPath("/") / path.lstrip("/")
        if inner.is_relative_to(self.root):
            return self.where / inner.relative_to(self.root)
        return None


def hierarchies() -> dict[str, Hierarchy]:
    """The hierarchies that this process sees mounted, by name; one that has several controllers has several.

    Format: proc_pid_mountinfo(5), cgroups(7).
    """
    found: dict[str, Hierarchy] = {}
    text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    for line in text.splitlines():
        words = line.split(" ")
        kind, _, options = words[words.index("-") + 1 :][:3]
        if kind not in ("cgroup", "cgroup2"):
            continue
        root, where = PurePosixPath(unescape(words[3])), Path(unescape(words[4]))
        named = [UNIFIED] if kind == "cgroup2" else _controllers(options)
        for name in named:
            found.setdefault(name, Hierarchy(name, root, where))
    return found


def _controllers(options: str) -> list[str]:
    return [word for word in options.split(",") if word not in ("rw", "ro", "none", "xattr", "noprefix")]


def paths_of(task: Path) -> dict[str, str]:
    """The groups of a thread, by hierarchy; ``task`` is /proc/PID or /proc/PID/task/TID. Raises OSError."""
    found = {}
    text = (task / "cgroup").read_text(encoding="utf-8", errors="surrogateescape")
    for line in text.splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            found[name] = path
    return found


def identity(directory: Path) -> int | None:
    """The number by which the kernel knows a group: the inode of its directory; None when it is gone."""
    with contextlib.suppress(OSError):
        return os.stat(directory).st_ino
    return None


_CONTAINER = re.compile(
    r"(?:^|[/:-])(?:docker|libpod|crio|cri-containerd|containerd|cri-o)?-?([0-9a-f]{64}|[0-9a-f]{32})(?:\.scope)?(?=/|$)"
    r"|/lxc(?:\.payload)?[./]([^/]+)"
    r"|/machine\.slice/(?:systemd-nspawn@|machine-)([^/]+)\.(?:service|scope)"
)


def container_id(path: str) -> str | None:
    """The id of the container that a group's path names (the innermost one), None if it names none.

    Known are the names that Docker, Podman, containerd, CRI-O (an id of 32 or 64 hexadecimal digits), LXC
    and systemd-nspawn give; others look like any service.
    """
    found = None
    for match in _CONTAINER.finditer(path):
        found = next(group for group in match.groups() if group)
    return found


CONTROLLERS = (UNIFIED, "memory", "cpu", "blkio", "pids", "name=systemd")
"""Hierarchies in which a thread's group is looked for, the first in which it is not in the root is taken."""


class Membership(NamedTuple):
    """The group of a thread: hierarchy, path in it, number (None: not visible from here)."""

    hierarchy: str
    path: str
    number: int | None


class Memberships:
    """Looks up threads' groups; a group is looked at once for all of its threads."""

    def __init__(self, mounted: Mapping[str, Hierarchy] | None = None) -> None:
        self._mounted = hierarchies() if mounted is None else mounted
        self._known: dict[tuple[str, str], Membership] = {}

    def of(self, task: Path) -> Membership | None:
        """The group of a thread (``task`` as for :func:`paths_of`); None when it is in none, or has ended.

        Hosts of version 1 have a group for each controller: that of the first of :data:`CONTROLLERS` that is
        not the root, else the root of the first.
        """
        try:
            paths = paths_of(task)
        except OSError:
            return None
        there = [name for name in CONTROLLERS if name in paths]
        if not there:
            return None
        chosen = next((name for name in there if paths[name] != "/"), there[0])
        key = chosen, paths[chosen]
        if key not in self._known:
            hierarchy = self._mounted.get(chosen)
            directory = hierarchy.directory(paths[chosen]) if hierarchy is not None else None
            number = identity(directory) if directory is not None else None
            self._known[key] = Membership(chosen, paths[chosen], number)
        return self._known[key]
