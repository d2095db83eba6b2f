"""A package is refused for each reason of its own, before its model is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from hindsight.advisor.verification import verify
from hindsight.errors import ConfigurationError, ExitCode, VerificationError
from hindsight.models import keys
from hindsight.models.manifest import DAY_NS

from .conftest import DATA_NS, NOW_NS, Content, Shelf, Started


def test_a_package_that_is_all_right(shelf: Shelf) -> None:
    found = verify(shelf.package, shelf.trust, NOW_NS)
    assert found.may_actuate
    assert found.golden == 48
    assert found.signed is not None and found.signed.file == "maker.pub"
    assert found.package.files["model.ubj"] == (shelf.package / "model.ubj").read_bytes()


def test_without_a_signature_it_is_intact_and_no_more(shelf: Shelf) -> None:
    shelf.signature.unlink()
    found = verify(shelf.package, None, NOW_NS)
    assert found.golden == 48 and found.signed is None
    assert not found.may_actuate


def test_what_its_evidence_forbids_must_not_actuate(shelf: Shelf, content: Content) -> None:
    for mode, allowed in (("emergency", False), ("recommendation", True)):
        content.fields["mode"] = mode
        shelf.write(content)
        assert verify(shelf.package, shelf.trust, NOW_NS).may_actuate is allowed


def _cut(shelf: Shelf) -> None:
    path = shelf.package / "model.ubj"
    path.write_bytes(path.read_bytes()[:-1])


def _tamper(shelf: Shelf) -> None:
    path = shelf.package / "model.ubj"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)


def _rehash(shelf: Shelf) -> None:
    _tamper(shelf)
    shelf.put("model.ubj", (shelf.package / "model.ubj").read_bytes())


def _rehash_and_sign(shelf: Shelf) -> None:
    _rehash(shelf)
    shelf.sign(shelf.stranger)


def _link(shelf: Shelf) -> None:
    (shelf.package / "report.json").rename(shelf.package.parent / "elsewhere")
    (shelf.package / "report.json").symlink_to("../elsewhere")


def _link_manifest(shelf: Shelf) -> None:
    (shelf.package / "manifest.json").rename(shelf.package.parent / "elsewhere")
    (shelf.package / "manifest.json").symlink_to("../elsewhere")


def _grow_signed(shelf: Shelf) -> None:
    shelf.restate(lambda m: m["files"]["report.json"].update(size=1 << 30))
    shelf.sign(shelf.maker)


def _grow_manifest(shelf: Shelf) -> None:
    path = shelf.package / "manifest.json"
    path.write_bytes(path.read_bytes() + b" " * (1 << 20))
    shelf.sign(shelf.maker)


def _newer(shelf: Shelf) -> None:
    shelf.restate(lambda m: m.update(format_version=2))
    shelf.sign(shelf.maker)


def _foreign_field(shelf: Shelf) -> None:
    shelf.restate(lambda m: m.update(hooks=["x"]))
    shelf.sign(shelf.maker)


def _uncanonical(shelf: Shelf) -> None:
    path = shelf.package / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\n\n", 1))
    shelf.sign(shelf.maker)


def _no_manifest(shelf: Shelf) -> None:
    (shelf.package / "manifest.json").write_bytes(b"\xff\xfe")
    shelf.sign(shelf.maker)


def _other_package_s(shelf: Shelf) -> None:
    shelf.restate(lambda m: m.update(version="0.2.0"))


def _no_trust(shelf: Shelf) -> None:
    (shelf.trust_directory / "maker.pub").unlink()


def _key_inside(shelf: Shelf) -> None:
    shelf.put("maker.pub", shelf.stranger.with_name("stranger.key.pub").read_bytes())
    shelf.sign(shelf.stranger)


UNSIGNED = [
    (_tamper, "model.ubj is not the file"),
    (_cut, "model.ubj has"),
    (lambda s: (s.package / "report.json").unlink(), "report.json cannot be read"),
    (lambda s: (s.package / "notes.txt").write_text(""), "does not list: 'notes.txt'"),
    (lambda s: (s.package / ".hidden").mkdir(), "does not list: '.hidden'"),
    (_link, "report.json is a symbolic link"),
    (lambda s: os.truncate(s.package / "report.json", 65 << 20), "report.json has 68157440 bytes"),
]
SIGNED = [
    (_grow_signed, "report.json is larger than"),
    (_grow_manifest, "manifest.json has more than 1048576 bytes"),
    (_link_manifest, "manifest.json is a symbolic link"),
    (_newer, "format version 2"),
    (_foreign_field, "unknown fields: 'hooks'"),
    (_uncanonical, "not a canonical JSON object"),
    (_no_manifest, "not JSON"),
    (lambda s: s.signature.unlink(), "is not signed"),
    (lambda s: s.sign(s.stranger), "which is not in"),
    (_other_package_s, "not one of manifest.json by maker.pub"),
    (_no_trust, "which is not in"),
    (_rehash, "not one of manifest.json by maker.pub"),
    (_rehash_and_sign, "which is not in"),
    (_key_inside, "which is not in"),
]


@pytest.mark.parametrize(("tamper", "message"), UNSIGNED + SIGNED)
def test_what_is_refused_before_any_model_is_loaded(
    shelf: Shelf, started: Started, tamper: Callable[[Shelf], object], message: str
) -> None:
    tamper(shelf)
    with pytest.raises(VerificationError, match=message) as caught:
        verify(shelf.package, shelf.trust, NOW_NS)
    assert caught.value.exit_code == ExitCode.VERIFICATION
    assert caught.value.remedy
    assert started.commands == []


@pytest.mark.parametrize(("tamper", "message"), UNSIGNED)
def test_integrity_alone_refuses_damage_too(
    shelf: Shelf, started: Started, tamper: Callable[[Shelf], object], message: str
) -> None:
    tamper(shelf)
    with pytest.raises(VerificationError, match=message):
        verify(shelf.package, None, NOW_NS)
    assert started.commands == []


def test_the_watch_over_processes_sees_the_one_that_loads(shelf: Shelf, started: Started) -> None:
    verify(shelf.package, shelf.trust, NOW_NS)
    assert any("hindsight.advisor.golden" in command for command in started.commands)


@pytest.mark.parametrize(
    ("now_ns", "message"),
    [
        (DATA_NS + 30 * DAY_NS, "expired on 2023-12-14, 30 days after"),
        (DATA_NS + 3000 * DAY_NS, "expired"),
        (DATA_NS - 1, "trained on data of 2023-11-14; the clock says 2023-11-14"),
        (0, "the clock says 1970-01-01"),
    ],
)
@pytest.mark.parametrize("signed", [True, False])
def test_expiry(shelf: Shelf, started: Started, now_ns: int, message: str, signed: bool) -> None:
    with pytest.raises(VerificationError, match=message):
        verify(shelf.package, shelf.trust if signed else None, now_ns)
    assert started.commands == []


def test_validity_holds_from_the_newest_data_to_the_last_nanosecond(shelf: Shelf) -> None:
    verify(shelf.package, shelf.trust, DATA_NS)
    verify(shelf.package, shelf.trust, DATA_NS + 30 * DAY_NS - 1)


def test_the_signature_comes_first(shelf: Shelf) -> None:
    # Everything is wrong: what is said is what an attacker cannot choose.
    _grow_signed(shelf)
    _link(shelf)
    _no_manifest(shelf)
    shelf.sign(shelf.stranger)
    with pytest.raises(VerificationError, match="which is not in"):
        verify(shelf.package, shelf.trust, 0)


def test_a_directory_that_is_not_there_is_the_users_error(shelf: Shelf) -> None:
    for trust in (shelf.trust, None):
        with pytest.raises(ConfigurationError):
            verify(shelf.package.parent / "absent", trust, NOW_NS)


def test_of_two_trusted_keys_each_signs(shelf: Shelf) -> None:
    public = shelf.stranger.with_name("stranger.key.pub").read_bytes()
    (shelf.trust_directory / "friend.pub").write_bytes(public)
    shelf.sign(shelf.stranger)
    found = verify(shelf.package, shelf.trust, NOW_NS)
    assert found.signed is not None
    assert found.signed.file == "friend.pub"
    assert found.signed.key == keys.key_id(keys.read_private(shelf.stranger).public_key())
