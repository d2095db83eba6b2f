"""Cut a recording into slices of time that fit into memory, and decode them one after the other.

A slice takes, from every CPU, the blocks that may hold events of its time, and keeps the events of that time
alone. So each event belongs to exactly one slice, and rows that are sorted by (time, processor, position)
within each slice are sorted over all of them, whatever the times in the file are.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hindsight.capture.conversion.decode import EARLIEST, LATEST, CpuEvents
from hindsight.capture.conversion.index import Filler, RawIndex, read_exactly
from hindsight.capture.conversion.scratch import Scratch
from hindsight.capture.conversion.workers import Workers
from hindsight.capture.segments.segment import open_regular
from hindsight.errors import VerificationError

SLICE_BYTES = 8 << 20
"""Raw trace that is decoded at once."""


@dataclass(frozen=True)
class Slice:
    """Events of ``earliest`` … ``latest`` (ns, both included). ``blocks``: the blocks (index array) of each
    CPU that may hold some, in order. ``fresh_bytes`` of them are not part of an earlier slice.
    """

    earliest: int
    latest: int
    blocks: list[np.ndarray]
    fresh_bytes: int


def cut(indexes: list[RawIndex], slice_bytes: int = SLICE_BYTES) -> Iterator[Slice]:
    """Cut what several CPUs recorded at the same time into slices of about ``slice_bytes`` of raw trace.

    Blocks that start earliest come first. A slice ends where the earliest block that it does not have begins.
    """
    owner = np.concatenate([np.full(len(i.low), n) for n, i in enumerate(indexes)] or [np.empty(0, np.int64)])
    if not len(owner):
        return
    number = np.concatenate([np.arange(len(i.low)) for i in indexes])
    low = np.concatenate([i.low for i in indexes])
    high = np.concatenate([i.high for i in indexes])
    size = np.concatenate([i.sizes for i in indexes])
    order = np.argsort(low, kind="stable")
    filled = np.cumsum(size[order])
    sorted_low = low[order]
    active = np.empty(0, np.int64)
    earliest, at = EARLIEST, 0
    while at < len(order) or len(active):
        room = (int(filled[at - 1]) if at else 0) + slice_bytes - int(size[active].sum())
        stop = max(int(np.searchsorted(filled, room, "right")), min(at + 1, len(order)))
        # At least one moment must pass, or nothing would come out of this slice.
        stop = max(stop, int(np.searchsorted(sorted_low, earliest, "right")))
        latest = int(sorted_low[stop]) - 1 if stop < len(order) else LATEST
        fresh = order[at:stop]
        chosen = np.sort(np.concatenate([active, fresh]))  # by CPU, then by place in the file
        blocks = [number[chosen[owner[chosen] == cpu]] for cpu in range(len(indexes))]
        yield Slice(earliest, latest, blocks, int(size[fresh].sum()))
        if latest == LATEST:
            return
        active = chosen[high[chosen] > latest]
        earliest, at = latest + 1, stop


def decode_slice(part: Slice, indexes: list[RawIndex], scratch: Scratch, workers: Workers) -> list[CpuEvents]:
    """Decode a slice; every CPU in a task of its own. All share one array of words, which is ``scratch``'s:
    the next slice overwrites it.

    Raises VerificationError when a file cannot be read, or is not what was indexed.
    """
    starts = [0]
    for index, blocks in zip(indexes, part.blocks, strict=True):
        starts.append(starts[-1] + int(index.sizes[blocks].sum()))
    if starts[-1] // 4 >= 1 << 32:
        raise VerificationError(
            f"{indexes[0].path.parent}: times are in such disorder that more than 16 GiB belong together"
        )
    data = scratch.take("words", starts[-1], "u1")

    def one(cpu: int) -> CpuEvents:
        index, blocks = indexes[cpu], part.blocks[cpu]
        counts = index.counts[blocks].sum(axis=0, dtype=np.int64)
        with ExitStack() as stack:
            descriptor = open_regular(index.path)
            stack.callback(os.close, descriptor)

            def parts() -> Iterator[tuple[Filler, np.ndarray, int]]:
                place = starts[cpu]
                for offset, end in _stretches(index, blocks):
                    piece = data[place : place + end - offset]
                    read_exactly(descriptor, piece, offset, index.path)
                    yield index.filler, piece.view("<u4"), place // 4
                    place += end - offset

            return fill_blocks(
                index.cpu, words, counts, parts(), part.earliest, part.latest, scratch, cpu, index.path
            )

    words = data.view("<u4")
    return workers.each(one, [cpu for cpu, blocks in enumerate(part.blocks) if len(blocks)])


def fill_blocks(
    cpu: int,
    words: np.ndarray,
    counts: np.ndarray,
    parts: Iterable[tuple[Filler, np.ndarray, int]],
    earliest: int,
    latest: int,
    scratch: Scratch,
    name: object,
    path: Path | None = None,
) -> CpuEvents:
    """Write down the events of ``earliest`` … ``latest`` (ns) of one processor.

    ``counts`` i64[kinds]: how many there are in ``parts``, at most: blocks of ``words`` (u32), each with who
    decodes it and where it begins, in words. Arrays are those of ``name`` in ``scratch``. Raises
    VerificationError when there are more, as the file ``path`` is not what was indexed.
    """
    first = np.zeros(counts.size + 1, np.int64)
    np.cumsum(counts, out=first[1:])
    ts, at = scratch.take(("ts", name), first[-1], "i8"), scratch.take(("at", name), first[-1], "u4")
    cursor = first[:-1].copy()
    for filler, some, origin in parts:
        filler.fill(some, origin, earliest, latest, cursor, first[1:], ts, at)
    if (cursor > first[1:]).any():
        raise VerificationError(f"{path} was changed while it was read")
    return CpuEvents(cpu, words, first, ts, at, 0, [], cursor)


def _stretches(index: RawIndex, blocks: np.ndarray) -> Iterator[tuple[int, int]]:
    """Bytes (from, to) of the file that have blocks without a gap."""
    if len(blocks):
        begin, end = index.offset[blocks], index.ends[blocks]
        gaps = np.flatnonzero(begin[1:] != end[:-1])
        yield from zip(begin[[0, *(gaps + 1)]].tolist(), end[[*gaps, -1]].tolist(), strict=True)
