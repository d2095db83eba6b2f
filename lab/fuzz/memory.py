"""A memory cgroup whose processes may hold only so much, so that the kernel takes their pages away.

Version 1 has ``memory.limit_in_bytes``, version 2 ``memory.max`` (Documentation/admin-guide/cgroup-v2.rst);
which one there is, is probed from the mounts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from hindsight.errors import NotPermittedError
from hindsight.lab.cgroup import Hierarchy, ThrottleGroup


def find_memory_hierarchy(mountinfo: str | None = None) -> Hierarchy:
    """The hierarchy that limits memory. NotPermittedError if there is none."""
    text = Path("/proc/self/mountinfo").read_text() if mountinfo is None else mountinfo
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        root, kind = Path(left.split()[4]), right.split()[0]
        if kind == "cgroup" and (root / "memory.limit_in_bytes").exists():
            return Hierarchy(1, root)
        controllers = root / "cgroup.controllers"
        if kind == "cgroup2" and controllers.exists() and "memory" in controllers.read_text().split():
            return Hierarchy(2, root)
    raise NotPermittedError(
        "no cgroup hierarchy here can limit memory",
        "Mount one: `mount -t cgroup -o memory memory /sys/fs/cgroup/memory`; or leave out --evict.",
    )


@contextlib.contextmanager
def memory_group(name: str, kilobytes: int) -> Iterator[ThrottleGroup]:
    """A group with that limit for the length of a ``with`` block. NotPermittedError where it is refused."""
    group = ThrottleGroup(name, find_memory_hierarchy())
    try:
        if group.hierarchy.version == 2:
            (group.hierarchy.root / "cgroup.subtree_control").write_text("+memory")
        group.path.mkdir(exist_ok=True)
        file = "memory.limit_in_bytes" if group.hierarchy.version == 1 else "memory.max"
        (group.path / file).write_text(str(kilobytes << 10))
        yield group
    except OSError as error:
        raise NotPermittedError(f"cannot limit memory in {group.path}: {error}", "Run as root.") from error
    finally:
        group.remove()
