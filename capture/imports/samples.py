"""From a perf.data to a recording that can be converted.

Samples are read once, if they can be (:mod:`hindsight.capture.imports.sample_feed`). If not, they are copied
into native records first (:mod:`hindsight.capture.imports.framing`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hindsight.capture.conversion.convert import Recording
from hindsight.capture.conversion.events import InstanceTrace, foreign_kind
from hindsight.capture.conversion.index import Advance, RawIndex
from hindsight.capture.conversion.reconcile import DECODE, RING_FULL
from hindsight.capture.conversion.stream import StreamedTrace
from hindsight.capture.conversion.stretches import StretchColumns
from hindsight.capture.conversion.workers import Workers
from hindsight.capture.formats import EventFormat
from hindsight.capture.imports import facts
from hindsight.capture.imports import reframe as of
from hindsight.capture.imports.facts import Origin
from hindsight.capture.imports.foreign import Foreign
from hindsight.capture.imports.framing import Framer
from hindsight.capture.imports.pages import Wanted
from hindsight.capture.imports.perf_data import PerfData, read_perf_data
from hindsight.capture.imports.perf_sample import layouts
from hindsight.capture.imports.sample_feed import SampleFeed
from hindsight.capture.imports.sample_reader import Framed
from hindsight.capture.perf.records import RecordDecoder, index_open_records
from hindsight.capture.segments.segment import open_regular
from hindsight.errors import VerificationError

_SAMPLED = "perf sampled, not every event"
_THROTTLED = "perf throttled"


def recordings(
    file: Foreign, wanted: Wanted, scratch: Callable[[str], Path]
) -> list[tuple[Recording, Origin]]:
    """The recording of a perf.data. ``scratch`` makes a directory for its samples.

    Raises VerificationError when the file is damaged, or holds no samples of tracepoints.
    """
    data = read_perf_data(file)
    origin = Origin(f"perf.data {'stream' if data.pipe else 'file'}", file.fingerprint())
    capture = f"perf-{origin.fingerprint}"
    framed = None
    if data.pipe:
        # It tells its host, events and clock somewhere within it: it is read before anything else.
        framed = Framer(file, data, scratch(capture)).run(lambda count: None)
    if data.about is None:
        raise file.damaged("it has no formats of its tracepoints")
    layouts(file, data.attributes)
    _fill_origin(file, origin, data)
    loader = _Loader(file, data, origin, wanted, capture, scratch, framed)
    size = data.end - data.begin
    recording = Recording(
        f"{capture}-0000",
        file.path,
        origin.host(wanted.keys),
        loader.date,
        size,
        loader.load,
        stream=loader.stream,
    )
    return [(recording, origin)]


def _fill_origin(file: Foreign, origin: Origin, data: PerfData) -> None:
    clocks = {attribute.clock for attribute in data.attributes if attribute.traced}
    if len(clocks) > 1:
        raise VerificationError(
            f"{file.path}: its events have different clocks: {', '.join(sorted(clocks))}",
            "Record with one: perf record -k CLOCK_MONOTONIC …",
        )
    (origin.clock,) = clocks
    origin.node = data.strings.get("node", "")
    origin.release = data.strings.get("release", "")
    origin.machine = data.strings.get("machine", "")
    origin.tool = f"perf {data.strings.get('tool', '')}".rstrip()
    if data.about is not None:
        origin.page_bytes = data.about.page_bytes
        if data.about.damaged:
            origin.notes["formats_not_understood"] = sorted(data.about.damaged)[:64]
    if data.clock_data is not None:
        _, wall, clock = data.clock_data
        if max(wall, clock) < 1 << 62:
            origin.realtime_ns = wall - clock


class _Loader:
    """Indexes the samples."""

    def __init__(
        self,
        file: Foreign,
        data: PerfData,
        origin: Origin,
        wanted: Wanted,
        capture: str,
        scratch: Callable[[str], Path],
        framed: Framed | None,
    ) -> None:
        self.file, self.data, self.origin, self.wanted = file, data, origin, wanted
        self.capture, self.scratch, self.framed = capture, scratch, framed
        self.date = wanted.date or facts.UNKNOWN_DATE

    def load(self, workers: Workers, advance: Advance) -> tuple[dict[str, Any], list[InstanceTrace]]:
        """Copy and index all samples; the facts and the only instance."""
        formats = self._formats()
        kinds = [foreign_kind(number, layout) for number, layout in enumerate(formats)]
        framed, indexes = self._copied(formats, workers, advance)
        return self._facts(formats, framed, indexes), [InstanceTrace(facts.INSTANCE, kinds, indexes)]

    def stream(self, advance: Advance) -> StreamedTrace | None:
        """All samples, to be read once; None when they were copied already."""
        if self.framed is not None:
            return None
        formats = self._formats()
        kinds = [foreign_kind(number, layout) for number, layout in enumerate(formats)]
        columns = StretchColumns(kinds)
        feed = SampleFeed(self.file, self.data, kinds, columns, advance)
        return StreamedTrace(
            facts.INSTANCE,
            kinds,
            columns,
            [feed],
            lambda: self._facts(formats, feed.done, feed.counts()),
            feed.counts,
        )

    def _facts(self, formats: list[EventFormat], framed: Framed, cpus: facts.Counts) -> dict[str, Any]:
        about = self.data.about
        assert about is not None
        texts = {f"{layout.system}/{layout.name}": about.texts[layout.id] for layout in formats}
        return facts.build(
            self.origin, self.wanted.keys, self.capture, self.date, self.wanted.label, cpus, "perf",
            texts, self._losses(framed, cpus, formats),
        )  # fmt: skip

    def _copied(
        self, formats: list[EventFormat], workers: Workers, advance: Advance
    ) -> tuple[Framed, list[RawIndex]]:
        """Copy the samples in the layout of native captures, and index these."""
        where = self.scratch(self.capture)
        framed = self.framed or Framer(self.file, self.data, where).run(lambda count: None)
        decoder = RecordDecoder(formats)

        def one(cpu: int) -> RawIndex:
            path = where / f"cpu{cpu}.perf"
            descriptor = open_regular(path)
            try:
                return index_open_records(cpu, path, descriptor, framed.cpus[cpu], decoder, advance)
            finally:
                os.close(descriptor)

        return framed, workers.each(one, sorted(framed.cpus))

    def _formats(self) -> list[EventFormat]:
        about = self.data.about
        assert about is not None
        wanted = sorted({attribute.config for attribute in self.data.attributes if attribute.traced})
        return [about.events[number] for number in wanted if number in about.events]

    def _losses(self, framed: Framed, cpus: facts.Counts, formats: list[EventFormat]) -> list[dict[str, Any]]:
        span = facts.span_of(cpus)
        rows = []
        told = counted = 0
        for kind, cpu, begin, end, count in framed.notes:
            where = (begin if begin >= 0 else span[0], end if end >= 0 else span[1])
            where = (min(where), max(where))
            if kind == of.LOST_SAMPLES:
                counted += max(count, 0)
                continue
            cause = _THROTTLED if kind == of.THROTTLE else RING_FULL
            told += max(count, 0)
            exact = count if count >= 0 else None
            rows.append(facts.loss(None if cpu < 0 else cpu, None, where, exact or 0, exact, cause))
        if counted > told:
            # perf asks at the end how many samples of each event were lost, but not of which processor. Among
            # them are those that the ring buffers told of, at the next record that found room.
            rest = counted - told
            rows.append(facts.loss(None, None, span, rest, rest, RING_FULL))
        if framed.bad:
            rows.append(facts.loss(None, None, span, framed.bad, framed.bad, DECODE))
        if framed.cut:
            rows.append(facts.loss(None, None, (span[1], span[1]), 0, None, f"{DECODE}: {framed.cut}"))
        names = {layout.id: f"{layout.system}/{layout.name}" for layout in formats}
        sampled = {a.config for a in self.data.attributes if a.traced and a.period != 1}
        for number in sorted(sampled & names.keys()):
            rows.append(facts.loss(None, names[number], span, 0, None, _SAMPLED))
        return rows
