"""A sealed recording on disk: what it holds, how it is written, how it is verified.

A segment is a directory, immutable once it has its final name::

    <capture>-0000/
        manifest.json                     format of the segment, size and sha256 of every other file
        facts.json                        rows of the tables that are no events; counters; what was configured
        raw/<instance>/cpu<N>.pages       sub-buffers as the kernel wrote them
        formats.json                      the kernel's own description of each tracepoint and of the pages

Directories have mode 0700 and files 0600: raw trace holds names of programs and inode numbers.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hindsight.capture.schema import TABLES
from hindsight.errors import ConfigurationError, VerificationError

SEGMENT_VERSION = 1
MANIFEST = "manifest.json"
FACTS = "facts.json"
FORMATS = "formats.json"
_TEMPORARY = ".recording-"


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class SegmentWriter:
    """A segment under construction, in a directory with a temporary name next to its final one."""

    def __init__(self, directory: Path, name: str) -> None:
        self.final = directory / name
        self.path = directory / f"{_TEMPORARY}{name}"
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.mkdir(mode=0o700)
        except OSError as error:
            raise ConfigurationError(
                f"recordings cannot be written to {directory}: {error.strerror}", "Choose another -o DIR."
            ) from error

    def raw_directory(self, instance: str) -> Path:
        """Where the sub-buffers of an instance go."""
        return self.path / "raw" / instance

    def add(self, name: str, content: object) -> None:
        """Write one file as JSON, durably."""
        data = (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()
        descriptor = os.open(self.path / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)

    def seal(self, facts: dict[str, Any]) -> Path:
        """Write the facts and the manifest, make all durable, give the segment its name; returns its path."""
        self.add(FACTS, facts)
        files = {
            str(path.relative_to(self.path)): {"bytes": path.stat().st_size, "sha256": _sha256(path)}
            for path in sorted(self.path.rglob("*"))
            if path.is_file()
        }
        manifest = {"segment_version": SEGMENT_VERSION, "files": files}
        self.add(MANIFEST, manifest)
        for directory in [self.path, *(p for p in self.path.rglob("*") if p.is_dir())]:
            os.chmod(directory, 0o700)
            _fsync(directory)
        os.rename(self.path, self.final)
        _fsync(self.final.parent)
        return self.final

    def discard(self) -> None:
        """Remove what was written, if it was not sealed."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.path)


@dataclass(frozen=True)
class Segment:
    """A sealed segment: its path, facts, the kernel's formats; size and hash of each file as listed."""

    path: Path
    facts: dict[str, Any]
    formats: dict[str, str]
    files: dict[str, dict[str, Any]]

    @property
    def name(self) -> str:
        """The segment's name; it begins with the id of the capture."""
        return self.path.resolve().name

    def raw(self, instance: str, cpu: int) -> Path | None:
        """The sub-buffers of one CPU, None when it recorded nothing."""
        name = f"raw/{instance}/cpu{cpu}.pages"
        return self.path / name if name in self.files else None


def _load_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigurationError(f"{path.parent} is not a sealed recording: it has no {path.name}") from None
    except PermissionError:
        raise ConfigurationError(
            f"{path} may not be read", "Recordings belong to the user who recorded them (often root)."
        ) from None
    except ValueError as error:
        raise VerificationError(f"{path} is damaged: {error}", "Record again, or restore the file.") from None


