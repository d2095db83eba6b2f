"""Decode the events of a segment slice by slice, table by table, in the order of the tables' rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from hindsight.capture.conversion.columns import EventRows, EventTable, Source, sources
from hindsight.capture.conversion.decode import CpuEvents, PageDecoder
from hindsight.capture.conversion.generic import Generic, generic_table, misfit
from hindsight.capture.conversion.index import Advance, RawIndex, index_pages
from hindsight.capture.conversion.scratch import Scratch
from hindsight.capture.conversion.slices import SLICE_BYTES, cut, decode_slice
from hindsight.capture.conversion.workers import NONE, Workers
from hindsight.capture.formats import EventFormat, parse_event, parse_header_page
from hindsight.capture.options import RECORDS
from hindsight.capture.perf.records import RecordDecoder, index_records
from hindsight.capture.schema import TABLES, Table
from hindsight.capture.segments.segment import RAW_SUFFIX, Segment
from hindsight.errors import VerificationError

_BY_TRACEPOINT = {table.tracepoint: table for table in TABLES.values() if table.tracepoint}


@dataclass(frozen=True)
class Kind:
    """A kind of event that an instance recorded, and the table of its rows (None: it has none)."""

    number: int
    format: EventFormat
    table: Table | None
    generic: Generic | None = None

    @cached_property
    def plan(self) -> list[Source]:
        """Where the columns of its table come from, but ``ts`` and ``cpu``."""
        if self.table is None:
            return []
        return sources(self.format, self.table) if self.generic is None else self.generic.sources


class EventSlice(Protocol):
    """The events of a slice of time; ``counts``: of each kind, i64[kinds]."""

    @property
    def counts(self) -> np.ndarray:
        """See above."""

    def table(self, kind: Kind) -> EventRows:
        """The rows of one kind."""


@dataclass(frozen=True)
class DecodedSlice:
    """A slice of what was indexed: the events of each processor."""

    cpus: list[CpuEvents]

    @property
    def counts(self) -> np.ndarray:
        """Events of each kind, i64[kinds]."""
        return np.sum([cpu.counts for cpu in self.cpus], axis=0) if self.cpus else np.empty(0, np.int64)

    def table(self, kind: Kind) -> EventTable:
        """The rows of one kind."""
        return EventTable(kind.number, kind.format, self.cpus)


Slices = Iterator[tuple[EventSlice, int]]


class Trace(Protocol):
    """The raw trace of one instance, of which slices can be had."""

    @property
    def name(self) -> str:
        """Of the instance."""

    @property
    def kinds(self) -> list[Kind]:
        """The kinds of events that it may hold."""

    def slices(
        self, workers: Workers = NONE, slice_bytes: int = SLICE_BYTES, scratch: Scratch | None = None
    ) -> Slices:
        """See :meth:`InstanceTrace.slices`."""


def tables_of(trace: Trace) -> dict[str, Table]:
    """The tables that events of its kinds may have rows in, by name."""
    return {kind.table.name: kind.table for kind in trace.kinds if kind.table is not None}


@dataclass(frozen=True)
class InstanceTrace:
    """The raw trace of one instance, indexed: what it holds and what is damaged is known."""

    name: str
    kinds: list[Kind]
    cpus: list[RawIndex]

    def rows(self) -> dict[str, int]:
        """Rows by table."""
        found = {}
        for kind in self.kinds:
            count = sum(int(index.counts[:, kind.number].sum(dtype="int64")) for index in self.cpus)
            if kind.table is not None and count:
                found[kind.table.name] = count
        return found

    def slices(
        self, workers: Workers = NONE, slice_bytes: int = SLICE_BYTES, scratch: Scratch | None = None
    ) -> Iterator[tuple[DecodedSlice, int]]:
        """The events of each slice of time, and the bytes of raw trace that it was the first to read.

        Events are valid until the next slice is asked for; they are in the memory of ``scratch``.
        """
        scratch = scratch or Scratch()
        for part in cut(self.cpus, slice_bytes):
            yield DecodedSlice(decode_slice(part, self.cpus, scratch, workers)), part.fresh_bytes


def index_segment(
    segment: Segment,
    workers: Workers = NONE,
    advance: Advance = lambda count: None,
    verify: bool = True,
) -> list[InstanceTrace]:
    """Verify (unless told not to) and index all raw trace of a segment.

    Raises VerificationError when a file is not what the manifest says, or a format is missing or unknown.
    """
    instances = []
    tasks: list[tuple[int, int, str, Any]] = []
    for place, (name, facts) in enumerate(sorted(segment.facts["instances"].items())):
        kinds = [_kind(segment, number, event) for number, event in enumerate(facts["events"])]
        instances.append(InstanceTrace(name, kinds, []))
        decoder = _decoder(segment, facts, kinds)
        prefix, suffix = f"raw/{name}/cpu", RAW_SUFFIX[facts["source"]]
        for file in segment.files:
            if file.startswith(prefix) and file.endswith(suffix):
                cpu = int(file.removeprefix(prefix).removesuffix(suffix))
                tasks.append((place, cpu, file, decoder))
    strange = {name for name in segment.files if name.startswith("raw/")} - {task[2] for task in tasks}
    if strange:
        raise VerificationError(f"{segment.path}: the facts know nothing of {min(strange)}")
    tasks.sort(key=lambda task: task[:2])

    def one(task: tuple[int, int, str, Any]) -> RawIndex:
        _, cpu, file, decoder = task
        if isinstance(decoder, RecordDecoder):
            return index_records(cpu, segment.path, file, segment.files[file], decoder, advance, verify)
        return index_pages(cpu, segment.path, file, segment.files[file], decoder, advance, verify)

    for task, index in zip(tasks, workers.each(one, tasks), strict=True):
        instances[task[0]].cpus.append(index)
    return instances


def foreign_kind(number: int, layout: EventFormat) -> Kind:
    """A kind of event that another kernel, or another tool, may have recorded in any form.

    Its rows go to the table of :mod:`hindsight.capture.schema` if the event has all that this needs, else to
    a table derived from its format.
    """
    table = _BY_TRACEPOINT.get(f"{layout.system}/{layout.name}")
    why = "" if table is None else misfit(layout, table)
    if table is not None and not why:
        return Kind(number, layout, table)
    made = generic_table(layout, why)
    return Kind(number, layout, made.table, made)


def _decoder(segment: Segment, facts: dict[str, Any], kinds: list[Kind]) -> PageDecoder | RecordDecoder:
    formats = [kind.format for kind in kinds]
    if len({kind.id for kind in formats}) != len(formats):
        raise VerificationError(f"{segment.path}: two kinds of events have the same id")
    if facts["source"] in RECORDS:
        return RecordDecoder(formats)
    layout = parse_header_page(segment.formats.get("header_page", ""))
    if facts["subbuffer_bytes"] != layout.page_bytes:
        raise VerificationError(
            f"{segment.path}: sub-buffers of {facts['subbuffer_bytes']} bytes, but header_page says "
            f"{layout.page_bytes}"
        )
    return PageDecoder(layout, formats)


def _kind(segment: Segment, number: int, event: str) -> Kind:
    try:
        text = segment.formats[event]
    except KeyError:
        raise VerificationError(f"{segment.path} has no format of {event}") from None
    layout = parse_event(event.split("/")[0], text)
    if f"{layout.system}/{layout.name}" != event:
        raise VerificationError(f"{segment.path}: the format of {event} is that of {layout.name}")
    return Kind(number, layout, _BY_TRACEPOINT.get(f"{layout.system}/{layout.name}"))
