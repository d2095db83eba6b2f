"""What else differs between two versions: the features that they look at, the parameters of their making."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from hindsight.models.manifest import Manifest
from hindsight.pipeline.compare.version import Version
from hindsight.pipeline.inputs import flat


def features(first: Manifest, other: Manifest) -> dict[str, Any]:
    """``added``, ``removed`` (names), ``changed`` ([{name, what, from, to}]), ``reordered``."""
    ours, theirs = ({f.name: f for f in m.features} for m in (first, other))
    both = [name for name in ours if name in theirs]
    changed = []
    for name in both:
        old, new = ours[name], theirs[name]
        if (old.low, old.high) != (new.low, new.high):
            changed.append(_row(name, "range", [old.low, old.high], [new.low, new.high]))
        changed += [
            _row(name, what, asdict(old)[what], asdict(new)[what])
            for what in ("unit", "dtype")
            if asdict(old)[what] != asdict(new)[what]
        ]
    return {
        "added": [name for name in theirs if name not in ours],
        "removed": [name for name in ours if name not in theirs],
        "changed": changed,
        "reordered": both != [name for name in theirs if name in ours],
    }


def _row(name: str, what: str, old: Any, new: Any) -> dict[str, Any]:
    return {"name": name, "what": what, "from": old, "to": new}


def parameters(first: Version, other: Version) -> list[dict[str, Any]]:
    """[{name, from, to}] of what is not the same, by name; None where a version does not name it."""
    ours, theirs = _named(first), _named(other)
    return [
        {"name": name, "from": ours.get(name), "to": theirs.get(name)}
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]


def _named(version: Version) -> dict[str, Any]:
    """Everything that a package states about how it was made and what it may do."""
    manifest = version.manifest
    made_with: Mapping[str, Any] = version.made_from.get("params") or {
        "evaluate": version.report.get("parameters", {})
    }
    model = (version.report.get("model") or {}).get("facts", {})
    return flat(made_with) | flat(
        {
            "bounds": manifest.bounds,
            "actions": {action.name: action.encoding for action in manifest.decision.actions},
            "minimum_gain": manifest.decision.minimum_gain,
            "objective": asdict(manifest.objective),
            "xgboost_version": manifest.xgboost_version,
            "valid_days": manifest.valid_days,
            "model": {key: value for key, value in model.items() if key not in ("features", "version")},
        }
    )
