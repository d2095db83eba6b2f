"""Write and verify model packages: a directory with a manifest and the files that it lists, nothing else.

A package is data that may come from elsewhere. It is read in this order, and the first thing that is wrong
ends it: size of the manifest, its form, the list of files, their sizes, their hashes; only then are the bytes
of the model, the very ones that were hashed, loaded, in a child process. Signatures stand beside the package,
over the bytes of ``manifest.json``.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.errors import ConfigurationError, UsageError, VerificationError
from hindsight.models.loader import Loaded, load_apart, load_here
from hindsight.models.manifest import (
    FORMAT_VERSION,
    GIVEN,
    Manifest,
    canonical_json,
    parse_canonical,
    parse_manifest,
)

MANIFEST = "manifest.json"
MODEL = "model.ubj"
REQUIRED = ("MODEL_CARD.md", "golden.parquet", MODEL, "report.json")
"""Files without which a directory is no package."""

MAX_MANIFEST_BYTES = 1 << 20
MAX_FILE_BYTES = 64 << 20
MAX_PACKAGE_BYTES = 128 << 20

_FETCH_AGAIN = "do not use it; fetch or make the package again"


@dataclass(frozen=True)
class Package:
    """A package whose files are what its manifest says: ``files`` holds the bytes that were hashed."""

    manifest: Manifest
    files: Mapping[str, bytes]


def read_manifest(directory: str | os.PathLike[str]) -> Manifest:
    """The manifest alone, its form checked, the files not looked at.

    Raises ConfigurationError if there is no such directory, VerificationError for everything else.
    """
    with _Directory(directory) as opened:
        return parse_manifest(parse_canonical(opened.read(MANIFEST, MAX_MANIFEST_BYTES)))


def read_package(directory: str | os.PathLike[str]) -> Package:
    """Every file, checked against the manifest; the model is not loaded.

    Raises ConfigurationError if there is no such directory; VerificationError for a malformed manifest, sizes
    over the limits, a file that differs, is missing, is not listed, or is not a regular file.
    """
    with _Directory(directory) as opened:
        manifest = parse_manifest(parse_canonical(opened.read(MANIFEST, MAX_MANIFEST_BYTES)))
        _check_list(manifest)
        opened.check_names(set(manifest.files) | {MANIFEST})
        files = {}
        for name, entry in manifest.files.items():
            data = opened.read(name, entry.size)
            if len(data) != entry.size:
                raise VerificationError(f"{name} has {len(data)} bytes, not {entry.size}", _FETCH_AGAIN)
            if hashlib.sha256(data).hexdigest() != entry.sha256:
                raise VerificationError(f"{name} is not the file that the manifest names", _FETCH_AGAIN)
            files[name] = data
        return Package(manifest, files)


def verify(directory: str | os.PathLike[str]) -> Manifest:
    """Check a package to the end: its files, then its model, loaded in a child process.

    Raises what :func:`read_package` raises, and VerificationError if the model does not load or is not the
    one that the manifest describes.
    """
    package = read_package(directory)
    _load(package, None)
    return package.manifest


def check_golden(
    directory: str | os.PathLike[str], inputs: NDArray[np.float32], expected: NDArray[np.float32]
) -> Manifest:
    """:func:`verify`, and the margins of ``inputs`` (shape (n, row_width), float32) must be ``expected``
    (shape (n,), float32), bit for bit.

    ``inputs`` and ``expected`` come from ``golden.parquet``: read it out of
    ``read_package(directory).files``. Raises VerificationError, naming the first row that differs; UsageError
    for other shapes or dtypes.
    """
    if inputs.dtype != np.float32 or expected.dtype != np.float32:
        raise UsageError(
            "golden inputs and margins are float32", "read the columns of golden.parquet as they are"
        )
    if inputs.ndim != 2 or expected.shape != inputs.shape[:1] or not len(inputs):
        raise UsageError(f"golden inputs of shape {inputs.shape} and margins of shape {expected.shape}")
    package = read_package(directory)
    margins = _load(package, inputs).margins
    assert margins is not None
    check_margins(margins, expected)
    return package.manifest


def check_margins(margins: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    """VerificationError, naming the first row, unless both (float32, shape (n,)) agree bit for bit."""
    different = np.flatnonzero(margins.view(np.uint32) != np.ascontiguousarray(expected).view(np.uint32))
    if different.size:
        row = int(different[0])
        raise VerificationError(
            f"golden predictions: {different.size} of {len(expected)} differ; row {row} gives "
            f"{margins[row]!s}, not {expected[row]!s}",
            "this machine does not reproduce the model: do not use it here",
        )


def write_package(
    directory: str | os.PathLike[str], manifest_fields: Mapping[str, Any], files: Mapping[str, bytes]
) -> Manifest:
    """Write a package at once: whoever looks sees the old one, or the new one, or none.

    ``manifest_fields`` are those of :data:`hindsight.models.manifest.GIVEN`; the list of files and the
    release of XGBoost follow from ``files`` (name -> bytes; all of REQUIRED among them). The same arguments
    give the same bytes. A package that stands there is replaced; anything else is not.

    Raises VerificationError for malformed fields, missing or oversized files, a model that does not load or
    does not fit its features; ConfigurationError if the directory cannot be written.
    """
    target = Path(directory)
    extra = sorted(set(manifest_fields) - set(GIVEN))
    if extra:
        raise VerificationError(f"fields that the maker of a package does not give: {', '.join(extra)}")
    if MODEL not in files:
        raise VerificationError(f"a package needs the file {MODEL}")
    # The maker's own bytes: no need for a process apart.
    loaded = load_here(files[MODEL])
    document = {
        **manifest_fields,
        "format_version": FORMAT_VERSION,
        "xgboost_version": loaded.xgboost_version,
        "files": {
            name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in files.items()
        },
    }
    data = canonical_json(document)
    manifest = parse_manifest(parse_canonical(data))
    _check_list(manifest)
    check_model(manifest, loaded)
    if len(data) > MAX_MANIFEST_BYTES:
        raise VerificationError(f"{MANIFEST} is larger than {MAX_MANIFEST_BYTES} bytes")
    try:
        _replace(target, {**files, MANIFEST: data})
    except OSError as error:
        raise ConfigurationError(
            f"cannot write the package {target}: {error.strerror}", "choose a directory that can be written"
        ) from None
    return manifest


def _load(package: Package, inputs: NDArray[np.float32] | None) -> Loaded:
    loaded = load_apart(package.files[MODEL], inputs)
    check_model(package.manifest, loaded)
    return loaded


def check_model(manifest: Manifest, loaded: Loaded) -> None:
    """VerificationError unless the model is the one that the manifest describes: its width, the names and
    order of its features, its release of XGBoost.
    """
    if loaded.n_features != manifest.row_width:
        raise VerificationError(
            f"the model takes {loaded.n_features} inputs; the features and the encoding of an action "
            f"are {manifest.row_width}",
            "package the model with the features that it was trained on",
        )
    names = tuple(feature.name for feature in manifest.features)
    if loaded.feature_names and loaded.feature_names[: len(names)] != names:
        raise VerificationError(
            "the model was trained on features of other names, or in another order, than the manifest says",
            "package the model with the features that it was trained on",
        )
    if loaded.xgboost_version != manifest.xgboost_version:
        raise VerificationError(
            f"the model is of XGBoost {loaded.xgboost_version}, the manifest says {manifest.xgboost_version}",
            _FETCH_AGAIN,
        )


def _check_list(manifest: Manifest) -> None:
    missing = [name for name in REQUIRED if name not in manifest.files]
    if missing:
        raise VerificationError(
            f"the package lacks {', '.join(missing)}", "a package needs all of its evidence"
        )
    if MANIFEST in manifest.files:
        raise VerificationError(f"the manifest lists {MANIFEST} itself", _FETCH_AGAIN)
    for name, entry in manifest.files.items():
        if entry.size > MAX_FILE_BYTES:
            raise VerificationError(f"{name} is larger than {MAX_FILE_BYTES} bytes", _FETCH_AGAIN)
    if manifest.size > MAX_PACKAGE_BYTES:
        raise VerificationError(f"the package is larger than {MAX_PACKAGE_BYTES} bytes", _FETCH_AGAIN)


class _Directory:
    """A directory held open, so that what is checked and what is read are of the same one."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._fd = -1

    def __enter__(self) -> _Directory:
        try:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigurationError(
                f"{self._path}: {error.strerror}", "give the directory of a model package"
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def check_names(self, expected: set[str]) -> None:
        unlisted = sorted(set(os.listdir(self._fd)) - expected)
        if unlisted:
            shown = ", ".join(ascii(name) for name in unlisted[:5])
            raise VerificationError(
                f"the package holds what its manifest does not list: {shown}", _FETCH_AGAIN
            )

    def read(self, name: str, limit: int) -> bytes:
        """The bytes of a regular file; VerificationError for a link, another kind, or more than ``limit``."""
        # O_NONBLOCK: a FIFO must not hold us up before we can see what it is.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = os.open(name, flags, dir_fd=self._fd)
        except OSError as error:
            what = "is a symbolic link" if error.errno == errno.ELOOP else f"cannot be read: {error.strerror}"
            raise VerificationError(f"{name} {what}", _FETCH_AGAIN) from None
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise VerificationError(f"{name} is not a regular file", _FETCH_AGAIN)
            if status.st_size > limit:
                raise VerificationError(f"{name} has {status.st_size} bytes, more than {limit}", _FETCH_AGAIN)
            with os.fdopen(os.dup(fd), "rb") as file:
                # One byte more than is allowed, in case the file grows under our eyes.
                data = file.read(limit + 1)
        except OSError as error:
            raise VerificationError(f"{name} cannot be read: {error.strerror}", _FETCH_AGAIN) from None
        finally:
            os.close(fd)
        if len(data) > limit:
            raise VerificationError(f"{name} has more than {limit} bytes", _FETCH_AGAIN)
        return data


def _replace(target: Path, files: Mapping[str, bytes]) -> None:
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise ConfigurationError(
            f"{target} exists and is not a directory", "remove it, or choose another name"
        )
    if target.is_dir() and any(target.iterdir()) and not (target / MANIFEST).is_file():
        raise ConfigurationError(f"{target} exists and is no package", "remove it, or choose another name")
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        for name in sorted(files):
            with open(scratch / name, "xb") as file:
                file.write(files[name])
                file.flush()
                os.fsync(file.fileno())
                os.fchmod(file.fileno(), 0o644)
        scratch.chmod(0o755)
        _sync(scratch)
        if target.exists():
            _exchange(scratch, target)
        else:
            scratch.rename(target)
        _sync(target.parent)
    finally:
        # After an exchange, what stands here is the old package.
        shutil.rmtree(scratch, ignore_errors=True)


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def _exchange(new: Path, old: Path) -> None:
    """Swap two directories at once (renameat2(2), RENAME_EXCHANGE), or in two steps where that is not
    offered."""
    libc = ctypes.CDLL(None, use_errno=True)
    renameat2 = getattr(libc, "renameat2", None)
    if renameat2 is not None:
        if renameat2(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(old), _RENAME_EXCHANGE) == 0:
            return
        code = ctypes.get_errno()
        if code not in (errno.ENOSYS, errno.EINVAL):
            raise OSError(code, os.strerror(code))
    aside = new.with_name(new.name + ".old")
    old.rename(aside)
    new.rename(old)
    aside.rename(new)


__all__ = [
    "Manifest",
    "Package",
    "check_golden",
    "check_margins",
    "check_model",
    "read_manifest",
    "read_package",
    "verify",
    "write_package",
]
