"""Packages: written whole and the same each time; read only if nothing about them is wrong."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hindsight.errors import ConfigurationError, ExitCode, HindsightError, UsageError, VerificationError
from hindsight.models import apart, loader, package, trees
from hindsight.models.manifest import canonical_json

Fields = dict[str, Any]
Files = dict[str, bytes]


@pytest.fixture
def exported(tmp_path: Path, fields: Fields, files: Files) -> Path:
    directory = tmp_path / "exported" / "window-0.1.0"
    package.write_package(directory, fields, files)
    return directory


def snapshot(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def restate(directory: Path, change: Callable[[Fields], object]) -> None:
    """Change a manifest and write it in due form, as someone without a key could."""
    path = directory / "manifest.json"
    document = json.loads(path.read_bytes())
    change(document)
    path.write_bytes(canonical_json(document))


def test_a_package_is_what_was_given(exported: Path, fields: Fields, files: Files) -> None:
    assert {name: data for name, data in snapshot(exported).items() if name != "manifest.json"} == files
    manifest = package.verify(exported)
    assert manifest == package.read_manifest(exported)
    assert package.read_package(exported).files == files
    assert (manifest.name, manifest.version, manifest.mode) == ("window", "0.1.0", "learning")
    assert manifest.files["model.ubj"].sha256 == hashlib.sha256(files["model.ubj"]).hexdigest()
    assert (
        json.loads((exported / "manifest.json").read_bytes())["xgboost_version"] == manifest.xgboost_version
    )
    assert [path.name for path in exported.parent.iterdir()] == ["window-0.1.0"]
    assert {path.stat().st_mode & 0o777 for path in exported.iterdir()} == {0o644}


def test_the_same_arguments_give_the_same_bytes(
    exported: Path, tmp_path: Path, fields: Fields, files: Files
) -> None:
    backwards = {key: fields[key] for key in reversed(fields)}
    package.write_package(tmp_path / "again", backwards, {name: files[name] for name in reversed(files)})
    assert snapshot(tmp_path / "again") == snapshot(exported)


def test_writing_again_replaces_the_whole_package(exported: Path, fields: Fields, files: Files) -> None:
    package.write_package(exported, fields, {**files, "report.html": b"<!doctype html>"})
    assert "report.html" in snapshot(exported)
    fields["version"] = "0.2.0"
    package.write_package(exported, fields, files)
    assert "report.html" not in snapshot(exported)
    assert package.read_package(exported).manifest.version == "0.2.0"
    assert [path.name for path in exported.parent.iterdir()] == ["window-0.1.0"]


def test_a_replacement_without_an_atomic_exchange(
    exported: Path, fields: Fields, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package.ctypes, "CDLL", lambda *a, **k: object())
    fields["version"] = "0.2.0"
    package.write_package(exported, fields, files)
    assert package.read_package(exported).manifest.version == "0.2.0"
    assert [path.name for path in exported.parent.iterdir()] == ["window-0.1.0"]


def test_a_failed_write_leaves_the_old_package(
    exported: Path, fields: Fields, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(exported)

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigurationError, match="No space left"):
        package.write_package(exported, {**fields, "version": "0.2.0"}, files)
    assert snapshot(exported) == before
    assert [path.name for path in exported.parent.iterdir()] == ["window-0.1.0"]


def test_what_is_no_package_is_not_replaced(tmp_path: Path, fields: Fields, files: Files) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter-1").write_text("years of work")
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "thesis")
    for name in ("thesis", "file", "link", "file/below"):
        with pytest.raises(ConfigurationError):
            package.write_package(tmp_path / name, fields, files)
    assert (tmp_path / "thesis" / "chapter-1").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    package.write_package(tmp_path / "empty", fields, files)


@pytest.mark.parametrize("name", ["model.ubj", "report.json", "golden.parquet", "MODEL_CARD.md"])
def test_one_changed_bit_is_found(exported: Path, name: str) -> None:
    data = bytearray((exported / name).read_bytes())
    for position in (0, len(data) // 2, len(data) - 1):
        data[position] ^= 1
        (exported / name).write_bytes(data)
        with pytest.raises(VerificationError, match=name):
            package.read_package(exported)
        data[position] ^= 1
    (exported / name).write_bytes(data)
    package.read_package(exported)


def _link(directory: Path) -> None:
    (directory / "report.json").rename(directory.parent / "elsewhere")
    (directory / "report.json").symlink_to(directory.parent / "elsewhere")


def _link_manifest(directory: Path) -> None:
    (directory / "manifest.json").rename(directory.parent / "elsewhere")
    (directory / "manifest.json").symlink_to(directory.parent / "elsewhere")


def _pipe(directory: Path) -> None:
    (directory / "report.json").unlink()
    os.mkfifo(directory / "report.json")


def _folder(directory: Path) -> None:
    (directory / "report.json").unlink()
    (directory / "report.json").mkdir()


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (lambda d: (d / "model.ubj").write_bytes((d / "model.ubj").read_bytes()[:-1]), "model.ubj has"),
        (lambda d: (d / "model.ubj").write_bytes((d / "model.ubj").read_bytes() + b"\0"), "model.ubj has"),
        (lambda d: (d / "model.ubj").write_bytes(b""), "model.ubj has"),
        (lambda d: (d / "report.json").unlink(), "report.json cannot be read"),
        (lambda d: (d / "manifest.json").unlink(), "manifest.json cannot be read"),
        (lambda d: (d / "notes.txt").write_text("hello"), "does not list: 'notes.txt'"),
        (lambda d: (d / ".hidden").write_text("hello"), "does not list: '.hidden'"),
        (lambda d: (d / "a\x1b[2J").write_text(""), r"does not list: 'a\\x1b\[2J'"),
        (lambda d: (d / "folder").mkdir(), "does not list: 'folder'"),
        (_link, "report.json is a symbolic link"),
        (_link_manifest, "manifest.json is a symbolic link"),
        (_pipe, "report.json is not a regular file"),
        (_folder, "report.json is not a regular file"),
        (lambda d: (d / "manifest.json").write_bytes(b" " * (1 << 21)), "manifest.json has 2097152 bytes"),
        (lambda d: restate(d, lambda m: m["files"].pop("report.json")), "lacks report.json"),
        (lambda d: restate(d, lambda m: m["files"]["report.json"].update(size=1 << 30)), "larger than"),
        (lambda d: restate(d, lambda m: m["files"].update({"../x": m["files"]["report.json"]})), "files"),
        (
            lambda d: restate(d, lambda m: m["files"].update({"manifest.json": m["files"]["report.json"]})),
            "lists manifest.json itself",
        ),
    ],
)
def test_tampering_is_refused(exported: Path, tamper: Callable[[Path], object], message: str) -> None:
    package.read_package(exported)
    tamper(exported)
    with pytest.raises(VerificationError, match=message) as caught:
        package.read_package(exported)
    assert caught.value.exit_code == ExitCode.VERIFICATION


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: manifest["features"].pop(), "takes 4 inputs"),
        (lambda manifest: manifest["features"].reverse(), "another order"),
        (lambda manifest: manifest.update(xgboost_version="1.0.0"), "XGBoost"),
    ],
)
def test_a_manifest_that_does_not_fit_its_model_is_refused(
    exported: Path, change: Callable[[Fields], object], message: str
) -> None:
    restate(exported, change)
    package.read_package(exported)
    with pytest.raises(VerificationError, match=message):
        package.verify(exported)


def test_a_directory_that_is_not_there_is_the_users_error(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(HindsightError) as caught:
            package.verify(path)
        assert caught.value.exit_code == (
            ExitCode.VERIFICATION if path == tmp_path else ExitCode.CONFIGURATION
        )


def test_golden_predictions_are_compared_bit_for_bit(exported: Path, model_bytes: bytes) -> None:
    rows = np.random.default_rng(5).normal(size=(40, 4)).astype(np.float32)
    expected = trees.margins(trees.load(model_bytes), rows)
    assert package.check_golden(exported, rows, expected).name == "window"
    off = expected.copy()
    off[7] = np.nextafter(off[7], np.float32(np.inf))
    with pytest.raises(VerificationError, match="1 of 40 differ; row 7"):
        package.check_golden(exported, rows, off)
    with pytest.raises(VerificationError, match="shape"):
        package.check_golden(exported, rows[:, :3].copy(), expected)
    for inputs, margins in ((rows.astype(float), expected), (rows, expected[:3]), (rows[:0], expected[:0])):
        with pytest.raises(UsageError):
            package.check_golden(exported, inputs, margins)


@pytest.mark.parametrize("name", ["MODEL_CARD.md", "golden.parquet", "model.ubj", "report.json"])
def test_a_package_without_its_evidence_is_not_written(
    tmp_path: Path, fields: Fields, files: Files, name: str
) -> None:
    del files[name]
    with pytest.raises(VerificationError, match=name):
        package.write_package(tmp_path / "p", fields, files)
    assert list(tmp_path.iterdir()) == []


def test_malformed_fields_are_not_written(tmp_path: Path, fields: Fields, files: Files) -> None:
    for change, message in (
        ({"files": {}}, "does not give: files"),
        ({"mode": "always"}, "none of"),
        ({"features": fields["features"][:2]}, "takes 4 inputs"),
        ({"expiry": {"newest_data_ns": 1, "valid_days": 1 / 3}}, "significant digits"),
    ):
        with pytest.raises(VerificationError, match=message):
            package.write_package(tmp_path / "p", {**fields, **change}, files)
    with pytest.raises(VerificationError, match="files"):
        package.write_package(tmp_path / "p", fields, {**files, "../escape": b""})
    with pytest.raises(VerificationError):
        package.write_package(tmp_path / "p", fields, {**files, "model.ubj": b"{no model"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_malformed_models_never_take_this_process_down(model_bytes: bytes) -> None:
    shuffled = np.random.default_rng(11)
    refused = 0
    for cut in (len(model_bytes) // 3, len(model_bytes) - 2):
        with pytest.raises(VerificationError):
            loader.load_apart(model_bytes[:cut])
    for _ in range(2):
        data = bytearray(model_bytes)
        for position in shuffled.integers(1, len(data), 40):
            data[position] ^= 0xFF
        try:
            loader.load_apart(bytes(data))
        except VerificationError:
            refused += 1
    assert refused > 0


GOOD = '{"n_features": 4, "n_trees": 6, "feature_names": [], "xgboost_version": "3.0.0"}'
NO_ANSWER = "gave no answer"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("kill -SEGV $$", "SIGSEGV"),
        ("echo no >&2; exit 3", r"\(no\)"),
        ("exit 0", NO_ANSWER),
        ("echo junk", NO_ANSWER),
        ("echo '[]'", NO_ANSWER),
        ("echo '{}'", NO_ANSWER),
        ("head -c 100000 /dev/zero | tr '\\0' '['", NO_ANSWER),
        ("head -c 2000000 /dev/zero | tr '\\0' ' '", NO_ANSWER),
        (f"echo '{GOOD}'", NO_ANSWER),
        (f"echo '{GOOD}'; printf 1234567", NO_ANSWER),
        (f"echo '{GOOD}'; printf 123456789", NO_ANSWER),
        (f"echo '{GOOD.replace('6', 'true')}'; printf 12345678", NO_ANSWER),
        (f"echo '{GOOD.replace('4', '-4')}'; printf 12345678", NO_ANSWER),
        (f"echo '{GOOD.replace('[]', '[1]')}'; printf 12345678", NO_ANSWER),
        (f"echo '{GOOD.replace('[]', '7')}'; printf 12345678", NO_ANSWER),
        (f"""echo '{GOOD.replace('"3.0.0"', "null")}'; printf 12345678""", NO_ANSWER),
        ("""echo '{"error": "refused", "remedy": null}'""", "refused"),
        ("""echo '{"error": ["\\u001b[2J"]}'""", r"2J"),
        ("exec sleep 600", "did not load within"),
    ],
)
def test_whatever_becomes_of_the_child_it_is_a_failed_verification(
    model_bytes: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    child = tmp_path / "child"
    child.write_text(f"#!{shutil.which('sh')}\n{script}\n")
    child.chmod(0o700)
    monkeypatch.setattr(apart.sys, "executable", str(child))
    if "sleep" in script:
        monkeypatch.setattr(apart, "TIMEOUT_S", 0.05)
    with pytest.raises(VerificationError, match=message) as caught:
        loader.load_apart(model_bytes, np.zeros((2, 4), np.float32))
    assert caught.value.remedy and "\x1b" not in str(caught.value)


def test_an_answer_of_the_right_form_is_taken(
    model_bytes: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = np.random.default_rng(4).normal(size=(5, 4)).astype(np.float32)
    found, here = loader.load_apart(model_bytes, inputs), loader.load_here(model_bytes, inputs)
    assert found.margins is not None and here.margins is not None
    assert found.margins.dtype == np.float32 and found.margins.tobytes() == here.margins.tobytes()
    assert (found.n_features, found.n_trees, found.feature_names) == (4, 6, here.feature_names)
    assert loader.load_apart(model_bytes).margins is None
    child = tmp_path / "child"
    child.write_text(f"#!{shutil.which('sh')}\necho '{GOOD}'; printf 12345678\n")
    child.chmod(0o700)
    monkeypatch.setattr(apart.sys, "executable", str(child))
    margins = loader.load_apart(model_bytes, inputs[:2]).margins
    assert margins is not None and margins.tobytes() == b"12345678"
