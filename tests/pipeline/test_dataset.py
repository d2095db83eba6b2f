from __future__ import annotations

import json
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import write_capture, write_dataset, write_table

from hindsight.capture import schema
from hindsight.capture.conversion.convert import convert
from hindsight.command import main
from hindsight.errors import ConfigurationError
from hindsight.pipeline import segments
from hindsight.pipeline.dataset import find_captures, read_table
from hindsight.pipeline.demand import read_demand
from hindsight.pipeline.manifest import describe_files
from hindsight.pipeline.store import sha256
from hindsight.subsystems import contract

CAPTURE_TESTS = Path(__file__).parents[1] / "capture"
SAMPLE = Path(__file__).parents[2] / "data" / "sample"
sys.path.insert(0, str(CAPTURE_TESTS))
import reshape  # noqa: E402


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "ds", passes=1, reads=40)


def one(dataset: Path, table: str) -> Path:
    return sorted(dataset.glob(f"*/*/{table}/*.parquet"))[0]


def rewrite(
    path: Path, metadata: dict[str, str] | None = None, drop: str | None = None, **types: object
) -> None:
    table = pq.read_table(path)
    for name, kind in types.items():
        table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(kind))
    if drop:
        table = table.drop_columns([drop])
    kept = {**(table.schema.metadata or {}), **{k.encode(): v.encode() for k, v in (metadata or {}).items()}}
    pq.write_table(table.replace_schema_metadata(kept), path)


def test_captures_come_by_start_with_their_facts_and_files(dataset: Path) -> None:
    captures = find_captures(dataset)
    assert [c.id for c in captures] == ["c00", "c01", "c02", "c03"]
    assert [c.workload for c in captures] == ["scan", "lookup", "mixed", "phases"]
    assert captures[1].program == "db"
    assert captures[0].end_ns - captures[0].start_ns == 12_000_000_000
    assert set(captures[0].files) == {"captures", "devices", "page_cache_ra_order", "sys_enter_pread64"}


def test_columns_have_the_dtypes_of_the_schema_and_nulls_are_none(dataset: Path) -> None:
    capture = find_captures(dataset)[0]
    reads = read_table(capture, "sys_enter_pread64")
    assert reads is not None
    assert {n: str(v.dtype) for n, v in reads.items()} == {
        c.name: schema.numpy_dtype(c) for c in schema.TABLES["sys_enter_pread64"].columns
    }
    assert np.all(np.diff(reads["ts"]) >= 0)
    devices = read_table(capture, "devices")
    assert devices is not None and devices["throttle_read_iops"].tolist() == [None]
    assert read_table(capture, "sys_enter_read") is None


def test_segments_of_a_capture_are_read_in_order_and_kept_from_longer_ids(tmp_path: Path) -> None:
    dataset = tmp_path / "ds"
    write_capture(dataset, "a", "w", "p", 10**18, ("run",), reads=20)
    write_capture(dataset, "a-1", "w", "p", 2 * 10**18, ("run",), reads=30)
    first, second = find_captures(dataset)
    assert len(read_table(first, "sys_enter_pread64")["ts"]) == 23  # type: ignore[index]
    assert len(read_table(second, "sys_enter_pread64")["ts"]) == 33  # type: ignore[index]
    path = one(dataset, "sys_enter_pread64")
    assert path.name == "a-0.parquet"
    path.rename(path.with_name("a-00.parquet"))
    write_table(dataset, "sys_enter_pread64", "a", {"ts": 1 << 50}, 1)
    (path.with_name("a-0.parquet")).rename(path.with_name("a-01.parquet"))
    facts = one(dataset, "captures")
    shutil.copy(facts, facts.with_name("a-01.parquet"))
    facts.rename(facts.with_name("a-00.parquet"))
    for other in ("devices", "page_cache_ra_order"):
        one(dataset, other).rename(one(dataset, other).with_name("a-00.parquet"))
    ts = read_table(find_captures(dataset)[0], "sys_enter_pread64")["ts"]  # type: ignore[index]
    assert len(ts) == 24 and ts[-1] == 1 << 50


