"""``hindsight advisor verify``: what it prints, and the status it ends with."""

from __future__ import annotations

import json
import time

import pytest

from hindsight.advisor import cli
from hindsight.command import main
from hindsight.models import keys

from .conftest import Content, Shelf


@pytest.fixture
def fresh(shelf: Shelf, content: Content) -> Shelf:
    """A package that has not expired today."""
    content.fields["expiry"] = {"newest_data_ns": time.time_ns() - 10**9, "valid_days": 1}
    shelf.write(content)
    return shelf


def test_a_signed_package(fresh: Shelf, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["advisor", "verify", str(fresh.package), "--trust", str(fresh.trust_directory)]
    assert main(line) == 0
    captured = capsys.readouterr()
    assert "window 0.1.0: verified; 4 files" in captured.out
    assert "48 golden predictions reproduced bit for bit" in captured.out
    assert "signed by maker.pub, key " in captured.out
    assert "allows: learning" in captured.out
    assert captured.err == ""
    (fresh.trust_directory / "README").write_text("keys of people")
    assert main([*line, "--json"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert result["may_actuate"] is True
    assert result["signature"] == {
        "file": "maker.pub",
        "key": keys.key_id(keys.read_private(fresh.maker).public_key()),
    }
    assert (result["golden"], result["mode"]) == (48, "learning")
    assert "README is no public key in PEM; it is not trusted" in captured.err


def test_integrity_only(fresh: Shelf, capsys: pytest.CaptureFixture[str]) -> None:
    fresh.signature.unlink()
    line = ["advisor", "verify", str(fresh.package), "--integrity-only"]
    assert main(line) == 0
    out = capsys.readouterr().out
    assert "intact" in out and "verified" not in out
    assert "must not actuate" in out
    assert main([*line, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["may_actuate"] is False and result["signature"] is None


def test_evidence_against_use(fresh: Shelf, content: Content, capsys: pytest.CaptureFixture[str]) -> None:
    content.fields["mode"] = "emergency"
    fresh.write(content)
    line = ["advisor", "verify", str(fresh.package), "--trust", str(fresh.trust_directory)]
    assert main(line) == 0
    assert "must not actuate" in capsys.readouterr().out


def test_refusals(
    fresh: Shelf, content: Content, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(message: str, *options: str, status: int = 5) -> None:
        assert main(["advisor", "verify", str(fresh.package), *options]) == status
        captured = capsys.readouterr()
        assert captured.out == "" and message in captured.err

    trust = "--trust", str(fresh.trust_directory)
    # Nobody is trusted where there is no directory.
    monkeypatch.setattr(keys, "TRUST_DIRECTORY", str(fresh.trust_directory.parent / "absent"))
    refused("which is not in")
    refused("no trust directory", "--trust", "/nonexistent", status=3)
    fresh.signature.rename(fresh.signature.with_suffix(".aside"))
    refused("is not signed", *trust)
    content.fields["expiry"] = {"newest_data_ns": time.time_ns() - 2 * 86_400 * 10**9, "valid_days": 1}
    fresh.write(content)
    refused("expired", *trust)
    refused("expired", "--integrity-only")
    (fresh.package / "model.ubj").write_bytes(b"")
    refused("model.ubj has 0 bytes", *trust)


def test_a_trust_directory_and_no_signature_is_a_contradiction(fresh: Shelf) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["advisor", "verify", str(fresh.package), "--trust", "x", "--integrity-only"])
    assert caught.value.code == 2


def test_the_help_names_the_directory_that_is_used() -> None:
    assert cli.TRUST_DIRECTORY == keys.TRUST_DIRECTORY
