"""Keys that sign packages (Ed25519), and the directory that says whose signatures an operator trusts.

A private key is PEM (PKCS #8, encrypted if it has a passphrase), readable by its owner alone; a public key is
PEM (SubjectPublicKeyInfo), as ``openssl pkey`` reads and writes both. The id of a key is the SHA-256 of its
public half in DER, so ``openssl pkey -pubin -in KEY.pub -outform DER | sha256sum`` gives it too.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from hindsight.errors import ConfigurationError, VerificationError
from hindsight.models.regular import read_regular

TRUST_DIRECTORY = "/etc/hindsight/trust.d"
PUBLIC_SUFFIX = ".pub"

MAX_KEY_BYTES = 4096
"""Of a file with a key; one of Ed25519 has 119 bytes."""
MAX_TRUSTED = 256
"""Files in a trust directory."""

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True)
class TrustedKey:
    """A public key and the file of the trust directory that holds it."""

    file: str
    public: Ed25519PublicKey


@dataclass(frozen=True)
class Trust:
    """What an operator trusts: ``keys`` by id; ``ignored``: files that are no usable key, and why."""

    directory: str
    keys: Mapping[str, TrustedKey]
    ignored: tuple[tuple[str, str], ...]


def key_id(public: Ed25519PublicKey) -> str:
    """SHA-256 of the public key in DER (SubjectPublicKeyInfo), hexadecimal."""
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def generate(path: str | os.PathLike[str], passphrase: bytes | None = None) -> tuple[Path, str]:
    """Make a key pair: the private key in ``path`` (mode 0600), the public one in ``path`` + ".pub" (0644).

    With a ``passphrase``, the private key is encrypted. Returns the path of the public key and the id. Raises
    ConfigurationError if either is there already or cannot be written; then neither is left behind.
    """
    private, public = Path(path), Path(f"{os.fspath(path)}{PUBLIC_SUFFIX}")
    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption()
        if passphrase is None
        else serialization.BestAvailableEncryption(passphrase),
    )
    shown = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    _create(private, secret, 0o600)
    try:
        _create(public, shown, 0o644)
    except ConfigurationError:
        private.unlink()
        raise
    return public, key_id(key.public_key())


def _create(path: Path, data: bytes, mode: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(path, flags, mode), "wb") as file:
            # Whatever the umask is.
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise ConfigurationError(
            f"{path} exists; a key is never overwritten", "choose another name, or move the old key away"
        ) from None
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be written: {error.strerror}", "choose a directory that can be written"
        ) from None


def read_private(
    path: str | os.PathLike[str], passphrase: bytes | Callable[[], bytes] | None = None
) -> Ed25519PrivateKey:
    """The private key in a file. ``passphrase``: its own, or what gives it, called if the key has one.

    Raises ConfigurationError if it is missing, is readable by others than its owner, is no Ed25519 key, or
    the passphrase is not its own: wrong, missing, or given for a key that has none; and what the callable
    raises.
    """
    remedy = "give the private key that `hindsight models keygen` wrote"
    try:
        data, status = read_regular(path, MAX_KEY_BYTES, remedy)
    except VerificationError as error:
        raise ConfigurationError(f"the key {error.message}", error.remedy) from None
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigurationError(
            f"the key {os.fspath(path)} is open to others than its owner",
            f"chmod 600 {os.fspath(path)}; if it may have been read, make a new one",
        )
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except TypeError:
        key = _decrypted(data, os.fspath(path), passphrase() if callable(passphrase) else passphrase)
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigurationError(f"{os.fspath(path)} is no private key that can be used", remedy) from None
    else:
        if isinstance(passphrase, bytes):
            raise ConfigurationError(
                f"the key {os.fspath(path)} has no passphrase, and one was given",
                "leave it out, or give the key that it belongs to",
            )
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(f"{os.fspath(path)} is no Ed25519 key", remedy)
    return key


def _decrypted(data: bytes, path: str, passphrase: bytes | None) -> PrivateKeyTypes:
    if not passphrase:
        raise ConfigurationError(f"the key {path} has a passphrase", "give it")
    try:
        return serialization.load_pem_private_key(data, password=passphrase)
    except (ValueError, UnsupportedAlgorithm):
        # The two look alike: what a wrong passphrase decrypts to is no key either.
        raise ConfigurationError(
            f"the passphrase does not open the key {path}", "give the one that the key was made with"
        ) from None


def read_trust(directory: str | os.PathLike[str] | None = None) -> Trust:
    """The keys in a trust directory (None: :data:`TRUST_DIRECTORY`, which may be missing: no key is trusted).

    Every file in it is meant to be one public key; hidden ones are passed over. A file that is a link, is
    not regular, is larger than MAX_KEY_BYTES, can be written by others, or is no Ed25519 key is ignored,
    which ``ignored`` reports.

    Raises ConfigurationError if the directory cannot be read, can be written by others than its owner, or
    holds more than MAX_TRUSTED files.
    """
    path = TRUST_DIRECTORY if directory is None else os.fspath(directory)
    try:
        status, names = os.stat(path), sorted(os.listdir(path))
    except FileNotFoundError:
        if directory is None:
            return Trust(path, {}, ())
        raise ConfigurationError(f"there is no trust directory {path}", _MAKE_TRUST) from None
    except OSError as error:
        raise ConfigurationError(f"the trust directory {path}: {error.strerror}", _MAKE_TRUST) from None
    open_to = _open_to(status)
    if open_to:
        raise ConfigurationError(
            f"the trust directory {path} {open_to}: that says nothing of whom to trust",
            f"chown root {path}; chmod go-w {path}",
        )
    if len(names) > MAX_TRUSTED:
        raise ConfigurationError(f"the trust directory {path} holds more than {MAX_TRUSTED} files")
    keys: dict[str, TrustedKey] = {}
    ignored = []
    for name in names:
        if name.startswith("."):
            continue
        try:
            public = _read_public(os.path.join(path, name))
        except VerificationError as error:
            ignored.append((ascii(name)[1:-1], error.message))
        else:
            keys.setdefault(key_id(public), TrustedKey(ascii(name)[1:-1], public))
    return Trust(path, keys, tuple(ignored))


_MAKE_TRUST = "make a directory, and put the public keys into it whose packages may be used"


def _open_to(status: os.stat_result) -> str | None:
    """Who else could write what this is the status of; None: nobody."""
    if status.st_mode & _WRITABLE_BY_OTHERS:
        return "can be written by others than its owner"
    if status.st_uid not in (0, os.geteuid()):
        return "belongs to another user"
    return None


def _read_public(path: str) -> Ed25519PublicKey:
    name = ascii(os.path.basename(path))[1:-1]
    data, status = read_regular(path, MAX_KEY_BYTES, "")
    open_to = _open_to(status)
    if open_to:
        raise VerificationError(f"{name} {open_to}")
    if b"PRIVATE KEY" in data:
        raise VerificationError(f"{name} is a private key, which has no business here")
    try:
        public = serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise VerificationError(f"{name} is no public key in PEM") from None
    if not isinstance(public, Ed25519PublicKey):
        raise VerificationError(f"{name} is no Ed25519 key")
    return public
