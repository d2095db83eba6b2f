"""What a recorder that died left in a file of perf records: which of it is whole, and which can be trusted.

perf's ring buffers belong to the process and end with it, so that nothing else can be salvaged.
"""

from __future__ import annotations

import struct
from pathlib import Path

from hindsight.capture.perf.blocks import SAMPLE_HEAD_BYTES
from hindsight.capture.perf.ring import RECORD_SAMPLE

_HEADER = struct.Struct("<IHH")
_WINDOW = 1 << 20


def trusted_records(file: Path, durable: int) -> tuple[int, int | None]:
    """How many bytes at the beginning of a file of perf records are whole and sound.

    Up to ``durable`` bytes were made durable; after a power loss, zeros may stand for anything beyond: the
    record before them is given up as well, as its end may be among them. Returns the latest time of a sample
    in what is good (ns), too. Raises OSError.
    """
    good, last = 0, None
    before: tuple[int, int | None] = (0, None)
    window, damaged, tail = b"", False, b""
    with open(file, "rb", buffering=0) as opened:
        while not damaged and (more := opened.read(_WINDOW)):
            window += more
            at = 0
            while at + _HEADER.size <= len(window):
                kind, _, size = _HEADER.unpack_from(window, at)
                damaged = kind == 0 or size < _HEADER.size or size % 8 != 0
                if damaged or at + size > len(window):
                    break
                ts = last
                if kind == RECORD_SAMPLE:
                    ts = _time(window, at, size)
                    damaged = ts is None
                    if ts is None:
                        break
                    ts = max(ts, last or 0)
                before = good, last
                good, last, at = good + size, ts, at + size
                tail = window[at - 8 : at]
            window = window[at:]
    zeros = bool(window) and not any(window)  # (fewer than a header has)
    if good > durable and (damaged or zeros or not any(tail)):
        return before
    return good, last


def _time(window: bytes, at: int, size: int) -> int | None:
    """The time of a sample, None when it cannot be one."""
    if size < SAMPLE_HEAD_BYTES + 4:
        return None
    ts, length = struct.unpack_from("<QI", window, at + 16)
    return ts if 0 < ts < 1 << 63 and SAMPLE_HEAD_BYTES + length <= size else None
