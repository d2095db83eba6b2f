from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import write_capture, write_dataset, write_table

from hindsight.capture import schema
from hindsight.errors import ConfigurationError
from hindsight.pipeline.dataset import find_captures, read_table
from hindsight.pipeline.manifest import describe_files
from hindsight.pipeline.store import sha256


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
