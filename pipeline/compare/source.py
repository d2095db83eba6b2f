"""Where a version comes from: a package directory, a revision of Git, a version or stage of an artifact."""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl

from hindsight.errors import ConfigurationError, HindsightError
from hindsight.pipeline import block_costs
from hindsight.pipeline.compare.version import Version, read_version
from hindsight.pipeline.evidence.panel import MODEL, STOCK

EXPORTED = "models/exported"

_ARTIFACT = re.compile(
    r"(?P<name>[A-Za-z][A-Za-z0-9/:._-]*?)(?:@(?P<version>v\d[^@#]*)|#(?P<stage>[^@#]+))\Z"
)
"""As `gto` tags them: NAME@v1.2.0, NAME#prod."""


def find_version(text: str, subsystem: str, root: Path) -> Version:
    """The version that ``text`` names: a package directory; ``name@v1.2.0`` or ``name#prod``; or a revision.

    ``root``: a directory of the repository that revisions and artifacts belong to; their files come out of
    its DVC cache, or else its remote. Raises ConfigurationError if nothing is found, VerificationError if
    what is found is damaged.
    """
    directory = Path(text)
    if directory.is_dir():
        return read_version(directory, directory.resolve().name)
    artifact = _ARTIFACT.match(text)
    with _dvc(text):
        if artifact:
            revision, path = _artifact(root, **artifact.groupdict())
            return _from_revision(text, revision, path, subsystem, root)
        return _from_revision(text, text, None, subsystem, root)


@contextmanager
def _dvc(text: str) -> Iterator[None]:
    try:
        yield
    except HindsightError:
        raise
    except Exception as error:
        # What DVC is made of raises errors of several packages, without a class in common.
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigurationError(
            f"{text} is no package directory, and as a revision or artifact it gives none: {first}",
            "name a directory below models/exported, a revision of this repository, NAME@VERSION or "
            "NAME#STAGE; if it is one, `dvc fetch` brings its files",
        ) from error


def _artifact(root: Path, name: str, version: str | None, stage: str | None) -> tuple[str, str]:
    """(revision, path of the package below the root of the repository)."""
    import dvc.api

    shown = dvc.api.artifacts_show(name, version=version, stage=stage, repo=str(root))
    return str(shown["rev"]), str(shown["path"])


def _from_revision(text: str, revision: str, path: str | None, subsystem: str, root: Path) -> Version:
    import dvc.api

    files = dvc.api.DVCFileSystem(str(root), rev=revision)
    place = path or _exported(files, subsystem)
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / PurePosixPath(place).name
        files.get(place, str(directory), recursive=True)
        return read_version(directory, text, _evaluated(files, directory, subsystem))


def _exported(files: Any, subsystem: str) -> str:
    """The one package of the subsystem at a revision."""
    found = [str(name) for name in files.ls(EXPORTED, detail=False)]
    own = [name for name in found if PurePosixPath(name).name.startswith(f"{subsystem}-")]
    if len(own) != 1:
        raise ValueError(f"it has {len(own)} packages of {subsystem} in {EXPORTED}")
    return own[0]


def _evaluated(files: Any, directory: Path, subsystem: str) -> pl.DataFrame | None:
    """What the blocks cost by the stage's own table, for packages that were made before they carried it."""
    import json

    table = f"build/{subsystem}/evaluate/blocks.parquet"
    if (directory / block_costs.FILE).exists() or not files.exists(table):
        return None
    cost = json.loads((directory / "report.json").read_bytes())["cost"]["name"]
    blocks = pl.read_parquet(io.BytesIO(files.read_bytes(table)))
    own, model = (
        blocks.filter(pl.col("arm") == arm).select(*block_costs.WHERE, pl.col(cost).alias(arm))
        for arm in (STOCK, MODEL)
    )
    return block_costs.checked(own.join(model, on=block_costs.WHERE, how="inner"))
