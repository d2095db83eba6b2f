"""A segment under recording: laid out so that a crash at any moment leaves what :mod:`recover` can seal.

::

    .recording-<capture>-<NNNN>/
        opening.json    facts known at opening; durable before the first event
        formats.json    event formats, header_page, header_event; durable before the first event
        journal.jsonl   what became known since (:mod:`hindsight.capture.segments.journal`)
        reserve         space that is given up when sealing, so that a full disk can still seal
        raw/<instance>/cpu<N>.pages     (cpu<N>.perf: perf records)
    rows/<table>.jsonl              rows sampled beside the trace (:mod:`hindsight.capture.segments.rowfiles`)

Its recorder holds a lock (flock(2)) on the directory for as long as it lives.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hindsight.capture import devices, host
from hindsight.capture.formats import parse_event
from hindsight.capture.ftrace.scrub import scrub
from hindsight.capture.hiding import NameHash, hidden_fields
from hindsight.capture.options import RECORDS
from hindsight.capture.perf.inodes import RecordScan
from hindsight.capture.perf.scrub import scrub_records
from hindsight.capture.profiles import DESCRIBING
from hindsight.capture.segments import files
from hindsight.capture.segments.checksum import Checksum
from hindsight.capture.segments.facts import KEPT, KEPT_NAMES, build_facts
from hindsight.capture.segments.journal import Journal
from hindsight.capture.segments.rowfiles import ROWS, RowFiles, Rows, row_files
from hindsight.capture.segments.segment import FACTS, FORMATS, MANIFEST, SEGMENT_VERSION, UNSEALED, is_raw
from hindsight.errors import ConfigurationError, HindsightError

OPENING = "opening.json"
JOURNAL = "journal.jsonl"
RESERVE = "reserve"
RAW = "raw"
MAX_FILE_ROWS = 250_000
"""File facts that one segment holds at most, so that facts.json stays readable."""
_RESERVE_BYTES = 1 << 20
_PIECE_BYTES = 1 << 18  # small enough to stay in a processor's cache until it is summed
FULL = (errno.ENOSPC, errno.EDQUOT)


def fsync_path(path: Path) -> None:
    """Make a file or a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: object) -> int:
    """Write a file as JSON, mode 0600, in place of any earlier one; returns its size in bytes."""
    data = (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    return len(data)


@dataclass(frozen=True)
class Lock:
    """A directory's lock; ``held`` False where the file system has no locks."""

    descriptor: int
    held: bool

    def release(self) -> None:
        """Let go of it."""
        os.close(self.descriptor)


def lock_directory(path: Path, wait: bool) -> Lock | None:
    """Lock a directory against other recorders and recoveries, for as long as this process lives.

    None when another process holds it and ``wait`` is False. Raises OSError when there is no such directory.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        return Lock(descriptor, False)
    return Lock(descriptor, True)


class OpenSegment:
    """A segment under recording, in ``directory``; durable when the constructor returns.

    ``name`` is ``<capture>-<NNNN>``; ``opening`` and ``formats`` are what docs/segments.md lists. An
    ``opening["paths"]`` that is true stores the paths of files when the segment is sealed.

    Raises ConfigurationError when the directory cannot be written, OSError (ENOSPC, …) when there is no room.
    """

    def __init__(self, directory: Path, name: str, opening: dict[str, Any], formats: dict[str, str]) -> None:
        self.final = directory / name
        self.path = directory / f"{UNSEALED}{name}"
        self._opening = opening
        self._formats = formats
        self._kept: list[dict[str, Any]] = []
        self._counters: dict[tuple[str, str], dict[str, int]] = {}
        self._known: set[Path] = set()
        self._gone = self._told = False
        self._lock = self._create(directory)
        try:
            for instance in opening["instances"]:
                self.raw_directory(instance)
            self._facts_bytes = write_json(self.path / OPENING, opening)
            write_json(self.path / FORMATS, formats)
            self._reserve()
            self._journal = Journal(self.path / JOURNAL)
            self._rows = RowFiles(self.path)
            # All at once, after all was made: one commit of the file system's journal, not one for each.
            made = (self.path / OPENING, self.path / FORMATS, *(self.path / RAW).glob("*"), self.path / RAW)
            for path in (*made, self.path, directory):
                fsync_path(path)
        except BaseException:
            shutil.rmtree(self.path, ignore_errors=True)
            self._lock.release()
            raise

    def _create(self, directory: Path) -> Lock:
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            while True:
                self.path.mkdir(mode=0o700)
                with contextlib.suppress(FileNotFoundError):
                    lock = lock_directory(self.path, wait=True)
                    assert lock is not None
                    # Between the two calls a recovery may have taken the empty directory away.
                    with contextlib.suppress(FileNotFoundError):
                        if os.path.samestat(os.stat(self.path), os.fstat(lock.descriptor)):
                            return lock
                    lock.release()
        except OSError as error:
            if error.errno in FULL:
                raise
            raise ConfigurationError(
                f"recordings cannot be written to {directory}: {error.strerror}", "Choose another -o DIR."
            ) from error

    def _reserve(self) -> None:
        """What sealing will need: about twice what is known for facts.json so far."""
        size = max(_RESERVE_BYTES, 2 * self._facts_bytes)
        descriptor = os.open(self.path / RESERVE, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)
        finally:
            os.close(descriptor)

    def raw_directory(self, instance: str) -> Path:
        """Where the sub-buffers of an instance go; it exists."""
        path = self.path / RAW / instance
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path

    def note(self, entry: dict[str, Any]) -> None:
        """Write one entry to the journal at once; it is durable after the next :meth:`sync`.

        Of a look only the processors are written whose counters changed. Raises OSError (ENOSPC, …).
        """
        kept = entry["kind"] in KEPT
        if kept:
            self._kept.append(entry)
        elif entry["kind"] == "look":
            entry = {**entry, "stats": self._changed(entry["stats"])}
        written = self._journal.append(entry)
        if kept:
            self._facts_bytes += written

    def append(self, sample: Mapping[str, Rows]) -> bool:
        """Append a sample, rows by table, from any thread; False once it is being sealed.

        Raises OSError (ENOSPC, …).
        """
        return self._rows.append(sample)

    def _changed(self, stats: Mapping[str, Mapping[Any, dict[str, int]]]) -> dict[str, Any]:
        changed: dict[str, Any] = {}
        for instance, cpus in stats.items():
            for cpu, counters in cpus.items():
                if self._counters.get((instance, str(cpu))) != counters:
                    self._counters[instance, str(cpu)] = dict(counters)
                    changed.setdefault(instance, {})[str(cpu)] = counters
        return changed

    def sync(self) -> None:
        """Make durable what was drained and noted so far. For the sealer's thread. Raises OSError."""
        sizes = {}
        for path in raw_files(self.path, self._opening):
            sizes[str(path.relative_to(self.path))] = path.stat().st_size
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
        new = {self.path / name for name in sizes} - self._known
        self._rows.sync()
        for path in row_files(self.path):
            sizes[str(path.relative_to(self.path))] = path.stat().st_size
            new |= {path} - self._known
        for directory in sorted({path.parent for path in new}):
            fsync_path(directory)
        self._known |= new
        with contextlib.suppress(OSError):
            self._reserve()
        self._journal.append({"kind": "synced", "ts": host.clock_anchor(1).ts, "bytes": sizes})
        self._journal.sync()

    def seal(self, closing: dict[str, Any]) -> Path:
        """Seal it: ``closing`` is what is known at the end. For the sealer's thread; returns the final path.

        Raises HindsightError when it cannot be written; it can then be sealed later, by calling this again
        or by :func:`hindsight.capture.segments.recover.recover`, without loss.
        """

        def tell() -> None:
            if not self._told:
                self._journal.append({"kind": "closing", "closing": closing})
                self._told = True
            self._journal.sync()

        self._rows.close()

        seal(self.path, self.final, self._opening, self._formats, self._kept, closing, tell)
        self.abandon()
        return self.final

    def abandon(self) -> None:
        """Let go of it as a process that ends does: what is on disk stays, for recovery."""
        if not self._gone:
            self._gone = True
            self._rows.close()
            self._journal.close()
            self._lock.release()

    def discard(self) -> None:
        """Remove what was written, if it was not sealed."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.abandon()


def seal(
    path: Path,
    final: Path,
    opening: dict[str, Any],
    formats: dict[str, str],
    entries: Iterable[dict[str, Any]],
    closing: dict[str, Any],
    tell: Callable[[], None],
    here: bool = True,
) -> Path:
    """Seal the directory ``path`` as ``final``; returns ``final``.

    ``tell`` writes ``closing`` to the journal: who finds the directory after a crash in the middle of this
    seals the same. ``here`` says that it was recorded under this boot, so that the devices' numbers still
    hold. Raises HindsightError when it cannot be written; the directory then stays as it was.
    """
    try:
        (path / RESERVE).unlink(missing_ok=True)
        tell()
        try:
            _write_sealed(path, opening, formats, entries, closing, here)
        except OSError:
            with contextlib.suppress(OSError):  # what could not be written whole takes space
                for name in (MANIFEST, FACTS):
                    (path / name).unlink(missing_ok=True)
            raise
        finish_sealing(path, final)
    except OSError as error:
        remedy = f"It is kept as {path} and sealed by: hindsight capture clean -o {path.parent}"
        if error.errno in FULL:
            remedy = f"Make space. {remedy}"
        what = f" ({error.filename})" if error.filename else ""
        raise HindsightError(f"{final.name} could not be sealed: {error.strerror}{what}", remedy) from error
    return final


def raw_files(path: Path, opening: Mapping[str, Any]) -> list[Path]:
    """The files of raw trace in an unsealed segment, sorted."""
    found = (file for name in opening["instances"] for file in (path / RAW / name).glob("cpu*.p*"))
    return sorted(file for file in found if is_raw(str(file.relative_to(path))))


def finish_sealing(path: Path, final: Path) -> None:
    """Of a directory whose manifest is durable: remove what only an unsealed segment has, name it."""
    for name in (RESERVE, OPENING, JOURNAL):
        (path / name).unlink(missing_ok=True)
    fsync_path(path)
    if final.exists():
        raise OSError(errno.EEXIST, f"{final} exists")
    os.rename(path, final)
    fsync_path(final.parent)


def _write_sealed(
    path: Path,
    opening: dict[str, Any],
    formats: dict[str, str],
    entries: Iterable[dict[str, Any]],
    closing: dict[str, Any],
    here: bool,
) -> None:
    # Numbers of file systems that are not on block devices (tmpfs, overlay) are kept as well.
    known = {mount.device for mount in devices.mounts()} if here else set()
    inodes: set[files.Inode] = set()
    listed: dict[str, dict[str, Any]] = {}
    for file in raw_files(path, opening):
        if file.stat().st_size == 0:
            file.unlink()
            continue
        instance = opening["instances"][file.parent.name]
        _scrub(file, instance, formats, opening)
        events = _inode_events(instance["events"], formats) if here else []
        scan: files.InodeScan
        if instance["source"] in RECORDS:
            scan = RecordScan(events, known)
        else:
            scan = files.InodeScan(events, known, instance["subbuffer_bytes"])
        listed[str(file.relative_to(path))] = _digest(file, scan)
        inodes |= scan.inodes
    for file in row_files(path):
        listed[str(file.relative_to(path))] = _digest(file, None)
    facts = build_facts(opening, entries, closing)
    if inodes:
        whole_host = not opening["tables"]["captures"][0].get("program")
        rows = files.file_facts(
            inodes, host.processes() if whole_host else [], bool(opening.get("paths", False))
        )
        facts["tables"]["files"] = rows[:MAX_FILE_ROWS]
    write_json(path / FACTS, facts)
    for name in (FACTS, FORMATS):
        listed[name] = _digest(path / name, None)
    sampled = [path / ROWS] if (path / ROWS).is_dir() else []
    for directory in (path, path / RAW, *(path / RAW).glob("*"), *sampled):
        os.chmod(directory, 0o700)
        fsync_path(directory)
    # Durable after all that it lists; who finds it whole finds all of it.
    write_json(path / MANIFEST, {"segment_version": SEGMENT_VERSION, "files": listed})
    for made in (path / MANIFEST, path):
        fsync_path(made)


def _scrub(
    file: Path, instance: Mapping[str, Any], formats: Mapping[str, str], opening: Mapping[str, Any]
) -> None:
    """Take out what is not to be kept at rest."""
    known = [event for event in instance["events"] if event in formats]
    events = [parse_event(event.split("/")[0], formats[event]) for event in known]
    fields = hidden_fields(events, opening["comm"] == KEPT_NAMES, bool(opening.get("paths", False)))
    names = NameHash(opening["comm_key"]).field
    if instance["source"] in RECORDS:
        scrub_records(file, fields, names)
    else:
        scrub(file, fields, instance["subbuffer_bytes"], names)


def _inode_events(events: Iterable[str], formats: Mapping[str, str]) -> list[tuple[int, int, int]]:
    found = []
    for event in DESCRIBING:
        if event in events and event in formats:
            parsed = parse_event(event.split("/")[0], formats[event])
            if {"i_ino", "s_dev"} <= parsed.fields.keys():
                found.append((parsed.id, parsed.fields["i_ino"].offset, parsed.fields["s_dev"].offset))
    return found


def _digest(path: Path, scan: files.InodeScan | None) -> dict[str, Any]:
    """Size and checksum of a file, which is made durable; ``scan`` looks through it on the way."""
    digest = Checksum()
    size = 0
    with open(path, "rb", buffering=0) as file:
        if scan is None or scan.idle:
            piece = bytearray(_PIECE_BYTES)
            while count := file.readinto(piece):
                size += count
                with memoryview(piece)[:count] as view:
                    digest.update(view)
        else:
            while window := file.read(scan.window_bytes):
                size += len(window)
                digest.update(window)
                scan.feed(window)
        os.fchmod(file.fileno(), 0o600)
        os.fsync(file.fileno())
    return {"bytes": size, "crc32": digest.hexdigest()}
