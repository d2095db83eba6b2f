"""Read fields out of payloads into columns: compiled."""

from __future__ import annotations

from typing import Any

import numpy as np

from hindsight.capture.compiled import compiled

CUT, ZEROS, SIGNS, TRUTH = range(4)
"""How numbers are made narrower: see :func:`gather`."""
_TOGETHER = 256
"""Rows whose fields are gathered together: their payloads stay in the cache of the first level."""


@compiled
def gather(
    words: Any, at: Any, begin: Any, stop: Any, offset: Any, size: Any, signed: Any, shift: Any, keep: Any,
    strict: Any, out: Any, place: Any,
) -> Any:  # fmt: skip
    """Read a number of ``size`` bytes at byte ``offset`` of payloads into ``out`` (unsigned), from ``place``.

    ``words`` u32; ``at`` u32[n] payload positions in words, of which those from ``begin`` to ``stop`` are
    read. Signed numbers are extended. What is stored is ``value >> shift & keep``, cut to the width of
    ``out``. Returns the bits that were cut off from any value (u64); ``strict``: CUT = they may be, ZEROS =
    unless zero-extension, SIGNS = unless sign-extension gives them back; TRUTH = whether there are bits at
    all is what is stored.
    """
    skip = np.uint64(offset) >> np.uint64(2)
    move = np.uint64(shift)
    mask_out = np.uint64(keep)
    width = np.uint64(out.itemsize * 8)
    top = np.uint64(1) << (width - np.uint64(1))
    low = top | (top - np.uint64(1))
    lost = np.uint64(0)
    to = np.uint64(place) - begin
    lean = (np.uint64(offset) & np.uint64(3)) * np.uint64(8)
    bits = np.uint64(size) * np.uint64(8)
    mask = (np.uint64(1) << bits) - np.uint64(1)
    sign = np.uint64(1) << (bits - np.uint64(1)) if signed else np.uint64(0)
    if strict == CUT and move == 0 and mask_out == ~np.uint64(0) and size >= 4:
        # Most of them: nothing but to copy.
        if size == 8 and out.itemsize == 8:
            for i in range(begin, stop):
                w = np.uint64(at[i]) + skip
                out[to + i] = np.uint64(words[w]) | np.uint64(words[w + np.uint64(1)]) << np.uint64(32)
            return lost
        if out.itemsize == 4 or not signed:
            for i in range(begin, stop):
                out[to + i] = words[np.uint64(at[i]) + skip]
            return lost
    if size == 8:
        for i in range(begin, stop):
            w = np.uint64(at[i]) + skip
            value = np.uint64(words[w]) | np.uint64(words[w + np.uint64(1)]) << np.uint64(32)
            value = (value >> move) & mask_out
            if strict == TRUTH:
                value = np.uint64(value != 0)
            out[to + i] = value
            if strict == ZEROS:
                lost |= value & ~low
            elif strict == SIGNS:
                lost |= (((value & low) ^ top) - top) ^ value
        return lost
    for i in range(begin, stop):
        value = (np.uint64(words[np.uint64(at[i]) + skip]) >> lean) & mask
        value = (((value ^ sign) - sign) >> move) & mask_out
        if strict == TRUTH:
            value = np.uint64(value != 0)
        out[to + i] = value
        if strict == ZEROS:
            lost |= value & ~low
        elif strict == SIGNS:
            lost |= (((value & low) ^ top) - top) ^ value
    return lost


@compiled
def gather_rows(
    words: Any, at: Any, begin: Any, stop: Any, fields: Any, keep: Any, out8: Any, out16: Any, out32: Any,
    out64: Any, place: Any, lost: Any,
) -> None:  # fmt: skip
    """:func:`gather` several fields of the same payloads, of some payloads while they are in the cache.

    ``fields`` i64[n, 7]: offset, size, signed, shift, strict, bytes of a stored value, where the column
    begins (in values), ``keep`` and ``lost`` u64[n]. The columns lie in one piece of memory, which ``out8`` …
    ``out64`` are; rows are stored from row ``place`` on.
    """
    step = np.uint64(_TOGETHER)
    some = np.uint64(begin)
    end = np.uint64(stop)
    while some < end:
        upto = min(some + step, end)
        for j in range(keep.size):
            c = np.uint64(j)
            offset, size, signed, shift = fields[c, 0], fields[c, 1], fields[c, 2], fields[c, 3]
            strict, width = fields[c, 4], fields[c, 5]
            to = np.uint64(fields[c, 6]) + np.uint64(place) + (some - np.uint64(begin))
            if width == 8:
                lost[c] |= gather(
                    words, at, some, upto, offset, size, signed, shift, keep[c], strict, out64, to
                )
            elif width == 4:
                lost[c] |= gather(
                    words, at, some, upto, offset, size, signed, shift, keep[c], strict, out32, to
                )
            elif width == 2:
                lost[c] |= gather(
                    words, at, some, upto, offset, size, signed, shift, keep[c], strict, out16, to
                )
            else:
                lost[c] |= gather(
                    words, at, some, upto, offset, size, signed, shift, keep[c], strict, out8, to
                )
        some = upto


@compiled
def gather_bytes(words: Any, at: Any, offset: Any, width: Any, located: bool, limit: Any, out: Any) -> int:
    """Copy text of at most ``width`` bytes, up to its first NUL, into ``out`` (u8[n, width or more], zeroed).

    ``located`` says that the field at ``offset`` is a ``__data_loc`` word (low half: position, high half:
    length). Returns how many texts did not fit into ``width`` or lie beyond ``limit`` words.
    """
    bad = 0
    for i in range(at.size):
        payload = np.uint64(at[i])
        start = np.uint64(offset)
        length = np.uint64(width)
        if located:
            word = np.uint64(words[payload + (start >> np.uint64(2))])
            start = word & np.uint64(0xFFFF)
            length = word >> np.uint64(16)
            if (payload << np.uint64(2)) + start + length > np.uint64(limit) << np.uint64(2):
                bad += 1
                continue
        row = np.uint64(i)
        for j in range(length):
            position = start + np.uint64(j)
            word = np.uint64(words[payload + (position >> np.uint64(2))])
            byte = np.uint8(word >> ((position & np.uint64(3)) * np.uint64(8)))
            if byte == 0:
                break
            if j >= width:
                bad += 1
                break
            out[row, np.uint64(j)] = byte
    return bad
