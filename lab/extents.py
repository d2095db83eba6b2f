"""Where the pages of a file do not follow each other on the device: a bio ends there.

From FS_IOC_FIEMAP (Documentation/filesystems/fiemap.rst).
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FIEMAP = 0xC020660B
"""FS_IOC_FIEMAP (include/uapi/linux/fs.h)."""

_HEAD = struct.Struct("=QQIIII")
_EXTENT = struct.Struct("=QQQQQIIII")
_AT_ONCE = 256
_LAST = 1
"""FIEMAP_EXTENT_LAST."""
_PAGE = 4096


def breaks(path: Path) -> NDArray[np.int64]:
    """Pages, sorted, whose block does not follow the block of the page before; empty if they are unknown."""
    found: list[int] = []
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOATIME)
    try:
        begin, expected = 0, -1
        while True:
            buffer = bytearray(_HEAD.size + _AT_ONCE * _EXTENT.size)
            _HEAD.pack_into(buffer, 0, begin, 0xFFFFFFFFFFFFFFFF - begin, 0, 0, _AT_ONCE, 0)
            fcntl.ioctl(fd, FIEMAP, buffer)
            count = _HEAD.unpack_from(buffer)[3]
            flags = _LAST
            for number in range(count):
                extent = _EXTENT.unpack_from(buffer, _HEAD.size + number * _EXTENT.size)
                logical, physical, length, flags = extent[0], extent[1], extent[2], extent[5]
                if physical != expected and logical > 0:
                    found.append(logical // _PAGE)
                begin, expected = logical + length, physical + length
            if flags & _LAST:
                return np.array(found, np.int64)
    except OSError:
        return np.zeros(0, np.int64)  # this file system does not tell
    finally:
        os.close(fd)


def read_metadata(path: Path) -> None:
    """Have the kernel read the inode and the extents of a file, and none of its pages."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOATIME)
    try:
        fcntl.ioctl(fd, FIEMAP, _HEAD.pack(0, 0xFFFFFFFFFFFFFFFF, 0, 0, 0, 0))  # room for none: it counts
    except OSError:
        return  # they are read when they are needed
    finally:
        os.close(fd)
