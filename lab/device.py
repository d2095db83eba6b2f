"""A device on which readahead matters, on any machine: a loop-mounted ext4 image with throttled reads.

fallocate, attach with direct I/O (the host's page cache would hide the device), mkfs without lazy
initialisation (its background writes would disturb), mount, throttle through a block cgroup, and set the
readahead limit to what a plain disk has (attaching a loop device sets 2,560 KB).

What exists is written to :data:`STATE` before it is made, so that a device can be listed and removed after
the process that made it died.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from hindsight.errors import ConfigurationError, HindsightError, NotPermittedError, UsageError
from hindsight.lab.cgroup import (
    CacheGroup,
    ThrottleGroup,
    find_hierarchy,
    find_memory_hierarchy,
    joining,
)
from hindsight.lab.programs import path_of, require

STATE = Path("/run/hindsight-lab")
"""One directory per device: ``state.json`` and the mount point ``mnt``."""

IMAGES = Path("/var/tmp")
"""Where images are put unless asked otherwise; needs a file system with direct I/O."""

READ_AHEAD_KB = 128
"""The kernel's default for a plain disk (VM_READAHEAD_PAGES, include/linux/mm.h)."""


DETACH_SECONDS = 30.0
"""A process that made a mount name space of its own while the device was mounted holds it, until it ends."""

FILESYSTEMS: dict[str, tuple[tuple[str, ...], str]] = {
    "ext4": (("mkfs.ext4", "-q", "-F", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0"), ""),
    "ext4-1k": (("mkfs.ext4", "-q", "-F", "-b", "1024", "-E", "lazy_itable_init=0"), ""),
    "ext4-journal": (("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0"), ",data=journal"),
    "ext2": (("mkfs.ext2", "-q", "-F"), ""),
    "xfs": (("mkfs.xfs", "-q", "-f"), ""),
}
"""How each file system is made (the node follows), and further options to mount it."""


@dataclass(frozen=True)
class Profile:
    """What a device gives: reads per second and bytes per second, 0 = not limited."""

    name: str
    read_iops: int
    read_bps: int
    meaning: str


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("P1", 200, 100 << 20, "few requests per second: a hard disk or a small cloud volume"),
        Profile("P2", 3000, 125 << 20, "a general-purpose cloud volume"),
    )
}


@dataclass(frozen=True)
class LabDevice:
    """A device that is set up (or, with ``node`` empty, about to be)."""

    name: str
    profile: Profile
    image: str
    size: int
    group: str
    node: str = ""
    filesystem: str = "ext4"
    cache_group: str = ""
    """Of the memory controller; empty if the page cache is not limited."""
    cache_bytes: int = 0

    @property
    def number(self) -> str:
        """``major:minor``, as cgroup rules and capture filters write it."""
        return (Path("/sys/block") / Path(self.node).name / "dev").read_text().strip()

    @property
    def mount_point(self) -> Path:
        """Where its file system is mounted."""
        return STATE / self.name / "mnt"

    @property
    def throttle(self) -> ThrottleGroup:
        """The cgroup whose processes are throttled on it."""
        path = Path(self.group)
        hierarchy = find_hierarchy()
        return ThrottleGroup(str(path.relative_to(hierarchy.root)), hierarchy)

    @property
    def cache(self) -> CacheGroup | None:
        """The cgroup that limits the page cache of its processes, if there is one."""
        if not self.cache_group:
            return None
        hierarchy = find_memory_hierarchy()
        return CacheGroup(str(Path(self.cache_group).relative_to(hierarchy.root)), hierarchy)

    def command(self, argv: Sequence[str]) -> list[str]:
        """``argv`` so wrapped that it starts as a member of the device's cgroups."""
        groups = dict.fromkeys([self.group, self.cache_group] if self.cache_group else [self.group])
        return joining([Path(group) for group in groups], argv)

    def read_counters(self) -> tuple[int, int]:
        """(requests, sectors of 512 bytes) that the device has read since it was attached
        (Documentation/block/stat.rst)."""
        fields = (Path("/sys/block") / Path(self.node).name / "stat").read_text().split()
        return int(fields[0]), int(fields[2])

    def completed_reads(self) -> int:
        """Read requests that the device completed since it was attached."""
        return self.read_counters()[0]


def profile_named(name: str) -> Profile:
    """The profile of that name; UsageError if there is none."""
    try:
        return PROFILES[name]
    except KeyError:
        raise UsageError(
            f"there is no device profile {name!r}", f"Profiles: {', '.join(sorted(PROFILES))}."
        ) from None


