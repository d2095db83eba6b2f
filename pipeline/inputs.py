"""What a package was made from, so that it can be made again: parameters, and digests of the data by folder.

The manifest of a package holds one hash of each; this says which part of it differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import hindsight.capture.schema as schema
from hindsight.errors import ConfigurationError
from hindsight.pipeline.params import EVALUATED, Layout, Params
from hindsight.pipeline.store import read_json, sha256

FILE = "inputs.json"
"""Its name in a package."""


def inputs(params: Params, layout: Layout) -> dict[str, Any]:
    """``params``: the sections that an evaluation depends on; their canonical JSON has the hash that the
    manifest gives. ``folders``: host=…/date=…/TABLE -> digest (:func:`folders`) of what was ingested."""
    entries = read_json(layout.ingest / "manifest.json")["files"]
    return {
        "params": {name: params[name] for name in EVALUATED},
        "folders": folders((entry["path"], entry["sha256"]) for entry in entries),
    }


def folders(files: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Folder -> SHA-256 over the names and hashes of its files, by name. ``files``: (path, SHA-256)."""
    lines: dict[str, list[str]] = {}
    for path, digest in files:
        place = PurePosixPath(path)
        lines.setdefault(place.parent.as_posix(), []).append(f"{place.name}  {digest}\n")
    return {folder: sha256("".join(sorted(lines[folder])).encode()) for folder in sorted(lines)}


def folders_of(dataset: Path) -> dict[str, str]:
    """:func:`folders` of a dataset as it is now; ConfigurationError if it cannot be read."""
    try:
        return folders(
            (path.relative_to(dataset).as_posix(), sha256(path.read_bytes()))
            for path in sorted(dataset.glob("*/*/*/*.parquet"))
            if path.parent.name in schema.TABLES
        )
    except OSError as error:
        raise ConfigurationError(f"{error.filename} cannot be read: {error.strerror}") from error


def measured_sha256(root: Path, subsystem: str) -> dict[str, str]:
    """``{"measured": hash}`` of what was run live, which the report quotes; {} if nothing was."""
    path = root / "data" / "measured" / subsystem / "summary.json"
    return {"measured": sha256(path.read_bytes())} if path.is_file() else {}


def changed(stated: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Names whose values differ or that only one side has, sorted; sections are looked into."""
    ours, theirs = flat(stated), flat(found)
    return sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested mappings as one: {"train": {"depth": 4}} becomes {"train.depth": 4}."""
    out: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            out |= flat(value, f"{before}{name}.")
        else:
            out[f"{before}{name}"] = value
    return out
