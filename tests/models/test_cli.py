"""``hindsight models``: what it prints, and the status it ends with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hindsight.command import main
from hindsight.models import package


@pytest.fixture
def shelf(tmp_path: Path, fields: dict[str, Any], files: dict[str, bytes]) -> Path:
    for version in ("0.1.0", "0.2.0"):
        package.write_package(tmp_path / f"window-{version}", {**fields, "version": version}, files)
    return tmp_path


def test_list(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list", str(shelf)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["PACKAGE", "SUBSYSTEM", "MODE", "FEATURES", "ACTIONS", "EXPIRES"],
        ["window-0.1.0", "example", "learning", "3", "2", "2023-12-14"],
        ["window-0.2.0", "example", "learning", "3", "2", "2023-12-14"],
    ]
    assert main(["models", "list", str(shelf), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [item["package"] for item in listed] == ["window-0.1.0", "window-0.2.0"]


def test_list_goes_on_past_a_broken_package(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shelf / "window-0.1.0" / "manifest.json").write_text("{")
    assert main(["models", "list", str(shelf)]) == 5
    captured = capsys.readouterr()
    assert "window-0.2.0" in captured.out and "window-0.1.0" not in captured.out
    assert "window-0.1.0" in captured.err


def test_list_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert captured.out == "" and "no packages" in captured.err
    assert main(["models", "list", str(tmp_path / "absent")]) == 3


def test_show(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = shelf / "window-0.2.0"
    assert main(["models", "show", str(path)]) == 0
    shown = capsys.readouterr().out
    for text in (
        "window 0.2.0",
        "small, large",
        "pages 4 … 2048",
        "-1.5 … 4096 µs",
        "2023-12-14",
        "golden.parquet",
    ):
        assert text in shown
    assert main(["models", "show", str(path), "--json"]) == 0
    assert capsys.readouterr().out == (path / "manifest.json").read_text()


def test_verify(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = shelf / "window-0.1.0"
    assert main(["models", "verify", str(path)]) == 0
    assert "window 0.1.0: intact; 4 files" in capsys.readouterr().out
    assert main(["models", "verify", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["integrity"] is True
    (path / "report.json").write_text("[]\n")
    assert main(["models", "verify", str(path)]) == 5
    captured = capsys.readouterr()
    assert captured.out == "" and "report.json is not the file" in captured.err
    assert main(["models", "verify", str(shelf / "absent")]) == 3


def test_keys_and_signatures(
    shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = str(shelf / "window-0.1.0")
    assert main(["models", "keygen"]) == 0
    shown = capsys.readouterr().out
    assert "private key signing.key, not encrypted" in shown and "public key signing.key.pub" in shown
    assert main(["models", "keygen"]) == 3
    assert "never overwritten" in capsys.readouterr().err
    assert main(["models", "keygen", "other.key", "--json"]) == 0
    other = json.loads(capsys.readouterr().out)
    assert other["private"] == "other.key" and other["public"] == "other.key.pub"
    assert main(["models", "sign", path, "--key", "signing.key"]) == 0
    assert f"{path}.sig: signed with the key " in capsys.readouterr().out
    trust = tmp_path / "trust.d"
    trust.mkdir(mode=0o755)
    (trust / "other.pub").write_bytes(Path("other.key.pub").read_bytes())
    assert main(["models", "verify", path, "--trust", str(trust)]) == 5
    captured = capsys.readouterr()
    assert captured.out == "" and "which is not in" in captured.err
    assert main(["models", "sign", path, "--key", "other.key", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"key": other["key"], "signature": f"{path}.sig"}
    assert main(["models", "verify", path, "--trust", str(trust)]) == 0
    assert f"signed by other.pub, key {other['key']}" in capsys.readouterr().out
    assert main(["models", "verify", path, "--trust", str(trust), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["signature"] == {"file": "other.pub", "key": other["key"]}
    # A signature beside a package is no package.
    (trust / "other.pub").unlink()
    trust.rmdir()
    assert main(["models", "list", str(shelf)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_what_is_not_signed(shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = shelf / "window-0.1.0"
    assert main(["models", "sign", str(path), "--key", str(tmp_path / "absent.key")]) == 3
    assert main(["models", "keygen", str(tmp_path / "a.key")]) == 0
    (path / "report.json").write_text("[]\n")
    assert main(["models", "sign", str(path), "--key", str(tmp_path / "a.key")]) == 5
    assert not path.with_name("window-0.1.0.sig").exists()
    capsys.readouterr()
