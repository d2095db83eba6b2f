"""A file system in user space that serves what a directory of commands says; run by served.py.

    python served_files.py MOUNTPOINT COMMANDS

COMMANDS/bytes: serve these; else COMMANDS/document: serve it, numbered and dated at each open. As long as
COMMANDS/hang is there, reads do not return. COMMANDS/most: no read returns more bytes. COMMANDS/reads has a
byte for each of them.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import stat
import sys
import time
from pathlib import Path

import mfusepy


class Files(mfusepy.Operations):
    use_ns = True

    def __init__(self, commands: Path) -> None:
        self._commands = commands
        self._numbers = itertools.count(1)  # (several threads serve)
        self._opened: dict[int, bytes] = {}

    def getattr(self, path, fh=None):
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
        if path == "/state":
            return {"st_mode": stat.S_IFREG | 0o444, "st_nlink": 1, "st_size": 0}
        raise mfusepy.FuseOSError(errno.ENOENT)

    def readdir(self, path, fh):
        return [".", "..", "state"]

    def open(self, path, flags):
        number = next(self._numbers)
        try:
            data = (self._commands / "bytes").read_bytes()
        except FileNotFoundError:
            document = json.loads((self._commands / "document").read_text())
            numbers = {"sequence": number, "mono_ns": time.monotonic_ns()}
            data = json.dumps(document | numbers).encode() + b"\n"
        self._opened[number] = data
        return number

    def read(self, path, size, offset, fh):
        while (self._commands / "hang").exists():
            time.sleep(0.01)
        with (self._commands / "reads").open("ab") as reads:
            reads.write(b".")
        with contextlib.suppress(FileNotFoundError):
            size = min(size, int((self._commands / "most").read_bytes()))
        return self._opened[fh][offset : offset + size]

    def release(self, path, fh):
        del self._opened[fh]
        return 0


if __name__ == "__main__":
    mfusepy.FUSE(
        Files(Path(sys.argv[2])), sys.argv[1], foreground=True, direct_io=True, nothreads=False,
        fsname="hindsight_test_proxy", default_permissions=True,
    )  # fmt: skip
    os._exit(0)
