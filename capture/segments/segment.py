"""A sealed recording on disk: what it holds, how it is read and verified.

A segment is a directory, immutable once it has its final name::

    <capture>-0000/
        manifest.json                     format of the segment, size and checksum of every other file
        facts.json                        rows of the tables that are no events; counters; what was configured
        raw/<instance>/cpu<N>.pages       sub-buffers as the kernel wrote them, or cpu<N>.perf: perf records
        rows/<table>.jsonl                rows that were sampled beside the trace
        formats.json                      the kernel's own description of each tracepoint and of the pages

Directories have mode 0700 and files 0600: raw trace holds names of programs and inode numbers. While it is
recorded it has a temporary name (:mod:`hindsight.capture.segments.unsealed`).

A segment may come from anywhere: whatever its files hold, reading it takes bounded memory and ends in a
:class:`HindsightError` at worst.
"""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hindsight.capture.segments.checksum import Checksum, is_checksum
from hindsight.capture.segments.facts import check_facts as _check_facts
from hindsight.capture.segments.rowfiles import row_table
from hindsight.errors import ConfigurationError, VerificationError

SEGMENT_VERSION = 3
MANIFEST = "manifest.json"
FACTS = "facts.json"
FORMATS = "formats.json"
UNSEALED = ".recording-"
"""How the name of a segment begins that is not sealed yet."""

MAX_JSON = 64 << 20
"""The largest JSON file of a segment that is read, in bytes."""
MAX_FILES = 1 << 17
"""The most files that a segment may list: two for every processor that a kernel can have."""
RAW_SUFFIX = {"ftrace": ".pages", "perf": ".perf", "bpf": ".perf"}
"""How the name of a raw file ends, by the source of its events."""
_RAW = re.compile(r"raw/[a-z][a-z0-9_]{0,31}/cpu(?:0|[1-9][0-9]{0,4})\.(?:pages|perf)")


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
        """The raw trace of one CPU, None when it recorded nothing."""
        for suffix in RAW_SUFFIX.values():
            name = f"raw/{instance}/cpu{cpu}{suffix}"
            if name in self.files:
                return self.path / name
        return None


def open_regular(path: Path) -> int:
    """Open a regular file for reading; returns the descriptor. Raises OSError for links, pipes, devices, …"""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "it is not a regular file")
    return descriptor


def load_json(path: Path, limit: int = MAX_JSON) -> Any:
    """The content of a JSON file of at most ``limit`` bytes.

    Raises ConfigurationError when it is absent or may not be read, VerificationError when it is anything but
    JSON (numbers that JSON lacks are refused) or larger.
    """
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            # Not more at once than there is: read() allocates what it is asked for.
            data = file.read(min(limit, os.fstat(file.fileno()).st_size) + 1)
    except FileNotFoundError:
        raise ConfigurationError(f"{path.parent} is not a sealed recording: it has no {path.name}") from None
    except PermissionError:
        raise ConfigurationError(
            f"{path} may not be read", "Recordings belong to the user who recorded them (often root)."
        ) from None
    except OSError as error:
        raise VerificationError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > limit:
        raise VerificationError(f"{path} is larger than {limit >> 20} MiB", "No recorder writes such a file.")
    try:
        return json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise VerificationError(f"{path} is damaged: {error}", "Record again, or restore the file.") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def open_segment(path: Path, verify: bool = True, raw: bool = True) -> Segment:
    """Open a sealed segment; ``verify`` checks size and hash of every file, without ``raw`` not of the trace.

    Raises ConfigurationError when it is none, and VerificationError when it is damaged or of another version.
    """
    files = read_manifest(path)
    if verify:
        for name, expected in files.items():
            if raw or not name.startswith("raw/"):
                _verify(path, name, expected)
    facts = load_json(path / FACTS)
    formats = load_json(path / FORMATS)
    if not isinstance(facts, dict) or not is_formats(formats):
        raise VerificationError(f"{path / FACTS} or {path / FORMATS} is damaged")
    return Segment(path, facts, formats, files)


def is_raw(name: str) -> bool:
    """Whether a segment may have a file of raw trace of this name (relative to the segment)."""
    return _RAW.fullmatch(name) is not None


def is_formats(formats: Any) -> bool:
    """Whether it maps names to texts."""
    return type(formats) is dict and all(type(text) is str for text in formats.values())


def read_manifest(path: Path) -> dict[str, dict[str, Any]]:
    """The files that the manifest of a segment lists: by name, their ``bytes`` and ``crc32``.

    Raises ConfigurationError when there is no manifest, VerificationError when it is damaged, of another
    version, or names anything but the files of a segment.
    """
    manifest = load_json(path / MANIFEST)
    version = manifest.get("segment_version") if isinstance(manifest, dict) else None
    if version != SEGMENT_VERSION or type(version) is not int:
        raise VerificationError(
            f"{path} is a segment of version {version!s:.20}; this program reads {SEGMENT_VERSION}",
            "Convert it with the release of hindsight that recorded it.",
        )
    files = manifest.get("files")
    if type(files) is not dict or not {FACTS, FORMATS} <= files.keys() or len(files) > MAX_FILES:
        raise VerificationError(f"{path / MANIFEST} is damaged: it does not list {FACTS} and {FORMATS}")
    for name, entry in files.items():
        if name not in (FACTS, FORMATS) and not is_raw(name) and row_table(name) is None:
            raise VerificationError(f"{path / MANIFEST} is damaged: it names {name[:200]!r}")
        if not (
            type(entry) is dict
            and type(entry.get("bytes")) is int
            and is_checksum(entry.get("crc32"), entry["bytes"])
        ):
            raise VerificationError(f"{path / MANIFEST} is damaged at {name!r}")
    return files


def open_raw(path: Path, name: str, expected: dict[str, Any]) -> tuple[int, int]:
    """Open a file of the segment ``path`` for reading; returns descriptor and size, which is as ``expected``.

    Raises VerificationError when it is not, or when anything on the way is a link.
    """
    file = path / name
    try:
        for parent in list(file.relative_to(path).parents)[:-1]:  # without the segment's own directory
            if (path / parent).is_symlink():
                raise VerificationError(f"{path / parent} is a symbolic link", "No recorder makes one.")
        descriptor = open_regular(file)
    except OSError as error:
        raise VerificationError(f"{file} cannot be read: {error.strerror}") from error
    size = os.fstat(descriptor).st_size
    if size != expected["bytes"]:
        os.close(descriptor)
        raise VerificationError(f"{file} has {size} bytes, its manifest says {expected['bytes']}")
    return descriptor, size


def _verify(path: Path, name: str, expected: dict[str, Any]) -> None:
    descriptor, _ = open_raw(path, name, expected)
    try:
        with os.fdopen(descriptor, "rb", buffering=0) as opened:
            found = Checksum()
            while piece := opened.read(1 << 20):
                found.update(piece)
            if found.hexdigest() != expected["crc32"]:
                raise VerificationError(
                    f"{path / name} does not have the checksum of its manifest: it was altered"
                )
    except OSError as error:
        raise VerificationError(f"{path / name} cannot be read: {error.strerror}") from error


def check_facts(segment: Segment) -> None:
    """Raise VerificationError unless the facts have the shape that conversion relies on."""
    _check_facts(segment.path, segment.facts)


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
                p for p in path.iterdir() if (p / MANIFEST).exists() and not p.name.startswith(".")
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
