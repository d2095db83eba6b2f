"""Where a package was made: the commit, ``dvc.lock`` and ``params.yaml`` of the checkout that holds it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hindsight.errors import ConfigurationError, VerificationError
from hindsight.models.regular import read_regular

LOCK, PARAMETERS = "dvc.lock", "params.yaml"
MAX_BYTES = 16 << 20


@dataclass(frozen=True)
class Checkout:
    """The commit that is checked out (hexadecimal), SHA-256 of the two files, and what differs from the
    commit: paths below the top, sorted; files that Git ignores do not count."""

    commit: str
    lock: str
    parameters: str
    changed: tuple[str, ...]


def read_checkout(package: str | os.PathLike[str], own: Mapping[str, bytes], beside: set[str]) -> Checkout:
    """The checkout that holds a package. ``own``: the files of the package, name -> bytes; ``beside``: names
    of files next to it that may differ, such as its signature.

    Raises ConfigurationError if there is no checkout, no commit, or a file of the two is missing;
    VerificationError if ``dvc.lock`` names another package there than these files.
    """
    real = Path(os.path.realpath(package))
    top = Path(
        _git(real.parent, "rev-parse", "--show-toplevel").decode(errors="surrogateescape").rstrip("\n")
    )
    commit = _git(top, "rev-parse", "--verify", "HEAD^{commit}").decode().strip()
    where = real.relative_to(os.path.realpath(top))
    lock, parameters = (_read(top / name) for name in (LOCK, PARAMETERS))
    # DVC names a directory by the MD5 of the list of its files.
    named = rf"^ *- path: {re.escape(where.as_posix())}\n(?: .*\n)*? *md5: {_directory_md5(own)}\.dir$"
    if not re.search(named, lock.decode(errors="replace"), re.MULTILINE):
        raise VerificationError(
            f"{LOCK} does not name this package: it was not made by the pipeline as it stands there",
            "run `dvc repro`, commit dvc.lock, and try again",
        )
    allowed = {(where.parent / name).as_posix() for name in beside}
    return Checkout(
        commit,
        hashlib.sha256(lock).hexdigest(),
        hashlib.sha256(parameters).hexdigest(),
        tuple(path for path in _changed(top) if path not in allowed),
    )


def _directory_md5(files: Mapping[str, bytes]) -> str:
    entries = [
        {"md5": hashlib.md5(files[name], usedforsecurity=False).hexdigest(), "relpath": name}
        for name in sorted(files)
    ]
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode(), usedforsecurity=False).hexdigest()


def _changed(top: Path) -> list[str]:
    status = _git(top, "status", "--porcelain=v1", "-z", "--untracked-files=all", "--no-renames")
    return sorted(entry[3:].decode(errors="backslashreplace") for entry in status.split(b"\0") if entry)


def _read(path: Path) -> bytes:
    try:
        return read_regular(path, MAX_BYTES, "")[0]
    except VerificationError as error:
        raise ConfigurationError(
            f"{error.message}, at the top of the checkout", "give a package of the pipeline's own checkout"
        ) from None


def _git(directory: Path, *arguments: str) -> bytes:
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), *arguments],
            capture_output=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
            check=False,
        )
    except OSError as error:
        raise ConfigurationError(f"git cannot be run: {error.strerror}", "install git") from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().partition("\n")[0]
        raise ConfigurationError(
            f"git {arguments[0]}: {said}", "give a package in the checkout that it was made in"
        )
    return done.stdout
