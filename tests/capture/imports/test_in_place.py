"""A perf.data that is decoded in place, and one of the same samples that needs a copy: the same tables."""

from __future__ import annotations

import sys
from itertools import chain, zip_longest
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reference import reference

from hindsight.capture.formats import parse_event, parse_header_page
from hindsight.capture.imports import samples
from hindsight.capture.imports.importing import import_files

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


def imported(
    tmp_path: Path, source: built.Recorded, ordered: list[Event], monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, pa.Table], bool]:
    """The tables of events, and whether they were decoded in place."""
    numbers = sorted({number for _, _, number, _ in ordered})
    tmp_path.mkdir()
    file = tmp_path / "perf.data"
    file.write_bytes(built.perf_file(source, numbers, built.samples(ordered, numbers)))
    in_place = []
    find = samples.Finder.find

    def spy(self: samples.Finder, advance: object) -> object:
        found = find(self, advance)  # type: ignore[arg-type]
        in_place.append(found is not None)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(samples.Finder, "find", spy)
        # In small slices, most blocks are decoded in part, several times.
        (result,) = import_files([file], tmp_path / "out", slice_bytes=20_000)
    assert result.events == len(ordered) and result.lost == 0
    (was,) = in_place
    return tables(tmp_path / "out"), was


def test_same_tables(
    tmp_path: Path,
    source: built.Recorded,
    events: dict[int, list[Event]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert len(events) == 2
    runs = list(chain.from_iterable(events.values()))
    scattered = [e for pair in zip_longest(*events.values()) for e in pair if e is not None]
    one, in_place = imported(tmp_path / "runs", source, runs, monkeypatch)
    other, copied = imported(tmp_path / "scattered", source, scattered, monkeypatch)
    assert in_place and not copied
    assert sum(data.num_rows for data in one.values()) == len(runs) > 500
    assert one.keys() == other.keys()
    for name, data in one.items():
        assert data.equals(other[name]), name


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
