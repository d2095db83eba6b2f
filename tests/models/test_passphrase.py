"""Keys with a passphrase: given by a file, a pipe or a person; never echoed, and wrong ones open nothing."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hindsight.errors import ConfigurationError
from hindsight.models import keys, package, passphrase, signing

SECRET = "correct horse, bättery"


@pytest.fixture
def exported(tmp_path: Path, fields: dict[str, Any], files: dict[str, bytes]) -> Path:
    directory = tmp_path / "window-0.1.0"
    package.write_package(directory, fields, files)
    return directory


def private(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def hindsight(*arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hindsight", "models", *arguments]
    feed: dict[str, Any] = {"stdin": subprocess.DEVNULL} if given is None else {"input": given}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **feed)


def at_a_terminal(cwd: Path, arguments: list[str], answers: list[str]) -> tuple[int, str]:
    """Run the command with a terminal of its own; each prompt gets the next answer. Status, and what the
    terminal showed."""
    child, terminal = pty.fork()
    if child == 0:  # pragma: no cover
        os.chdir(cwd)
        os.execv(sys.executable, [sys.executable, "-m", "hindsight", "models", *arguments])
    shown, left, deadline = "", list(answers), time.monotonic() + 120
    while time.monotonic() < deadline and select.select([terminal], [], [], 60)[0]:
        try:
            data = os.read(terminal, 4096)
        except OSError:
            break
        if not data:
            break
        shown += data.decode(errors="replace")
        if shown.endswith(": ") and left:
            os.write(terminal, f"{left.pop(0)}\n".encode())
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), shown


def test_a_key_is_encrypted_and_opens_with_its_passphrase_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    _, identity = keys.generate(path, SECRET.encode())
    assert path.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    assert path.stat().st_mode & 0o7777 == 0o600
    assert keys.key_id(keys.read_private(path, SECRET.encode()).public_key()) == identity
    assert keys.key_id(keys.read_private(path, SECRET.encode).public_key()) == identity
    for wrong in (b"wrong", SECRET.encode() + b"\n", SECRET.upper().encode()):
        with pytest.raises(ConfigurationError, match="does not open the key"):
            keys.read_private(path, wrong)
    for none in (None, b""):
        with pytest.raises(ConfigurationError, match="has a passphrase"):
            keys.read_private(path, none)
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="open to others"):
        keys.read_private(path, SECRET.encode())


def test_a_key_without_a_passphrase_asks_for_none(tmp_path: Path) -> None:
    keys.generate(tmp_path / "a.key")

    def never() -> bytes:
        raise AssertionError("asked")

    keys.read_private(tmp_path / "a.key", never)
    with pytest.raises(ConfigurationError, match="has no passphrase"):
        keys.read_private(tmp_path / "a.key", b"any")


def test_openssl_opens_it(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    public, _ = keys.generate(tmp_path / "a.key", SECRET.encode())
    secret = private(tmp_path / "secret", SECRET)
    command = [openssl, "pkey", "-in", str(tmp_path / "a.key"), "-pubout", "-passin", f"file:{secret}"]
    assert subprocess.run(command, capture_output=True, check=True).stdout == public.read_bytes()


@pytest.mark.parametrize(
    ("text", "mode", "message"),
    [
        ("", 0o600, "is empty"),
        ("\n", 0o600, "is empty"),
        ("a\nb\n", 0o600, "not one line"),
        ("x" * 1024, 0o600, "not one line"),
        ("x" * 2000, 0o600, "more than"),
        ("a", 0o640, "open to others"),
        ("a", 0o604, "open to others"),
    ],
)
def test_a_file_that_holds_no_passphrase(tmp_path: Path, text: str, mode: int, message: str) -> None:
    path = private(tmp_path / "secret", text, mode)
    with pytest.raises(ConfigurationError, match=message) as caught:
        passphrase.read_passphrase(path)
    assert caught.value.remedy
    with pytest.raises(ConfigurationError, match="No such file"):
        passphrase.read_passphrase(tmp_path / "absent")


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_the_end_of_the_line_is_no_part_of_it(tmp_path: Path, end: str) -> None:
    path = tmp_path / "secret"
    path.write_bytes(f"{SECRET}{end}".encode())
    path.chmod(0o600)
    assert passphrase.read_passphrase(path) == SECRET.encode()
    path.write_bytes(b"x" * passphrase.MAX_PASSPHRASE_BYTES + end.encode())
    assert len(passphrase.read_passphrase(path)) == passphrase.MAX_PASSPHRASE_BYTES


def test_scripts_give_a_file_or_a_pipe(tmp_path: Path, exported: Path) -> None:
    key, secret = str(tmp_path / "a.key"), str(private(tmp_path / "secret", SECRET + "\n"))
    made = hindsight("keygen", key, "--passphrase-file", secret)
    assert made.returncode == 0 and ", encrypted: " in made.stdout, made.stderr
    signed = hindsight("sign", str(exported), "--key", key, "--passphrase-file", "-", given=SECRET)
    assert signed.returncode == 0, signed.stderr
    first = signing.signature_path(exported).read_bytes()
    assert hindsight("sign", str(exported), "--key", key, "--passphrase-file", secret).returncode == 0
    assert signing.signature_path(exported).read_bytes() == first
    signing.signature_path(exported).unlink()
    wrong = hindsight("sign", str(exported), "--key", key, "--passphrase-file", "-", given="wrong\n")
    assert wrong.returncode == 3 and "does not open the key" in wrong.stderr
    nobody = hindsight("sign", str(exported), "--key", key)
    assert nobody.returncode == 3 and "no terminal to ask" in nobody.stderr
    assert "--passphrase-file" in nobody.stderr
    assert not signing.signature_path(exported).exists()
    both = hindsight("keygen", key + "2", "--passphrase-file", secret, "--no-passphrase")
    assert both.returncode == 2


def test_a_person_is_asked_and_what_is_typed_is_not_shown(tmp_path: Path, exported: Path) -> None:
    status, shown = at_a_terminal(tmp_path, ["keygen", "a.key"], [SECRET, SECRET])
    assert status == 0 and SECRET not in shown and "the same again: " in shown, shown
    assert keys.read_private(tmp_path / "a.key", SECRET.encode())
    status, shown = at_a_terminal(tmp_path, ["sign", str(exported), "--key", "a.key"], [SECRET])
    assert status == 0 and SECRET not in shown and "passphrase of a.key: " in shown, shown
    status, shown = at_a_terminal(tmp_path, ["sign", str(exported), "--key", "a.key"], ["wrong"])
    assert status == 3 and "does not open the key" in shown


@pytest.mark.parametrize(
    ("answers", "message"), [([SECRET, "another"], "differ"), ([""], "is empty")], ids=["differ", "empty"]
)
def test_a_key_is_not_made_with_what_was_mistyped(tmp_path: Path, answers: list[str], message: str) -> None:
    status, shown = at_a_terminal(tmp_path, ["keygen", "a.key"], answers)
    assert status == 3 and message in shown, shown
    assert list(tmp_path.iterdir()) == []


def test_a_person_may_do_without(tmp_path: Path) -> None:
    status, shown = at_a_terminal(tmp_path, ["keygen", "a.key", "--no-passphrase"], [])
    assert status == 0 and "not encrypted" in shown, shown
    keys.read_private(tmp_path / "a.key")
