"""Fixtures: a recorded segment that needs no privilege, and the permission to record live."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from hindsight.capture.ftrace import tracefs
from hindsight.errors import NotPermittedError

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segment recorded on Linux 6.18 with two CPUs (fixtures/README.md). Do not write to it."""
    directory = tmp_path_factory.mktemp("recorded")
    with tarfile.open(HERE / "fixtures" / "segment.tar.xz") as archive:
        archive.extractall(directory, filter="data")
    (segment,) = directory.iterdir()
    return segment


@pytest.fixture(scope="session")
def live() -> Path:
    """Where tracefs is; skips the test when this process may not record."""
    if os.geteuid() != 0:
        pytest.skip("recording needs root")
    try:
        return tracefs.locate()
    except NotPermittedError as error:
        pytest.skip(f"recording is not possible here: {error.message}")


@pytest.fixture(scope="session")
def workload() -> tuple[str, ...]:
    """A command that makes the kernel fire the tracepoints of the profile; takes a directory."""
    return (sys.executable, str(HERE / "workload.py"))


@pytest.fixture
def hindsight() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command as a user does."""

    def run(*args: object, **kwargs: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "hindsight", *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, **kwargs)  # type: ignore[call-overload]

    return run
