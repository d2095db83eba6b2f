"""Keys: written once, for their owner alone; trusted only from a directory that nobody else can write to."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hindsight.errors import ConfigurationError, VerificationError
from hindsight.models import keys
from hindsight.models.regular import read_regular

PUBLIC = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
PRIVATE = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8


@pytest.fixture
def trust(tmp_path: Path) -> Path:
    directory = tmp_path / "trust.d"
    directory.mkdir(mode=0o755)
    return directory


def test_a_pair_of_keys(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        public, identity = keys.generate(tmp_path / "a.key")
    finally:
        os.umask(previous)
    assert public == tmp_path / "a.key.pub"
    assert (tmp_path / "a.key").stat().st_mode & 0o7777 == 0o600
    assert public.stat().st_mode & 0o7777 == 0o644
    private = keys.read_private(tmp_path / "a.key")
    assert private.public_key().public_bytes(*PUBLIC) == public.read_bytes()
    assert keys.key_id(private.public_key()) == identity
    assert keys.generate(tmp_path / "b.key")[1] != identity
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.key", "a.key.pub", "b.key", "b.key.pub"]


def test_a_strict_umask_does_not_hide_the_public_key(tmp_path: Path) -> None:
    previous = os.umask(0o777)
    try:
        keys.generate(tmp_path / "a.key")
    finally:
        os.umask(previous)
    assert {p.name: p.stat().st_mode & 0o777 for p in tmp_path.iterdir()} == {
        "a.key": 0o600, "a.key.pub": 0o644,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["a.key", "a.key.pub"])
@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_a_key_is_never_overwritten(tmp_path: Path, name: str, kind: str) -> None:
    if kind == "file":
        (tmp_path / name).write_text("precious")
    else:
        (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="never overwritten"):
        keys.generate(tmp_path / "a.key")
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert kind != "file" or (tmp_path / name).read_text() == "precious"
    with pytest.raises(ConfigurationError, match="cannot be written"):
        keys.generate(tmp_path / "absent" / "a.key")


def test_the_id_is_the_one_that_openssl_gives(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    public, identity = keys.generate(tmp_path / "a.key")
    command = [openssl, "pkey", "-pubin", "-in", str(public), "-outform", "DER"]
    der = subprocess.run(command, capture_output=True, check=True).stdout
    digest = subprocess.run([openssl, "dgst", "-sha256"], input=der, capture_output=True, check=True).stdout
    assert digest.decode().split()[-1] == identity


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o602, 0o610])
def test_a_private_key_that_others_can_read_is_not_used(tmp_path: Path, mode: int) -> None:
    keys.generate(tmp_path / "a.key")
    (tmp_path / "a.key").chmod(mode)
    with pytest.raises(ConfigurationError, match="open to others") as caught:
        keys.read_private(tmp_path / "a.key")
    assert "chmod 600" in str(caught.value)
    (tmp_path / "a.key").chmod(0o400)
    keys.read_private(tmp_path / "a.key")


def test_what_is_no_usable_private_key(tmp_path: Path) -> None:
    plain = serialization.NoEncryption()
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(*PRIVATE, plain)
    locked = serialization.BestAvailableEncryption(b"secret")
    encrypted = Ed25519PrivateKey.generate().private_bytes(*PRIVATE, locked)
    path = tmp_path / "a.key"
    for data in (b"", b"\0" * 100, other, encrypted, b"x" * 5000):
        path.write_bytes(data)
        path.chmod(0o600)
        with pytest.raises(ConfigurationError):
            keys.read_private(path)
    with pytest.raises(ConfigurationError, match="No such file"):
        keys.read_private(tmp_path / "absent.key")
    with pytest.raises(ConfigurationError, match="not a regular file"):
        keys.read_private(tmp_path)


def test_trusted_keys_are_found_by_their_id(tmp_path: Path, trust: Path) -> None:
    ids = {}
    for name in ("one", "two"):
        public, identity = keys.generate(tmp_path / name)
        shutil.copy(public, trust / f"{name}.pub")
        ids[identity] = f"{name}.pub"
    (trust / ".hidden").write_text("not looked at")
    found = keys.read_trust(trust)
    assert {identity: key.file for identity, key in found.keys.items()} == ids
    assert found.ignored == ()
    assert all(keys.key_id(key.public) == identity for identity, key in found.keys.items())


def _link(path: Path) -> None:
    real = path.parent.parent / "elsewhere.pub"
    keys.generate(real.with_suffix(""))
    path.symlink_to(real)


def _socket(path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.close()


def _private(path: Path) -> None:
    path.write_bytes(Ed25519PrivateKey.generate().private_bytes(*PRIVATE, serialization.NoEncryption()))


def _pair(path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(*PRIVATE, serialization.NoEncryption())
    path.write_bytes(key.public_key().public_bytes(*PUBLIC) + secret)


def _open(mode: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(Ed25519PrivateKey.generate().public_key().public_bytes(*PUBLIC))
        path.chmod(mode)

    return write


def _other(path: Path) -> None:
    path.write_bytes(x25519.X25519PrivateKey.generate().public_key().public_bytes(*PUBLIC))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_link, "is a symbolic link"),
        (lambda path: path.symlink_to("nowhere"), "is a symbolic link"),
        (lambda path: path.mkdir(), "not a regular file"),
        (lambda path: os.mkfifo(path), "not a regular file"),
        (_socket, "not a regular file"),
        (lambda path: path.write_bytes(b"-" * 4097), "more than 4096 bytes"),
        (lambda path: path.write_bytes(b""), "no public key in PEM"),
        (lambda path: path.write_text("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"), "PEM"),
        (_private, "private key"),
        (_pair, "private key"),
        (_other, "no Ed25519 key"),
        (_open(0o664), "written by others"),
        (_open(0o646), "written by others"),
    ],
)
def test_a_file_that_is_no_key_is_reported_and_the_others_count(
    tmp_path: Path, trust: Path, make: Callable[[Path], None], reason: str
) -> None:
    public, identity = keys.generate(tmp_path / "good")
    shutil.copy(public, trust / "good.pub")
    make(trust / "bad.pub")
    found = keys.read_trust(trust)
    assert list(found.keys) == [identity]
    ((file, why),) = found.ignored
    assert file == "bad.pub" and reason in why and why.startswith("bad.pub")


def test_a_name_cannot_steer_the_terminal(trust: Path) -> None:
    (trust / "a\x1b[2J\n").write_text("")
    ((file, why),) = keys.read_trust(trust).ignored
    assert file.isprintable() and why.isprintable()


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away needs root")
def test_a_key_that_belongs_to_another_user_is_not_trusted(tmp_path: Path, trust: Path) -> None:
    public, _ = keys.generate(tmp_path / "good")
    shutil.copy(public, trust / "good.pub")
    os.chown(trust / "good.pub", 12345, -1)
    assert keys.read_trust(trust).keys == {}
    os.chown(trust, 12345, -1)
    with pytest.raises(ConfigurationError, match="another user"):
        keys.read_trust(trust)


def test_a_directory_that_says_nothing(tmp_path: Path, trust: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for mode in (0o775, 0o757, 0o1777):
        trust.chmod(mode)
        with pytest.raises(ConfigurationError, match="written by others"):
            keys.read_trust(trust)
    trust.chmod(0o755)
    with pytest.raises(ConfigurationError, match="no trust directory"):
        keys.read_trust(tmp_path / "absent")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="Not a directory"):
        keys.read_trust(tmp_path / "file")
    for k in range(keys.MAX_TRUSTED + 1):
        (trust / str(k)).write_text("")
    with pytest.raises(ConfigurationError, match="more than"):
        keys.read_trust(trust)
    # Nobody has to make the directory before there is someone to trust.
    monkeypatch.setattr(keys, "TRUST_DIRECTORY", str(tmp_path / "absent"))
    assert keys.read_trust().keys == {}


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"12345")
    assert read_regular(tmp_path / "f", 5, "")[0] == b"12345"
    with pytest.raises(VerificationError, match="more than 4 bytes"):
        read_regular(tmp_path / "f", 4, "")
