"""The conformance suite over every transport that this kernel has."""

from __future__ import annotations

import json
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


def test_a_document_in_pieces_is_read_to_its_end_and_not_beyond(tmp_path: Path) -> None:
    """Wherever a piece ends: after a line, after a brace, after both within the document."""
    try:
        transport = served.Fuse(tmp_path)
    except conformance.Impossible as error:
        pytest.skip(str(error))
    commands = transport.commands
    try:
        proxy = transport.proxy()
        text = json.dumps(conformance.GOLDEN | {"sequence": 7, "mono_ns": 8}, indent=0).replace(",\n", "\n,")
        assert text.count("}\n") > 2
        # The last one has no end of its line: only the next, empty, piece says that it is over.
        for data, more in ((text + "\n", 0), (text, 1)):
            transport.give_bytes(data.encode())
            for most in (1, 2, 3, 64, len(data) - 1, len(data), len(data) + 1):
                (commands / "most").write_text(str(most))
                (commands / "reads").write_bytes(b"")
                assert proxy.snapshot().sequence == 7
                assert len((commands / "reads").read_bytes()) == -(-len(data) // most) + more
            for end in range(text.index("}\n"), len(text), 5):
                (commands / "most").write_text(str(end))
                assert proxy.snapshot().sequence == 7
        proxy.close()
    finally:
        transport.close()


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
