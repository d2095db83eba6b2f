"""The conformance suite over every transport that this kernel has."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import conformance
import pytest
import served

DEVICE = Path("/dev/hindsight_proxy")


@pytest.fixture(params=served.TRANSPORTS)
def transport(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if os.geteuid() != 0:
        pytest.skip("serving a proxy needs root")
    try:
        serving = served.TRANSPORTS[request.param](tmp_path)
    except conformance.Impossible as error:
        pytest.skip(str(error))
    yield serving
    serving.close()


@pytest.mark.parametrize("case", conformance.CASES)
def test_conformance(transport: Any, case: str) -> None:
    try:
        conformance.CASES[case](transport)
    except conformance.Impossible as error:
        pytest.skip(f"{transport.name}: {error}")


def test_a_character_device_conforms() -> None:
    """Where a module serves one: in the guest of tests/kernel, or on a host that has the module."""
    if not DEVICE.exists():
        pytest.skip(f"no {DEVICE}: run conformance.py where the module is loaded")
    assert subprocess.run([sys.executable, conformance.__file__, str(DEVICE)], timeout=120).returncode == 0


def test_a_reader_that_believes_everything_would_be_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The suite fails when documents are not checked."""
    from hindsight.capture.proxy import shapes

    monkeypatch.setattr(shapes.Integer, "check", lambda *_: None)
    transport = served.Procfs(tmp_path)
    try:
        with pytest.raises(AssertionError):
            conformance.malformed(transport)
    finally:
        transport.close()
