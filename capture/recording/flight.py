"""What ring buffers that overwrite say of themselves once they have been read."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

_HEAD = struct.Struct("<QI")
"""A sub-buffer begins with its time stamp (u64) and the commit word (kernel/trace/ring_buffer.c)."""
_MISSED_EVENTS = 1 << 31
"""In the commit word: events before this sub-buffer were overwritten (RB_MISSED_EVENTS)."""


def last_gap(pages: Path, subbuffer_bytes: int) -> int | None:
    """Time stamp of the last sub-buffer of a file before which events were overwritten, None = of none.

    The reader owns the sub-buffer that it reads last: what was written to that one since is never
    overwritten, so that a gap may come after the first sub-buffer of a file.
    """
    last = None
    with open(pages, "rb") as file:
        size = file.seek(0, 2) // subbuffer_bytes * subbuffer_bytes
        if size:
            with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as data:
                for offset in range(0, size, subbuffer_bytes):
                    stamp, commit = _HEAD.unpack_from(data, offset)
                    if commit & _MISSED_EVENTS:
                        last = stamp
    return last