@pytest.mark.parametrize("keep", [0, 3, 100, -8, -1])
def test_a_truncated_file_is_named(dataset: Path, keep: int) -> None:
    path = one(dataset, "sys_enter_pread64")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ConfigurationError, match=r"c00-0\.parquet") as error:
        read_table(find_captures(dataset)[0], "sys_enter_pread64")
    assert error.value.remedy


def test_damage_within_the_file_is_named(dataset: Path) -> None:
    path = one(dataset, "sys_enter_pread64")
    data = bytearray(path.read_bytes())
    data[4 : len(data) // 2] = b"\xff" * (len(data) // 2 - 4)
    path.write_bytes(data)
    with pytest.raises(ConfigurationError, match=r"c00-0\.parquet"):
        read_table(find_captures(dataset)[0], "sys_enter_pread64")


def test_another_schema_version_is_refused(dataset: Path) -> None:
    path = one(dataset, "sys_enter_pread64")
    rewrite(path, {schema.METADATA_VERSION_KEY: "99"})
    with pytest.raises(ConfigurationError, match=r"c00-0\.parquet has schema version 99"):
        read_table(find_captures(dataset)[0], "sys_enter_pread64")


def test_a_file_of_another_table_is_refused(dataset: Path) -> None:
    rewrite(one(dataset, "sys_enter_pread64"), {schema.METADATA_TABLE_KEY: "sys_enter_read"})
    with pytest.raises(ConfigurationError, match="sys_enter_read"):
        read_table(find_captures(dataset)[0], "sys_enter_pread64")


def test_a_missing_or_retyped_column_is_named(dataset: Path) -> None:
    path = one(dataset, "sys_enter_pread64")
    rewrite(path, pos=pa.int32())
    with pytest.raises(ConfigurationError, match="'pos' is int32, not int64"):
        read_table(find_captures(dataset)[0], "sys_enter_pread64")
    rewrite(path, drop="pos")
    with pytest.raises(ConfigurationError, match="'pos' is missing"):
        read_table(find_captures(dataset)[0], "sys_enter_pread64")


def test_a_null_where_none_may_be_is_refused(dataset: Path) -> None:
    path = one(dataset, "sys_enter_pread64")
    table = pq.read_table(path)
    values = table["pos"].to_pylist()
    values[3] = None
    field = pa.field("pos", pa.int64(), True)
    pq.write_table(table.set_column(table.schema.get_field_index("pos"), field, [values]), path)
    with pytest.raises(ConfigurationError, match=r"c00-0\.parquet"):
        read_table(find_captures(dataset)[0], "sys_enter_pread64")


def test_what_is_no_dataset_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no dataset"):
        find_captures(tmp_path / "nowhere")
    with pytest.raises(ConfigurationError, match="holds no capture"):
        find_captures(tmp_path)


def test_a_file_of_no_capture_is_refused(dataset: Path) -> None:
    write_table(dataset, "sys_enter_pread64", "stranger", {}, 1)
    with pytest.raises(ConfigurationError, match="stranger-0"):
        find_captures(dataset)


def test_the_manifest_names_path_hash_rows_and_time_range(dataset: Path) -> None:
    capture = find_captures(dataset)[0]
    files = {Path(e["path"]).parent.name: e for e in describe_files(capture, dataset)}
    reads = read_table(capture, "sys_enter_pread64")
    assert reads is not None
    entry = files["sys_enter_pread64"]
    assert entry == {
        "path": "host=h1/date=2024-01-01/sys_enter_pread64/c00-0.parquet",
        "sha256": sha256(one(dataset, "sys_enter_pread64").read_bytes()),
        "rows": 43,
        "from_ns": int(reads["ts"][0]),
        "to_ns": int(reads["ts"][-1]),
    }
    assert "from_ns" not in files["captures"]


# --- captures of several segments ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cut_and_uncut(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A real recording as one segment, and cut between pages into three, as datasets."""
    directory = tmp_path_factory.mktemp("cut")
    with tarfile.open(CAPTURE_TESTS / "fixtures" / "segment.tar.xz") as archive:
        archive.extractall(directory / "source", filter="data")
    (source,) = (directory / "source").iterdir()
    reshape.split(source, directory / "raw", 3)
    convert([source], directory / "uncut")
    convert([directory / "raw"], directory / "cut")
    return directory / "cut", directory / "uncut"


def same_columns(a: dict[str, Any], b: dict[str, Any], but: tuple[str, ...] = ()) -> None:
    assert a.keys() == b.keys()
    for name in a.keys() - set(but):
        assert np.array_equal(a[name], b[name]), name


def test_segments_give_the_tables_of_one_recording(cut_and_uncut: tuple[Path, Path]) -> None:
    (cut,), (uncut,) = map(find_captures, cut_and_uncut)
    assert len(cut.segments) == 3 and len(uncut.segments) == 1
    assert (cut.id, cut.start_ns, cut.end_ns, cut.monotonic_ns) == (
        uncut.id, uncut.start_ns, uncut.end_ns, uncut.monotonic_ns,
    )  # fmt: skip
    compared = 0
    for table in uncut.files:
        if table in ("recorder", "clock_anchors"):  # a row per segment, as recorded
            continue
        expected, found = read_table(uncut, table), read_table(cut, table)
        assert expected is not None and found is not None, table
        same_columns(found, expected, but=("mtime_ns",))
        compared += len(cut.files[table]) > 1
    assert compared > 20


def cut_sample(dataset: Path, capture: str) -> tuple[Path, Path]:
    """A capture of the sample as it is, and its rows in three segments; processors are cut at other times."""
    files = sorted(SAMPLE.glob(f"*/*/*/{capture}*.parquet"))
    uncut, cut = dataset / "uncut", dataset / "cut"
    tables = {path: pq.read_table(path) for path in files}
    (facts,) = (t.to_pylist()[0] for path, t in tables.items() if path.parent.name == "captures")
    span = facts["end_ns"] - facts["start_ns"]
    for path, table in tables.items():
        name = path.parent.name
        (uncut / path.relative_to(SAMPLE)).parent.mkdir(parents=True)
        shutil.copy(path, uncut / path.relative_to(SAMPLE))
        for number in range(3):
            begin, end = (facts["start_ns"] + span * n // 3 for n in (number, number + 1))
            part = table
            if schema.TABLES[name].tracepoint:
                skew = table["cpu"].to_numpy().astype(np.int64) * 300_000
                ts = table["ts"].to_numpy() + skew
                part = table.filter(
                    pa.array((ts >= begin if number else ts < end) & ((ts < end) | (number == 2)))
                )
            elif name == "captures":
                part = pa.Table.from_pylist([facts | {"start_ns": begin, "end_ns": end}], schema=table.schema)
            elif (name in ("descriptors", "tasks") and number) or (name == "losses" and number < 2):
                continue
            target = cut / path.relative_to(SAMPLE).parent / f"{capture}-{number:04d}.parquet"
            target.parent.mkdir(parents=True, exist_ok=True)
            if part.num_rows:
                pq.write_table(part.replace_schema_metadata(schema.arrow_schema(name).metadata), target)
    return cut, uncut


def test_segments_give_the_demand_and_the_fidelity_of_one_recording(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readahead = contract.load("readahead")
    smallest = min(
        find_captures(SAMPLE), key=lambda c: sum(f.stat().st_size for fs in c.files.values() for f in fs)
    )
    datasets = cut_sample(tmp_path, smallest.id)
    (cut,), (uncut,) = map(find_captures, datasets)
    assert len(cut.segments) == 3 and len(uncut.segments) == 1
    demands = [read_demand(readahead, capture) for capture in (cut, uncut)]
    assert demands[0].keys() == demands[1].keys()
    for table, columns in demands[1].items():
        same_columns(dict(demands[0][table]), dict(columns))
    reports = []
    for dataset in datasets:
        emitted = str(tmp_path / f"{dataset.name}.parquet")
        which = ["--subsystem", "readahead"]
        assert main(["pipeline", "replay", str(dataset), "--emit", emitted, *which]) == 0
        capsys.readouterr()
        assert main(["pipeline", "fidelity", str(dataset), "--emitted", emitted, "--json", *which]) == 0
        reports.append(json.loads(capsys.readouterr().out))
    assert reports[0] == reports[1]
    assert reports[0]["total"]["matched"] > 0


def remove_segment(dataset: Path, number: int) -> None:
    for path in dataset.rglob(f"*-{number:04d}.parquet"):
        path.unlink()


@pytest.fixture
def cut_copy(cut_and_uncut: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(cut_and_uncut[0], tmp_path / "copy"))


def test_a_segment_missing_in_between_is_a_loss(cut_copy: Path) -> None:
    (before,) = find_captures(cut_copy)
    assert read_table(before, "losses") is None
    remove_segment(cut_copy, 1)
    (capture,) = find_captures(cut_copy)
    losses = read_table(capture, "losses")
    assert losses is not None
    (_, _, first_end), _, (_, last_start, _) = before.segments
    assert losses["cause"].tolist() == ["segment missing"]
    assert (losses["from_ns"].tolist(), losses["to_ns"].tolist()) == ([first_end], [last_start])
    assert losses["count_upper"].tolist() == [None] and losses["count_lower"].tolist() == [0]


def test_missing_first_segments_are_where_the_capture_begins(cut_copy: Path) -> None:
    (before,) = find_captures(cut_copy)
    remove_segment(cut_copy, 0)
    (capture,) = find_captures(cut_copy)
    assert capture.monotonic_ns == before.segments[1][1]
    assert capture.end_ns == before.end_ns
    assert capture.start_ns == before.start_ns + capture.monotonic_ns - before.monotonic_ns
    assert read_table(capture, "losses") is None and read_table(capture, "descriptors") is None
    read_demand(contract.load("readahead"), capture)


def test_a_segment_that_is_not_complete_is_refused(cut_copy: Path) -> None:
    (facts,) = cut_copy.rglob("captures/*-0001.parquet")
    facts.unlink()
    with pytest.raises(ConfigurationError, match=r"-0001\.parquet belongs to a segment that is not complete"):
        find_captures(cut_copy)


def rows_of(table: str, *rows: dict[str, Any]) -> pa.Table:
    wanted = schema.arrow_schema(table).remove_metadata()
    plain = {pa.string(): "", pa.bool_(): False}
    zero = {f.name: None if f.nullable else plain.get(f.type, 0) for f in wanted}
    return pa.Table.from_pylist([zero | row for row in rows], schema=wanted)


def test_events_of_segments_are_merged_by_time_and_processor() -> None:
    def closes(*rows: tuple[int, int, int]) -> pa.Table:
        return rows_of("sys_enter_close", *({"ts": ts, "cpu": cpu, "fd": fd} for ts, cpu, fd in rows))

    one = closes((1, 0, 1), (5, 1, 2), (7, 1, 3))
    two = closes((5, 0, 4), (7, 1, 5), (9, 0, 6))
    assert segments.merge("sys_enter_close", [one, two])["fd"].to_pylist() == [1, 4, 2, 3, 5, 6]


def test_facts_of_segments_are_merged_sensibly() -> None:
    inode = {"s_dev_major": 8, "s_dev_minor": 1}
    files = segments.merge(
        "files",
        [
            rows_of("files", inode | {"i_ino": 7, "size": 10, "cached_at_start": False, "path": "/a"}),
            rows_of("files", inode | {"i_ino": 5, "size": 1}, inode | {"i_ino": 7, "size": 30}),
        ],
    ).to_pylist()
    found = [(f["i_ino"], f["size"], f["cached_at_start"], f["path"]) for f in files]
    assert found == [(5, 1, None, None), (7, 30, False, "/a")]
    device = {"dev_major": 8, "dev_minor": 1}
    devices = segments.merge(
        "devices",
        [
            rows_of("devices", device | {"read_ahead_kb": 128}),
            rows_of("devices", device | {"read_ahead_kb": 4096, "throttle_read_iops": 9}, {"dev_major": 9}),
        ],
    ).to_pylist()
    assert [(d["dev_major"], d["read_ahead_kb"], d["throttle_read_iops"]) for d in devices] == [
        (8, 128, 9), (9, 0, None),
    ]  # fmt: skip


def test_segments_beyond_ten_thousand_stay_in_order() -> None:
    names = [Path(f"c-{n:04d}.parquet") for n in (10000, 2, 9999)]
    assert [p.stem for p in sorted(names, key=segments.in_order)] == ["c-0002", "c-9999", "c-10000"]
    assert segments.gaps([("c-9999", 0, 1), ("c-10000", 1, 2)]) == []
