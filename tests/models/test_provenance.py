"""Where a package comes from: said of a clean checkout, signed, and true of these files alone."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hindsight.command import main
from hindsight.errors import ConfigurationError, VerificationError
from hindsight.models import dsse, keys, package, provenance
from hindsight.models.manifest import Manifest

Fields = dict[str, Any]
Files = dict[str, bytes]


def git(directory: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Maker", "-c", "user.email=maker@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(directory), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def lock(directory: Path) -> str:
    """What DVC writes of a stage whose output is the package: the MD5 of the list of its files."""
    listed = [
        {"md5": hashlib.md5(path.read_bytes()).hexdigest(), "relpath": path.name}
        for path in sorted(directory.iterdir())
    ]
    md5 = hashlib.md5(json.dumps(listed, sort_keys=True).encode()).hexdigest()
    return (
        "schema: '2.0'\nstages:\n  package:\n    cmd: make\n    outs:\n"
        f"    - path: exported/{directory.name}\n      hash: md5\n      md5: {md5}.dir\n      nfiles: 5\n"
    )


@pytest.fixture
def exported(tmp_path: Path, fields: Fields, files: Files) -> Path:
    """A package in a checkout whose lock names it; the work tree is clean."""
    top = tmp_path / "checkout"
    directory = top / "exported" / "window-0.1.0"
    package.write_package(directory, fields, files)
    (top / "dvc.lock").write_text(lock(directory))
    (top / "params.yaml").write_text("seed: 1\n")
    (top / ".gitignore").write_text("/exported/window-0.1.0\n")
    git(tmp_path, "init", "-q", str(top))
    git(top, "add", "-A")
    git(top, "commit", "-q", "-m", "all")
    return directory


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "maker.key"
    keys.generate(path)
    return path


@pytest.fixture(scope="module")
def stated() -> list[bytes]:
    """The provenance of the package of :func:`exported`, once it was made: to make it takes a second."""
    return []


@pytest.fixture
def attested(exported: Path, key: Path, stated: list[bytes]) -> Path:
    if not stated:
        stated.append(provenance.attest(exported, key)[0].read_bytes())
    provenance.provenance_path(exported).write_bytes(stated[0])
    return exported


@pytest.fixture
def trust(tmp_path: Path, key: Path) -> keys.Trust:
    directory = tmp_path / "trust.d"
    directory.mkdir(mode=0o755)
    shutil.copy(f"{key}.pub", directory / "maker.pub")
    return keys.read_trust(directory)


def statement(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.b64decode(json.loads(path.read_bytes())["payload"]))
    return found


def check(directory: Path, trust: keys.Trust) -> provenance.Provenance:
    return provenance.check_provenance(directory, package.read_manifest(directory), trust)


def test_the_encoding_is_that_of_the_specification() -> None:
    # The example in the specification of DSSE.
    payload = b"hello world"
    expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert dsse.pre_authentication("http://example.com/HelloWorld", payload) == expected
    # Lengths are of bytes.
    assert dsse.pre_authentication("é", "ü".encode()) == "DSSEv1 2 é 2 ü".encode()


def test_a_clean_checkout_is_stated_and_checked(exported: Path, key: Path, trust: keys.Trust) -> None:
    top = exported.parents[1]
    path, checkout = provenance.attest(exported, key)
    assert path == exported.parent / "window-0.1.0.intoto.jsonl"
    assert path.read_bytes().count(b"\n") == 1 and checkout.changed == ()
    said = statement(path)
    assert said["_type"] == "https://in-toto.io/Statement/v1"
    assert said["predicateType"] == "https://slsa.dev/provenance/v1"
    assert {s["name"]: s["digest"]["sha256"] for s in said["subject"]} == {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in exported.iterdir()
    }
    build = said["predicate"]["buildDefinition"]
    assert {d["name"]: d["digest"] for d in build["resolvedDependencies"]} == {
        "source": {"gitCommit": git(top, "rev-parse", "HEAD")},
        "dvc.lock": {"sha256": hashlib.sha256((top / "dvc.lock").read_bytes()).hexdigest()},
        "params.yaml": {"sha256": hashlib.sha256(b"seed: 1\n").hexdigest()},
    }
    assert build["internalParameters"]["workTree"] == {"clean": True, "changedCount": 0, "changed": []}
    assert said["predicate"]["runDetails"]["builder"]["id"].endswith(next(iter(trust.keys)))
    assert str(top) not in json.dumps(said)
    found = check(exported, trust)
    assert (found.file, found.commit, found.changed) == ("maker.pub", git(top, "rev-parse", "HEAD"), 0)
    # What stands beside the package is no change, and says the same again.
    before = path.read_bytes()
    (exported.parent / "window-0.1.0.sig").write_text("")
    assert provenance.attest(exported, key)[0].read_bytes() == before


def _edit(top: Path) -> None:
    (top / "params.yaml").write_text("seed: 2\n")


def _add(top: Path) -> None:
    (top / "new file.py").write_text("")


def _stage(top: Path) -> None:
    _add(top)
    git(top, "add", "-A")


def _remove(top: Path) -> None:
    (top / "params.yaml").rename(top / "params.yaml.old")
    (top / "params.yaml").write_text("seed: 1\n")


@pytest.mark.parametrize(
    ("change", "name"),
    [(_edit, "params.yaml"), (_add, "new file.py"), (_stage, "new file.py"), (_remove, "params.yaml.old")],
)
def test_a_work_tree_with_changes_is_refused_or_told_of(
    exported: Path, key: Path, trust: keys.Trust, change: Callable[[Path], None], name: str
) -> None:
    change(exported.parents[1])
    with pytest.raises(ConfigurationError, match="not as in its commit") as caught:
        provenance.attest(exported, key)
    assert name in caught.value.message and "--allow-dirty" in str(caught.value.remedy)
    assert not provenance.provenance_path(exported).exists()
    path, _ = provenance.attest(exported, key, allow_dirty=True)
    tree = statement(path)["predicate"]["buildDefinition"]["internalParameters"]["workTree"]
    assert tree == {"clean": False, "changedCount": 1, "changed": [name]}
    assert check(exported, trust).changed == 1


def test_another_package_than_the_lock_names_is_refused(
    exported: Path, key: Path, fields: Fields, files: Files
) -> None:
    package.write_package(exported, {**fields, "mode": "emergency"}, files)
    with pytest.raises(VerificationError, match="does not name this package"):
        provenance.attest(exported, key, allow_dirty=True)
    # The right name at another place is not it.
    text = (exported.parents[1] / "dvc.lock").read_text()
    package.write_package(exported, fields, files)
    (exported.parents[1] / "dvc.lock").write_text(text.replace("exported/", "elsewhere/"))
    with pytest.raises(VerificationError, match="does not name this package"):
        provenance.attest(exported, key, allow_dirty=True)
    assert not provenance.provenance_path(exported).exists()


def test_where_there_is_no_checkout(tmp_path: Path, fields: Fields, files: Files, key: Path) -> None:
    directory = tmp_path / "window-0.1.0"
    package.write_package(directory, fields, files)
    with pytest.raises(ConfigurationError, match="not a git repository"):
        provenance.attest(directory, key)
    git(tmp_path, "init", "-q")
    with pytest.raises(ConfigurationError, match="git rev-parse"):
        provenance.attest(directory, key)
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "none")
    with pytest.raises(ConfigurationError, match=r"dvc\.lock cannot be read"):
        provenance.attest(directory, key)


def _envelope(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def tamper(path: Path) -> None:
        envelope = json.loads(path.read_bytes())
        change(envelope)
        path.write_text(json.dumps(envelope))

    return tamper


def _payload(path: Path) -> None:
    said = statement(path)
    source = said["predicate"]["buildDefinition"]["resolvedDependencies"][0]
    source["digest"]["gitCommit"] = "0" * 40
    envelope = json.loads(path.read_bytes())
    envelope["payload"] = base64.b64encode(json.dumps(said).encode()).decode()
    path.write_text(json.dumps(envelope))


def _link(path: Path) -> None:
    path.rename(path.parent / "elsewhere")
    path.symlink_to("elsewhere")


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (_payload, "not one of this payload by maker.pub"),
        (_envelope(lambda e: e.update(payloadType="text/plain")), "something else"),
        (_envelope(lambda e: e["signatures"][0].update(sig="AAAA")), "not one of this payload"),
        (_envelope(lambda e: e["signatures"][0].update(sig="*")), "no DSSE envelope"),
        (_envelope(lambda e: e["signatures"].clear()), "has no signature"),
        (_envelope(lambda e: e["signatures"].extend(e["signatures"] * 16)), "more than 16"),
        (_envelope(lambda e: e.pop("payload")), "no DSSE envelope"),
        (_envelope(lambda e: e.update(signatures=5)), "no DSSE envelope"),
        (lambda path: path.write_bytes(b""), "no DSSE envelope"),
        (lambda path: path.write_bytes(b"[" * 100_000), "no DSSE envelope"),
        (lambda path: path.write_bytes(path.read_bytes() * 2), "no DSSE envelope"),
        (lambda path: path.write_bytes(b" " * (2 << 20)), "more than"),
        (lambda path: path.unlink(), "has no provenance"),
        (_link, "symbolic link"),
    ],
)
def test_what_was_tampered_with_is_refused(
    attested: Path, trust: keys.Trust, tamper: Callable[[Path], object], message: str
) -> None:
    check(attested, trust)
    tamper(provenance.provenance_path(attested))
    with pytest.raises(VerificationError, match=message) as caught:
        check(attested, trust)
    assert caught.value.remedy


def test_the_provenance_of_another_package_is_refused(
    exported: Path, key: Path, trust: keys.Trust, fields: Fields, files: Files
) -> None:
    path, _ = provenance.attest(exported, key)
    other = exported.parent / "window-0.2.0"
    package.write_package(other, {**fields, "version": "0.2.0"}, files)
    shutil.copy(path, provenance.provenance_path(other))
    with pytest.raises(VerificationError, match=r"is of other files than these: manifest\.json"):
        check(other, trust)


def test_another_key_is_refused_and_a_second_signature_is_not(
    exported: Path, key: Path, trust: keys.Trust, tmp_path: Path
) -> None:
    keys.generate(tmp_path / "stranger.key")
    path, _ = provenance.attest(exported, tmp_path / "stranger.key")
    with pytest.raises(VerificationError, match="signed by no key"):
        check(exported, trust)
    foreign = json.loads(path.read_bytes())
    provenance.attest(exported, key)
    own = json.loads(path.read_bytes())
    # A stranger's signature under the name of the trusted key.
    forged = {**foreign, "signatures": [{**foreign["signatures"][0], "keyid": own["signatures"][0]["keyid"]}]}
    path.write_text(json.dumps(forged))
    with pytest.raises(VerificationError, match=r"not one of this payload by maker\.pub"):
        check(exported, trust)
    path.write_text(json.dumps({**own, "signatures": foreign["signatures"] + own["signatures"], "more": 1}))
    assert check(exported, trust).file == "maker.pub"
    # Other tools make other ids of the same key, or none.
    for identity in ({"keyid": "0" * 64}, {"keyid": ""}, {}):
        path.write_text(json.dumps({**own, "signatures": [identity | {"sig": own["signatures"][0]["sig"]}]}))
        assert check(exported, trust).key == own["signatures"][0]["keyid"]


def _other(part: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(said: dict[str, Any]) -> None:
        *way, last = part.split(".")
        at: Any = said
        for step in way:
            at = at[step]
        at[last] = value

    return change


BUILD = "predicate.buildDefinition"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_other("_type", "https://in-toto.io/Statement/v0.1"), "another kind"),
        (_other("predicateType", "https://slsa.dev/provenance/v0.2"), "another kind"),
        (_other(f"{BUILD}.buildType", "urn:other"), "another kind"),
        (_other("subject", []), "of other files"),
        (lambda said: said["subject"].append(said["subject"][0]), "of other files"),
        (lambda said: said["subject"].pop(), "of other files"),
        (_other("subject", 3), "no provenance"),
        (_other(f"{BUILD}.resolvedDependencies", []), "no provenance"),
        (_other(f"{BUILD}.internalParameters.workTree.clean", False), "no provenance"),
        (_other(f"{BUILD}.internalParameters.workTree.changedCount", True), "no provenance"),
        (
            _other(f"{BUILD}.resolvedDependencies", [{"name": "source", "digest": {"gitCommit": "\x1b[2J"}}]),
            "no provenance",
        ),
    ],
)
def test_a_signed_statement_of_another_form_is_refused(
    attested: Path, key: Path, trust: keys.Trust, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    path = provenance.provenance_path(attested)
    said = statement(path)
    change(said)
    path.write_bytes(dsse.seal(provenance.PAYLOAD_TYPE, json.dumps(said).encode(), keys.read_private(key)))
    with pytest.raises(VerificationError, match=message):
        check(attested, trust)


def test_a_manifest_that_changed_since_is_noticed(
    attested: Path, trust: keys.Trust, fields: Fields, files: Files
) -> None:
    seen: Manifest = package.read_manifest(attested)
    package.write_package(attested, {**fields, "mode": "emergency"}, files)
    with pytest.raises(VerificationError, match="changed while it was read"):
        provenance.check_provenance(attested, seen, trust)


def test_the_commands(
    exported: Path, key: Path, trust: keys.Trust, capsys: pytest.CaptureFixture[str]
) -> None:
    path, directory = str(exported), trust.directory
    assert main(["models", "verify", path, "--provenance"]) == 2
    assert main(["models", "sign", path, "--key", str(key)]) == 0
    assert main(["models", "verify", path, "--trust", directory, "--provenance"]) == 5
    assert "has no provenance" in capsys.readouterr().err
    assert main(["models", "provenance", path, "--key", str(key)]) == 0
    commit = git(exported.parents[1], "rev-parse", "HEAD")
    assert f"made from the commit {commit}, unchanged" in capsys.readouterr().out
    assert main(["models", "verify", path, "--trust", directory, "--provenance"]) == 0
    assert f"made from the commit {commit}" in capsys.readouterr().out
    (exported.parents[1] / "params.yaml").write_text("seed: 3\n")
    assert main(["models", "provenance", path, "--key", str(key)]) == 3
    capsys.readouterr()
    assert main(["models", "provenance", path, "--key", str(key), "--allow-dirty", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["changed"] == ["params.yaml"]
    assert main(["models", "verify", path, "--trust", directory, "--provenance", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["provenance"]
    assert (found["changed"], found["commit"], found["file"]) == (1, commit, "maker.pub")
    assert main(["models", "verify", path, "--trust", directory, "--provenance"]) == 0
    assert "but 1 of the files differed" in capsys.readouterr().out
    os.unlink(f"{path}.intoto.jsonl")
