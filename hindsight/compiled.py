"""Where the compiled code of a room is kept."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path

_NAME = "numba-"


def directory(room: Path, below: str = "") -> Path:
    """Where numba keeps the compiled code of this state of the sources of a room (a package's directory).

    numba looks for changes in the file of the compiled function alone: it would go on with old code when a
    function that is called from another file changed, or a constant. A directory per state of all sources
    rules that out. It is ``below`` a directory, or else beside the sources, where those of other states are
    removed; where nothing can be written there, among what the user's programs keep.
    """
    digest = hashlib.sha256()
    for source in sorted(room.rglob("*.py")):
        digest.update(source.relative_to(room).as_posix().encode())
        digest.update(source.read_bytes())
    cache = Path(below) if below else room / "__pycache__"
    if not below and not os.access(cache if cache.exists() else room, os.W_OK):
        of_user = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
        cache = of_user / "hindsight" / hashlib.sha256(os.fsencode(room)).hexdigest()[:16]
    current = cache / f"{_NAME}{digest.hexdigest()[:16]}"
    for old in () if below else cache.glob(f"{_NAME}*"):
        if old != current:
            shutil.rmtree(old, ignore_errors=True)
    return current


def chosen() -> str:
    """The directory that the user has chosen for all compiled code; empty when none was."""
    given = os.environ.get("NUMBA_CACHE_DIR", "")
    # Another room may have set it, in this process or in the one that started it.
    return "" if re.fullmatch(f"{_NAME}[0-9a-f]{{16}}", Path(given).name) else given
