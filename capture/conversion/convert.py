"""Convert sealed recordings into the Parquet tables of the data contract.

Memory is bounded whatever a recording's size: it is decoded in slices of time, and rows are written in row
groups whose size depends on the numbers of rows alone. The bytes of the tables depend on the recording, on
``comm`` and on the release of this program and of Arrow; not on the number of jobs or the size of slices.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hindsight.capture.conversion.census import Census
from hindsight.capture.conversion.events import (
    EventSlice,
    InstanceTrace,
    Kind,
    Trace,
    index_segment,
    tables_of,
)
from hindsight.capture.conversion.facttables import FACT_TABLES, fact_tables, renaming
from hindsight.capture.conversion.generic import Addresses, generic_renaming
from hindsight.capture.conversion.index import Advance, CpuCounts, RawIndex
from hindsight.capture.conversion.parquet import (
    BUFFER_BYTES,
    ROW_GROUP,
    TableWriter,
    row_groups,
    write_rows,
)
from hindsight.capture.conversion.progress import Progress
from hindsight.capture.conversion.reconcile import Decoded, reconcile
from hindsight.capture.conversion.sampled import write_sampled
from hindsight.capture.conversion.scratch import Scratch
from hindsight.capture.conversion.slices import SLICE_BYTES
from hindsight.capture.conversion.staging import Staging, sweep, unwritable
from hindsight.capture.conversion.stream import StreamedTrace, Unsuited
from hindsight.capture.conversion.workers import Workers
from hindsight.capture.schema import SCHEMA_VERSION, TABLES
from hindsight.capture.segments.facts import HASHED_NAMES
from hindsight.capture.segments.rowfiles import row_table
from hindsight.capture.segments.segment import check_facts, find_segments, open_segment
from hindsight.errors import ConfigurationError, VerificationError

COMMIT_TABLE = "captures"
"""Named last: a segment without it was not converted completely."""


@dataclass(frozen=True)
class Converted:
    """What became of one segment: rows by table; ``converted`` False when it was there already."""

    segment: str
    converted: bool
    tables: dict[str, int] = field(default_factory=dict)
    events: int = 0
    lost: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Job:
    """How to convert: names of programs kept (``comm``), ``threads``, bytes of raw trace decoded at once.

    ``scratch``: memory that recordings use one after the other.
    """

    out: Path
    comm: bool = False
    force: bool = False
    threads: int = 1
    slice_bytes: int = SLICE_BYTES
    scratch: Scratch = field(default_factory=Scratch)


@dataclass(frozen=True)
class Recording:
    """What is converted: the name of its files, where it comes from, its host (pseudonym) and date, its size.

    ``files`` are those of a segment: some hold rows that were sampled. ``load`` indexes the raw trace and
    tells the facts, in the shape of those of a segment (:mod:`hindsight.capture.segments.facts`). ``stream``
    reads it in one pass instead; None if it cannot be.
    """

    name: str
    path: Path
    host: str
    date: str
    raw_bytes: int
    load: Callable[[Workers, Advance], tuple[dict[str, Any], list[InstanceTrace]]]
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    stream: Callable[[Advance], StreamedTrace | None] | None = None


def available_processors() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0))


def convert(
    segments: Sequence[Path],
    out: Path,
    *,
    comm: bool = False,
    force: bool = False,
    jobs: int | None = None,
    slice_bytes: int = SLICE_BYTES,
    progress: Progress | None = None,
    done: Callable[[Converted], object] = lambda result: None,
) -> list[Converted]:
    """Convert segments (or directories of segments) into the dataset ``out``; one result per segment.

    Names of programs become keyed hashes unless ``comm``. What ``out`` already holds is left alone unless
    ``force``: a conversion that was interrupted goes on with the segment that it was at. ``jobs`` threads
    (None = the processors available) do not change the result. ``done`` is called after each segment.

    Raises ConfigurationError for paths without recordings, for an unwritable ``out``, for names that were not
    kept, VerificationError for a
    recording that is damaged or that this release cannot read, BusyError when another process converts it.
    """
    paths = find_segments([Path(s) for s in segments])
    job = Job(Path(out), comm, force, jobs or available_processors(), slice_bytes)
    bar = progress or Progress(wanted=False)
    results = []
    swept = False
    for path in paths:
        try:
            result = _convert_segment(path, job, bar)
            if not swept and result.converted:
                sweep(job.out)
                swept = True
        except OSError as error:
            raise unwritable(error) from error
        finally:
            bar.clear()
        results.append(result)
        done(result)
    return results


def _convert_segment(path: Path, job: Job, progress: Progress) -> Converted:
    segment = open_segment(path, raw=False)
    check_facts(segment)
    facts = segment.facts
    if facts["schema_version"] != SCHEMA_VERSION or facts["byteorder"] != "little":
        raise VerificationError(
            f"{path} has schema version {facts['schema_version']} and is {facts['byteorder']}-endian; "
            f"this program reads {SCHEMA_VERSION}, little-endian"
        )
    size = sum(int(file["bytes"]) for file in segment.files.values())

    def load(workers: Workers, advance: Advance) -> tuple[dict[str, Any], list[InstanceTrace]]:
        return facts, index_segment(segment, workers, advance)

    host = facts["tables"]["captures"][0]["host"]
    recording = Recording(segment.name, path, host, facts["date"], size, load, segment.files)
    return convert_recording(recording, job, progress)


def convert_recording(recording: Recording, job: Job, progress: Progress) -> Converted:
    """Convert one recording; nothing when ``job.out`` holds it already, unless ``job.force``.

    Raises what ``recording.load`` raises, VerificationError for damage, BusyError, OSError.
    """
    directory = job.out / f"host={recording.host}" / f"date={recording.date}"
    if (directory / COMMIT_TABLE / f"{recording.name}.parquet").exists() and not job.force:
        return Converted(recording.name, False)
    progress.start(recording.name, recording.raw_bytes)
    with Workers(job.threads) as workers:
        return _Conversion(recording, directory, job, progress, workers).run()


class _Conversion:
    """One recording. What is indexed is verified before anything is written."""

    def __init__(
        self,
        recording: Recording,
        directory: Path,
        job: Job,
        progress: Progress,
        workers: Workers,
    ) -> None:
        self.recording = recording
        self.directory = directory
        self.job = job
        self.progress = progress
        self.workers = workers

    def run(self) -> Converted:
        """Decode, reconcile, write, publish: in one pass, or else indexed first."""
        make = self.recording.stream
        stream = make(self._advance_once) if make is not None else None
        indexed = self._load() if stream is None else None
        name = self.recording.name
        with Staging(self.job.out, name) as staging:
            if stream is not None:
                try:
                    facts, decoded = self._write_streamed(stream, staging.path)
                except Unsuited:
                    self.progress.start(name, self.recording.raw_bytes)
                    indexed = self._load()
            if indexed is not None:
                facts, decoded = self._write_indexed(*indexed, staging.path)
            losses = reconcile(self.recording.path, facts, decoded)
            for table, rows in fact_tables(facts, losses, self.census, self.key).items():
                write_rows(staging.path / table, rows)
                self.rows[table] = rows.num_rows
            self._write_sampled(staging.path)
            files = {table: self._file(table) for table in self.rows}
            commit = staging.path / COMMIT_TABLE, files.pop(COMMIT_TABLE)
            known = {*TABLES, *(p.parent.name for p in self.directory.glob(f"*.*/{name}.parquet"))}
            stale = [self._file(table) for table in known - self.rows.keys()]
            pairs = [(staging.path / table, target) for table, target in sorted(files.items())]
            staging.publish(pairs, commit, stale, self.workers)
        lost = sum(row["count_lower"] for row in losses)
        return Converted(name, True, dict(sorted(self.rows.items())), self.events, lost)

    def _advance_once(self, count: int) -> None:
        """So many bytes were read that are read once: those of segments are read twice."""
        self.progress.advance(2 * count)

    def _load(self) -> tuple[dict[str, Any], list[InstanceTrace]]:
        """Index and verify; the facts are those that count from here on."""
        facts, instances = self.recording.load(self.workers, self.progress.advance)
        self._begin(facts)
        names = [name for instance in instances for name in instance.rows()]
        if len(names) != len(set(names)):
            raise VerificationError(f"{self.recording.path}: two instances hold events of the same kind")
        return facts, instances

    def _begin(self, facts: dict[str, Any]) -> None:
        hashed = facts.get("comm") == HASHED_NAMES
        if self.job.comm and hashed:
            raise ConfigurationError(
                f"{self.recording.path} holds no names of programs, only keyed hashes of them",
                "Convert without --comm; names are kept by: hindsight capture record --comm",
            )
        self.key = None if self.job.comm or hashed else bytes(facts["comm_key"], "ascii")
        self.rename = renaming(self.key)
        self.masks = Addresses(bytes(facts["comm_key"], "ascii"))
        self.census = Census(facts)
        self.rows: dict[str, int] = {}
        self.events = 0

    def _write_indexed(
        self, facts: dict[str, Any], instances: list[InstanceTrace], directory: Path
    ) -> tuple[dict[str, Any], list[Decoded]]:
        for instance in instances:
            rows = instance.rows()
            if self._write(instance, directory, row_groups(rows, tables=tables_of(instance))) != rows:
                raise VerificationError(f"{self.recording.path} was changed while it was read")
        return facts, [_decoded(instance.name, index) for instance in instances for index in instance.cpus]

    def _write_streamed(self, stream: StreamedTrace, directory: Path) -> tuple[dict[str, Any], list[Decoded]]:
        self._begin(stream.facts())
        self._write(stream, directory, None)
        return stream.facts(), [_decoded(stream.name, counts) for counts in stream.counts()]

    def _write_sampled(self, directory: Path) -> None:
        for name in sorted(self.recording.files):
            table = row_table(name)
            if table is None:
                continue
            if table in self.rows or table not in TABLES or TABLES[table].tracepoint or table in FACT_TABLES:
                raise VerificationError(f"{self.recording.path}: there is no table {table} to be sampled")
            rows = write_sampled(self.recording.path / name, directory / table, table, self.key)
            if rows:
                self.rows[table] = rows
            self.progress.advance(int(self.recording.files[name]["bytes"]))

    def _file(self, table: str) -> Path:
        return self.directory / table / f"{self.recording.name}.parquet"

    def _write(self, trace: Trace, directory: Path, groups: Mapping[str, int] | None) -> dict[str, int]:
        """Write the tables of an instance; the rows of each.

        ``groups``: rows of their row groups. None: nobody knows yet how many rows there are; row groups are
        the largest, and it is :class:`Unsuited` if that takes too much memory.
        """
        writers: dict[int, TableWriter] = {}
        try:
            for events, fresh in trace.slices(self.workers, self.job.slice_bytes, self.job.scratch):
                found = events.counts
                # The largest first: they decide how long a slice takes.
                order = np.argsort(-found, kind="stable")[: np.count_nonzero(found)].tolist()
                here = [trace.kinds[n] for n in order if trace.kinds[n].table is not None]
                for kind in here:
                    if kind.number not in writers:
                        writer = self._writer(kind, directory, groups)
                        if any(writer.table == other.table for other in writers.values()):
                            raise VerificationError(
                                f"{self.recording.path}: two kinds of events have the name {writer.table}"
                            )
                        writers[kind.number] = writer

                def one(kind: Kind, events: EventSlice = events) -> None:
                    writer = writers[kind.number]
                    writer.append(events.table(kind), self.census.watch(trace.name, writer.table))

                self.workers.each(one, here)
                waiting = sum(writer.waiting_bytes for writer in writers.values())
                if groups is None and waiting > BUFFER_BYTES:
                    raise Unsuited
                self.progress.advance(fresh, int(found.sum()))
            self.workers.each(lambda writer: writer.close(), writers.values())
        finally:
            for writer in writers.values():
                writer.abandon()
        rows = {writer.table: writer.rows for writer in writers.values()}
        self.rows |= rows
        self.events += sum(rows.values())
        return rows

    def _writer(self, kind: Kind, directory: Path, groups: Mapping[str, int] | None) -> TableWriter:
        table = kind.table
        assert table is not None
        group = ROW_GROUP if groups is None else groups[table.name]
        rename, mask, metadata = self.rename, None, None
        if kind.generic is not None:
            group = min(group, kind.generic.group_rows)
            rename, metadata = generic_renaming(self.key), kind.generic.metadata
            mask = self.masks.of(kind.generic.addresses)
        path, scratch = directory / table.name, self.job.scratch
        return TableWriter(path, table, kind.format, kind.plan, group, scratch, rename, mask, metadata)


def _decoded(instance: str, counts: RawIndex | CpuCounts) -> Decoded:
    return Decoded(instance, counts.cpu, counts.events, tuple(counts.problems))
