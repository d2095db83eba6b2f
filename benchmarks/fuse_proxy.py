"""A proxy in user space, as a subsystem's own would be: a file system whose file ``state`` is a document.

    python fuse_proxy.py MOUNTPOINT DOCUMENT

Each open gives the JSON text DOCUMENT with the next ``sequence`` and the time; one thread serves all.
"""

from __future__ import annotations

import errno
import json
import stat
import sys
import time
from typing import Any

import mfusepy


class Document(mfusepy.Operations):
    """The file system; the document is put together once, but for its two numbers."""

    use_ns = True

    def __init__(self, document: dict[str, Any]) -> None:
        marks = document | {"sequence": 111111, "mono_ns": 222222}
        self._form = json.dumps(marks).replace("111111", "%d").replace("222222", "%d") + "\n"
        self._sequence = 0
        self._opened: dict[int, bytes] = {}

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        """Of the root and of ``state``."""
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
        if path == "/state":
            return {"st_mode": stat.S_IFREG | 0o444, "st_nlink": 1, "st_size": 0}
        raise mfusepy.FuseOSError(errno.ENOENT)

    def readdir(self, path: str, fh: int) -> list[str]:
        """The root's."""
        return [".", "..", "state"]

    def open(self, path: str, flags: int) -> int:
        """The next snapshot."""
        self._sequence += 1
        self._opened[self._sequence] = (self._form % (self._sequence, time.monotonic_ns())).encode()
        return self._sequence

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        """A part of it."""
        return self._opened[fh][offset : offset + size]

    def release(self, path: str, fh: int) -> int:
        """It is not needed any more."""
        del self._opened[fh]
        return 0


if __name__ == "__main__":
    mfusepy.FUSE(
        Document(json.loads(sys.argv[2])), sys.argv[1], foreground=True, direct_io=True, nothreads=True,
        fsname="hindsight_benchmark", default_permissions=True,
    )  # fmt: skip
