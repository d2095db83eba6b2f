"""Facts about the host: keyed pseudonyms, the clocks, threads and their open files."""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import stat
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hindsight.capture.cgroups import Memberships, container_id
from hindsight.capture.devices import Device, mounts
from hindsight.capture.filestat import file_stat

KEY_PATH = Path("/etc/hindsight/host.key")
_KEY_BYTES = 32


def pseudonym(key: bytes, text: str) -> str:
    """A keyed hash: 12 hexadecimal digits of HMAC-SHA-256."""
    return hmac.new(key, text.encode(), "sha256").hexdigest()[:12]


def derived_key(key: bytes, purpose: str) -> str:
    """A key for one purpose (64 hexadecimal digits), from which ``key`` cannot be found."""
    return hmac.new(key, f"key:{purpose}".encode(), "sha256").hexdigest()


def host_key(fallback: Path, path: Path = KEY_PATH) -> bytes:
    """The key of this host's pseudonyms, created on first use (mode 0600).

    ``fallback`` is the directory of the recordings: the key is kept there when ``path`` cannot be written.
    Raises OSError when neither can.
    """
    for candidate in (path, fallback / ".host.key"):
        with contextlib.suppress(OSError):
            key = candidate.read_bytes()
            if len(key) >= _KEY_BYTES:
                return key
    with contextlib.suppress(OSError):
        return _create_key(path)
    return _create_key(fallback / ".host.key")


def _create_key(path: Path) -> bytes:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    key = secrets.token_bytes(_KEY_BYTES)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)  # unlike rename, never replaces a key that somebody else just made
        except FileExistsError:
            return path.read_bytes()
    finally:
        os.unlink(temporary)
    return key


def machine_id() -> str:
    """What identifies the host, before it is hashed."""
    with contextlib.suppress(OSError):
        text = Path("/etc/machine-id").read_text().strip()
        if text:
            return text
    return os.uname().nodename


def boot_id() -> str:
    """What identifies this boot, before it is hashed."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@dataclass(frozen=True)
class ClockAnchor:
    """Three clocks read together; ``bracket_ns`` is how long that took."""

    ts: int
    realtime_ns: int
    boottime_ns: int
    bracket_ns: int


def clock_anchor(tries: int = 5) -> ClockAnchor:
    """Read the clocks a few times and keep the tightest bracket."""

    def once() -> ClockAnchor:
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        realtime = time.clock_gettime_ns(time.CLOCK_REALTIME)
        boottime = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        return ClockAnchor((before + after) // 2, realtime, boottime, after - before)

    return min((once() for _ in range(tries)), key=lambda anchor: anchor.bracket_ns)


def processes() -> list[int]:
    """All processes that this process can see."""
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())


def thread_groups(threads: Iterable[int]) -> list[int]:
    """The processes that these threads belong to; those that have ended are left out."""
    groups = set()
    for thread in threads:
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{thread}/status").read_bytes()
            groups.add(int(status.split(b"\nTgid:", 1)[1].split(None, 1)[0]))
    return sorted(groups)


def threads(pid: int) -> list[int]:
    """The threads of a process; none when it has ended."""
    with contextlib.suppress(OSError):
        return sorted(int(name) for name in os.listdir(f"/proc/{pid}/task"))
    return []


def tasks(
    pids: Iterable[int], container_key: bytes | None = None, known: Collection[int] = ()
) -> Iterator[dict[str, object]]:
    """Rows of the table ``tasks``: the threads of these processes. Those that end meanwhile are left out.

    Ids of containers are hashed with ``container_key`` (None = kept). ``known`` threads are left out.
    """
    memberships = Memberships()
    for pid in pids:
        now = time.monotonic_ns()
        for thread in threads(pid):
            if thread in known:
                continue
            task = Path(f"/proc/{pid}/task/{thread}")
            with contextlib.suppress(OSError):
                comm = (task / "comm").read_bytes().rstrip(b"\n")
                group = memberships.of(task)
                container = container_id(group.path) if group is not None else None
                if container is not None and container_key is not None:
                    container = pseudonym(container_key, f"container:{container}")
                yield {
                    "ts": now,
                    "pid": thread,
                    "tgid": pid,
                    "comm": comm.decode(errors="replace"),
                    "cgroup": group.number if group is not None else None,
                    "cgroup_hierarchy": group.hierarchy if group is not None else None,
                    "container": container,
                }


def descriptors(pids: Iterable[int], inherited: bool = False) -> Iterator[dict[str, object]]:
    """Rows of the table ``descriptors``: the regular files that these processes have open.

    ``inherited`` leaves out those that close when the process executes a program.
    """
    for pid in pids:
        now = time.monotonic_ns()
        systems: dict[int, Device] | None = None
        with contextlib.suppress(OSError):
            for fd in sorted(int(name) for name in os.listdir(f"/proc/{pid}/fd")):
                with contextlib.suppress(OSError):
                    status = file_stat(f"/proc/{pid}/fd/{fd}")
                    if not stat.S_ISREG(status.mode):
                        continue
                    info = dict(
                        line.split(":", 1)
                        for line in Path(f"/proc/{pid}/fdinfo/{fd}").read_text().splitlines()
                    )
                    flags = int(info["flags"], 8)
                    if inherited and flags & os.O_CLOEXEC:
                        continue
                    device = status.device
                    if device[0] == 0:  # no disk: the trace may name it otherwise
                        if systems is None:
                            systems = {mount.number: mount.device for mount in mounts(pid)}
                        device = systems.get(int(info.get("mnt_id", -1)), device)
                    yield {
                        "ts": now,
                        "pid": pid,
                        "fd": fd,
                        "s_dev_major": device[0],
                        "s_dev_minor": device[1],
                        "i_ino": status.inode,
                        "flags": flags,
                        "pos": int(info["pos"]),
                    }
