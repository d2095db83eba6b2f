from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hindsight.errors import ConfigurationError, UsageError
from hindsight.lab import device as lab_device
from hindsight.lab import sample
from hindsight.lab.provenance import PROVENANCE
from hindsight.lab.quiet import Patience
from hindsight.lab.reclaim import discard, disturbed_share
from hindsight.lab.recording import Run
from hindsight.lab.sample import SampleOptions, record_sample
from hindsight.lab.workloads import WORKLOADS, Workload
from hindsight.lab.workloads import fio as fio_workloads


def rows(dataset: Path, table: str) -> list[dict[str, object]]:
    paths = sorted(dataset.glob(f"host=*/date=*/{table}/*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


@pytest.fixture
def tracing(lab_host: None) -> None:
    if not Path("/sys/kernel/tracing/events").is_dir() and not Path("/sys/kernel/tracing").is_dir():
        pytest.skip("this kernel has no tracefs")


def test_a_tiny_recording_end_to_end(
    tracing: None, fio: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fio_workloads, "FILE_BYTES", 32 << 20)
    output = tmp_path / "out" / "sample"
    options = SampleOptions(
        output,
        profiles=("P2",),
        passes=1,
        seconds=0.3,
        only=("fio-runs",),
        images=images,
        image_bytes=1 << 28,
    )
    before = {device.name for device in lab_device.existing()[0]}
    size = record_sample(options)
    assert {device.name for device in lab_device.existing()[0]} == before
    assert [path.name for path in output.parent.iterdir()] == ["sample"], (
        "something was left beside the output"
    )
    assert size == sum(path.stat().st_size for path in output.rglob("*") if path.is_file())

    facts = json.loads((output / PROVENANCE).read_text())
    (captured,) = rows(output, "captures")
    (run,) = facts["runs"]
    assert captured["label"] == run["label"] == "fio-runs"
    assert captured["program"] == "fio"
    assert captured["capture"] == run["capture"]
    assert rows(output, "losses") == [] and run["events_lost"] == 0

    major, minor = map(int, facts["devices"][0]["number"].split(":"))
    (device,) = [d for d in rows(output, "devices") if (d["dev_major"], d["dev_minor"]) == (major, minor)]
    assert device["throttle_read_iops"] == 3000
    assert device["throttle_read_bps"] == 125 << 20
    assert device["read_ahead_kb"] == 128

    reads = [row for row in rows(output, "sys_enter_pread64") if row["count"] == 16384]
    assert len(reads) == int(next(w for w in run["command"] if w.startswith("--number_ios=")).split("=")[1])
    batches = rows(output, "mm_filemap_get_pages")
    assert batches and {(b["s_dev_major"], b["s_dev_minor"]) for b in batches} == {(major, minor)}
    completed = rows(output, "block_rq_complete")
    assert 0 < len(completed) <= run["device_read_requests"] + 8


def test_another_directory_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(ConfigurationError, match="holds no dataset of the lab"):
        record_sample(SampleOptions(tmp_path, only=("grep-tree",)))
    assert (tmp_path / "mine").read_text() == "precious"


@pytest.mark.parametrize(
    "options",
    [{"profiles": ("P9",)}, {"only": ("nothing",)}, {"passes": 0}, {"seconds": 0.0}, {"profiles": ()}],
)
def test_nonsense_is_refused_before_anything_is_made(tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        record_sample(SampleOptions(tmp_path / "out", **options))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def _write(dataset: Path, table: str, events: list[tuple[int, int, int]], **more: int) -> None:
    """Events of (time, inode, page) on device 7:1."""
    path = dataset / "host=h/date=2026-01-01" / table / "s-0000.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    ts, inodes, pages = zip(*events, strict=True)
    columns = {
        "ts": ts,
        "s_dev_major": [7] * len(ts),
        "s_dev_minor": [1] * len(ts),
        "i_ino": inodes,
        "index": pages,
    }
    if table == "mm_filemap_get_pages":
        columns["last_index"] = [page + 4 for page in pages]
    if table == "mm_filemap_delete_from_page_cache":
        columns["order"] = [2] * len(ts)
    pq.write_table(pa.table(columns), path)


@pytest.mark.parametrize(
    ("deleted", "share"),
    [
        ((15, 12, 0), 1 / 2),  # read again later
        ((15, 12, 300), 1 / 2),  # not read again, but near enough to be looked at
        ((15, 12, 9000), 0),  # too far away from what is read later
        ((25, 12, 0), 0),  # nothing of the file is read any more
        ((15, 13, 50), 0),
        ((15, 99, 0), 0),  # never accessed
        ((15, 1, 0), 0),  # the file system's own
    ],
)
def test_pages_taken_from_files_are_noticed(
    tmp_path: Path, deleted: tuple[int, int, int], share: float
) -> None:
    batches = [(10, 12, 0), (11, 13, 50), (12, 13, 54), (20, 12, 0), (21, 1, 0)]
    _write(tmp_path, "mm_filemap_get_pages", batches)
    assert disturbed_share(tmp_path, "s-0000") == 0
    _write(tmp_path, "mm_filemap_delete_from_page_cache", [deleted])
    assert disturbed_share(tmp_path, "s-0000") == share
    assert disturbed_share(tmp_path, "other-0000") == 0
    discard(tmp_path, "s-0000")
    assert list(tmp_path.rglob("*.parquet")) == []


def test_faults_are_accesses(tmp_path: Path) -> None:
    _write(tmp_path, "mm_filemap_get_pages", [(10, 12, 0)])
    _write(tmp_path, "mm_filemap_delete_from_page_cache", [(20, 12, 0), (20, 14, 7)])
    _write(tmp_path, "mm_filemap_fault", [(9, 14, 7), (30, 14, 7), (5, 12, 1)])
    assert disturbed_share(tmp_path, "s-0000") == 2 / 4


def _cli(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ) | ({"PATH": path} if path is not None else {})
    return subprocess.run(
        [sys.executable, "-m", "hindsight", "lab", *arguments],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip


def test_help_has_examples_and_imports_nothing_heavy() -> None:
    result = _cli("--help")
    assert result.returncode == 0
    assert "record-sample" in result.stdout and "sudo hindsight lab" in result.stdout
    code = (
        "import sys, hindsight.lab.cli as cli, argparse; cli.configure(argparse.ArgumentParser());"
        "print(sorted({'pyarrow', 'numba', 'polars', 'xgboost', 'numpy'} & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_exit_codes() -> None:
    assert _cli("record-sample", "--only", "nothing").returncode == 2
    assert _cli("device", "create", "x", "--profile", "P9").returncode == 2
    assert _cli("device", "remove").returncode == 2
    missing = _cli("device", "remove", "no-such-device")
    assert missing.returncode == 3 and "device list" in missing.stderr


def test_the_list_of_workloads_names_each() -> None:
    result = _cli("workloads")
    assert result.returncode == 0
    assert "fio-runs" in result.stdout and len(result.stdout.splitlines()) >= 12


@pytest.mark.parametrize(
    ("shares", "kept", "attempts"),
    [
        ([0.0], 0, 1),
        ([0.5, 0.1], 1, 2),
        ([0.9, 0.4, 0.6, 0.8], 1, 4),
        ([0.5, 0.5, 0.5, 0.5], 0, 4),
    ],
)
def test_the_least_disturbed_recording_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shares: list[float], kept: int, attempts: int
) -> None:
    made: list[Run] = []

    def record(workload: Workload, *_: object) -> Run:
        segment = tmp_path / "raw" / f"take{len(made)}-0000"
        segment.mkdir(parents=True)
        _write_take(tmp_path / "dataset", segment.name)
        made.append(Run(workload.name, "fio", "P1", 1, 1, (), segment, 10, 0, 1, 1, 0))
        return made[-1]

    remaining = iter(shares)
    monkeypatch.setattr(sample, "record_workload", record)
    monkeypatch.setattr(sample, "disturbed_share", lambda *_: next(remaining))
    monkeypatch.setattr("hindsight.capture.conversion.convert.convert", lambda *_, **__: None)
    device = lab_device.LabDevice("x", lab_device.PROFILES["P1"], "", 0, "")
    run = sample._run(
        WORKLOADS["fio-runs"], device, 1, 1, SampleOptions(tmp_path), tmp_path / "raw", tmp_path / "dataset",
        Patience(0),
    )  # fmt: skip
    assert run.segment == made[kept].segment and run.attempts == attempts == len(made)
    assert [path.name for path in (tmp_path / "raw").iterdir()] == [run.segment.name]
    assert [path.stem for path in tmp_path.rglob("*.parquet")] == [run.segment.name]


def _write_take(dataset: Path, segment: str) -> None:
    path = dataset / "host=h/date=2026-01-01/files" / f"{segment}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"i_ino": [1]}), path)
