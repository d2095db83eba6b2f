from __future__ import annotations

import os
from pathlib import Path

import pytest

from hindsight.errors import HindsightError
from hindsight.lab import cgroup, device
from hindsight.lab.programs import path_of


@pytest.fixture
def lab_host() -> None:
    """Skips where throttled devices cannot be made, saying why."""
    if os.geteuid() != 0:
        pytest.skip("needs root: loop devices and cgroups")
    try:
        cgroup.find_hierarchy()
    except HindsightError as error:
        pytest.skip(error.message)
    if not Path("/dev/loop-control").exists():
        pytest.skip("this kernel has no loop devices")


@pytest.fixture
def device_name() -> str:
    return f"test-{os.getpid()}"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A place for images; skips where it has no direct I/O (tmpfs of older kernels)."""
    probe = tmp_path / "probe"
    probe.write_bytes(b"\0" * 4096)
    try:
        os.close(os.open(probe, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        pytest.skip(f"{tmp_path} is on a file system without direct I/O")
    return tmp_path


@pytest.fixture
def fio() -> str:
    path = path_of("fio")
    if path is None:
        pytest.skip("fio is not installed (apt-get install fio)")
    return path


@pytest.fixture
def made(lab_host: None, images: Path, device_name: str):  # type: ignore[no-untyped-def]
    """A small P1 device, removed afterwards."""
    with device.throttled_device(device_name, device.PROFILES["P1"], 192 << 20, images) as one:
        yield one
