"""Files that are read once, and others with the same events that cannot be: the same tables."""

from __future__ import annotations

import re
import sys
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reference import reference

from hindsight.capture.conversion import stream
from hindsight.capture.conversion.stretches import HIGH, LOW
from hindsight.capture.formats import parse_event, parse_header_page
from hindsight.capture.imports import framing, page_feed, sample_feed, samples
from hindsight.capture.imports import pages as pages_of
from hindsight.capture.imports.importing import import_files
from hindsight.errors import VerificationError

sys.path.insert(1, str(Path(__file__).resolve().parent))
import built

Event = tuple[int, int, int, bytes]


@pytest.fixture(scope="module")
def source(recorded: Path) -> built.Recorded:
    return built.Recorded(recorded)


@pytest.fixture(scope="module")
def events(source: built.Recorded) -> dict[int, list[Event]]:
    """Of the recorded segment, by processor."""
    layout = parse_header_page(source.header_page.decode())
    kinds = [parse_event(name.split("/")[0], text.decode()) for name, text in source.formats.items()]
    need = {kind.id: kind.payload_bytes for kind in kinds}
    found: dict[int, list[Event]] = {}
    for cpu, data in source.pages.items():
        for ts, number, at in reference(data, layout, need).events:
            words = int.from_bytes(data[at - 4 : at], "little") & 31
            size = max(4 * words if 0 < words < 29 else 0, need[number])
            found.setdefault(cpu, []).append((ts, cpu, number, data[at : at + size]))
    return found


def tables(out: Path) -> dict[str, pa.Table]:
    found = {file.parent.name: pq.read_table(file) for file in out.glob("host=*/date=*/*/*.parquet")}
    return {name: data for name, data in found.items() if data.schema.names[:2] == ["ts", "cpu"]}


