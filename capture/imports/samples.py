"""From a perf.data to a recording that can be converted: samples are put, by processor, into native records.

The file is read once, in pieces; what becomes of it is written into a scratch directory, which is what the
decoder of native captures (:mod:`hindsight.capture.perf.records`) then reads.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hindsight.capture.conversion.convert import Recording
from hindsight.capture.conversion.events import InstanceTrace, foreign_kind
from hindsight.capture.conversion.index import Advance, RawIndex, read_exactly
from hindsight.capture.conversion.reconcile import DECODE, RING_FULL
from hindsight.capture.conversion.workers import Workers
from hindsight.capture.formats import EventFormat
from hindsight.capture.imports import facts
from hindsight.capture.imports import reframe as of
from hindsight.capture.imports.compression import write_all
from hindsight.capture.imports.facts import Origin
from hindsight.capture.imports.foreign import Foreign
from hindsight.capture.imports.in_place import Blocks, InPlace, Kinds
from hindsight.capture.imports.pages import Wanted
from hindsight.capture.imports.perf_data import PerfData, compressed, read_perf_data, take_record
from hindsight.capture.imports.perf_sample import Layouts, layouts
from hindsight.capture.perf.records import RecordDecoder, index_open_records
from hindsight.capture.segments.segment import open_regular
from hindsight.errors import VerificationError

PIECE_BYTES = 4 << 20
_SMALLEST = 32
"""No sample with time, processor and a record is smaller, in bytes."""
_AUXTRACE, _COMPRESSED, _COMPRESSED2 = 71, 81, 83
_MOST_NOTES = 1 << 16
"""More losses of one recording are joined."""
_SAMPLED = "perf sampled, not every event"
_THROTTLED = "perf throttled"
Samples = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Place, raw, cpu, event: see :func:`hindsight.capture.imports.reframe.find_samples`."""


@dataclass
class Framed:
    """What became of the records: processors with samples, losses (kind, cpu, from, to, count), damage."""

    cpus: dict[int, int] = field(default_factory=dict)
    notes: list[tuple[int, ...]] = field(default_factory=list)
    bad: int = 0
    cut: str = ""


