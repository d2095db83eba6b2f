"""Whether a sub-buffer on disk can be what the kernel wrote: a walk through one page, standard library alone.

For pages that a power loss may have torn or replaced by zeros; decoding is
:mod:`hindsight.capture.conversion.decode`. Format: kernel/trace/ring_buffer.c of Linux 6.18.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hindsight.capture.formats import PageLayout, parse_event, parse_header_page

_COMMIT_MASK = 0xFFFFF
_PADDING, _TIME_EXTEND, _TIME_STAMP = 29, 30, 31
_STAMP_BITS = 59


@dataclass(frozen=True)
class PageCheck:
    """Checks sub-buffers. ``needs``: the smallest payload in bytes of each event, by its id."""

    layout: PageLayout
    needs: Mapping[int, int]

    @classmethod
    def of(cls, formats: Mapping[str, str]) -> PageCheck:
        """For the formats of a segment; raises VerificationError (damaged) or KeyError (absent)."""
        layout = parse_header_page(formats["header_page"])
        events = [parse_event(name.split("/")[0], formats[name]) for name in formats if "/" in name]
        return cls(layout, {event.id: event.payload_bytes for event in events})

    def stamp(self, page: bytes) -> int:
        """The time in the header of a page, ns."""
        return int.from_bytes(page[:8], "little")

    def end(self, page: bytes) -> int | None:
        """The time of the last event in a page, ns; None when it cannot be a page that the kernel wrote."""
        layout = self.layout
        if len(page) != layout.page_bytes:
            return None
        clock = self.stamp(page)
        commit = int.from_bytes(page[layout.commit_offset : layout.commit_offset + 4], "little")
        length = commit & _COMMIT_MASK
        if not 0 < length <= layout.data_size or length % 4 or clock == 0:
            return None
        words = struct.unpack_from(f"<{length // 4}I", page, layout.data_offset)
        at, end = 0, len(words)
        while at < end:
            kind, delta = words[at] & 31, words[at] >> 5
            if kind <= 28:
                payload = at + 1
                if kind:
                    after = payload + kind
                else:
                    if payload >= end or words[payload] < 4:
                        return None
                    after = payload + (words[payload] + 3) // 4
                    payload += 1
                if after > end or after == payload:
                    return None
                number = words[payload] & 0xFFFF
                if number == 0 or (after - payload) * 4 < self.needs.get(number, 0):
                    return None
                clock += delta
                at = after
            elif kind == _PADDING:
                if delta == 0:
                    break
                if at + 1 >= end:
                    return None
                at += 1 + (words[at + 1] + 3) // 4
                if at > end:
                    return None
            else:
                if at + 1 >= end:
                    return None
                stamp = delta + (words[at + 1] << 27)
                if kind == _TIME_EXTEND:
                    clock += stamp
                else:
                    high = clock >> _STAMP_BITS
                    stamp &= (1 << _STAMP_BITS) - 1
                    full = stamp | high << _STAMP_BITS
                    clock = full + (1 << _STAMP_BITS) if high and full < clock else full
                at += 2
        return clock

    def ends_in_zeros(self, page: bytes) -> bool:
        """Whether the data of a page ends in zeros, so that zeros in place of its end would not show."""
        commit = int.from_bytes(page[self.layout.commit_offset : self.layout.commit_offset + 4], "little")
        end = self.layout.data_offset + (commit & _COMMIT_MASK)
        return not any(page[end - 1 : end])


def trusted(file: Path, check: PageCheck, page_bytes: int, durable: int) -> tuple[int, int | None]:
    """How many bytes at the beginning of a file of sub-buffers are whole and sound.

    Up to ``durable`` they are taken as they are. Returns the time of the last event in them as well (ns).
    """
    size = file.stat().st_size
    good = min(durable, size) // page_bytes * page_bytes
    last: int | None = None
    with open(file, "rb") as opened:
        if good:
            opened.seek(good - page_bytes)
            page = opened.read(page_bytes)
            last = check.end(page) or check.stamp(page)
        suspect = False
        before = last
        while len(page := opened.read(page_bytes)) == page_bytes:
            end = check.end(page)
            if end is None or (last is not None and check.stamp(page) < last):
                break
            # Zeros in place of a file's end may begin within the last event of this page.
            suspect = check.ends_in_zeros(page)
            good, before, last = good + page_bytes, last, end
        if suspect and not any(page):
            good, last = good - page_bytes, before
    return good, last
