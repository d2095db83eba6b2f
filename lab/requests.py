"""How many requests a device gets from a replay: bios, and what the block layer makes of them.

A bio is a run of new folios of one readahead call (mm/readahead.c: read_pages), at most BIO_MAX_VECS of them,
that follow each other on the device (fs/mpage.c, fs/ext4/readpage.c). It is cut where a request would exceed
what the device takes: pages, and *segments* of memory that are contiguous (block/blk-merge.c:
bio_split_io_at). Folios are taken to be apart in memory, which is nearly so, but single pages sometimes are
neighbours by chance: hence modelled, not exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hindsight.errors import NotPermittedError
from hindsight.lab.device import LabDevice
from hindsight.subsystems.contract import Columns
from hindsight.subsystems.readahead import replay
from hindsight.subsystems.readahead.device import BIO_FOLIOS
from hindsight.subsystems.readahead.state import RA_ORDER, RA_UNBOUNDED

_PAGE = 4096


@dataclass(frozen=True)
class Limits:
    """Of one request: pages, segments, and pages of a segment (/sys/block/…/queue)."""

    pages: int
    segments: int
    segment_pages: int


def limits_of(device: LabDevice) -> Limits:
    """Those of a device; NotPermittedError if the kernel does not tell them."""
    queue = Path("/sys/block") / Path(device.node).name / "queue"
    try:
        kilobytes, segments, size = (
            int((queue / name).read_text()) for name in ("max_sectors_kb", "max_segments", "max_segment_size")
        )
    except (OSError, ValueError) as error:
        raise NotPermittedError(f"the limits of {device.node} cannot be read: {error}") from error
    return Limits(max(kilobytes * 1024 // _PAGE, 1), max(segments, 1), max(size // _PAGE, 1))


def count_requests(
    demand: Mapping[str, Columns], limits: Limits, breaks: Mapping[int, NDArray[np.int64]]
) -> int:
    """Requests of the whole demand under the stock logic, with the limits that ``demand["streams"]`` has.

    ``breaks``: file (its ordinal) -> pages where a bio ends in any case (:mod:`hindsight.lab.extents`).
    """
    return sum(pieces(bio, limits) for bio in bios(demand, breaks))


def bios(demand: Mapping[str, Columns], breaks: Mapping[int, NDArray[np.int64]]) -> list[list[int]]:
    """The orders of the folios of each bio."""
    added = replay.insertions(demand)
    files, pages, orders = (added[name].astype(np.int64).tolist() for name in ("file_id", "index", "order"))
    edges = {file: set(where.tolist()) for file, where in breaks.items()}
    calls = _calls(demand)
    found: list[list[int]] = []
    at = call = 0
    while at < len(pages):
        here = call
        while here < len(calls) and not _within(calls[here], files[at], pages[at]):
            here += 1
        if here == len(calls):
            # A page that a read brings in without readahead; the next one may belong to a call again.
            found.append([orders[at]])
            at += 1
            continue
        call, expected = here + 1, -1
        while at < len(pages) and _within(calls[here], files[at], pages[at]):
            page, order = pages[at], orders[at]
            if page != expected or len(found[-1]) == BIO_FOLIOS or page in edges.get(files[at], ()):
                found.append([])
            found[-1].append(order)
            expected = page + (1 << order)
            at += 1
    return found


Call = tuple[int, int, int]
"""A readahead call: file, first page, page after the last."""


def _within(call: Call, file: int, page: int) -> bool:
    return call[0] == file and call[1] <= page < call[2]


def _calls(demand: Mapping[str, Columns]) -> list[Call]:
    """The readahead calls of the replay that may submit pages, in order."""
    decided = replay.run(demand)
    use = np.isin(decided["kind"], (RA_ORDER, RA_UNBOUNDED))
    file = np.asarray(demand["streams"]["file_id"]).astype(np.int64)[decided["stream"].astype(np.int64)][use]
    begin = decided["index"].astype(np.int64)[use]
    ordered = decided["kind"][use] == RA_ORDER
    end = begin + np.where(ordered, decided["size"][use], decided["req"][use]).astype(np.int64)
    # A window that meets cached pages goes on as a plain read, from there.
    op = decided["op"].astype(np.int64)[use]
    cut = ordered[:-1] & ~ordered[1:] & (op[:-1] == op[1:]) & (file[:-1] == file[1:])
    cut &= (begin[:-1] <= begin[1:]) & (begin[1:] < end[:-1])
    end[:-1] = np.where(cut, begin[1:], end[:-1])
    return list(zip(file.tolist(), begin.tolist(), end.tolist(), strict=True))


def pieces(bio: list[int], limits: Limits) -> int:
    """Requests that a bio of folios of these orders is cut into."""
    requests, pages, segments = 1, 0, 0
    for order in bio:
        left = 1 << order
        while left > 0:
            if pages == limits.pages or segments == limits.segments:
                requests, pages, segments = requests + 1, 0, 0
            part = min(left, limits.segment_pages, limits.pages - pages)
            pages, segments, left = pages + part, segments + 1, left - part
    return requests
