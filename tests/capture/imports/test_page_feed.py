"""What is said of pages that are read once, stored block by block, against the index of the same pages."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from hindsight.capture.conversion.convert import Recording
from hindsight.capture.conversion.workers import NONE
from hindsight.capture.imports import page_feed
from hindsight.capture.imports.facts import Keys
from hindsight.capture.imports.foreign import Foreign
from hindsight.capture.imports.importing import Scratch
from hindsight.capture.imports.pages import Wanted, recordings

sys.path.insert(1, str(Path(__file__).resolve().parent))
import built

PAGE = built.PAGE


def damaged(data: bytes, seed: int) -> bytes:
    """Pages, some of which end within an event, lost events before them, or end in zeros; the last is cut."""
    pages = np.frombuffer(data, np.uint8).copy().reshape(-1, PAGE)
    random = np.random.default_rng(seed)
    for number in random.integers(0, len(pages), 6).tolist():
        kind = random.integers(3)
        if kind == 0:
            pages[number, 8:16].view("<u8")[:] |= 1 << 31
        elif kind == 1:
            pages[number, 8:16].view("<u8")[:] -= 4
        else:
            pages[number, 4 * random.integers(4, 100) :] = 0
    return pages.tobytes()[: -int(random.integers(1, PAGE))]


def said(counts: Any) -> tuple[object, ...]:
    """Of one processor: all but the blocks, which are others."""
    some = counts.counts.any(axis=1)
    span = (int(counts.low[some].min()), int(counts.high[some].max())) if some.any() else None
    kinds = counts.counts.sum(axis=0, dtype=np.int64).tolist()
    return counts.cpu, span, kinds, counts.unusable, counts.problems


@pytest.mark.parametrize("how", ["none", "zstd"])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("block", "piece", "most"), [(1, 2, 5), (2, 5, 12), (3, 3, 4), (32, 128, 512)])
def test_counts_and_damage(
    tmp_path: Path, recorded: Path, how: str, seed: int, block: int, piece: int, most: int
) -> None:
    source = built.Recorded(recorded)
    assert sum(len(data) for data in source.pages.values()) > 12 * PAGE
    for cpu, data in source.pages.items():
        pages = sorted(
            (data[at : at + PAGE] for at in range(0, len(data), PAGE)),
            key=lambda page: int.from_bytes(page[:8], "little"),
        )
        source.pages[cpu] = damaged(b"".join(pages), seed)
    path = tmp_path / "trace.dat"
    path.write_bytes(built.version7(source, how))
    with (
        patch.object(page_feed, "_BLOCK_BYTES", block * PAGE),
        patch.object(page_feed, "_PIECE_BYTES", piece * PAGE),
        patch.object(page_feed, "_LARGEST", most * PAGE),
        patch.object(page_feed, "_SMALLEST", 1),
        Foreign(path) as file,
        ExitStack() as stack,
    ):
        ((recording, _),) = recordings(file, Wanted(Keys.of(tmp_path)), Scratch(tmp_path, stack))
        once, rows = streamed(recording)
        facts, (instance,) = recording.load(NONE, lambda count: None)
    assert [said(counts) for counts in once[1]] == [said(index) for index in instance.cpus]
    assert once[0] == facts
    assert any(index.problems for index in instance.cpus)
    assert rows == sum(index.events for index in instance.cpus) > 500


def streamed(recording: Recording) -> tuple[tuple[object, list[Any]], int]:
    """The facts and counts of what is read once, and the events that were stored of it."""
    assert recording.stream is not None
    stream = recording.stream(lambda count: None)
    assert stream is not None
    rows = sum(int(events.counts.sum()) for events, _ in stream.slices(slice_bytes=20_000))
    return (stream.facts(), list(stream.counts())), rows
