"""Facts about block devices: readahead limit, queue limits, file system, and the block cgroup's throttle."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import NamedTuple

Device = tuple[int, int]
"""A device as (major, minor)."""
_JOURNALS_DATA = "data=journal"


class Mount(NamedTuple):
    """One line of mountinfo. ``device`` is what trace events call ``s_dev``, which stat(2) need not give."""

    device: Device
    root: str
    where: Path
    fstype: str
    number: int = 0
    source: str = ""
    journals_data: bool = False
    """ext3 and ext4: all data goes through the journal (``data=journal``)."""

    @property
    def kind(self) -> str:
        """The file system as the table of devices names it."""
        return f"{self.fstype},{_JOURNALS_DATA}" if self.journals_data else self.fstype


def unescape(text: str) -> str:
    """A field of mountinfo or of mounts, as it was before the kernel escaped blanks in it."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def mounts(pid: int | str = "self") -> list[Mount]:
    """The mounts of a process's namespace, in the kernel's order (proc_pid_mountinfo(5)). Raises OSError."""
    found = []
    text = Path(f"/proc/{pid}/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    for line in text.splitlines():
        words = line.split(" ")
        major, minor = words[2].split(":")
        fstype, source, options = words[words.index("-") + 1 :][:3]
        journals = _JOURNALS_DATA in options.split(",")
        device, root, where = (int(major), int(minor)), unescape(words[3]), Path(unescape(words[4]))
        found.append(Mount(device, root, where, fstype, int(words[0]), unescape(source), journals))
    return found


def mount_id(fdinfo: str) -> int:
    """The number of the mount that an open file belongs to, as :attr:`Mount.number`. Raises OSError."""
    for line in Path(fdinfo).read_text().splitlines():
        key, _, value = line.partition(":")
        if key == "mnt_id":
            return int(value)
    return -1


def _sysfs(device: Device) -> Path:
    return Path(f"/sys/dev/block/{device[0]}:{device[1]}").resolve()


def is_block(device: Device) -> bool:
    """Whether the number is that of a block device."""
    return Path(f"/sys/dev/block/{device[0]}:{device[1]}").exists()


def whole_disk(device: Device) -> Device:
    """The disk of a partition (whose number block requests carry); other devices are returned as they are."""
    path = _sysfs(device)
    if (path / "partition").exists():
        major, minor = (path.parent / "dev").read_text().split(":")
        return int(major), int(minor)
    return device


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def device_facts(extra: tuple[Device, ...] = ()) -> list[dict[str, object]]:
    """Rows of the table ``devices`` (throttles still null), sorted: mounted block devices and ``extra``."""
    fstypes: dict[Device, str] = dict.fromkeys(extra, "")
    pools: dict[Device, Path] = {}
    for mount in mounts():
        pool = _btrfs_pool(mount) if mount.fstype == "btrfs" else None
        if pool is not None:
            pools[mount.device] = pool
        if pool is not None or is_block(mount.device):
            fstypes[mount.device] = mount.kind
    rows: list[dict[str, object]] = []
    for device in sorted(fstypes):
        if device in pools:
            rows.append(_pool_facts(device, pools[device]))
            continue
        queue = _sysfs(whole_disk(device)) / "queue"
        scheduler = ""
        with contextlib.suppress(OSError):
            text = (queue / "scheduler").read_text().strip()
            chosen = re.search(r"\[(.+?)\]", text)
            scheduler = chosen[1] if chosen else text
        rows.append(
            {
                "dev_major": device[0],
                "dev_minor": device[1],
                "fstype": fstypes[device],
                "read_ahead_kb": _number(queue / "read_ahead_kb"),
                "max_sectors_kb": _number(queue / "max_sectors_kb"),
                "optimal_io_size": _number(queue / "optimal_io_size"),
                "rotational": bool(_number(queue / "rotational")),
                "scheduler": scheduler,
                "nr_requests": _number(queue / "nr_requests"),
                "throttle_read_iops": None,
                "throttle_read_bps": None,
            }
        )
    return rows


_BTRFS = Path("/sys/fs/btrfs")
_POOL_REQUEST_KB = 128
"""What readahead takes for the largest request of a backing device that is no disk: VM_READAHEAD_PAGES."""


def _btrfs_pool(mount: Mount) -> Path | None:
    """What sysfs says of the btrfs that is mounted there; it is found by one of its disks."""
    disk = Path(mount.source).resolve().name
    return next((pool.parents[1] for pool in sorted(_BTRFS.glob("*/devices/*")) if pool.name == disk), None)


def _pool_facts(device: Device, pool: Path) -> dict[str, object]:
    """The row of a file system over several disks: its own readahead limit, no queue and no scheduler."""
    return {
        "dev_major": device[0],
        "dev_minor": device[1],
        "fstype": "btrfs",
        "read_ahead_kb": _number(pool / "bdi" / "read_ahead_kb"),
        "max_sectors_kb": _POOL_REQUEST_KB,
        "optimal_io_size": 0,
        "rotational": any(
            bool(_number(disk.resolve() / "queue" / "rotational")) for disk in (pool / "devices").glob("*")
        ),
        "scheduler": "",
        "nr_requests": 0,
        "throttle_read_iops": None,
        "throttle_read_bps": None,
    }


Throttle = dict[Device, dict[str, int]]
"""By device: ``iops`` and ``bps`` limits of reads, where there are any."""


def read_throttle(pid: int) -> Throttle:
    """The read limits that the block cgroup (version 1 or 2) of a process sets, by device.

    A process that has ended, or a host without block cgroups, gives no limits.
    """
    limits: Throttle = {}
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return limits
    hierarchies = _cgroup_mounts()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "blkio" in controllers.split(",") and "blkio" in hierarchies:
            _read_v1(hierarchies["blkio"] / path.lstrip("/"), limits)
        elif controllers == "" and "cgroup2" in hierarchies:
            _read_v2(hierarchies["cgroup2"], path, limits)
    return limits


def _cgroup_mounts() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup2":
            found.setdefault("cgroup2", Path(unescape(where)))
        elif kind == "cgroup" and "blkio" in options.split(","):
            found.setdefault("blkio", Path(unescape(where)))
    return found


def _limit(limits: Throttle, device: str, kind: str, value: int) -> None:
    major, minor = device.split(":")
    entry = limits.setdefault((int(major), int(minor)), {})
    entry[kind] = min(value, entry.get(kind, value))


def _read_v1(group: Path, limits: Throttle) -> None:
    for kind in ("iops", "bps"):
        with contextlib.suppress(OSError):
            for line in (group / f"blkio.throttle.read_{kind}_device").read_text().splitlines():
                device, value = line.split()
                _limit(limits, device, kind, int(value))


def _read_v2(mount: Path, path: str, limits: Throttle) -> None:
    group = mount / path.lstrip("/")
    while True:  # a limit of any ancestor holds as well
        with contextlib.suppress(OSError):
            for line in (group / "io.max").read_text().splitlines():
                device, *settings = line.split()
                for setting in settings:
                    key, _, value = setting.partition("=")
                    if key in ("riops", "rbps") and value != "max":
                        _limit(limits, device, key[1:], int(value))
        if group == mount or mount not in group.parents:
            return
        group = group.parent


def apply_throttle(rows: list[dict[str, object]], limits: Throttle) -> None:
    """Put limits into rows of :func:`device_facts`; a partition inherits those of its disk."""
    for row in rows:
        device = (int(str(row["dev_major"])), int(str(row["dev_minor"])))
        limit = limits.get(device) or limits.get(whole_disk(device)) or {}
        row["throttle_read_iops"] = limit.get("iops")
        row["throttle_read_bps"] = limit.get("bps")