def open_segment(path: Path, verify: bool = True) -> Segment:
    """Open a sealed segment; ``verify`` checks size and hash of every file.

    Raises ConfigurationError when it is none, and VerificationError when it is damaged or of another version.
    """
    manifest = _load_json(path / MANIFEST)
    version = manifest.get("segment_version") if isinstance(manifest, dict) else None
    if version != SEGMENT_VERSION:
        raise VerificationError(
            f"{path} is a segment of version {version}; this program reads version {SEGMENT_VERSION}",
            "Convert it with the release of hindsight that recorded it.",
        )
    files = manifest.get("files")
    if not isinstance(files, dict) or not {FACTS, FORMATS} <= files.keys():
        raise VerificationError(f"{path / MANIFEST} is damaged: it does not list {FACTS} and {FORMATS}")
    if verify:
        for name, expected in files.items():
            _verify(path, name, expected)
    facts = _load_json(path / FACTS)
    formats = _load_json(path / FORMATS)
    if not isinstance(facts, dict) or not isinstance(formats, dict):
        raise VerificationError(f"{path / FACTS} or {path / FORMATS} is damaged")
    return Segment(path, facts, formats, files)


def _verify(path: Path, name: str, expected: Any) -> None:
    file = path / name
    if not file.resolve().is_relative_to(path.resolve()):
        raise VerificationError(f"{path / MANIFEST} is damaged: it names {name!r}")
    try:
        size = file.stat().st_size
        if size != expected["bytes"]:
            raise VerificationError(f"{file} has {size} bytes, its manifest says {expected['bytes']}")
        if _sha256(file) != expected["sha256"]:
            raise VerificationError(f"{file} does not have the sha256 of its manifest: it was altered")
    except OSError as error:
        raise VerificationError(f"{file} cannot be read: {error.strerror}") from error
    except (KeyError, TypeError):
        raise VerificationError(f"{path / MANIFEST} is damaged at {name!r}") from None


def check_facts(segment: Segment) -> None:
    """Raise VerificationError unless the facts have the shape that conversion relies on."""
    facts = segment.facts
    try:
        (capture,) = facts["tables"]["captures"]
        # Both become names of directories.
        names = re.fullmatch("[0-9a-f]{12}", capture["host"]), re.fullmatch("[0-9-]{10}", facts["date"])
        sound = None not in names
        sound = sound and facts["tables"].keys() <= {t.name for t in TABLES.values() if not t.tracepoint}
        numbers = [capture["start_ns"], capture["end_ns"], facts["schema_version"]]
        texts = [facts["byteorder"], facts["comm_key"]]
        for row in facts["ring_losses"]:
            numbers += [row["cpu"], row["from_ns"], row["to_ns"], row["count"]]
            texts += [row["instance"], row["cause"]]
        for instance in facts["instances"].values():
            numbers += [instance["subbuffer_bytes"], *map(int, instance["stats_after"])]
            texts += instance["events"]
            for stats in (*instance["stats_before"].values(), *instance["stats_after"].values()):
                numbers.append(stats["read events"])
        for row in facts["tables"]["files"]:
            numbers += [row["s_dev_major"], row["s_dev_minor"], row["i_ino"]]
        sound = sound and all(isinstance(row, dict) for rows in facts["tables"].values() for row in rows)
        sound = sound and all(isinstance(n, int) for n in numbers) and all(isinstance(t, str) for t in texts)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise VerificationError(f"{segment.path}: the recording's facts are damaged ({error!r})") from error
    if not sound:
        raise VerificationError(f"{segment.path}: the recording's facts are damaged")


def find_segments(paths: list[Path]) -> list[Path]:
    """The sealed segments that these paths are or directly contain, sorted by name.

    Raises ConfigurationError for a path that holds none.
    """
    found: dict[Path, None] = {}
    for path in paths:
        try:
            if (path / MANIFEST).exists():
                found[path] = None
                continue
            inside = sorted(
                p for p in path.iterdir() if (p / MANIFEST).exists() and not p.name.startswith(_TEMPORARY)
            )
        except OSError as error:
            raise ConfigurationError(f"{path}: {error.strerror}", "Name a directory of recordings.") from None
        if not inside:
            raise ConfigurationError(
                f"{path} holds no sealed recording",
                "Record one: sudo hindsight capture record -o DIR -- CMD",
            )
        found |= dict.fromkeys(inside)
    return sorted(found, key=lambda p: p.resolve().name)
