"""How many pages of a file are in the page cache now, and how many were there and went.

From cachestat(2) where the kernel has it (Linux 6.5 on; mm/filemap.c), else from mincore(2), which knows
nothing of pages that went. Which one exists is found by calling it.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Iterable
from pathlib import Path

from hindsight.errors import NotPermittedError

_CACHESTAT = 451
"""Number of cachestat(2), the same on every architecture (include/uapi/asm-generic/unistd.h)."""


class _Range(ctypes.Structure):
    _fields_ = (("off", ctypes.c_uint64), ("len", ctypes.c_uint64))


class _Counts(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64) for name in ("cache", "dirty", "writeback", "evicted", "recently_evicted")
    )


_libc = ctypes.CDLL(None, use_errno=True)


def files_below(directory: Path) -> list[Path]:
    """The regular files below a directory, sorted."""
    found = []
    for folder, _, names in os.walk(directory):
        found += [path for name in names if (path := Path(folder, name)).is_file() and not path.is_symlink()]
    return sorted(found)


def cached_pages(paths: Iterable[Path]) -> tuple[int, int]:
    """(cached, evicted): pages of these files in the page cache, and pages that the kernel took away.

    Pages that are still being read count as cached. Raises NotPermittedError where the kernel tells neither.
    """
    cached = evicted = 0
    for path in paths:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOATIME)
        try:
            here, gone = _of(fd)
        finally:
            os.close(fd)
        cached += here
        evicted += gone
    return cached, evicted


def _of(fd: int) -> tuple[int, int]:
    counts, everything = _Counts(), _Range(0, 0)
    if _libc.syscall(_CACHESTAT, fd, ctypes.byref(everything), ctypes.byref(counts), 0) == 0:
        return int(counts.cache), int(counts.evicted)
    if ctypes.get_errno() != errno.ENOSYS:
        raise NotPermittedError(
            f"the kernel does not tell what is cached: {os.strerror(ctypes.get_errno())}", "Run as root."
        )
    return _resident(fd), 0


def _resident(fd: int) -> int:
    size = os.fstat(fd).st_size
    if size == 0:
        return 0
    # Private and writable, for ctypes needs to find its address; nothing is written, nothing is touched.
    mapping = mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    pages = (size + mmap.PAGESIZE - 1) // mmap.PAGESIZE
    flags = (ctypes.c_ubyte * pages)()
    first = ctypes.c_char.from_buffer(mapping)
    try:
        if _libc.mincore(ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(size), flags) != 0:
            raise NotPermittedError(
                f"the kernel does not tell what is cached: {os.strerror(ctypes.get_errno())}", "Run as root."
            )
        return sum(flag & 1 for flag in flags)
    finally:
        del first
        mapping.close()
