"""Open a file by its inode number, on the file systems that offer a way: file handles, as NFS uses them.

A handle is made up out of the inode number; what else it needs depends on the file system:

- ext2, ext3, ext4 and what accepts their kind of handle: generation 0 means any;
- XFS wants the right generation, which a bulk stat tells (fs/xfs/xfs_export.c, fs/xfs/libxfs/xfs_fs.h);
- btrfs wants the subvolume; generation 0 means any (fs/btrfs/export.c). Inode numbers are unique within a
  subvolume only, and trace events do not name it: a number that several of them have is not opened.

Linux 6.18; needs CAP_DAC_READ_SEARCH, and CAP_SYS_ADMIN on XFS and btrfs.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from collections.abc import Callable

_INO32_GEN = 0x01  # enum fid_type of include/linux/exportfs.h
_BTRFS_WITHOUT_PARENT = 0x4D
_XFS_64_BIT = 0x80
_MOST_BYTES = 32

_XFS_BULKSTAT = 2 << 30 | 64 << 16 | ord("X") << 8 | 127
_XFS_REQUEST = struct.Struct("<QIIII5Q")  # struct xfs_bulk_ireq
_XFS_STAT_BYTES = 192
_XFS_GENERATION = 64  # offset of bs_gen in struct xfs_bulkstat

_BTRFS_TREE_SEARCH = 3 << 30 | 4096 << 16 | 0x94 << 8 | 17
_BTRFS_KEY = struct.Struct("<7Q4I4Q")  # struct btrfs_ioctl_search_key
_BTRFS_HEADER = struct.Struct("<3Q2I")  # struct btrfs_ioctl_search_header
_BTRFS_ROOT_ITEM = 132
_BTRFS_TOP = 5
_FIRST_SUBVOLUME, _LAST_SUBVOLUME = 256, (1 << 64) - 256
_MOST_SUBVOLUMES = 64
"""With more subvolumes (snapshots) nothing is opened: each file has to be looked for in all of them."""


class _Handle(ctypes.Structure):
    _fields_ = (
        ("handle_bytes", ctypes.c_uint32),
        ("handle_type", ctypes.c_int32),
        ("data", ctypes.c_char * _MOST_BYTES),
    )


Opener = Callable[[int], int | None]
"""Of an inode number: a descriptor of its file (O_PATH), None when it cannot be opened."""


def opener(root: int, fstype: str) -> Opener:
    """How files are opened by number on the mounted file system that the directory ``root`` is of."""
    if fstype == "xfs":
        return lambda inode: _open_xfs(root, inode)
    if fstype == "btrfs":
        subvolumes = _subvolumes(root)
        return lambda inode: _open_btrfs(root, inode, subvolumes)
    return lambda inode: _open(root, _INO32_GEN, struct.pack("<II", inode, 0)) if inode >> 32 == 0 else None


def _open(root: int, kind: int, data: bytes) -> int | None:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "open_by_handle_at"):
        return None
    handle = _Handle(len(data), kind)
    ctypes.memmove(ctypes.addressof(handle) + _Handle.data.offset, data, len(data))
    descriptor = libc.open_by_handle_at(root, ctypes.byref(handle), os.O_PATH | os.O_CLOEXEC)
    return int(descriptor) if descriptor >= 0 else None


def _open_xfs(root: int, inode: int) -> int | None:
    request = bytearray(_XFS_REQUEST.pack(inode, 0, 1, 0, 0, *([0] * 5)) + bytes(_XFS_STAT_BYTES))
    try:
        fcntl.ioctl(root, _XFS_BULKSTAT, request)
    except OSError:
        return None
    count = _XFS_REQUEST.unpack_from(request)[3]
    (found,) = struct.unpack_from("<Q", request, _XFS_REQUEST.size)
    if count != 1 or found != inode:  # it is gone: the kernel gives the one after it
        return None
    (generation,) = struct.unpack_from("<I", request, _XFS_REQUEST.size + _XFS_GENERATION)
    return _open(root, _INO32_GEN | _XFS_64_BIT, struct.pack("<QI", inode, generation))


def _open_btrfs(root: int, inode: int, subvolumes: list[int]) -> int | None:
    found: list[int] = []
    for subvolume in subvolumes:
        descriptor = _open(root, _BTRFS_WITHOUT_PARENT, struct.pack("<QQI", inode, subvolume, 0))
        if descriptor is not None:
            found.append(descriptor)
    if len(found) == 1:
        return found[0]
    for descriptor in found:
        os.close(descriptor)
    return None


def _subvolumes(root: int) -> list[int]:
    """The subvolumes of a btrfs; empty when they are too many, or cannot be listed."""
    found = [_BTRFS_TOP]
    first = _FIRST_SUBVOLUME
    while len(found) <= _MOST_SUBVOLUMES:
        every, kind = (1 << 64) - 1, _BTRFS_ROOT_ITEM
        key = _BTRFS_KEY.pack(1, first, _LAST_SUBVOLUME, 0, every, 0, every, kind, kind, 1, 0, *([0] * 4))
        window = bytearray(key.ljust(4096, b"\0"))
        try:
            fcntl.ioctl(root, _BTRFS_TREE_SEARCH, window)
        except OSError:
            return []
        if _BTRFS_KEY.unpack_from(window)[9] == 0:
            return found
        _, number, _, _, _ = _BTRFS_HEADER.unpack_from(window, _BTRFS_KEY.size)
        found.append(number)
        first = number + 1
    return []
