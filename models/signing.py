"""Detached signatures of packages: Ed25519 over the very bytes of ``manifest.json``.

The signature stands beside the package, as ``NAME-VERSION.sig``, so that the package stays the same bytes
whoever signs it. It is text of exactly three lines, and any other spelling is refused::

    hindsight signature 1
    key SHA-256 of the public key (see hindsight.models.keys)
    ed25519 the signature, 128 hexadecimal digits

The manifest names the hash of every other file, so its signature covers them all. Keys come from the
operator's trust directory alone: one that lies in a package, or is named by it, says nothing.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature

from hindsight.errors import ConfigurationError, VerificationError
from hindsight.models.keys import Trust, key_id, read_private
from hindsight.models.manifest import Manifest, parse_canonical, parse_manifest
from hindsight.models.package import MANIFEST, MAX_MANIFEST_BYTES, verify
from hindsight.models.regular import read_regular

SIGNATURE_VERSION = 1
"""Raised when the form or what is signed changes."""
SUFFIX = ".sig"
MAX_SIGNATURE_BYTES = 1024

_FORM = re.compile(rb"hindsight signature 1\nkey ([0-9a-f]{64})\ned25519 ([0-9a-f]{128})\n")
_OTHER_VERSION = re.compile(rb"hindsight signature ([0-9]{1,9})\n")
_REMEDY = "do not use it; fetch the package and its signature again"


@dataclass(frozen=True)
class Signature:
    """Who signed (:func:`hindsight.models.keys.key_id`), and the 64 bytes."""

    key: str
    value: bytes

    def encode(self) -> bytes:
        """The bytes of a ``.sig`` file."""
        return f"hindsight signature 1\nkey {self.key}\ned25519 {self.value.hex()}\n".encode()


@dataclass(frozen=True)
class Signed:
    """A manifest whose signature was found good: its bytes, the id of the key, and the trust file of it."""

    manifest: bytes
    key: str
    file: str


def parse_signature(data: bytes) -> Signature:
    """What a ``.sig`` file holds; VerificationError for any other form, or another version of it."""
    match = _FORM.fullmatch(data)
    if match is not None:
        return Signature(match[1].decode(), bytes.fromhex(match[2].decode()))
    other = _OTHER_VERSION.match(data)
    if other is not None and int(other[1]) != SIGNATURE_VERSION:
        raise VerificationError(
            f"the signature has format version {int(other[1])}; this release reads {SIGNATURE_VERSION}",
            "use the release of hindsight that signed the package",
        )
    raise VerificationError("the signature is not of the form that hindsight writes", _REMEDY)


def signature_path(directory: str | os.PathLike[str]) -> Path:
    """Where the signature of a package stands: beside it, with its name. Links to a package are followed."""
    return detached_path(directory, SUFFIX)


def detached_path(directory: str | os.PathLike[str], suffix: str, manifest: Manifest | None = None) -> Path:
    """Where a file about a package stands, beside it. ConfigurationError if the directory has not the name
    that its ``manifest`` gives.
    """
    real = Path(os.path.realpath(directory))
    expected = real.name if manifest is None else f"{manifest.name}-{manifest.version}"
    if real.name != expected:
        raise ConfigurationError(
            f"the directory {real.name} holds the package {expected}",
            f"rename it to {expected}: signatures are found by that name",
        )
    return real.with_name(real.name + suffix)


def sign(
    directory: str | os.PathLike[str],
    key: str | os.PathLike[str],
    passphrase: bytes | Callable[[], bytes] | None = None,
) -> tuple[Path, Signature]:
    """Verify a package, sign its manifest with the private key in the file ``key``, write the signature.

    A signature that stands there is replaced. The same package and key give the same bytes. Raises what
    :func:`hindsight.models.package.verify` and :func:`hindsight.models.keys.read_private` raise;
    ConfigurationError if the directory has not the name of its package, or the signature cannot be written.
    """
    private = read_private(key, passphrase)
    manifest = verify(directory)
    path = detached_path(directory, SUFFIX, manifest)
    data = read_signed_bytes(directory)
    same_manifest(data, manifest)
    signature = Signature(key_id(private.public_key()), private.sign(data))
    write_detached(path, signature.encode())
    return path, signature


def check(directory: str | os.PathLike[str], trust: Trust) -> Signed:
    """Check the signature of a package, and nothing else: no byte of it is parsed.

    Raises VerificationError if there is no signature, it is malformed, is of a key that is not in ``trust``,
    or is not of this manifest; ConfigurationError if there is no such directory.
    """
    path = signature_path(directory)
    manifest = read_signed_bytes(directory)
    if not os.path.lexists(path):
        raise VerificationError(
            f"the package is not signed: there is no {path.name} beside it",
            "have its maker sign it: hindsight models sign PACKAGE --key FILE",
        )
    signature = parse_signature(read_regular(path, MAX_SIGNATURE_BYTES, _REMEDY)[0])
    trusted = trust.keys.get(signature.key)
    if trusted is None:
        unusable = "".join(f"; {reason}" for _, reason in trust.ignored)
        raise VerificationError(
            f"the package is signed by the key {signature.key}, which is not in {trust.directory}{unusable}",
            "if you trust its maker, get the public key from them by another way and put it there",
        )
    try:
        trusted.public.verify(signature.value, manifest)
    except InvalidSignature:
        raise VerificationError(
            f"the signature is not one of {MANIFEST} by {trusted.file}", _REMEDY
        ) from None
    return Signed(manifest, signature.key, trusted.file)


def read_signed_bytes(directory: str | os.PathLike[str]) -> bytes:
    """The bytes of the manifest, not parsed.

    Raises ConfigurationError if there is no such directory, VerificationError for everything else.
    """
    real = os.path.realpath(directory)
    try:
        os.close(os.open(real, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError as error:
        raise ConfigurationError(
            f"{os.fspath(directory)}: {error.strerror}", "give the directory of a model package"
        ) from None
    return read_regular(os.path.join(real, MANIFEST), MAX_MANIFEST_BYTES, _REMEDY)[0]


def same_manifest(signed: bytes, read: Manifest) -> None:
    """VerificationError unless the signed bytes say what was ``read``: files can change between two looks."""
    if parse_manifest(parse_canonical(signed)) != read:
        raise VerificationError(f"{MANIFEST} changed while it was read", "try again; see who writes there")


def write_detached(path: Path, data: bytes) -> None:
    """Write a file beside a package at once; ConfigurationError if that cannot be done."""
    try:
        fd, scratch = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(fd, "wb") as file:
                os.fchmod(file.fileno(), 0o644)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(scratch, path)
        except BaseException:
            os.unlink(scratch)
            raise
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be written: {error.strerror}", "choose a directory that can be written"
        ) from None
