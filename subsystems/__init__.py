"""One folder per kernel decision: its logic, demand, features, actions, arms and metrics."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hindsight.compiled import chosen, directory

if not chosen():
    os.environ["NUMBA_CACHE_DIR"] = str(directory(Path(__file__).resolve().parent))
    if "numba" in sys.modules:
        # It was read at import, too late to set it.
        sys.modules["numba"].config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"]