def custom_profile(read_iops: int, read_bps: int) -> Profile:
    """A profile of these limits, 0 = none; UsageError if both are none, or one is negative."""
    if min(read_iops, read_bps) < 0 or max(read_iops, read_bps) == 0:
        raise UsageError("a device needs a limit", "Give --iops, --bandwidth or both, above zero.")
    return Profile("custom", read_iops, read_bps, "limits of its own")


def create(
    name: str,
    profile: Profile,
    size: int = 1 << 30,
    images: Path = IMAGES,
    filesystem: str = "ext4",
    cache_bytes: int = 0,
) -> LabDevice:
    """Set up a device of ``size`` bytes and return it; whatever fails on the way is undone.

    ``cache_bytes``: memory that its programs may use, page cache included (0 = no limit).
    Raises NotPermittedError (not root, no loop devices, no throttle, no direct I/O), ConfigurationError (a
    device of that name exists, no space), HindsightError (a command failed).
    """
    if os.geteuid() != 0:
        raise NotPermittedError("making a throttled device needs root", "Run it with sudo.")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,40}", name):
        raise UsageError(f"{name!r} is not a device name", "Use letters, digits, '.', '_' and '-'.")
    require("losetup", FILESYSTEMS[filesystem][0][0], "mount", "umount")
    hierarchy = find_hierarchy()
    try:
        images.mkdir(parents=True, exist_ok=True)
        (STATE / name / "mnt").mkdir(parents=True)
    except FileExistsError:
        raise ConfigurationError(
            f"a device named {name} exists", f"Remove it: `hindsight lab device remove {name}`."
        ) from None
    except OSError as error:
        raise NotPermittedError(
            f"cannot make {error.filename}: {error.strerror}", "Run it with sudo."
        ) from error
    group = f"hindsight-lab-{name}"
    device = LabDevice(
        name,
        profile,
        str(images / f"hindsight-lab-{name}.img"),
        size,
        str(hierarchy.root / group),
        filesystem=filesystem,
    )
    try:
        if cache_bytes:
            root = find_memory_hierarchy().root
            device = replace(device, cache_group=str(root / group), cache_bytes=cache_bytes)
        _save(device)
        _allocate(device)
        device = replace(device, node=_attach(device))
        _save(device)
        _run(*FILESYSTEMS[filesystem][0], device.node)
        mount(device)
        device.throttle.create()
        device.throttle.limit(device.number, profile.read_iops, profile.read_bps)
        if (cache := device.cache) is not None:
            cache.create()
            cache.limit_memory(cache_bytes)
        set_read_ahead(device, READ_AHEAD_KB)
    except BaseException:
        with contextlib.suppress(HindsightError):
            remove(device)
        raise
    return device


def remove(device: LabDevice) -> None:
    """Undo :func:`create`, from whatever state it got to: processes, mount, rules, loop, group, image.

    Raises HindsightError if something stays behind; the state file then stays, too.
    """
    with contextlib.suppress(NotPermittedError):
        group = device.throttle
        if device.node and group.path.exists():
            with contextlib.suppress(NotPermittedError, OSError):
                group.limit(device.number, None, None)
        group.remove()
    with contextlib.suppress(NotPermittedError):
        if (cache := device.cache) is not None:
            cache.remove()
    unmount(device)
    for node in _attached(device.image):
        _run("losetup", "--detach", node)
    deadline = time.monotonic() + DETACH_SECONDS
    while _attached(device.image) and time.monotonic() < deadline:
        time.sleep(0.02)
    if _attached(device.image):
        raise HindsightError(
            f"{device.image} is still attached",
            f"Find its user: `fuser -vm {device.node}`, or a process with a mount name space of its own "
            f"(`lsns -t mnt`); then: `hindsight lab device remove {device.name}`.",
        )
    Path(device.image).unlink(missing_ok=True)
    home = STATE / device.name
    (home / "state.json").unlink(missing_ok=True)
    for path in (device.mount_point, home):
        if path.exists():
            path.rmdir()
    with contextlib.suppress(OSError):
        STATE.rmdir()


@contextlib.contextmanager
def throttled_device(
    name: str,
    profile: Profile,
    size: int = 1 << 30,
    images: Path = IMAGES,
    filesystem: str = "ext4",
    cache_bytes: int = 0,
) -> Iterator[LabDevice]:
    """A device for the length of a ``with`` block; it is removed also when the block fails."""
    device = create(name, profile, size, images, filesystem, cache_bytes)
    try:
        yield device
    except BaseException:
        remove_after_failure(device)
        raise
    remove(device)


def remove_after_failure(device: LabDevice) -> None:
    """Remove it; where that fails, say so, for the failure before it is what must be raised."""
    try:
        remove(device)
    except HindsightError as error:
        print(f"hindsight: {error}", file=sys.stderr)


