"""One folder per kernel decision: its logic, demand, features, actions, arms and metrics."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path


def _compiled_code() -> Path:
    """Where numba keeps the compiled code of this state of the sources.

    numba looks for changes in the file of the compiled function alone: it would go on with old code when a
    function that is called from another file changed. A directory per state of all sources rules that out.
    """
    room = Path(__file__).resolve().parent
    digest = hashlib.sha256()
    for source in sorted(room.rglob("*.py")):
        digest.update(source.relative_to(room).as_posix().encode())
        digest.update(source.read_bytes())
    cache = room / "__pycache__"
    current = cache / f"numba-{digest.hexdigest()[:16]}"
    for old in cache.glob("numba-*"):
        if old != current:
            shutil.rmtree(old, ignore_errors=True)
    return current


if "NUMBA_CACHE_DIR" not in os.environ:
    if "numba" in sys.modules:
        sys.modules["numba"].config.CACHE_DIR = str(_compiled_code())  # read at import, too late to set it
    else:
        os.environ["NUMBA_CACHE_DIR"] = str(_compiled_code())
