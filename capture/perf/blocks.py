"""Stretches of raw records, in plain Python: counted, or shown as a sub-buffer of ftrace.

It runs on the recorded host, on a few kilobytes at a time.
"""

from __future__ import annotations

import os
import struct

from hindsight.capture.perf.ring import RECORD_SAMPLE

SAMPLE_HEAD_BYTES = 28
"""Before the tracepoint's record: header, identifier, time, size of the record."""
_SAMPLE = struct.Struct("<QQIH")
"""Identifier, time, size of the tracepoint's record, its ``common_type``."""
_DELTA_BITS = 27
_TIME_EXTEND = 30
_LONG_BYTES = struct.calcsize("l")
_WINDOW = 1 << 20


def count_samples(descriptor: int, start: int, stop: int) -> int:
    """Samples among the whole records of a file between two positions. Raises OSError."""
    found, at = 0, start
    while at < stop:
        window = os.pread(descriptor, min(_WINDOW, stop - at), at)
        count, used = _walk(window)
        if not used:
            break
        found, at = found + count, at + used
    return found


def _walk(window: bytes) -> tuple[int, int]:
    """Samples among the whole records at the beginning of ``window``, and the bytes of those records."""
    found, at, end = 0, 0, len(window)
    while at + 8 <= end:
        kind, size = int.from_bytes(window[at : at + 4], "little"), window[at + 6] | window[at + 7] << 8
        if size < 8 or at + size > end:
            break
        found += kind == RECORD_SAMPLE
        at += size
    return found, at


def as_subbuffer(block: bytes) -> bytes:
    """The samples at the beginning of ``block`` as a sub-buffer of ftrace, each with its event id alone.

    Who looks at the mix and the rate of events then needs to know one format. Empty when there is none.
    """
    events: list[tuple[int, int]] = []
    at, end = 0, len(block)
    while at + SAMPLE_HEAD_BYTES + 2 <= end:
        kind, _, size = struct.unpack_from("<IHH", block, at)
        if size < 8 or at + size > end:
            break
        if kind == RECORD_SAMPLE and size >= SAMPLE_HEAD_BYTES + 4:
            _, ts, _, number = _SAMPLE.unpack_from(block, at + 8)
            events.append((ts, number))
        at += size
    if not events:
        return b""
    events.sort()
    clock = events[0][0]
    words: list[int] = []
    for ts, number in events:
        delta = ts - clock
        if delta >> _DELTA_BITS:
            words += [_TIME_EXTEND | (delta & (1 << _DELTA_BITS) - 1) << 5, delta >> _DELTA_BITS & 0xFFFFFFFF]
            delta = 0
        words += [1 | delta << 5, number]
        clock = ts
    head = struct.pack("<Q", events[0][0]) + (len(words) * 4).to_bytes(_LONG_BYTES, "little")
    return head + struct.pack(f"<{len(words)}I", *words)
