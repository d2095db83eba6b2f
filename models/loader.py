"""Load a model in a process of its own, because a malformed model can crash the process that loads it.

Run as ``python -m hindsight.models.loader``, with a request of :func:`load_apart` on its standard input: one
line of JSON (``model``: bytes; ``rows`` and ``width`` of the inputs; ``rows`` null: none), then the model and
the inputs. The answer is ``n_features``, ``n_trees``, ``feature_names`` and ``xgboost_version``, with the
margins attached. Arrays are float32, little-endian.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hindsight.models.apart import answer, ask, no_answer

_FLOATS = np.dtype("<f4")


@dataclass(frozen=True)
class Loaded:
    """What the child found. ``margins`` has shape (n,), float32; None if no inputs were given."""

    n_features: int
    n_trees: int
    feature_names: tuple[str, ...]
    """As the model carries them; empty if it carries none."""
    xgboost_version: str
    margins: NDArray[np.float32] | None


def load_here(model: bytes, inputs: NDArray[np.float32] | None = None) -> Loaded:
    """Load ``model`` in this process: for bytes that were made here, and for the child.

    Raises what :func:`hindsight.models.trees.load` and :func:`~hindsight.models.trees.margins` raise.
    """
    from hindsight.models import trees

    booster = trees.open_booster(model)
    forest = trees.load(booster)
    return Loaded(
        n_features=forest.n_features,
        n_trees=forest.n_trees,
        feature_names=tuple(booster.feature_names or ()),
        xgboost_version=trees.xgboost_version(booster),
        margins=None if inputs is None else trees.margins(forest, inputs),
    )


def load_apart(model: bytes, inputs: NDArray[np.float32] | None = None) -> Loaded:
    """Load ``model`` in a child process and return its margins of ``inputs`` (shape (n, n_features),
    float32).

    Raises what :func:`hindsight.models.apart.ask` raises, among it VerificationError if the child refuses the
    model, crashes, or takes too long.
    """
    rows, width = (None, 0) if inputs is None else inputs.shape
    request = json.dumps({"model": len(model), "rows": rows, "width": width}).encode() + b"\n" + model
    if inputs is not None:
        request += inputs.astype(_FLOATS, copy=False).tobytes()
    reply, margins = ask("hindsight.models.loader", request, attached=_FLOATS.itemsize * (rows or 0))
    n_features, n_trees = reply.get("n_features"), reply.get("n_trees")
    names, release = reply.get("feature_names"), reply.get("xgboost_version")
    if type(n_features) is not int or type(n_trees) is not int or min(n_features, n_trees) < 0:
        raise no_answer()
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise no_answer()
    if not isinstance(release, str):
        raise no_answer()
    return Loaded(
        n_features=n_features,
        n_trees=n_trees,
        feature_names=tuple(names),
        xgboost_version=release,
        margins=None if rows is None else np.frombuffer(margins, _FLOATS).astype(np.float32),
    )


def _work(request: bytes) -> tuple[dict[str, object], bytes]:
    line, _, rest = request.partition(b"\n")
    asked = json.loads(line)
    model, inputs = rest[: asked["model"]], None
    if asked["rows"] is not None:
        inputs = np.frombuffer(rest[asked["model"] :], _FLOATS).reshape(asked["rows"], asked["width"])
        inputs = inputs.astype(np.float32)
    loaded = load_here(model, inputs)
    margins = b"" if loaded.margins is None else loaded.margins.astype(_FLOATS, copy=False).tobytes()
    return {
        "n_features": loaded.n_features,
        "n_trees": loaded.n_trees,
        "feature_names": loaded.feature_names,
        "xgboost_version": loaded.xgboost_version,
    }, margins


if __name__ == "__main__":
    answer(_work)
