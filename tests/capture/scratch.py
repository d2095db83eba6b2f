"""Loop devices, file systems and control groups of a test's own: made, used, removed."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hindsight.capture import cgroups
from hindsight.capture.devices import Device

MKFS = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
    "btrfs": ("mkfs.btrfs", "-q", "-f"),
}


def run(*words: object) -> str:
    """Run a command; its output. Fails the test when the command fails."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout.strip()


@contextlib.contextmanager
def loop_device(image: Path, size: int) -> Iterator[tuple[str, Device]]:
    """A loop device with direct I/O on a new image: its node, and its number."""
    if os.geteuid() != 0 or not Path("/dev/loop-control").exists():
        pytest.skip("a loop device needs root, and a kernel that has them")
    with open(image, "xb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    try:
        node = run("losetup", "--find", "--show", "--direct-io=on", image)
        try:
            number = os.stat(node).st_rdev
            (Path("/sys/block") / Path(node).name / "queue/read_ahead_kb").write_text("128")
            yield node, (os.major(number), os.minor(number))
        finally:
            run("losetup", "--detach", node)
    finally:
        image.unlink()


@contextlib.contextmanager
def file_system(directory: Path, fstype: str, size: int = 320 << 20) -> Iterator[tuple[Path, Device]]:
    """A new file system on a loop device of its own, mounted: where, and the device."""
    known = Path("/proc/filesystems").read_text().split()
    if fstype not in known:
        pytest.skip(f"this kernel has no {fstype}")
    if shutil.which(MKFS[fstype][0]) is None:
        pytest.skip(f"there is no {MKFS[fstype][0]}")
    with loop_device(directory / f"{fstype}.img", size) as (node, device):
        run(*MKFS[fstype], node)
        where = directory / f"{fstype}.mnt"
        where.mkdir()
        run("mount", "-t", fstype, "-o", "noatime", node, where)
        try:
            yield where, device
        finally:
            _unmount(where)
            where.rmdir()


def remount(where: Path, fstype: str) -> None:
    """Unmount and mount again: nothing of it is cached any more."""
    node = run("findmnt", "--noheadings", "--output", "SOURCE", where)
    _unmount(where)
    run("mount", "-t", fstype, "-o", "noatime", node, where)


def _unmount(where: Path) -> None:
    for _ in range(50):
        done = subprocess.run(["umount", where], capture_output=True, text=True)
        if done.returncode == 0:
            return
        time.sleep(0.1)
    raise AssertionError(f"{where} cannot be unmounted: {done.stderr}")


@contextlib.contextmanager
def overlay(directory: Path, lower: Path, upper: Path) -> Iterator[Path]:
    """An overlay mount of ``lower``, with ``upper/upper`` and ``upper/work`` for what is changed."""
    if "overlay" not in Path("/proc/filesystems").read_text().split():
        pytest.skip("this kernel has no overlay")
    where = directory / "overlay.mnt"
    for path in (where, upper / "upper", upper / "work"):
        path.mkdir()
    options = f"lowerdir={lower},upperdir={upper / 'upper'},workdir={upper / 'work'}"
    run("mount", "-t", "overlay", "-o", options, "overlay", where)
    try:
        yield where
    finally:
        _unmount(where)
        where.rmdir()


@contextlib.contextmanager
def control_group(hierarchy: str, name: str) -> Iterator[Path]:
    """A control group of a hierarchy (:mod:`hindsight.capture.cgroups`); skips where it is not mounted."""
    mounted = cgroups.hierarchies()
    if os.geteuid() != 0 or hierarchy not in mounted:
        pytest.skip(f"making a control group needs root, and the hierarchy {hierarchy or 'of version 2'}")
    directory = mounted[hierarchy].where / name
    directory.mkdir()
    try:
        yield directory
    finally:
        for _ in range(50):
            with contextlib.suppress(OSError):
                directory.rmdir()
                break
            time.sleep(0.1)
        assert not directory.exists()
