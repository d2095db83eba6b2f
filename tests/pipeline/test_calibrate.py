"""The command, on the toy's blocks and on what this repository holds."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from conftest import ROOT, Command

from hindsight.errors import ConfigurationError
from hindsight.pipeline import calibrate
from hindsight.pipeline.evidence import calibration
from hindsight.pipeline.evidence.thresholds import Thresholds
from hindsight.pipeline.params import Layout, load
from hindsight.subsystems import contract

MEASURED = ROOT / "data" / "measured" / "readahead" / "measured.parquet"


def test_the_command_prints_json_and_ends_by_what_is_outside(project: Path, command: Command) -> None:
    arguments = ("pipeline", "calibrate", "--subsystem", "toy", "--params", project / "params.yaml")
    done = command(*arguments, "--draws", 20, "--json")
    result = json.loads(done.stdout)
    assert done.returncode == (1 if result["outside"] else 0), done.stderr
    assert {row["data"] for row in result["null"]} == {"tomorrow", "new_workload"}
    assert result["draws"] == 20 and result["bootstrap_draws"] == 200
    again = command(*arguments, "--draws", 20, "--json")
    assert again.stdout == done.stdout
    table = command(*arguments, "--draws", 20)
    assert "new_workload" in table.stdout and "the detectable" in table.stdout


def test_what_cannot_be_calibrated_is_said(project: Path, command: Command, tmp_path: Path) -> None:
    arguments = ("pipeline", "calibrate", "--subsystem", "toy", "--params")
    few = command(*arguments, project / "params.yaml", "--draws", 3)
    assert few.returncode == 2 and "3 draws say nothing" in few.stderr
    unknown = command(*arguments, project / "params.yaml", "--arm", "nobody")
    assert unknown.returncode == 2 and "rule" in unknown.stderr
    (tmp_path / "params.yaml").write_text((project / "params.yaml").read_text())
    nothing = command(*arguments, tmp_path / "params.yaml")
    assert nothing.returncode == 3 and "dvc repro" in nothing.stderr


def test_stock_runs_come_in_the_order_of_their_rounds(tmp_path: Path) -> None:
    assert calibrate.stock_runs(tmp_path, "toy") == {}
    path = tmp_path / "data" / "measured" / "toy" / "measured.parquet"
    path.parent.mkdir(parents=True)
    columns = {
        "profile": ["P1"] * 5,
        "workload": ["w"] * 5,
        "setting": ["stock", "stock", "model", "stock", "stock"],
        "metric": ["elapsed_ns", "elapsed_ns", "elapsed_ns", "requests", "elapsed_ns"],
        "round": [3, 1, 1, 2, 2],
        "value": [30, 10, 7, 8, 20],
    }
    pl.DataFrame(columns).write_parquet(path)
    assert calibrate.stock_runs(tmp_path, "toy") == {("w", "P1"): [10, 20, 30]}
    pl.DataFrame(columns).drop("round").write_parquet(path)
    with pytest.raises(ConfigurationError, match="not the result of a validation"):
        calibrate.stock_runs(tmp_path, "toy")


def test_two_arms_of_stock_runs_of_the_lab_do_not_differ() -> None:
    measured = calibrate.stock_runs(ROOT, "readahead")
    assert len(measured) >= 9 and min(map(len, measured.values())) >= 10
    result = calibration.calibrate(calibration.of_repeats(measured), Thresholds(draws=300), 100)
    assert result["outside"] == []
    text = calibrate.markdown({"subsystem": "readahead", "arm": "model", **result})
    assert "| lab | stock and stock | labels of neighbours | all workloads |" in text


@pytest.mark.slow
def test_the_blocks_of_this_repository() -> None:
    params = load(ROOT / "params.yaml")
    if not (Layout(params.root, "readahead").evaluate / "blocks.parquet").exists():
        pytest.skip("nothing was evaluated yet: `make repro`")
    result = calibrate.calibrate(params, contract.load("readahead"), 60)
    overall = [row for row in result["null"] if row["comparison"] == "all workloads"]
    assert {row["data"] for row in overall} == {"tomorrow", "new_workload", "lab"}
    assert [row["data"] for row in overall if row["status"] == "above"] == []
    powers = [row for row in result["planted"] if row["detectable"]]
    assert len(powers) == len(overall) and all(row["status"] != "below" for row in powers)
