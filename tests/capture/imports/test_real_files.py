"""Files that others recorded: every event comes out, and nothing else (their README lists the counts)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from hindsight.capture.conversion.info import describe
from hindsight.capture.imports.importing import import_files
from hindsight.capture.schema import METADATA_GENERIC_KEY, METADATA_IMPORT_KEY

ROOT = Path(__file__).resolve().parents[3]
LISA = {
    "cpu_idle": 474, "sched_switch": 399, "sched_migrate_task": 28,
    "cpu_frequency": 16, "sched.sched_load_cfs_rq": 2437, "sched.sched_load_se": 364, "ftrace.print": 6,
}  # fmt: skip
DAMO = {"damon.damon_aggregated": 10260}


def trace(name: str) -> Path:
    """A real file; the test is skipped where there are none."""
    where = Path(os.environ.get("HINDSIGHT_TRACES", ROOT.parent / "shared" / "traces"))
    if not (where / name).exists():
        pytest.skip(f"{where / name} is not here: set HINDSIGHT_TRACES to where the real traces are")
    return where / name


def events_of(tables: dict[str, int]) -> dict[str, int]:
    return {name: rows for name, rows in tables.items() if name not in ("captures", "losses")}


def table(out: Path, name: str) -> object:
    (file,) = out.glob(f"host=*/date=*/{name}/*.parquet")
    return pq.read_table(file)


@pytest.mark.parametrize(
    ("name", "counts"),
    [("lisa_sched_load.trace.dat", LISA), ("damo_damon_aggregated.perf.data", DAMO)],
    ids=["trace.dat", "perf.data"],
)
def test_the_listed_counts_come_out(name: str, counts: dict[str, int], tmp_path: Path) -> None:
    (result,) = import_files([trace(name)], tmp_path / "out")
    assert events_of(result.tables) == counts
    assert result.events == sum(counts.values())
    assert result.lost == 0
    info = describe(tmp_path / "out")
    assert {n: e["rows"] for n, e in info["tables"].items() if n in counts} == counts
    for event in (name for name in counts if "." in name):
        (file,) = (tmp_path / "out").glob(f"host=*/date=*/{event}/*.parquet")
        told = json.loads(pq.read_schema(file).metadata[METADATA_GENERIC_KEY.encode()])
        assert told["event"] == event.replace(".", "/")
        rows = pq.read_table(file)
        assert rows["ts"].to_pylist() == sorted(rows["ts"].to_pylist())
    assert list((tmp_path / "out").glob(".converting-*")) == []


def test_clocks_are_told(tmp_path: Path) -> None:
    import_files([trace("damo_damon_aggregated.perf.data")], tmp_path / "out")
    captures = table(tmp_path / "out", "captures")
    told = json.loads(captures.schema.metadata[METADATA_IMPORT_KEY.encode()])  # type: ignore[attr-defined]
    assert (told["clock"], told["monotonic"]) == ("perf", False)
    (row,) = captures.to_pylist()  # type: ignore[attr-defined]
    assert row["clock"] == "perf"
    assert row["kernel_release"] == "5.12.0-rc4-mm1+"


def test_no_address_of_the_kernel_is_kept(tmp_path: Path) -> None:
    """damon's target_id was one, in an unsigned long; equal ones stay equal."""
    import_files([trace("damo_damon_aggregated.perf.data")], tmp_path / "out")
    rows = table(tmp_path / "out", "damon.damon_aggregated")
    ids = set(rows["target_id"].to_pylist())  # type: ignore[index]
    assert len(ids) == 1
    assert max(ids) < 1 << 62


def test_names_of_programs_are_hashed_unless_asked_for(tmp_path: Path) -> None:
    file = trace("lisa_sched_load.trace.dat")
    import_files([file], tmp_path / "hashed")
    import_files([file], tmp_path / "kept", comm=True)
    kept = table(tmp_path / "kept", "sched.sched_load_se")["comm"].to_pylist()  # type: ignore[index]
    hashed = table(tmp_path / "hashed", "sched.sched_load_se")["comm"].to_pylist()  # type: ignore[index]
    assert "(null)" in kept
    assert len(set(kept)) == len(set(hashed)) == len(set(zip(kept, hashed, strict=True)))
    assert not set(kept) & set(hashed)


@pytest.mark.parametrize("name", ["lisa_sched_load.trace.dat", "damo_damon_aggregated.perf.data"])
def test_the_result_does_not_depend_on_how_it_is_made(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pieces, in slices, on threads; in one pass, or indexed first."""
    import_files([trace(name)], tmp_path / "a", jobs=1)
    for piece in ("sample_feed._PIECE_BYTES", "framing._PIECE_BYTES", "page_feed._LARGEST"):
        monkeypatch.setattr(f"hindsight.capture.imports.{piece}", 70_000)
    monkeypatch.setattr("hindsight.capture.imports.page_feed._PIECE_BYTES", 30_000)
    monkeypatch.setattr("hindsight.capture.imports.page_feed._BLOCK_BYTES", 9_000)
    import_files([trace(name)], tmp_path / "b", jobs=2, slice_bytes=50_000)
    monkeypatch.setattr("hindsight.capture.imports.pages._Loader.stream", lambda self, advance: None)
    monkeypatch.setattr("hindsight.capture.imports.samples._Loader.stream", lambda self, advance: None)
    import_files([trace(name)], tmp_path / "c", jobs=2, slice_bytes=50_000)
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == contents(tmp_path / "c")
    monkeypatch.undo()
    again = import_files([trace(name)], tmp_path / "a")
    assert [result.converted for result in again] == [False]


def contents(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*.parquet"))}
