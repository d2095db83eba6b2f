"""The real command in a process of its own: what it prints, and the exit status of bad input."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import Command, make_params
from datasets import write_capture, write_dataset, write_table

from hindsight.capture import schema


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data" / "toy", passes=1, reads=60)


def fails(done: subprocess.CompletedProcess[str], status: int, *words: str) -> None:
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert done.stdout == ""


def test_replay_gives_the_same_file_without_the_decision_tables(
    command: Command, dataset: Path, tmp_path: Path
) -> None:
    asked = ("pipeline", "replay", dataset, "--subsystem", "toy", "--arm", "stock", "--emit")
    assert command(*asked, tmp_path / "with").returncode == 0
    for path in dataset.glob("*/*/page_cache_ra_order/*.parquet"):
        path.write_bytes(b"not even Parquet")
    assert command(*asked, tmp_path / "altered").returncode == 0
    for path in dataset.glob("*/*/page_cache_ra_order"):
        shutil.rmtree(path)
    assert command(*asked, tmp_path / "without").returncode == 0
    data = (tmp_path / "with").read_bytes()
    assert data == (tmp_path / "altered").read_bytes() == (tmp_path / "without").read_bytes()
    assert pq.read_table(tmp_path / "with").num_rows > 100


def test_fidelity_compares_a_file_with_the_record(command: Command, dataset: Path, tmp_path: Path) -> None:
    emitted = tmp_path / "emitted.parquet"
    command("pipeline", "replay", dataset, "--subsystem", "toy", "--emit", emitted)
    asked = ("pipeline", "fidelity", dataset, "--subsystem", "toy", "--emitted")
    done = command(*asked, emitted, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["total"]["exact_share"] == 1.0
    assert set(result["captures"]) == {"c00", "c01", "c02", "c03"}
    fails(command(*asked, emitted, "--dev", "7:1"), 2, "together")
    fails(command(*asked, emitted, "--dev", "7:1", "--inode", "9"), 3, "no stream is of the file 7:1/9")
    table = pq.read_table(emitted)
    pq.write_table(table.filter(table["size"].to_numpy() > 0).slice(5), emitted)
    done = command(*asked, emitted)
    assert done.returncode == 0 and "diverges first" in done.stdout and "100.00 %" in done.stdout
    pq.write_table(table.drop_columns(["capture"]), emitted)
    fails(command(*asked, emitted), 3, "does not hold emitted decisions")
    fails(command(*asked, tmp_path / "nothing"), 3, "nothing")


def test_fidelity_refuses_decisions_of_another_dataset(
    command: Command, dataset: Path, tmp_path: Path
) -> None:
    write_capture(tmp_path / "other", "x", "w", "p", 10**18, ("run",), reads=60)
    emitted = tmp_path / "emitted.parquet"
    command("pipeline", "replay", tmp_path / "other", "--subsystem", "toy", "--emit", emitted)
    fails(command("pipeline", "fidelity", dataset, "--subsystem", "toy", "--emitted", emitted), 3, "capture")


def test_headroom_needs_neither_model_nor_parameters(command: Command, dataset: Path, tmp_path: Path) -> None:
    asked = ("pipeline", "headroom", dataset, "--subsystem", "toy")
    done = command(*asked, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    saved = [line["headroom"] for line in result["lines"]]
    assert saved == sorted(saved, reverse=True) and saved[0] > 0
    assert sum(line["stock"]["stall_ns"] for line in result["lines"]) == result["total"]["stock"]["stall_ns"]
    for line in result["lines"]:
        known = line["best_known"]["stall_ns"]
        assert known <= min(line["stock"]["stall_ns"], line["best_static"]["stall_ns"])
    programs = {(line["program"], line["best_static"]["action"]) for line in result["lines"]}
    assert ("reader", "window=64") in programs and ("db", "window=1") in programs
    assert result["excluded_streams"]["fewer than ten reads"]["streams"] == 4
    done = command(*asked, "--top", 2, cwd=tmp_path)
    assert "headroom" in done.stdout and "more lines hold" in done.stdout
    assert "calibrated on these very captures" in " ".join(done.stdout.split())
    assert all(len(row) < 120 for row in done.stdout.splitlines())
    assert "\x1b" not in done.stdout


def test_stages_by_the_command(command: Command, dataset: Path, tmp_path: Path) -> None:
    file = make_params(tmp_path)
    done = command("pipeline", "ingest", "--subsystem", "toy", "--params", file)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "" and "4 captures" in done.stderr
    assert (tmp_path / "build" / "toy" / "ingest" / "manifest.json").is_file()
    fails(command("pipeline", "train", "--subsystem", "toy", "--params", file), 3, "dvc repro")
    fails(command("pipeline", "show", "--subsystem", "toy", "--params", file), 3, "dvc repro")


def test_a_truncated_file(command: Command, dataset: Path, tmp_path: Path) -> None:
    path = next(dataset.glob("*/*/sys_enter_pread64/c02-0.parquet"))
    path.write_bytes(path.read_bytes()[:-20])
    for line in (
        ("ingest", "--params", make_params(tmp_path)),
        ("replay", dataset, "--emit", tmp_path / "e"),
        ("headroom", dataset),
    ):
        fails(command("pipeline", *line, "--subsystem", "toy"), 3, "c02-0.parquet", "capture convert")
    assert not (tmp_path / "e").exists()


def test_a_wrong_schema_version(command: Command, dataset: Path) -> None:
    path = next(dataset.glob("*/*/sys_enter_pread64/c02-0.parquet"))
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({schema.METADATA_VERSION_KEY: "0"}), path)
    fails(command("pipeline", "headroom", dataset, "--subsystem", "toy"), 3, "c02-0.parquet", "version 0")


def test_an_empty_dataset_and_none_at_all(command: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "nowhere"):
        fails(command("pipeline", "headroom", tmp_path / name, "--subsystem", "toy"), 3, name)
    fails(command("pipeline", "ingest", "--subsystem", "toy", "--params", make_params(tmp_path)), 3, "toy")


def test_a_dataset_without_reads(command: Command, tmp_path: Path) -> None:
    facts = {"capture": "c", "host": "h", "start_ns": 1, "end_ns": 2}
    write_table(tmp_path / "data" / "toy", "captures", "c", facts, 1)
    for line in (
        ("ingest", "--params", make_params(tmp_path)),
        ("replay", tmp_path / "data" / "toy", "--emit", tmp_path / "e"),
    ):
        fails(command("pipeline", *line, "--subsystem", "toy"), 3, "capture c", "no reads")


def test_a_dataset_without_eligible_streams(command: Command, tmp_path: Path) -> None:
    write_capture(tmp_path / "data" / "toy", "c", "w", "p", 10**18, ("run",), reads=5)
    done = command("pipeline", "headroom", tmp_path / "data" / "toy", "--subsystem", "toy")
    fails(done, 3, "no stream", "fewer than ten reads")


def test_places_that_cannot_be_written(command: Command, dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "e.parquet", tmp_path):
        done = command("pipeline", "replay", dataset, "--subsystem", "toy", "--emit", place)
        fails(done, 3, "cannot be written")
    done = command("pipeline", "replay", dataset, "--subsystem", "toy", "--emit", "/sys/kernel/e.parquet")
    fails(done, 4, "cannot be written")
    file = make_params(tmp_path)
    (tmp_path / "build").write_text("in the way")
    fails(command("pipeline", "ingest", "--subsystem", "toy", "--params", file), 3, "cannot be written")


def test_bad_usage(command: Command, dataset: Path, tmp_path: Path) -> None:
    fails(command("pipeline", "headroom", dataset, "--subsystem", "nothing"), 3, "toy")
    fails(command("pipeline", "replay", dataset, "--arm", "model", "--emit", tmp_path / "e"), 2)
    fails(command("pipeline"), 2)
    fails(command("pipeline", "ingest", "--subsystem", "toy", "--params", tmp_path / "p.yaml"), 3, "p.yaml")


def test_help_is_instant_because_it_imports_nothing_heavy(command: Command) -> None:
    import sys

    line = (
        "import sys; from hindsight.command import main\n"
        "try: main(['pipeline', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'numpy', 'numba', 'pyarrow', 'polars', 'xgboost', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("[]\n")
    assert "headroom" in done.stdout
