"""From a trace.dat to recordings that can be converted, one for each of its ring buffers.

Pages are read once, if they can be (:mod:`hindsight.capture.conversion.stream`). If not, compressed ones are
unpacked into a scratch directory first.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hindsight.capture.conversion.convert import Recording
from hindsight.capture.conversion.decode import PageDecoder
from hindsight.capture.conversion.events import InstanceTrace, Kind, foreign_kind
from hindsight.capture.conversion.index import (
    Advance,
    CpuCounts,
    RawIndex,
    index_open_pages,
    index_pieces,
    piece_bytes,
)
from hindsight.capture.conversion.reconcile import OVERRUN, RING_FULL
from hindsight.capture.conversion.stream import StreamedTrace
from hindsight.capture.conversion.stretches import StretchColumns
from hindsight.capture.conversion.workers import Workers
from hindsight.capture.formats import EventFormat, PageLayout
from hindsight.capture.imports import facts
from hindsight.capture.imports.chunks import Chunks
from hindsight.capture.imports.compression import write_all
from hindsight.capture.imports.facts import Counts, Keys, Origin
from hindsight.capture.imports.foreign import Foreign
from hindsight.capture.imports.page_feed import page_feeds
from hindsight.capture.imports.trace_dat import Buffer, CpuPages, TraceDat, read_trace_dat
from hindsight.capture.segments.segment import open_regular
from hindsight.errors import VerificationError

_MANY = 256
"""With more kinds of events than so many, those that occur are looked for first: the index has a column
each."""
_LACKING = "truncated: the kernel counted more events than the file holds"


@dataclass(frozen=True)
class Wanted:
    """How to import: ``date`` (empty: the file's own, if it tells) and ``label`` of the captures."""

    keys: Keys
    date: str = ""
    label: str = ""


def origin_of(file: Foreign, trace: TraceDat, buffer: Buffer) -> Origin:
    """What the file says of where it was recorded."""
    options = trace.options
    words = options.uname.split()
    named = len(words) >= 4
    origin = Origin(f"trace.dat {trace.version}", file.fingerprint(), buffer.clock)
    if named:
        origin.node, origin.release, origin.machine = words[1], words[2], words[-1]
    origin.tool = f"trace-cmd {options.tool}".rstrip()
    origin.boot = "" if options.trace_id is None else f"{options.trace_id:x}"
    origin.page_bytes = trace.about.layout.page_bytes
    origin.realtime_ns = options.date_ns
    origin.notes["compression"] = trace.compression.name
    if buffer.name:
        origin.notes["buffer"] = buffer.name
    if options.shifted:
        origin.notes["not_applied"] = sorted(options.shifted)
    if trace.about.damaged:
        origin.notes["formats_not_understood"] = sorted(trace.about.damaged)[:64]
    return origin


def recordings(
    file: Foreign, wanted: Wanted, scratch: Callable[[str], Path]
) -> list[tuple[Recording, Origin]]:
    """The recordings of a trace.dat. ``scratch`` makes a directory for what has to be unpacked.

    Raises VerificationError when the file is damaged, or its times are no nanoseconds.
    """
    trace = read_trace_dat(file)
    layout = trace.about.layout
    found = []
    for number, buffer in enumerate(trace.buffers):
        if not any(pages.size for pages in buffer.cpus) and (number or len(trace.buffers) > 1):
            continue  # the top buffer, when all was recorded in others
        if buffer.page_bytes != layout.page_bytes:
            raise file.damaged(f"pages of {buffer.page_bytes} bytes, by its header of {layout.page_bytes}")
        origin = origin_of(file, trace, buffer)
        if origin.ticks:
            raise VerificationError(
                f"{file.path}: its times are ticks of the clock {origin.clock}, not nanoseconds",
                "Record with a clock in nanoseconds: trace-cmd record -C mono.",
            )
        capture = f"trace-{origin.fingerprint}" + (f"-b{number}" if number else "")
        loader = _Loader(file, trace, buffer, origin, wanted, capture, scratch)
        size = sum(pages.size for pages in buffer.cpus)
        found.append(
            (
                Recording(
                    f"{capture}-0000",
                    file.path,
                    origin.host(wanted.keys),
                    loader.date,
                    size,
                    loader.load,
                    stream=loader.stream,
                ),
                origin,
            )
        )
    return found


class _Loader:
    """Unpacks and indexes one ring buffer, when it is asked to."""

    def __init__(
        self,
        file: Foreign,
        trace: TraceDat,
        buffer: Buffer,
        origin: Origin,
        wanted: Wanted,
        capture: str,
        scratch: Callable[[str], Path],
    ) -> None:
        self.file, self.trace, self.buffer, self.origin = file, trace, buffer, origin
        self.wanted, self.capture, self.scratch = wanted, capture, scratch
        self.date = wanted.date or facts.UNKNOWN_DATE
        self.layout: PageLayout = trace.about.layout

    def load(self, workers: Workers, advance: Advance) -> tuple[dict[str, Any], list[InstanceTrace]]:
        """Index all pages; the facts and the only instance."""
        formats = list(self.trace.about.events.values())
        if len(formats) > _MANY:
            seen = workers.each(lambda pages: self._occurring(formats, pages), self.buffer.cpus)
            formats = [formats[n] for n in sorted(set().union(*seen))]
        kinds = _kinds(formats)
        sized = [kind.number for kind in kinds if kind.generic is not None and kind.generic.sized]
        decoder = PageDecoder(self.layout, formats, sized)
        indexes = workers.each(lambda pages: self._index(decoder, pages, advance), self.buffer.cpus)
        return self._facts(kinds, indexes), [InstanceTrace(facts.INSTANCE, kinds, indexes)]

    def stream(self, advance: Advance) -> StreamedTrace | None:
        """All pages, to be read once; None when it has to be found first which events there are."""
        formats = list(self.trace.about.events.values())
        if len(formats) > _MANY:
            return None
        kinds = _kinds(formats)
        columns = StretchColumns(kinds)
        decoder = PageDecoder(self.layout, formats, columns.with_payloads)
        feeds = page_feeds(self.file, self.buffer.cpus, self.trace.compression, decoder, columns, advance)

        def counts() -> list[CpuCounts]:
            return [feed.counts() for feed in feeds]

        return StreamedTrace(
            facts.INSTANCE, kinds, columns, feeds, lambda: self._facts(kinds, counts()), counts
        )

    def _facts(self, kinds: list[Kind], cpus: Counts) -> dict[str, Any]:
        return facts.build(
            self.origin, self.wanted.keys, self.capture, self.date, self.wanted.label, cpus, "ftrace",
            self._texts(kinds), self._losses(cpus),
        )  # fmt: skip

    def _occurring(self, formats: list[EventFormat], pages: CpuPages) -> set[int]:
        decoder = PageDecoder(self.layout, formats)
        found = self._index(decoder, pages, lambda count: None)
        return set(np.flatnonzero(found.counts.any(axis=0)).tolist())

    def _index(self, decoder: PageDecoder, pages: CpuPages, advance: Advance) -> RawIndex:
        """Pages as the kernel wrote them are read where they are; others are unpacked into a file."""
        if not pages.compressed or not pages.size:
            descriptor = open_regular(self.file.path)
            try:
                # Of a processor without pages nobody vouches for the place.
                begin = pages.offset if pages.size else 0
                end = begin + pages.size
                return index_open_pages(pages.cpu, self.file.path, descriptor, begin, end, decoder, advance)
            finally:
                os.close(descriptor)
        target = self.scratch(self.capture) / f"cpu{pages.cpu}.pages"
        chunks = Chunks(self.file, self.trace.compression, pages.offset, pages.size, advance)
        return index_pieces(pages.cpu, target, 0, _spooled(chunks, target, piece_bytes(decoder)), decoder)

    def _texts(self, kinds: list[Kind]) -> dict[str, str]:
        texts = self.trace.about.texts
        return {f"{kind.format.system}/{kind.format.name}": texts[kind.format.id] for kind in kinds}

    def _losses(self, cpus: Counts) -> list[dict[str, Any]]:
        """What the kernel counted as lost, and what it counted and the file does not hold.

        trace-cmd reads the counters while its readers still empty the buffers: a page that is taken between
        two of them counts twice, as left to be read and as read. So the second is an upper bound.
        """
        span = facts.span_of(cpus)
        held = {index.cpu: index.events + index.unusable for index in cpus}
        rows = []
        for cpu, counters in sorted(self.trace.options.stats.get(self.buffer.name, {}).items()):
            overrun = counters.get("overrun", 0) + counters.get("commit overrun", 0)
            for count, cause in ((overrun, OVERRUN), (counters.get("dropped events", 0), RING_FULL)):
                if count:
                    rows.append(facts.loss(cpu, None, span, count, count, cause))
            lacking = counters.get("read events", 0) + counters.get("entries", 0) - held.get(cpu, 0)
            if lacking > 0:
                rows.append(facts.loss(cpu, None, span, 0, lacking, _LACKING))
        return rows


def _kinds(formats: list[EventFormat]) -> list[Kind]:
    return [foreign_kind(number, layout) for number, layout in enumerate(formats)]


def _spooled(chunks: Chunks, target: Path, piece_bytes: int) -> Iterator[np.ndarray]:
    """Write what chunks hold into the file ``target``; yields its content (u8) as it grows.

    All pieces but the last have ``piece_bytes``; each is valid until the next.
    """
    buffer = np.empty(piece_bytes, np.uint8)
    out = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        while size := chunks(buffer):
            write_all(out, buffer[:size].data)
            yield buffer[:size]
    finally:
        os.close(out)