def rounds(events: list[Event], size: int, numbers: list[int]) -> bytes:
    """Samples as perf finds them: in rounds of ``size``, one processor after the other. What happens on the
    last processor while a round is written is found in the next one.
    """
    last = max(cpu for _, cpu, _, _ in events)
    places = [n + (size // 2 if event[1] == last else 0) for n, event in enumerate(events)]
    found = [events[n] for n in sorted(range(len(events)), key=places.__getitem__)]
    out = []
    for begin in range(0, len(found), size):
        some = sorted(found[begin : begin + size], key=lambda event: event[1])
        out += [built.samples(some, numbers), built.record(sample_feed.of.FINISHED_ROUND, b"")]
    return b"".join(out)


def imported(
    tmp_path: Path, source: built.Recorded, data: bytes, numbers: list[int], monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, pa.Table], int]:
    """The tables of events, and in how many slices they were decoded if all was read once; 0 if not."""
    tmp_path.mkdir()
    file = tmp_path / "perf.data"
    file.write_bytes(built.perf_file(source, numbers, data))
    copied: list[bool] = []
    slices: list[int] = []
    run, split = framing.Framer.run, stream._split

    def spy(self: framing.Framer, advance: object) -> object:
        copied.append(True)
        return run(self, advance)  # type: ignore[arg-type]

    def count(*args: Any) -> object:
        slices.append(1)
        return split(*args)

    with monkeypatch.context() as patch:
        patch.setattr(framing.Framer, "run", spy)
        patch.setattr(stream, "_split", count)
        # In small pieces and slices, many stretches are had in parts.
        patch.setattr(sample_feed, "_PIECE_BYTES", 8192)
        patch.setattr(sample_feed, "_ROOM_BYTES", 8192)
        (result,) = import_files([file], tmp_path / "out", slice_bytes=20_000)
    assert result.lost == 0
    return tables(tmp_path / "out"), 0 if copied else len(slices)


def equal(one: dict[str, pa.Table], other: dict[str, pa.Table]) -> None:
    assert one.keys() == other.keys()
    for name, data in one.items():
        assert data.equals(other[name]), name


def test_same_tables(
    tmp_path: Path,
    source: built.Recorded,
    events: dict[int, list[Event]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert len(events) == 2
    runs = list(chain.from_iterable(events.values()))
    numbers = sorted({number for _, _, number, _ in runs})
    whole = rounds(runs, len(runs), numbers)
    ordered = sorted(runs, key=lambda event: event[:2])
    shuffled = [e for pair in zip_longest(*events.values()) for e in pair if e is not None]
    scattered = built.samples(shuffled, numbers)
    one, once = imported(tmp_path / "whole", source, whole, numbers, monkeypatch)
    assert once == 1 and sum(data.num_rows for data in one.values()) == len(runs) > 500
    for size in (50, 200):
        rest, once = imported(
            tmp_path / f"rounds{size}", source, rounds(ordered, size, numbers), numbers, monkeypatch
        )
        assert once > 1
        equal(one, rest)
    rest, once = imported(tmp_path / "scattered", source, scattered, numbers, monkeypatch)
    assert once == 1
    equal(one, rest)
    monkeypatch.setattr(samples._Loader, "stream", lambda self, advance: None)
    rest, once = imported(tmp_path / "copied", source, scattered, numbers, monkeypatch)
    assert not once
    equal(one, rest)


def test_events_after_their_round_are_copied(
    tmp_path: Path,
    source: built.Recorded,
    events: dict[int, list[Event]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A file that does not keep to what it says of its rounds: nothing of it is missing, or out of order."""
    runs = sorted(chain.from_iterable(events.values()), key=lambda event: event[:2])
    numbers = sorted({number for _, _, number, _ in runs})
    late = runs[5:] + runs[:5]
    one, once = imported(tmp_path / "late", source, rounds(late, 40, numbers), numbers, monkeypatch)
    assert not once
    other, once = imported(tmp_path / "right", source, rounds(runs, 40, numbers), numbers, monkeypatch)
    assert once
    equal(one, other)


def test_too_much_to_hold_is_copied(
    tmp_path: Path,
    source: built.Recorded,
    events: dict[int, list[Event]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rounds so long that two of them do not fit into the memory there is."""
    runs = sorted(chain.from_iterable(events.values()), key=lambda event: event[:2])
    numbers = sorted({number for _, _, number, _ in runs})
    data = rounds(runs, 300, numbers)
    one, once = imported(tmp_path / "one", source, data, numbers, monkeypatch)
    monkeypatch.setattr(stream, "MOST_BYTES", 3 * 8192)
    other, none = imported(tmp_path / "other", source, data, numbers, monkeypatch)
    assert once > 1 and none == 0
    equal(one, other)


@pytest.mark.parametrize("disorder", [False, True])
def test_pages_in_any_order(
    tmp_path: Path, source: built.Recorded, monkeypatch: pytest.MonkeyPatch, disorder: bool
) -> None:
    """A page that comes when what happened after it is written already: the rows are the same."""
    kept = dict(source.pages)
    for cpu, data in kept.items():
        # Of several ring buffers: by the times at their beginnings.
        pages = [data[at : at + 4096] for at in range(0, len(data), 4096)]
        pages.sort(key=lambda page: int.from_bytes(page[:8], "little"))
        source.pages[cpu] = b"".join([*pages[1:], pages[0]] if disorder else pages)
    file = tmp_path / "trace.dat"
    file.write_bytes(built.version7(source, "zstd"))
    source.pages.update(kept)
    indexed = []
    load, make = pages_of._Loader.load, pages_of._Loader.stream

    def spy(self: pages_of._Loader, *args: Any) -> Any:
        indexed.append(True)
        return load(self, *args)

    monkeypatch.setattr(pages_of._Loader, "load", spy)
    monkeypatch.setattr(page_feed, "_LARGEST", 4096)
    monkeypatch.setattr(page_feed, "_SMALLEST", 4096)
    import_files([file], tmp_path / "once", slice_bytes=8192)
    assert bool(indexed) == disorder
    monkeypatch.setattr(pages_of._Loader, "stream", lambda self, advance: None)
    import_files([file], tmp_path / "indexed", slice_bytes=8192)
    monkeypatch.setattr(pages_of._Loader, "stream", make)
    one = tables(tmp_path / "once")
    assert sum(data.num_rows for data in one.values()) > 500
    equal(one, tables(tmp_path / "indexed"))


def test_payloads_of_any_length(
    tmp_path: Path, source: built.Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are held with their sizes: a stretch that is cut in two by the end of a slice has them in both."""
    formats = dict(source.formats)
    source.formats.clear()
    # Of a system that nobody knows: all tables are derived, and texts are of any length.
    source.formats.update({f"unknown/{name.split('/')[1]}": text for name, text in formats.items()})
    file = tmp_path / "trace.dat"
    try:
        file.write_bytes(built.version7(source, "none"))
    finally:
        source.formats.clear()
        source.formats.update(formats)
    cut = []
    split = stream._split

    def spy(held: np.ndarray, latest: int, views: Any) -> object:
        cut.extend(np.flatnonzero((held[:, LOW] <= latest) & (held[:, HIGH] > latest)))
        return split(held, latest, views)

    with monkeypatch.context() as patch:
        patch.setattr(stream, "_split", spy)
        patch.setattr(page_feed, "_LARGEST", 16384)
        patch.setattr(page_feed, "_SMALLEST", 16384)
        import_files([file], tmp_path / "once", slice_bytes=4096)
        patch.setattr(pages_of._Loader, "stream", lambda self, advance: None)
        import_files([file], tmp_path / "indexed")
    assert cut
    equal(tables(tmp_path / "once"), tables(tmp_path / "indexed"))


def test_two_events_of_one_name_are_refused(
    tmp_path: Path, source: built.Recorded, events: dict[int, list[Event]]
) -> None:
    runs = sorted(chain.from_iterable(events.values()), key=lambda event: event[:2])
    text = source.formats["syscalls/sys_enter_read"]
    (number,) = re.findall(rb"ID: (\d+)", text)
    twice = 60_000
    both = [e for e in runs if e[2] == int(number)]
    assert len(both) > 1
    ts, cpu, _, raw = both[0]
    both[0] = (ts, cpu, twice, twice.to_bytes(2, "little") + raw[2:])
    source.formats["syscalls/another"] = text.replace(b"ID: " + number, b"ID: %d" % twice)
    file = tmp_path / "perf.data"
    try:
        ids = [int(number), twice]
        file.write_bytes(built.perf_file(source, ids, built.samples(both, ids)))
    finally:
        del source.formats["syscalls/another"]
    with pytest.raises(VerificationError, match="two kinds of events have the name sys_enter_read"):
        import_files([file], tmp_path / "out")
    assert not list((tmp_path / "out").glob("host=*"))


def test_unusable_sample_is_copied(
    tmp_path: Path, source: built.Recorded, events: dict[int, list[Event]]
) -> None:
    """One that is too short for its format is told of as lost, at its time and processor."""
    runs = list(chain.from_iterable(events.values()))
    ts, cpu, number, raw = runs[7]
    runs[7] = (ts, cpu, number, raw[:8])
    numbers = sorted({number for _, _, number, _ in runs})
    file = tmp_path / "perf.data"
    file.write_bytes(built.perf_file(source, numbers, built.samples(runs, numbers)))
    (result,) = import_files([file], tmp_path / "out")
    assert (result.events, result.lost) == (len(runs) - 1, 1)
