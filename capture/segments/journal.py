"""The journal of a segment under recording: one checksummed line for each entry, appended at once.

What a recorder knows beyond the raw trace (the kernel's counters, losses, clock anchors, how much is durable)
goes here while it records, so that whoever finds the segment after a crash knows it as well. A line that a
crash tore fails its checksum and is left out; the lines before and after it count.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

MAX_LINE = 64 << 20
"""The longest line that is read, in bytes; a longer one is left out."""
_CHECKSUM = 8  # hexadecimal digits
_JSON = json.JSONEncoder(separators=(",", ":"))


def encode(entry: Mapping[str, Any]) -> bytes:
    """One entry as a line: CRC-32 of the JSON in 8 hexadecimal digits, a blank, the JSON, a newline."""
    text = _JSON.encode(entry).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _decode(line: bytes) -> dict[str, Any] | None:
    try:
        if line[_CHECKSUM : _CHECKSUM + 1] != b" " or not line.endswith(b"\n"):
            return None
        text = line[_CHECKSUM + 1 : -1]
        if int(line[:_CHECKSUM], 16) != zlib.crc32(text):
            return None
        entry = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The entries of a journal that are whole, in order; none when there is no journal.

    Holds one line at a time, of at most :data:`MAX_LINE` bytes. Raises OSError when it cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    with os.fdopen(descriptor, "rb") as file:
        skip = False
        while line := file.readline(MAX_LINE):
            whole = line.endswith(b"\n")
            entry = None if skip else _decode(line)
            skip = not whole
            if entry is not None:
                yield entry


class Journal:
    """A journal that is appended to, by several threads if need be; ``path`` is created when it is absent."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(
            path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        self._lock = threading.Lock()
        size = os.fstat(self._descriptor).st_size
        self._torn = size > 0 and os.pread(self._descriptor, 1, size - 1) != b"\n"

    def append(self, entry: Mapping[str, Any]) -> int:
        """Write one entry with one write(2); returns bytes. Raises OSError (ENOSPC if it found no space)."""
        line = encode(entry)
        with self._lock:
            data = b"\n" + line if self._torn else line
            written = os.write(self._descriptor, data)
            if written != len(data):
                torn, self._torn = self._torn, True
                with contextlib.suppress(OSError):  # a part of a line only takes space
                    os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - written)
                    self._torn = torn
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._torn = False
        return len(data)

    def sync(self) -> None:
        """Make durable what was appended."""
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Close it; may be called again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
