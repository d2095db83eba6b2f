"""Make a package again from the data that it names, and compare: nothing in it is taken on trust.

The stages run in a temporary directory; what `dvc repro` wrote is neither read nor touched.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hindsight.errors import ConfigurationError, VerificationError
from hindsight.models.manifest import Manifest
from hindsight.models.package import MANIFEST, MODEL, Package, read_package
from hindsight.pipeline import inputs, stages
from hindsight.pipeline.package import code_sha256
from hindsight.pipeline.params import EVALUATED, Layout, Params
from hindsight.pipeline.store import sha256
from hindsight.subsystems.contract import Subsystem

STAGES = ("ingest", "featurize", "train", "evaluate", "package")
REPORT = "report.json"

_OTHER_INPUTS = "check out the revision that made the package (parameters and code), and bring its data there"
_DO_NOT_USE = "do not use it: make the package again with `dvc repro`, or fetch it from where it was made"


def verify(
    directory: Path, params: Params, subsystem: Subsystem, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Check the inputs of a package, make it again, and compare every file; returns what was found.

    ``params``: of the working tree, whose directory holds ``data/``. ``progress`` is told what goes on.

    Raises VerificationError if the package is damaged or differs from what comes out (the first difference of
    its report is named); ConfigurationError if an input is not what the manifest names, saying which.
    """
    package = read_package(directory)
    manifest = package.manifest
    if manifest.subsystem != subsystem.name:
        raise ConfigurationError(
            f"{directory} is a package of {manifest.subsystem}, not of {subsystem.name}",
            f"name its subsystem: --subsystem {manifest.subsystem}",
        )
    check_inputs(package, params, subsystem.name)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        (root / "data").symlink_to((params.root / "data").resolve())
        again = Params(root, {**params.sections, "package": _package_section(manifest)})
        layout = Layout(root, subsystem.name)
        for stage in STAGES:
            progress(f"{stage} …")
            stages.run(stage, again, subsystem)
            _check_made(stage, manifest, layout)
        made = read_package(layout.package(manifest.version))
    _compare(package, made, directory)
    return {
        "name": manifest.name,
        "version": manifest.version,
        "mode": manifest.mode,
        "inputs": dict(manifest.inputs),
        "files": len(package.files),
        "report_sha256": manifest.files[REPORT].sha256,
        "same_bytes": True,
    }


def _package_section(manifest: Manifest) -> dict[str, Any]:
    return {"version": manifest.version, "validity_days": manifest.valid_days}


def check_inputs(package: Package, params: Params, subsystem: str) -> None:
    """Compare the hashes that need no computation with the working tree.

    Raises ConfigurationError, naming the input that differs and, where the package says so, what of it.
    """
    stated = package.manifest.inputs
    details = _details(package)
    found = {
        "params": params.sha256(),
        "code": code_sha256(Path(__file__).resolve().parents[1]),
        **inputs.measured_sha256(params.root, subsystem),
    }
    for name in ("params", "code", "measured"):
        if stated.get(name) != found.get(name):
            sections = {section: params[section] for section in EVALUATED}
            which = inputs.changed(details.get("params", sections), sections) if name == "params" else []
            raise _differs(name, which)
    folders = inputs.changed(
        {"": details.get("folders", {})}, {"": inputs.folders_of(params.dataset) if details else {}}
    )
    if folders:
        raise _differs("data", [folder.removeprefix(".") for folder in folders])


def _details(package: Package) -> Mapping[str, Any]:
    try:
        details = json.loads(package.files.get(inputs.FILE, b"{}"))
    except ValueError as error:
        raise VerificationError(f"{inputs.FILE} is not JSON: {error}", _DO_NOT_USE) from error
    if not isinstance(details, dict) or not all(isinstance(part, dict) for part in details.values()):
        raise VerificationError(f"{inputs.FILE} is no object of objects", _DO_NOT_USE)
    return details


_INPUTS = {
    "params": "the parameters (params.yaml)",
    "code": "the code of this release",
    "measured": "what was run live (data/measured)",
    "data": "the data",
}


def _differs(name: str, which: list[str]) -> ConfigurationError:
    shown = ", ".join(which[:3]) + (f" and {len(which) - 3} more" if len(which) > 3 else "")
    detail = f": {shown}" if which else ""
    return ConfigurationError(
        f"an input is not the one that the manifest names: {_INPUTS[name]}{detail}", _OTHER_INPUTS
    )


def _check_made(stage: str, manifest: Manifest, layout: Layout) -> None:
    """What a stage brings to light: the hash of the data as it was read, and of the model."""
    if stage == "ingest" and manifest.inputs.get("data") != _hash(layout.ingest / "manifest.json"):
        raise _differs("data", [])
    if stage == "train" and manifest.inputs.get("model") != _hash(layout.train / MODEL):
        raise VerificationError("training with these inputs gives another model", _DO_NOT_USE)


def _hash(path: Path) -> str:
    return sha256(path.read_bytes())


def _compare(package: Package, made: Package, directory: Path) -> None:
    if package.files[REPORT] != made.files[REPORT]:
        where = first_difference(package.files[REPORT], made.files[REPORT])
        raise VerificationError(f"{REPORT} is not what its inputs give: {where}", _DO_NOT_USE)
    for name in sorted(package.files.keys() | made.files.keys()):
        if package.files.get(name) != made.files.get(name):
            raise VerificationError(f"{name} is not what the inputs of the package give", _DO_NOT_USE)
    differ = inputs.changed(package.manifest.document(), made.manifest.document())
    if differ:
        raise VerificationError(f"{MANIFEST} of {directory} differs in {', '.join(differ[:3])}", _DO_NOT_USE)


def first_difference(stated: bytes, made: bytes) -> str:
    """Where two JSON documents part, in the order of their keys: "$.verdict.mode is X, not Y"."""
    try:
        found = _walk(json.loads(stated), json.loads(made), "$")
    except ValueError as error:
        return f"it is not JSON: {error}"
    if found:
        return found
    offset = next((i for i, (a, b) in enumerate(zip(stated, made, strict=False)) if a != b), None)
    at = min(len(stated), len(made)) if offset is None else offset
    return f"the same values, written otherwise from byte {at}"


def _walk(stated: Any, made: Any, where: str) -> str | None:
    if isinstance(stated, dict) and isinstance(made, dict):
        for key in sorted(stated.keys() | made.keys()):
            if key not in made or key not in stated:
                return f"{where}.{key} is {'absent' if key in made else 'not there when made again'}"
            found = _walk(stated[key], made[key], f"{where}.{key}")
            if found:
                return found
        return None
    if isinstance(stated, list) and isinstance(made, list):
        for i, (ours, theirs) in enumerate(zip(stated, made, strict=False)):
            found = _walk(ours, theirs, f"{where}[{i}]")
            if found:
                return found
        if len(stated) != len(made):
            return f"{where} has {len(stated)} entries, not {len(made)}"
        return None
    if type(stated) is type(made) and stated == made:
        return None
    return f"{where} is {_short(stated)}, not {_short(made)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 100 else text[:97] + "…"
