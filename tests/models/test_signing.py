"""Signatures: one form, over the bytes of the manifest, by keys that an operator chose."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hindsight.errors import ConfigurationError, ExitCode, VerificationError
from hindsight.models import keys, package, signing

Fields = dict[str, Any]
Files = dict[str, bytes]


@pytest.fixture
def exported(tmp_path: Path, fields: Fields, files: Files) -> Path:
    directory = tmp_path / "exported" / "window-0.1.0"
    package.write_package(directory, fields, files)
    return directory


@pytest.fixture
def key(tmp_path: Path) -> Path:
    keys.generate(tmp_path / "maker.key")
    return tmp_path / "maker.key"


@pytest.fixture
def trust(tmp_path: Path, key: Path) -> keys.Trust:
    directory = tmp_path / "trust.d"
    directory.mkdir(mode=0o755)
    shutil.copy(f"{key}.pub", directory / "maker.pub")
    return keys.read_trust(directory)


def sign_unchecked(directory: Path, key: Path) -> None:
    """What :func:`signing.sign` writes, without loading the model."""
    private = keys.read_private(key)
    value = private.sign((directory / "manifest.json").read_bytes())
    signature = signing.Signature(keys.key_id(private.public_key()), value)
    signing.signature_path(directory).write_bytes(signature.encode())


def test_a_signature_stands_beside_the_package(exported: Path, key: Path, trust: keys.Trust) -> None:
    before = {path.name: path.read_bytes() for path in exported.iterdir()}
    path, signature = signing.sign(exported, key)
    assert path == exported.parent / "window-0.1.0.sig"
    assert {p.name: p.read_bytes() for p in exported.iterdir()} == before
    assert sorted(p.name for p in exported.parent.iterdir()) == ["window-0.1.0", "window-0.1.0.sig"]
    assert path.stat().st_mode & 0o777 == 0o644
    assert path.read_bytes() == signature.encode()
    assert signing.parse_signature(path.read_bytes()) == signature
    found = signing.check(exported, trust)
    assert (found.file, found.key) == ("maker.pub", signature.key)
    assert found.manifest == (exported / "manifest.json").read_bytes()
    assert [signature.key] == list(trust.keys)


def test_the_same_package_and_key_give_the_same_bytes(
    exported: Path, key: Path, tmp_path: Path, fields: Fields, files: Files
) -> None:
    path, _ = signing.sign(exported, key)
    first = path.read_bytes()
    assert signing.sign(exported, key)[0].read_bytes() == first
    again = tmp_path / "again" / "window-0.1.0"
    package.write_package(again, fields, files)
    assert signing.sign(again, key)[0].read_bytes() == first
    keys.generate(tmp_path / "other.key")
    assert signing.sign(exported, tmp_path / "other.key")[0].read_bytes() != first


def test_openssl_accepts_the_signature(exported: Path, key: Path, tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    path, _ = signing.sign(exported, key)
    (tmp_path / "raw").write_bytes(bytes.fromhex(path.read_text().split()[-1]))

    def verified(data: Path) -> bool:
        command = [openssl, "pkeyutl", "-verify", "-pubin", "-inkey", f"{key}.pub", "-rawin"]
        done = subprocess.run([*command, "-in", data, "-sigfile", tmp_path / "raw"], capture_output=True)
        return done.returncode == 0

    assert verified(exported / "manifest.json")
    assert not verified(exported / "report.json")


@pytest.mark.parametrize("way", ["", "/", "/.", "link"])
def test_a_package_is_found_whatever_way_leads_to_it(
    exported: Path, key: Path, trust: keys.Trust, tmp_path: Path, way: str
) -> None:
    path = f"{exported}{way}"
    if way == "link":
        path = str(tmp_path / "current")
        os.symlink(exported, path)
    assert signing.sign(path, key)[0] == exported.parent / "window-0.1.0.sig"
    signing.check(path, trust)


def test_a_damaged_package_is_not_signed(exported: Path, key: Path) -> None:
    (exported / "report.json").write_text("[]\n")
    with pytest.raises(VerificationError, match=r"report\.json is not the file"):
        signing.sign(exported, key)
    assert not signing.signature_path(exported).exists()


def test_a_package_under_another_name_is_not_signed(exported: Path, key: Path) -> None:
    moved = exported.rename(exported.parent / "latest")
    with pytest.raises(ConfigurationError, match=r"holds the package window-0\.1\.0"):
        signing.sign(moved, key)
    assert [p.name for p in exported.parent.iterdir()] == ["latest"]


def test_what_cannot_be_written_is_said(exported: Path, key: Path) -> None:
    signing.signature_path(exported).mkdir()
    with pytest.raises(ConfigurationError, match="cannot be written"):
        signing.sign(exported, key)
    assert sorted(p.name for p in exported.parent.iterdir()) == ["window-0.1.0", "window-0.1.0.sig"]


def _edit(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def tamper(directory: Path) -> None:
        path = signing.signature_path(directory)
        path.write_bytes(change(path.read_bytes()))

    return tamper


def _link(directory: Path) -> None:
    path = signing.signature_path(directory)
    path.rename(directory.parent / "elsewhere")
    path.symlink_to("elsewhere")


def _flip(data: bytes) -> bytes:
    last = b"0" if data[-2:-1] != b"0" else b"1"
    return data[:-2] + last + b"\n"


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (lambda d: signing.signature_path(d).unlink(), "is not signed"),
        (_link, "symbolic link"),
        (_edit(lambda data: data * 5), "more than 1024 bytes"),
        (_edit(lambda data: b""), "not of the form"),
        (_edit(lambda data: data[:-1]), "not of the form"),
        (_edit(lambda data: data + b"\n"), "not of the form"),
        (_edit(lambda data: data.upper()), "not of the form"),
        (_edit(lambda data: data.replace(b"\n", b"\r\n")), "not of the form"),
        (_edit(lambda data: data.replace(b"signature 1", b"signature 2")), "format version 2"),
        (_edit(lambda data: data.replace(b"signature 1", b"signature 01")), "not of the form"),
        (_edit(lambda data: data.replace(data[26:90], b"0" * 64)), "the key 0000"),
        (_edit(_flip), "not one of manifest.json by maker.pub"),
        (lambda d: (d / "manifest.json").write_bytes(b"{}\n"), "not one of manifest.json by maker.pub"),
        (lambda d: (d / "manifest.json").unlink(), "manifest.json cannot be read"),
    ],
)
def test_what_is_refused(
    exported: Path, key: Path, trust: keys.Trust, tamper: Callable[[Path], object], message: str
) -> None:
    sign_unchecked(exported, key)
    signing.check(exported, trust)
    tamper(exported)
    with pytest.raises(VerificationError, match=message) as caught:
        signing.check(exported, trust)
    assert caught.value.exit_code == ExitCode.VERIFICATION
    assert caught.value.remedy


def test_a_key_that_is_not_trusted(exported: Path, tmp_path: Path, trust: keys.Trust) -> None:
    _, identity = keys.generate(tmp_path / "stranger.key")
    signing.sign(exported, tmp_path / "stranger.key")
    with pytest.raises(VerificationError, match=identity):
        signing.check(exported, trust)
    # Why it is not found may lie in the file that should have held it.
    (tmp_path / "trust.d" / "stranger.pub").symlink_to(tmp_path / "stranger.key.pub")
    with pytest.raises(VerificationError, match=r"stranger\.pub is a symbolic link"):
        signing.check(exported, keys.read_trust(tmp_path / "trust.d"))


def test_a_key_inside_of_a_package_is_not_trusted(
    tmp_path: Path, fields: Fields, files: Files, trust: keys.Trust
) -> None:
    keys.generate(tmp_path / "stranger.key")
    own = {"maker.pub": (tmp_path / "stranger.key.pub").read_bytes()}
    directory = tmp_path / "window-0.1.0"
    package.write_package(directory, fields, files | own)
    signing.sign(directory, tmp_path / "stranger.key")
    with pytest.raises(VerificationError, match="which is not in"):
        signing.check(directory, trust)


def test_a_signature_of_a_trusted_key_for_another_key_id(
    exported: Path, key: Path, tmp_path: Path, trust: keys.Trust
) -> None:
    keys.generate(tmp_path / "stranger.key")
    path, stranger = signing.sign(exported, tmp_path / "stranger.key")
    (trusted,) = trust.keys
    path.write_bytes(signing.Signature(trusted, stranger.value).encode())
    with pytest.raises(VerificationError, match=r"not one of manifest\.json by maker\.pub"):
        signing.check(exported, trust)


def test_a_manifest_that_changed_between_two_looks(
    exported: Path, key: Path, fields: Fields, files: Files
) -> None:
    signed = signing.read_signed_bytes(exported)
    signing.same_manifest(signed, package.read_manifest(exported))
    package.write_package(exported, fields | {"mode": "recommendation"}, files)
    with pytest.raises(VerificationError, match="changed while it was read"):
        signing.same_manifest(signed, package.read_manifest(exported))


def test_a_directory_that_is_not_there_is_the_users_error(tmp_path: Path, trust: keys.Trust) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        signing.check(tmp_path / "absent", trust)
