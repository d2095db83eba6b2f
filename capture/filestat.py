"""stat(2) of other processes' files that cannot hang: what the kernel knows is taken, no server is asked.

A file on FUSE or a network file system whose server does not answer would hold whoever asks for its size.
statx(2) with AT_STATX_DONT_SYNC does not ask. Layout: include/uapi/linux/stat.h of Linux 6.18.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import NamedTuple

_AT_FDCWD, _AT_STATX_DONT_SYNC, _BASIC_STATS = -100, 0x4000, 0x7FF
_STATX_BYTES = 256
_FIELDS = struct.Struct("=28xHxxQQ64xqI4x8xII")  # mode, ino, size, mtime (s, ns), device


class FileStat(NamedTuple):
    """``mode`` as st_mode; ``device`` as (major, minor); sizes in bytes, times in ns since 1970."""

    mode: int
    device: tuple[int, int]
    inode: int
    size: int
    mtime_ns: int


def file_stat(path: str) -> FileStat:
    """What the kernel has in memory about a file, links followed. Raises OSError.

    Where the C library lacks statx, it is stat(2), which may ask a server.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "statx"):
        status = os.stat(path)
        device = os.major(status.st_dev), os.minor(status.st_dev)
        return FileStat(status.st_mode, device, status.st_ino, status.st_size, status.st_mtime_ns)
    buffer = ctypes.create_string_buffer(_STATX_BYTES)
    flags = _AT_STATX_DONT_SYNC
    if libc.statx(_AT_FDCWD, os.fsencode(path), flags, _BASIC_STATS, buffer) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    mode, inode, size, seconds, nanoseconds, major, minor = _FIELDS.unpack_from(buffer.raw)
    return FileStat(mode, (major, minor), inode, size, seconds * 1_000_000_000 + nanoseconds)