def existing() -> tuple[list[LabDevice], list[ConfigurationError]]:
    """The devices whose state is on this machine, sorted by name, and what is wrong with the other states.

    One damaged state must not stand between a user and all other devices.
    """
    devices, damaged = [], []
    for path in sorted(STATE.glob("*/state.json")):
        try:
            devices.append(_load(path))
        except ConfigurationError as error:
            damaged.append(error)
    return devices, damaged


def find(name: str) -> LabDevice:
    """The device of that name; ConfigurationError if there is none."""
    path = STATE / name / "state.json"
    if not path.exists():
        raise ConfigurationError(f"there is no device named {name}", "See `hindsight lab device list`.")
    return _load(path)


def is_attached(device: LabDevice) -> bool:
    """Whether its loop device exists and is that of its image."""
    return bool(device.node) and _attached(device.image) == [device.node]


def mount(device: LabDevice) -> None:
    """Mount the file system, without access times (they would write).

    Nor does ext4 prefetch block bitmaps, where it can be told so: a kernel thread would read them some time
    after mounting, beside what is measured.
    """
    options = f"noatime{FILESYSTEMS[device.filesystem][1]}"
    if device.filesystem.startswith("ext4"):
        with contextlib.suppress(HindsightError):
            quiet = f"{options},no_prefetch_block_bitmaps"
            _run("mount", "-o", quiet, device.node, str(device.mount_point))
            return
    _run("mount", "-o", options, device.node, str(device.mount_point))


def unmount(device: LabDevice) -> None:
    """Unmount the file system if it is mounted; waits up to five seconds for its last user."""
    deadline = time.monotonic() + 5
    while device.mount_point.is_mount():
        try:
            _run("umount", str(device.mount_point))
        except HindsightError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def remount_cold(device: LabDevice) -> None:
    """Unmount and mount: nothing of this device stays cached, and no other device's cache is touched."""
    unmount(device)
    mount(device)


def set_read_ahead(device: LabDevice, kilobytes: int) -> None:
    """Set the readahead limit of the device (of files opened from now on) and read it back."""
    path = Path("/sys/block") / Path(device.node).name / "queue/read_ahead_kb"
    path.write_text(str(kilobytes))
    if int(path.read_text()) != kilobytes:
        raise NotPermittedError(f"the kernel did not take read_ahead_kb = {kilobytes} for {device.node}")


def read_ahead(device: LabDevice) -> int:
    """The readahead limit of the device now, in KiB."""
    return int((Path("/sys/block") / Path(device.node).name / "queue/read_ahead_kb").read_text())


def _allocate(device: LabDevice) -> None:
    try:
        with open(device.image, "xb") as file:
            os.posix_fallocate(file.fileno(), 0, device.size)
    except OSError as error:
        raise ConfigurationError(
            f"cannot allocate {device.size >> 20} MiB at {device.image}: {error.strerror}",
            "Make room, or put the images elsewhere: --images DIR.",
        ) from error


def _attach(device: LabDevice) -> str:
    if not Path("/dev/loop-control").exists():
        with contextlib.suppress(HindsightError, FileNotFoundError):
            _run("modprobe", "loop")
    try:
        node = _run("losetup", "--find", "--show", "--direct-io=on", device.image)
    except HindsightError as error:
        raise NotPermittedError(
            f"cannot attach a loop device: {error.message}",
            "The kernel needs loop devices (`modprobe loop`), and the images a file system with direct I/O "
            "(--images DIR).",
        ) from error
    if (Path("/sys/block") / Path(node).name / "loop/dio").read_text().strip() != "1":
        _run("losetup", "--detach", node)
        raise NotPermittedError(
            f"{device.image} is on a file system without direct I/O",
            "Put the images elsewhere: --images DIR.",
        )
    return node


def _attached(image: str) -> list[str]:
    if not Path(image).exists():
        return []
    lines = _run("losetup", "--noheadings", "--output", "NAME", "--associated", image).split()
    return [line for line in lines if line]


def _save(device: LabDevice) -> None:
    (STATE / device.name / "state.json").write_text(json.dumps(asdict(device), indent=1))


def _load(path: Path) -> LabDevice:
    known = {field.name for field in fields(LabDevice)}
    try:
        facts = json.loads(path.read_text())
        facts |= {"profile": Profile(**facts["profile"])}
        # What another version of this program noted beside that does not stand in the way of a removal.
        return LabDevice(**{name: value for name, value in facts.items() if name in known})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigurationError(
            f"{path} is damaged: {error}", "Check `losetup -a` and remove the file."
        ) from error


def _run(*argv: str) -> str:
    argv = (path_of(argv[0]) or argv[0], *argv[1:])
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise HindsightError(f"{' '.join(argv)}: {result.stderr.strip() or result.returncode}")
    return result.stdout.strip()
