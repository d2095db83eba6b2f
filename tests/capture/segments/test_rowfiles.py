"""Files of sampled rows in a segment: appended, closed, torn by a crash, converted."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hindsight.capture.conversion.convert import convert
from hindsight.capture.segments.checksum import checksum
from hindsight.capture.segments.rowfiles import Columns, RowFiles, read_rows, row_files, row_table
from hindsight.capture.segments.segment import MANIFEST, open_segment
from hindsight.errors import VerificationError

ROW = {"ts": 5, "source": "vmstat", "scope": "", "name": "pgfault", "value": 7, "unit": ""}
ROW |= {"total": True, "reset": False}


def test_rows_come_back_in_order(tmp_path: Path) -> None:
    files = RowFiles(tmp_path)
    assert files.append({"counters": [ROW, ROW | {"ts": 6}]})
    assert files.append({"counters": []})
    assert files.append({"others": [{"x": 1}]})
    files.close()
    files.close()
    assert not files.append({"counters": [ROW]})
    assert [file.name for file in row_files(tmp_path)] == ["counters.jsonl", "others.jsonl"]
    assert list(read_rows(row_files(tmp_path)[0])) == [[ROW, ROW | {"ts": 6}]]


def test_columns_come_back_as_rows(tmp_path: Path) -> None:
    files = RowFiles(tmp_path)
    assert files.append({"counters": Columns([{"ts": 5, "name": ["a", "b"], "scope": [None, "x"]}])})
    assert files.append({"counters": Columns([{"ts": 6, "name": []}])})
    assert files.append({"counters": Columns([{"ts": 7, "name": ["a"], "scope": []}])})  # no rows at all
    assert files.append({"counters": Columns([{"ts": 8}])})
    assert files.append(
        {"counters": Columns([{"ts": 9, "name": ["c"]}, {"ts": 9, "name": []}, {"ts": [1, 2]}])}
    )
    assert files.append({"counters": Columns([{"ts": 9, "name": ["c"]}, {"ts": 9}])})  # one group is none
    assert files.append({"counters": [ROW]})
    files.close()
    assert list(read_rows(row_files(tmp_path)[0])) == [
        [{"ts": 5, "name": "a", "scope": None}, {"ts": 5, "name": "b", "scope": "x"}],
        [],
        [{"ts": 9, "name": "c"}, {"ts": 1}, {"ts": 2}],
        [ROW],
    ]


def test_a_sample_may_have_rows_of_several_tables(tmp_path: Path) -> None:
    files = RowFiles(tmp_path)
    for ts in (1, 2):
        sample = {"b": [{"ts": ts}], "none": [], "a": Columns([{"ts": ts, "name": ["x", "y"]}])}
        assert files.append(sample)
    files.close()
    assert not files.append({"b": [{"ts": 3}]})
    a, b = row_files(tmp_path)
    assert [len(rows) for rows in read_rows(a)] == [2, 2]
    assert list(read_rows(b)) == [[{"ts": 1}], [{"ts": 2}]]


def test_a_sample_is_in_one_segment_as_a_whole(tmp_path: Path) -> None:
    """However a segment closes while others append, its tables have the same samples."""
    for number in range(50):
        segment = tmp_path / str(number)
        segment.mkdir()
        files = RowFiles(segment)
        assert files.append({"a": [{"ts": 0}], "b": [{"ts": 0}]})

        def append(files: RowFiles = files) -> None:
            while files.append({"a": [{"ts": 1}], "b": [{"ts": 1}]}):
                pass

        threads = [threading.Thread(target=append) for _ in range(2)]
        for thread in threads:
            thread.start()
        time.sleep(0.001 * (number % 5))
        files.close()
        for thread in threads:
            thread.join()
        a, b = (len(list(read_rows(file))) for file in row_files(segment))
        assert a == b


@given(st.data())
def test_what_a_crash_tore_is_left_out_and_the_rest_is_whole(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("torn")
    files = RowFiles(directory)
    samples = [[ROW | {"value": number}] for number in range(10)]
    for sample in samples:
        files.append({"counters": sample})
    files.close()
    (file,) = row_files(directory)
    size = data.draw(st.integers(0, file.stat().st_size))
    os.truncate(file, size)
    found = list(read_rows(file))
    assert found == samples[: len(found)]
    assert len(found) >= size * 10 // (file.stat().st_size or 1) - 10
    shutil.rmtree(directory)


@pytest.mark.parametrize(
    "name", ["rows/../x.jsonl", "rows/A.jsonl", "rows/a.json", "raw/a.jsonl", "rows/.jsonl"]
)
def test_other_names_are_none(name: str) -> None:
    assert row_table(name) is None


def with_rows(recorded: Path, tmp_path: Path, table: str, rows: list[Any]) -> Path:
    """A copy of the recorded segment with a file of rows, listed in its manifest."""
    segment = tmp_path / recorded.name
    shutil.copytree(recorded, segment)
    files = RowFiles(segment)
    files.append({table: rows})
    files.close()
    manifest = json.loads((segment / MANIFEST).read_text())
    for file in row_files(segment):
        data = file.read_bytes()
        manifest["files"][f"rows/{file.name}"] = {"bytes": len(data), "crc32": checksum(data)}
    (segment / MANIFEST).write_text(json.dumps(manifest))
    return segment


def test_rows_become_a_table(recorded: Path, tmp_path: Path) -> None:
    segment = with_rows(recorded, tmp_path, "counters", [ROW, ROW | {"value": -1}])
    (result,) = convert([segment], tmp_path / "out")
    assert result.tables["counters"] == 2
    (file,) = (tmp_path / "out").glob("host=*/date=*/counters/*.parquet")
    assert pq.read_table(file).to_pylist() == [ROW, ROW | {"value": -1}]


@pytest.mark.parametrize(
    ("table", "rows"),
    [
        ("nothing", [ROW]),
        ("captures", [ROW]),
        ("sys_enter_read", [ROW]),
        ("counters", [{"ts": 1}]),
        ("counters", [ROW | {"value": "many"}]),
        ("counters", [ROW | {"value": 1 << 70}]),
        ("counters", [ROW | {"value": None}]),
    ],
)
def test_rows_that_fit_no_table_are_refused(
    recorded: Path, tmp_path: Path, table: str, rows: list[Any]
) -> None:
    segment = with_rows(recorded, tmp_path, table, rows)
    with pytest.raises(VerificationError):
        convert([segment], tmp_path / "out")
    assert not list((tmp_path / "out").glob("host=*/date=*/captures/*.parquet"))


def test_a_changed_file_of_rows_is_found(recorded: Path, tmp_path: Path) -> None:
    segment = with_rows(recorded, tmp_path, "counters", [ROW])
    (file,) = row_files(segment)
    file.write_bytes(file.read_bytes().replace(b"pgfault", b"pgfaulu"))
    with pytest.raises(VerificationError, match="checksum"):
        open_segment(segment)
