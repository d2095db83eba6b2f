"""A change in any source of a room must not leave old compiled code in use."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import hindsight.compiled
import hindsight.subsystems
from hindsight.compiled import chosen, directory

PROBE = "import os, hindsight.subsystems; print(os.environ['NUMBA_CACHE_DIR'])"
IN_CAPTURE = (
    "import hindsight.subsystems; from hindsight.capture.conversion.gather import gather;"
    "from hindsight.capture.conversion.stretches import store_stretch;"
    "print(gather.stats.cache_path, store_stretch.stats.cache_path)"
)


def run(probe: str, cwd: Path, *options: str, **settings: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"} | settings
    command = [sys.executable, *options, "-c", probe]
    child = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=cwd)
    return child.stdout.strip()


def test_the_directory_of_compiled_code_follows_the_sources(tmp_path: Path) -> None:
    room = Path(hindsight.subsystems.__file__).parent
    package = tmp_path / "hindsight"
    shutil.copytree(room, package / "subsystems", ignore=shutil.ignore_patterns("__pycache__"))
    (package / "__init__.py").touch()
    shutil.copy(hindsight.compiled.__file__, package)

    def place() -> str:
        # -S: the copy, not the installed package.
        return run(PROBE, tmp_path, "-S", PYTHONPATH=str(tmp_path))

    before = place()
    assert before.startswith(str(package))
    assert place() == before
    callee = next(package.rglob("kernel.py"))
    callee.write_text(callee.read_text() + "\n# changed\n")
    assert place() != before


def test_compiled_code_of_other_sources_is_removed(tmp_path: Path) -> None:
    source = tmp_path / "inner" / "constants.py"
    source.parent.mkdir()
    source.write_text("BITS = 10\n")
    before = directory(tmp_path)
    before.mkdir(parents=True)
    assert directory(tmp_path) == before and before.exists()
    source.write_text("BITS = 12\n")
    assert directory(tmp_path) != before and not before.exists()


def test_capture_has_its_own(tmp_path: Path) -> None:
    """Whichever room is loaded first; and one that the user has chosen is for all."""
    import hindsight.capture

    (room,) = hindsight.capture.__path__
    own = str(directory(Path(room).resolve()))
    one, other = run(IN_CAPTURE, tmp_path).split()
    assert one.startswith(own) and other.startswith(own)
    given = str(tmp_path / "given")
    assert all(place.startswith(given) for place in run(IN_CAPTURE, tmp_path, NUMBA_CACHE_DIR=given).split())


def test_sources_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = tmp_path / "room"
    room.mkdir()
    (room / "constants.py").write_text("BITS = 10\n")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "kept"))
    assert directory(room).is_relative_to(room)
    monkeypatch.setattr(os, "access", lambda path, mode: not Path(path).is_relative_to(room))  # not for root
    assert directory(room).is_relative_to(tmp_path / "kept" / "hindsight")
    assert directory(room, str(tmp_path / "given")).is_relative_to(tmp_path / "given")


def test_what_another_room_has_set_was_not_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(directory(tmp_path)))
    assert chosen() == ""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert chosen() == str(tmp_path)
