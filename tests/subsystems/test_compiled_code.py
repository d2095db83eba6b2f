"""A change in any source of the room must not leave old compiled code in use."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import hindsight.subsystems

PROBE = "import os, hindsight.subsystems; print(os.environ['NUMBA_CACHE_DIR'])"


def test_the_directory_of_compiled_code_follows_the_sources(tmp_path: Path) -> None:
    room = Path(hindsight.subsystems.__file__).parent
    package = tmp_path / "hindsight"
    shutil.copytree(room, package / "subsystems", ignore=shutil.ignore_patterns("__pycache__"))
    (package / "__init__.py").touch()
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"} | {
        "PYTHONPATH": str(tmp_path)
    }

    def directory() -> str:
        # -P and -S: the copy, not the installed package.
        run = subprocess.run(
            [sys.executable, "-S", "-c", PROBE],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
        )
        return run.stdout.strip()

    before = directory()
    assert before.startswith(str(package))
    assert directory() == before
    callee = next(package.rglob("kernel.py"))
    callee.write_text(callee.read_text() + "\n# changed\n")
    assert directory() != before
