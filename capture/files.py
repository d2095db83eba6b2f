"""Facts about the files on which readahead was seen: found in the raw trace, read through file handles."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import re
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

from hindsight.capture.devices import Device, mounts

Inode = tuple[Device, int]
"""A file as its device and inode number."""

_MINOR_BITS = 20
_FILEID_INO32_GEN = 1  # enum fid_type of include/linux/exportfs.h; generation 0 = any in ext4


def find_inodes(
    pages: Path, events: Iterable[tuple[int, int, int]], devices: Iterable[Device], page_bytes: int
) -> set[Inode]:
    """Inodes in a file of raw sub-buffers, found without decoding it.

    ``events`` are (event id, offset of ``i_ino``, offset of ``s_dev``) in the payload, of 8 and 4 bytes. The
    result is a superset of the inodes of these events on ``devices``: bytes that look like an event count as
    one. Who decodes the trace later drops what no event names.
    """
    numbers = [struct.pack("<I", major << _MINOR_BITS | minor) for major, minor in sorted(devices)]
    found: set[Inode] = set()
    if not numbers or pages.stat().st_size == 0:
        return found
    with open(pages, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for event_id, ino_at, dev_at in events:
            device = b"(?:" + b"|".join(re.escape(n) for n in numbers) + b")"
            head = re.escape(struct.pack("<H", event_id))
            ahead = b"(?=.{%d}%s)" % (dev_at - 2, device)
            for match in re.finditer(head + ahead, data, re.DOTALL):
                start = match.start()
                if start % 4 or start % page_bytes + max(ino_at + 8, dev_at + 4) > page_bytes:
                    continue
                (ino,) = struct.unpack_from("<Q", data, start + ino_at)
                (dev,) = struct.unpack_from("<I", data, start + dev_at)
                found.add(((dev >> _MINOR_BITS, dev & ((1 << _MINOR_BITS) - 1)), ino))
    return found


def file_facts(inodes: Iterable[Inode], pids: Iterable[int], paths: bool) -> list[dict[str, object]]:
    """Rows of the table ``files``, sorted by device and inode; a file that cannot be reached has none.

    A file is opened by its handle (needs CAP_DAC_READ_SEARCH; ext2/3/4 and others that accept inode number
    and generation 0), else looked for among the open files of the processes ``pids``.
    """
    wanted = sorted(set(inodes))
    roots = {mount.device: mount.where for mount in reversed(mounts())}
    rows = {}
    for device in sorted({device for device, _ in wanted} & roots.keys()):
        try:
            root = os.open(roots[device], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            if _number(os.fstat(root).st_dev) != device:  # something else is mounted over it
                continue
            for inode in wanted:
                if inode[0] == device:
                    row = _by_handle(root, inode, paths)
                    if row is not None:
                        rows[inode] = row
        finally:
            os.close(root)
    missing = set(wanted) - rows.keys()
    if missing:
        for pid in pids:
            _by_descriptors(pid, missing, rows, paths)
    return [rows[inode] for inode in wanted if inode in rows]


class _FileHandle(ctypes.Structure):
    _fields_ = (
        ("handle_bytes", ctypes.c_uint32),
        ("handle_type", ctypes.c_int32),
        ("inode", ctypes.c_uint32),
        ("generation", ctypes.c_uint32),
    )


def _number(device: int) -> Device:
    return os.major(device), os.minor(device)


def _by_handle(root: int, inode: Inode, paths: bool) -> dict[str, object] | None:
    if inode[1] >= 1 << 32:
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "open_by_handle_at"):
        return None
    handle = _FileHandle(8, _FILEID_INO32_GEN, inode[1], 0)
    descriptor = libc.open_by_handle_at(root, ctypes.byref(handle), os.O_PATH | os.O_CLOEXEC)
    if descriptor < 0:
        return None
    try:
        path = os.readlink(f"/proc/self/fd/{descriptor}") if paths else None
        return _row(inode, os.fstat(descriptor), path)
    finally:
        os.close(descriptor)


def _by_descriptors(pid: int, missing: set[Inode], rows: dict[Inode, dict[str, object]], paths: bool) -> None:
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                link = f"/proc/{pid}/fd/{fd}"
                status = os.stat(link)
                inode = (_number(status.st_dev), status.st_ino)
                if inode in missing:
                    row = _row(inode, status, os.readlink(link) if paths else None)
                    if row is not None:
                        rows[inode] = row


def _row(inode: Inode, status: os.stat_result, path: str | None) -> dict[str, object] | None:
    if not stat.S_ISREG(status.st_mode) or status.st_ino != inode[1]:
        return None
    return {
        "s_dev_major": inode[0][0],
        "s_dev_minor": inode[0][1],
        "i_ino": inode[1],
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "cached_at_start": None,
        "path": path,
    }
