"""Where a release comes from: an in-toto statement with SLSA provenance, signed, beside the package.

``NAME-VERSION.intoto.jsonl`` is one DSSE envelope (:mod:`hindsight.models.dsse`). Its statement names every
file of the package by SHA-256, and the commit, ``dvc.lock`` and ``params.yaml`` that they were made from. It
holds no time and nothing of the host: the same package, checkout and key give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hindsight import __version__
from hindsight.errors import ConfigurationError, VerificationError
from hindsight.models.checkout import LOCK, PARAMETERS, Checkout, read_checkout
from hindsight.models.dsse import seal, unseal
from hindsight.models.keys import Trust, key_id, read_private
from hindsight.models.manifest import Manifest
from hindsight.models.package import MANIFEST, read_package, verify
from hindsight.models.regular import read_regular
from hindsight.models.signing import SUFFIX as SIGNATURE_SUFFIX
from hindsight.models.signing import detached_path, read_signed_bytes, same_manifest, write_detached

SUFFIX = ".intoto.jsonl"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:kernel-hindsight:dvc-repro:1"
"""`dvc repro` in a checkout; docs/models.md says what the parameters mean. Raised when that changes."""
BUILDER = "urn:kernel-hindsight:key:"
"""Whoever holds the key of that id ran it."""

MAX_BYTES = 1 << 20
MAX_CHANGED = 100
"""Paths that are named of a work tree with changes."""

_REMEDY = "do not use it; fetch the package and its provenance again"


@dataclass(frozen=True)
class Provenance:
    """What a statement says, and who signed it: the id of the key and its trust file. ``changed``: how many
    files were not as in the commit."""

    key: str
    file: str
    commit: str
    lock: str
    parameters: str
    changed: int


def provenance_path(directory: str | os.PathLike[str]) -> Path:
    """Where the provenance of a package stands: beside it, with its name."""
    return detached_path(directory, SUFFIX)


def attest(
    directory: str | os.PathLike[str],
    key: str | os.PathLike[str],
    passphrase: bytes | Callable[[], bytes] | None = None,
    allow_dirty: bool = False,
) -> tuple[Path, Checkout]:
    """Verify a package, state where it comes from, sign that with the private key in the file ``key``.

    Raises what :func:`hindsight.models.signing.sign` and :func:`hindsight.models.checkout.read_checkout`
    raise; ConfigurationError if the work tree has changes, unless ``allow_dirty``: then the statement says
    so.
    """
    private = read_private(key, passphrase)
    manifest = verify(directory)
    path = detached_path(directory, SUFFIX, manifest)
    package, data = read_package(directory), read_signed_bytes(directory)
    same_manifest(data, manifest)
    same_manifest(data, package.manifest)
    beside = {path.name, path.name.removesuffix(SUFFIX) + SIGNATURE_SUFFIX}
    checkout = read_checkout(directory, {**package.files, MANIFEST: data}, beside)
    if checkout.changed and not allow_dirty:
        raise ConfigurationError(
            f"the work tree is not as in its commit: {ascii(checkout.changed[0])[1:-1]} differs, the first "
            f"of {len(checkout.changed)}",
            "commit or put them away; or --allow-dirty, and the provenance says so",
        )
    identity = key_id(private.public_key())
    statement = _statement(manifest, data, checkout, identity)
    payload = json.dumps(statement, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    write_detached(path, seal(PAYLOAD_TYPE, payload, private))
    return path, checkout


def _statement(manifest: Manifest, data: bytes, checkout: Checkout, identity: str) -> dict[str, Any]:
    return {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": name, "digest": {"sha256": digest}}
            for name, digest in sorted(_subjects(manifest, data).items())
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"package": f"{manifest.name}-{manifest.version}"},
                "internalParameters": {
                    "workTree": {
                        "clean": not checkout.changed,
                        "changedCount": len(checkout.changed),
                        "changed": list(checkout.changed[:MAX_CHANGED]),
                    }
                },
                "resolvedDependencies": [
                    {"name": "source", "digest": {"gitCommit": checkout.commit}},
                    {"name": LOCK, "digest": {"sha256": checkout.lock}},
                    {"name": PARAMETERS, "digest": {"sha256": checkout.parameters}},
                ],
            },
            "runDetails": {"builder": {"id": BUILDER + identity, "version": {"hindsight": __version__}}},
        },
    }


def _subjects(manifest: Manifest, data: bytes) -> dict[str, str]:
    return {
        MANIFEST: hashlib.sha256(data).hexdigest(),
        **{name: entry.sha256 for name, entry in manifest.files.items()},
    }


def check_provenance(directory: str | os.PathLike[str], manifest: Manifest, trust: Trust) -> Provenance:
    """Check the provenance of a package that was verified and has this ``manifest``.

    Raises VerificationError if there is none, no key in ``trust`` signed it, it is of another form, or it is
    not of these files.
    """
    path = provenance_path(directory)
    data = read_signed_bytes(directory)
    same_manifest(data, manifest)
    if not os.path.lexists(path):
        raise VerificationError(
            f"the package has no provenance: there is no {path.name} beside it",
            "have its maker write it: hindsight models provenance PACKAGE --key FILE",
        )
    opened = unseal(read_regular(path, MAX_BYTES, _REMEDY)[0], PAYLOAD_TYPE, trust)
    try:
        statement = json.loads(opened.payload)
        subjects = {s["name"]: s["digest"]["sha256"] for s in statement["subject"]}
        twice = len(subjects) != len(statement["subject"])
        types = statement["_type"], statement["predicateType"]
        build = statement["predicate"]["buildDefinition"]
        found = _facts(build)
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise VerificationError(f"{path.name} holds no provenance of hindsight", _REMEDY) from None
    if types != (STATEMENT_TYPE, PREDICATE_TYPE) or build["buildType"] != BUILD_TYPE:
        raise VerificationError(f"{path.name} holds another kind of statement", _REMEDY)
    expected = _subjects(manifest, data)
    if twice or subjects != expected:
        other = sorted(n for n in {*subjects, *expected} if subjects.get(n) != expected.get(n))
        first = ascii(other[0])[1:-1] if other else "one is named twice"
        raise VerificationError(f"{path.name} is of other files than these: {first}", _REMEDY)
    return Provenance(opened.key, opened.file, **found)


def _facts(build: Mapping[str, Any]) -> dict[str, Any]:
    """What :class:`Provenance` takes from a build definition; ValueError and the like for another form."""
    digests = {entry["name"]: entry["digest"] for entry in build["resolvedDependencies"]}
    tree = build["internalParameters"]["workTree"]
    facts = {
        "commit": digests["source"]["gitCommit"],
        "lock": digests[LOCK]["sha256"],
        "parameters": digests[PARAMETERS]["sha256"],
    }
    # They are shown at a terminal.
    if not all(set(text) <= set("0123456789abcdef") for text in facts.values()):
        raise ValueError("no hexadecimal digest")
    changed = tree["changedCount"]
    if type(changed) is not int or changed < 0 or tree["clean"] is not (changed == 0):
        raise ValueError("no state of a work tree")
    return {**facts, "changed": changed}
