"""Fixtures: Debian's kernel, and guests that run scripts under it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import debian  # noqa: E402
import guest  # noqa: E402


@pytest.fixture(scope="session")
def debian_kernel() -> debian.Kernel:
    """Debian's kernel, unpacked; skips the test when guests cannot be run here."""
    try:
        guest.require()
        return debian.kernel()
    except debian.Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture
def boot(debian_kernel: debian.Kernel, tmp_path: Path) -> Callable[..., guest.Result]:
    """Run a script under Debian's kernel: :func:`guest.boot` with the kernel and a folder filled in."""
    count = 0

    def run(script: str, **options: Any) -> guest.Result:
        nonlocal count
        count += 1
        return guest.boot(debian_kernel, script, tmp_path / f"guest{count}", **options)

    return run
