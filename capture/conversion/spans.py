"""Bytes of any length in payloads: where those of a field are, and which of them are the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hindsight.capture.compiled import compiled

FIXED, LOCATED, RELATIVE, REST = range(4)
"""Where bytes are: in the field itself, where a ``__data_loc`` word says, or a ``__rel_loc`` word (counted
from the end of that word); from the field to the end of the payload."""


@dataclass(frozen=True)
class Span:
    """Bytes of any length, as text up to the first NUL or (``text`` False) as hexadecimal digits."""

    where: int
    text: bool


@compiled
def find_spans(
    words: Any, at: Any, offset: Any, size: Any, where: Any, text: bool, start: Any, length: Any
) -> int:
    """Where the bytes of a field are: ``start`` and ``length`` (u64[n]), in bytes from the first word.

    ``at`` u32[n]: payloads, before each of which a word holds its size in bytes. ``where``: FIXED … REST;
    ``text``: they end before the first NUL. Returns how many do not lie within their payload.
    """
    bad = 0
    four = np.uint64(4)
    for i in range(at.size):
        row = np.uint64(i)
        payload = np.uint64(at[row])
        held = np.uint64(words[payload - np.uint64(1)])
        begin = np.uint64(offset)
        count = np.uint64(size)
        if where in (LOCATED, RELATIVE):
            word = np.uint64(words[payload + (begin >> np.uint64(2))])
            count = word >> np.uint64(16)
            here = word & np.uint64(0xFFFF)
            begin = here if where == LOCATED else here + begin + four
        elif where == REST:
            count = held - begin if held > begin else np.uint64(0)
        if begin + count > held and count > 0:
            bad += 1
            start[row] = 0
            length[row] = 0
            continue
        begin += payload * four
        if text:
            for j in range(count):
                position = begin + np.uint64(j)
                byte = np.uint8(words[position >> np.uint64(2)] >> ((position & np.uint64(3)) * np.uint64(8)))
                if byte == 0:
                    count = np.uint64(j)
                    break
        start[row] = begin
        length[row] = count
    return bad


@compiled
def number_spans(data: Any, start: Any, length: Any, slots: Any, first: Any, codes: Any) -> int:
    """:func:`number_rows` for pieces of ``data`` (u8) from ``start``, of ``length`` bytes (u64[n])."""
    count = 0
    last = np.uint64(slots.size - 1)
    for i in range(start.size):
        row = np.uint64(i)
        begin = start[row]
        size = length[row]
        value = size
        for j in range(size):
            value = (value ^ np.uint64(data[begin + np.uint64(j)])) * np.uint64(0x9E3779B97F4A7C15)
            value ^= value >> np.uint64(29)
        slot = value & last
        while True:
            known = slots[slot]
            if known < 0:
                slots[slot] = count
                first[count] = i
                codes[row] = count
                count += 1
                break
            other = np.uint64(first[np.uint64(known)])
            same = length[other] == size
            if same:
                there = start[other]
                for j in range(size):
                    if data[begin + np.uint64(j)] != data[there + np.uint64(j)]:
                        same = False
                        break
            if same:
                codes[row] = known
                break
            slot = (slot + np.uint64(1)) & last
    return count
