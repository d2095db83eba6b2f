"""Mutations of the bytes of a package: none gets through to a child process, let alone is accepted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from hashlib import sha256

import numpy as np
import pytest

from hindsight.advisor.verification import verify
from hindsight.errors import ConfigurationError, VerificationError
from hindsight.models import keys, loader
from hindsight.models.manifest import canonical_json
from hindsight.models.signing import Signature

from .conftest import NOW_NS, Content, Shelf, Started

Rng = np.random.Generator
MUTATIONS = 10_500


def _place(rng: Rng, data: bytes) -> int:
    # The ends are where lengths, magic numbers and newlines stand.
    if rng.random() < 0.2:
        return int(rng.choice([0, max(0, len(data) - 1)]))
    return int(rng.integers(0, max(1, len(data))))


def _flip(rng: Rng, data: bytes) -> bytes:
    k = _place(rng, data)
    return data[:k] + bytes([data[k] ^ (1 << int(rng.integers(0, 8)))]) + data[k + 1 :]


def _replace(rng: Rng, data: bytes) -> bytes:
    k = _place(rng, data)
    return data[:k] + rng.bytes(1) + data[k + 1 :]


def _insert(rng: Rng, data: bytes) -> bytes:
    k = _place(rng, data)
    return data[:k] + rng.bytes(int(rng.integers(1, 9))) + data[k:]


def _delete(rng: Rng, data: bytes) -> bytes:
    k = _place(rng, data)
    return data[:k] + data[k + int(rng.integers(1, 9)) :]


def _truncate(rng: Rng, data: bytes) -> bytes:
    return data[: _place(rng, data)]


def _append(rng: Rng, data: bytes) -> bytes:
    return data + (b"\n", b"\0", b" ", rng.bytes(16))[int(rng.integers(0, 4))]


def _copy(rng: Rng, data: bytes) -> bytes:
    a, b, length = _place(rng, data), _place(rng, data), int(rng.integers(1, 65))
    return data[:b] + data[a : a + length] + data[b + length :]


def _case(rng: Rng, data: bytes) -> bytes:
    k = _place(rng, data)
    return data[:k] + data[k : k + 1].swapcase() + data[k + 1 :]


def _digit(rng: Rng, data: bytes) -> bytes:
    """Another digit somewhere: what keeps the form of a manifest or of a signature."""
    digits = [k for k, byte in enumerate(data) if 48 <= byte < 58]
    if not digits:
        return _flip(rng, data)
    k = digits[int(rng.integers(0, len(digits)))]
    return data[:k] + bytes([48 + int(rng.integers(0, 10))]) + data[k + 1 :]


WAYS: tuple[Callable[[Rng, bytes], bytes], ...] = (
    _flip, _replace, _insert, _delete, _truncate, _append, _copy, _case, _digit,
)  # fmt: skip


def restated(manifest: bytes, name: str, data: bytes) -> bytes:
    """The manifest with the entry of a file put right, as anyone can."""
    document = json.loads(manifest)
    document["files"][name] = {"size": len(data), "sha256": sha256(data).hexdigest()}
    return canonical_json(document)


def test_more_than_ten_thousand_mutations_are_refused(shelf: Shelf, started: Started) -> None:
    rng = np.random.default_rng(20240)
    trust = shelf.trust
    stranger = keys.read_private(shelf.stranger)
    signature, manifest_path = shelf.signature, shelf.package / "manifest.json"
    # Small files as often as large ones, and twice what an attacker would begin with.
    paths = [*sorted(shelf.package.iterdir()), signature, signature, manifest_path]
    manifest, signed = manifest_path.read_bytes(), signature.read_bytes()
    refused: Counter[str] = Counter()
    for _ in range(MUTATIONS):
        path = paths[int(rng.integers(0, len(paths)))]
        original = path.read_bytes()
        way = WAYS[int(rng.integers(0, len(WAYS)))]
        changed = way(rng, original)
        while changed == original:
            changed = _flip(rng, original)
        path.write_bytes(changed)
        after = "as it is"
        if path.parent == shelf.package and path != manifest_path and rng.random() < 0.5:
            manifest_path.write_bytes(restated(manifest, path.name, changed))
            after = "hashed again"
            if rng.random() < 0.5:
                value = stranger.sign(manifest_path.read_bytes())
                identity = keys.key_id(stranger.public_key())
                if rng.random() < 0.5:
                    # And says that it is the key of someone else.
                    (identity,) = trust.keys
                signature.write_bytes(Signature(identity, value).encode())
                after = "signed by a stranger"
        with pytest.raises((VerificationError, ConfigurationError)):
            verify(shelf.package, trust, NOW_NS)
        refused[f"{path.name}, {after}"] += 1
        path.write_bytes(original)
        manifest_path.write_bytes(manifest)
        signature.write_bytes(signed)
    assert started.commands == []
    assert refused.total() == MUTATIONS >= 10_000
    assert len(refused) == 4 * 3 + 2
    assert min(refused.values()) > 100
    # What was put back is the package that passes: it was the mutation that was refused.
    assert verify(shelf.package, trust, NOW_NS).golden == 48


def test_two_files_that_change_places_are_refused(shelf: Shelf, started: Started) -> None:
    names = sorted(path.name for path in shelf.package.iterdir())
    trust = shelf.trust
    for one in names:
        for other in names:
            if one < other:
                a, b = shelf.package / one, shelf.package / other
                first, second = a.read_bytes(), b.read_bytes()
                a.write_bytes(second)
                b.write_bytes(first)
                with pytest.raises(VerificationError):
                    verify(shelf.package, trust, NOW_NS)
                a.write_bytes(first)
                b.write_bytes(second)
    assert started.commands == []


def damaged(rng: Rng, model: bytes) -> bytes:
    """A model that is damaged enough to matter, and still begins like one."""
    kind = int(rng.integers(0, 4))
    if kind == 0:
        return model[: int(rng.integers(1, len(model)))]
    data = bytearray(model)
    for _ in range(int((1, 20, 200)[kind - 1])):
        data[int(rng.integers(1, len(data)))] = int(rng.integers(0, 256))
    return bytes(data)


def _survives_a_damaged_model(shelf: Shelf, content: Content, seeds: range) -> Counter[str]:
    """The answers to damaged models that the maker signed: only what still gives every golden prediction
    passes."""
    answers: Counter[str] = Counter()
    for seed in seeds:
        model = damaged(np.random.default_rng(seed), content.files["model.ubj"])
        shelf.put("model.ubj", model)
        shelf.sign(shelf.maker)
        try:
            verify(shelf.package, shelf.trust, NOW_NS)
        except VerificationError as error:
            assert error.message.isprintable()
            answers[error.message.partition("(")[0][:40]] += 1
        else:
            # A child of another making says the same: the damage is where no prediction looks.
            inputs = np.stack([content.columns[name] for name in list(content.columns)[:-1]], axis=1)
            margins = loader.load_apart(model, inputs).margins
            assert margins is not None
            assert margins.tobytes() == content.columns["margin"].tobytes()
            answers["the same predictions"] += 1
    return answers


def test_a_damaged_model_that_its_maker_signed(shelf: Shelf, content: Content) -> None:
    answers = _survives_a_damaged_model(shelf, content, range(8))
    assert answers.total() - answers["the same predictions"] >= 5


@pytest.mark.slow
def test_many_damaged_models_that_their_maker_signed(shelf: Shelf, content: Content) -> None:
    answers = _survives_a_damaged_model(shelf, content, range(100, 160))
    assert answers.total() - answers["the same predictions"] >= 40
    # Some take the child down: the reason to have one.
    assert any("crashed" in answer for answer in answers)
