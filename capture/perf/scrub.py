"""Take fields that are not to be kept out of a file of perf records, in place.

The counterpart of :mod:`hindsight.capture.ftrace.scrub`, for records instead of sub-buffers. Every record is
walked: a regular expression matches runs of whole records that hold nothing to take out, by their lengths, at
a fraction of what the same takes in Python; what it does not match is looked at one by one.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from hindsight.capture.hiding import Hidden, Places, hide, places_of
from hindsight.capture.perf.blocks import SAMPLE_HEAD_BYTES
from hindsight.capture.perf.ring import RECORD_SAMPLE

_WINDOW_BYTES = 1 << 18
_KINDS = 12
"""Lengths of records that the expression knows; others are walked one by one."""
_PAUSE_S = 50e-6
_SAMPLE = RECORD_SAMPLE.to_bytes(4, "little")


def scrub_records(path: Path, fields: Iterable[Hidden], names: Callable[[bytes], bytes]) -> int:
    """Hide ``fields`` in a file of perf records; returns how many events were changed.

    ``names`` replaces the name of a thread by another text of the same size.

    Everything else stays as it is, to the byte; what follows damage keeps what it has. Raises OSError.
    """
    hidden = places_of(fields)
    if not hidden:
        return 0
    changed = 0
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        at = 0
        skip = None
        while window := bytearray(os.pread(descriptor, _WINDOW_BYTES, at)):
            skip = skip or _others(window, hidden)
            used, first, last, events = _scrub_window(window, hidden, skip, names)
            if events:
                written = 0
                view = memoryview(window)[first:last]
                while written < len(view):
                    written += os.pwrite(descriptor, view[written:], at + first + written)
                changed += events
            if not used:
                break
            at += used
            time.sleep(_PAUSE_S)  # let go of the interpreter: another thread drains the ring buffers
    finally:
        os.close(descriptor)
    return changed


def _scrub_window(
    window: bytearray, hidden: Places, skip: re.Pattern[bytes], names: Callable[[bytes], bytes]
) -> tuple[int, int, int, int]:
    """Bytes of whole records walked, the range that was changed, the number of events changed."""
    at, end, events = 0, len(window), 0
    first, last = end, 0
    while at + 8 <= end:
        matched = skip.match(window, at)
        if matched is not None and matched.end() > at:
            at = matched.end()
            continue
        size = window[at + 6] | window[at + 7] << 8
        if size < 8 or size % 8 or at + size > end:
            break
        payload = at + SAMPLE_HEAD_BYTES
        if window[at : at + 4] == _SAMPLE and size >= SAMPLE_HEAD_BYTES + 4:
            fields = hidden.get(window[payload] | window[payload + 1] << 8, ())
            if fields and hide(window, payload, at + size, fields, names):
                first, last = min(first, payload), max(last, at + size)
                events += 1
        at += size
    return at, first, last, events


def _others(window: bytearray, hidden: Iterable[int]) -> re.Pattern[bytes]:
    """An expression for a run of samples without hidden fields, of the lengths that are frequent here."""
    lengths: Counter[int] = Counter()
    at = 0
    while at + 8 <= len(window) and lengths.total() < 512:
        size = window[at + 6] | window[at + 7] << 8
        if size < 8:
            break
        lengths[size] += 1
        at += size
    known = sorted(n for n, _ in lengths.most_common(_KINDS) if n % 8 == 0 and n >= SAMPLE_HEAD_BYTES + 4)
    known.sort(key=lambda n: -lengths[n])
    names = b"|".join(re.escape(number.to_bytes(2, "little")) for number in sorted(hidden))
    parts = [
        rb"%s.{%d}(?!%s).{%d}"
        % (re.escape(n.to_bytes(2, "little")), SAMPLE_HEAD_BYTES - 8, names, n - SAMPLE_HEAD_BYTES)
        for n in known
    ]
    text = rb"(?:%s..(?:%s))*+" % (re.escape(_SAMPLE), b"|".join(parts) or rb"(?!)")
    return re.compile(text, re.DOTALL)