class Framer:
    """Reads the records of a perf.data, piece by piece, and writes those of tracepoints into ``target``."""

    def __init__(self, file: Foreign, data: PerfData, target: Path) -> None:
        self.file = file
        self.data = data
        self.target = target
        self.done = Framed()
        self._last = np.full(of.MAX_CPU, -1, np.int64)
        self._passed = np.zeros(256, np.bool_)
        self._passed[list(of.PASSED)] = True
        self._layouts: Layouts | None = None
        self._known = -1

    def run(self, advance: Callable[[int], None]) -> Framed:
        """Read all. Raises VerificationError when records of perf itself are damaged."""
        at, end = self.data.begin, min(self.data.end, self.file.size)
        piece = np.empty(min(PIECE_BYTES, max(end - at, 0)) // 4 * 4 + 4, np.uint8)
        self._out = np.empty(piece.size // 4, np.uint32)
        room = piece.size // _SMALLEST + 1
        self._room = (
            np.empty(room, np.uint32), np.empty(room, np.uint32), np.empty(room, np.uint16),
            np.empty(room, np.uint16), np.empty((room // 2 + 1, 5), np.int64),
        )  # fmt: skip
        while at < end:
            held = piece[: min(piece.size, end - at) // 4 * 4]
            if not held.size:
                self.done.cut = "the last record is incomplete"
                break
            read_exactly(self.file.descriptor, held, at, self.file.path)
            used, why = self._piece(held.view("<u4"), at)
            advance(used)
            at += used
            if why == of.DAMAGED:
                self.done.cut = "records are damaged"
                break
            if why == of.STOPPED:
                at = self._own(at, end)
                if at < 0:
                    self.done.cut = "the last record is incomplete"
                    break
            elif why == of.END and used == 0:
                self.done.cut = "the last record is incomplete"
                break
        return self.done

    def _layout(self) -> Layouts | None:
        if self._known != len(self.data.attributes):
            self._known = len(self.data.attributes)
            self._layouts = layouts(self.file, self.data.attributes) if self._known else None
        return self._layouts

    def _piece(self, words: np.ndarray, at: int) -> tuple[int, int]:
        """Frame what begins a piece; returns the bytes that were used, and why it stopped there."""
        layout = self._layout() if self._has_traced() else None
        if layout is None:
            return self._before_events(words)
        place, raw, cpu, event, notes = self._room
        size_of = np.zeros(of.MAX_CPU, np.int64)
        tally = np.zeros(5, np.int64)
        of.find_samples(
            words, layout.rows, layout.ids, layout.owner, layout.id_at, layout.id_back, self._passed,
            self._last, size_of, place, raw, cpu, event, notes, tally,
        )  # fmt: skip
        count = int(tally[of.SAMPLES])
        self._keep(words, at, layout, (place[:count], raw[:count], cpu[:count], event[:count]), size_of)
        self.done.bad += int(tally[of.BAD])
        self._note(notes[: int(tally[of.NOTES])])
        return int(tally[of.AT]) * 4, int(tally[of.WHY])

    def _keep(
        self, words: np.ndarray, at: int, layout: Layouts, samples: Samples, size_of: np.ndarray
    ) -> None:
        """Keep the samples of words from byte ``at`` of the file; ``size_of``: words of each processor's."""
        cursor = np.cumsum(size_of) - size_of
        begin = cursor.copy()
        of.copy_samples(words, layout.rows, layout.id_at, *samples, cursor, self._out)
        for number in np.flatnonzero(size_of).tolist():
            self._write(number, self._out[begin[number] : cursor[number]])

    def _has_traced(self) -> bool:
        return any(attribute.traced for attribute in self.data.attributes)

    def _before_events(self, words: np.ndarray) -> tuple[int, int]:
        """A stream begins with records of perf itself: nothing can be a sample before its event is known."""
        if words.size < 2:
            return 0, of.END
        kind, size = int(words[0]), int(words[1]) >> 16
        if size < 8:
            return 0, of.DAMAGED
        if kind < of.FIRST_OWN:
            if kind == of.SAMPLE:
                self.done.bad += 1
            return (size, of.ODD) if size <= words.size * 4 else (0, of.END)
        return 0, of.STOPPED

    def _write(self, cpu: int, words: np.ndarray) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(self.target / f"cpu{cpu}.perf", flags, 0o600)
        try:
            write_all(descriptor, words.view(np.uint8).data)
        finally:
            os.close(descriptor)
        self.done.cpus[cpu] = self.done.cpus.get(cpu, 0) + words.size * 4

    def _note(self, notes: np.ndarray) -> None:
        for note in notes.tolist():
            if len(self.done.notes) < _MOST_NOTES:
                self.done.notes.append(tuple(note))
                continue
            kind, cpu, begin, end, count = self.done.notes[-1]
            both = count + note[4] if count >= 0 and note[4] >= 0 else -1
            self.done.notes[-1] = (kind, cpu if cpu == note[1] else -1, begin, max(end, note[3]), both)

    def _own(self, at: int, end: int) -> int:
        """Take in a record of perf itself; returns where the next one is, -1 when it is cut off."""
        head = self.file.read(at, 8, "a record") if at + 8 <= end else b""
        kind, size = int.from_bytes(head[:4], "little"), int.from_bytes(head[6:8], "little")
        if at + max(size, 8) > end or size < 8:
            return -1
        if kind in (_COMPRESSED, _COMPRESSED2):
            raise compressed(self.file)
        after = 0
        if kind == _AUXTRACE and size >= 16:
            after = int.from_bytes(self.file.read(at + 8, 8, "a record"), "little")
        elif self.data.pipe:
            after = take_record(self.file, self.data, kind, at, size)
        at += size + after
        return at if at <= end else -1


class _Scattered(Exception):
    """Samples cannot be decoded where they are."""


class Finder(Framer):
    """Finds where the samples of each processor are, and leaves them there."""

    def __init__(self, file: Foreign, data: PerfData, formats: list[EventFormat]) -> None:
        super().__init__(file, data, Path())
        self._kinds = Kinds(formats)
        self._blocks = Blocks(self._kinds)

    def _keep(
        self, words: np.ndarray, at: int, layout: Layouts, samples: Samples, size_of: np.ndarray
    ) -> None:
        if not self._blocks.add(words, at, layout, samples):
            raise _Scattered

    def find(self, advance: Advance) -> tuple[Framed, list[RawIndex]] | None:
        """Read all; the index of each processor. None when the samples have to be copied."""
        layout = layouts(self.file, self.data.attributes)
        try:
            framed = self.run(advance)
        except _Scattered:
            return None
        return framed, self._blocks.indexes(
            self.file.path, lambda cpu: InPlace(cpu, layout, self._passed, self._kinds)
        )


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
        f"{capture}-0000", file.path, origin.host(wanted.keys), loader.date, size, loader.load
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
        """Index all records; the facts and the only instance."""
        formats = self._formats()
        kinds = [foreign_kind(number, layout) for number, layout in enumerate(formats)]
        found = None
        if self.framed is None:
            found = Finder(self.file, self.data, formats).find(advance)
        framed, indexes = found or self._copied(formats, workers, advance)
        instance = InstanceTrace(facts.INSTANCE, kinds, indexes)
        about = self.data.about
        assert about is not None
        texts = {f"{layout.system}/{layout.name}": about.texts[layout.id] for layout in formats}
        told = facts.build(
            self.origin, self.wanted.keys, self.capture, self.date, self.wanted.label, instance, "perf",
            texts, self._losses(framed, instance, formats),
        )  # fmt: skip
        return told, [instance]

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

    def _losses(
        self, framed: Framed, instance: InstanceTrace, formats: list[EventFormat]
    ) -> list[dict[str, Any]]:
        span = facts.span_of(instance)
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
