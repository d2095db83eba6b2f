"""Load a model in a process of its own, because a malformed model can crash the process that loads it.

Run as ``python -m hindsight.models.loader``: reads one line of JSON from its standard input (``{"model":
bytes, "inputs": bytes}``), then the model, then the inputs as a .npy array (0 bytes: none). Writes one line
of JSON (``n_features``, ``n_trees``, ``feature_names``, ``xgboost_version``, ``margins``: bytes; or ``error``
and ``remedy``), then the margins as a .npy array. :func:`load_apart` is the caller's side.
"""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from hindsight.errors import HindsightError, VerificationError

TIMEOUT_S = 120
MEMORY_BYTES = 8 << 30


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

    Raises VerificationError if the child refuses the model, crashes, or takes longer than TIMEOUT_S.
    """
    array = b"" if inputs is None else _npy(inputs)
    request = json.dumps({"model": len(model), "inputs": len(array)}).encode() + b"\n" + model + array
    try:
        done = subprocess.run(
            # -P: the working directory is no place to import from.
            [sys.executable, "-P", "-m", "hindsight.models.loader"],
            input=request,
            capture_output=True,
            timeout=TIMEOUT_S,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise VerificationError(f"the model did not load within {TIMEOUT_S} s", _DO_NOT_USE) from None
    if done.returncode != 0:
        raise VerificationError(
            f"the model crashed the process that loaded it ({_reason(done)})", _DO_NOT_USE
        )
    line, _, rest = done.stdout.partition(b"\n")
    reply = json.loads(line)
    if "error" in reply:
        raise VerificationError(reply["error"], reply["remedy"])
    margins = np.load(io.BytesIO(rest), allow_pickle=False) if reply["margins"] else None
    return Loaded(
        n_features=reply["n_features"],
        n_trees=reply["n_trees"],
        feature_names=tuple(reply["feature_names"]),
        xgboost_version=reply["xgboost_version"],
        margins=margins,
    )


_DO_NOT_USE = "do not use this package; make it again from its data"


def _reason(done: subprocess.CompletedProcess[bytes]) -> str:
    if done.returncode < 0:
        return signal.Signals(-done.returncode).name
    last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    return "".join(c for c in last if c.isprintable())[:200] or f"exit status {done.returncode}"


def _npy(array: NDArray[np.float32]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _answer(request: BinaryIO) -> tuple[dict[str, object], bytes]:
    sizes = json.loads(request.readline())
    model, array = request.read(sizes["model"]), request.read(sizes["inputs"])
    try:
        loaded = load_here(model, np.load(io.BytesIO(array), allow_pickle=False) if array else None)
    except HindsightError as error:
        return {"error": error.message, "remedy": error.remedy}, b""
    margins = b"" if loaded.margins is None else _npy(loaded.margins)
    return {
        "n_features": loaded.n_features,
        "n_trees": loaded.n_trees,
        "feature_names": loaded.feature_names,
        "xgboost_version": loaded.xgboost_version,
        "margins": len(margins),
    }, margins


def _limit(which: int, value: int) -> None:
    hard = resource.getrlimit(which)[1]
    if hard == resource.RLIM_INFINITY or hard > value:
        resource.setrlimit(which, (value, value))


def main() -> None:
    """The child's side."""
    # A malformed model may ask for any amount of memory or time, or dump core.
    _limit(resource.RLIMIT_AS, MEMORY_BYTES)
    _limit(resource.RLIMIT_CPU, TIMEOUT_S)
    _limit(resource.RLIMIT_CORE, 0)
    # Libraries print to standard output; the answer must stand there alone.
    with os.fdopen(os.dup(1), "wb") as output:
        os.dup2(2, 1)
        reply, margins = _answer(sys.stdin.buffer)
        output.write(json.dumps(reply).encode() + b"\n" + margins)


if __name__ == "__main__":
    main()
