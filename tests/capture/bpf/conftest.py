"""Fixtures: tracers of open files, and the permission to load their BPF programs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hindsight.capture.bpf import records
from hindsight.capture.bpf.open_files import OpenFiles
from hindsight.capture.bpf.ring import RingMemory
from hindsight.capture.bpf.tracer import OpenFilesTracer
from hindsight.capture.perf import rings
from hindsight.capture.profiles import FILES
from hindsight.errors import NotPermittedError

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def allowed() -> None:
    """Skips the test when BPF programs cannot be loaded here."""
    memory = RingMemory(64, max(rings.online_cpus()) + 1)
    try:
        files = OpenFiles([], memory)
    except NotPermittedError as error:
        pytest.skip(f"open files cannot be told apart here: {error.message}")
    files.close()
    memory.close()


@pytest.fixture
def tracer_of(allowed: None, tmp_path: Path) -> Iterator[Callable[..., OpenFilesTracer]]:
    """Makes tracers whose files are in ``raw0``, and closes them."""
    made: list[OpenFilesTracer] = []

    def make(buffer_kb: int = 4096, **kwargs: Any) -> OpenFilesTracer:
        tracer = OpenFilesTracer(FILES, buffer_kb, records.EVENTS, **kwargs)
        made.append(tracer)
        (tmp_path / "raw0").mkdir(exist_ok=True)
        tracer.open(tmp_path / "raw0")
        return tracer

    yield make
    for tracer in made:
        tracer.close()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.write_bytes(b"x" * 100_000)
    return path
