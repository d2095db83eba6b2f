from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import polars as pl
import pytest
from conftest import make_params
from datasets import write_dataset

from hindsight.errors import ConfigurationError, VerificationError
from hindsight.pipeline import params, stages
from hindsight.pipeline.params import Layout
from hindsight.subsystems.contract import Subsystem

STAGES = ("ingest", "featurize", "train", "evaluate", "package", "report")


def hashes(root: Path) -> dict[str, str]:
    """Every output below a project."""
    found = {}
    for name in ("build", "reports", "models"):
        for path in sorted((root / name).rglob("*")):
            if path.is_file():
                found[path.relative_to(root).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def blocks(project: Path) -> pl.DataFrame:
    return pl.read_parquet(Layout(project, "toy").evaluate / "blocks.parquet")


def cost(table: pl.DataFrame, evaluation: str, arm: str) -> int:
    rows = table.filter((pl.col("evaluation") == evaluation) & (pl.col("arm") == arm))
    return int(rows["stall_ns"].sum())


def test_every_arm_runs_on_the_same_blocks(project: Path, toy: Subsystem) -> None:
    table = blocks(project)
    arms = {
        "stock",
        "rule",
        "random",
        "null",
        "best_known",
        "model",
        *(f"static:{a.name}" for a in toy.actions),
    }
    keys = ["capture", "host", "workload", "program", "device", "block", "recorded_ns"]
    for evaluation in ("tomorrow", "new_workload"):
        part = table.filter(pl.col("evaluation") == evaluation)
        assert set(part["arm"]) == arms
        assert set(part["capture"]) == {"c10", "c11", "c12", "c13"}
        stock = part.filter(pl.col("arm") == "stock").select(keys)
        for arm in arms:
            assert part.filter(pl.col("arm") == arm).select(keys).equals(stock)


def test_the_model_beats_stock_and_the_null_model_does_not_beat_what_needs_no_labels(project: Path) -> None:
    table = blocks(project)
    assert cost(table, "tomorrow", "model") < 0.8 * cost(table, "tomorrow", "stock")
    for evaluation in ("tomorrow", "new_workload"):
        best_static = min(cost(table, evaluation, a) for a in set(table["arm"]) if a.startswith("static:"))
        assert cost(table, evaluation, "null") >= min(best_static, cost(table, evaluation, "stock"))
        assert cost(table, evaluation, "null") > cost(table, evaluation, "model")


def test_the_replay_matches_the_record_and_a_changed_record_is_noticed(
    project: Path, toy: Subsystem, tmp_path: Path
) -> None:
    fidelity = json.loads((Layout(project, "toy").ingest / "fidelity.json").read_text())
    assert fidelity["total"]["exact_share"] == 1.0 and fidelity["total"]["recorded"] > 1000
    write_dataset(tmp_path / "data" / "toy", passes=1, reads=100)
    changed = next(tmp_path.glob("data/toy/*/*/page_cache_ra_order/c01-0.parquet"))
    shutil.copy(changed.with_name("c02-0.parquet"), changed)
    stages.run("ingest", params.load(make_params(tmp_path)), toy)
    fidelity = json.loads((Layout(tmp_path, "toy").ingest / "fidelity.json").read_text())
    assert fidelity["captures"]["c00"]["exact_share"] == 1.0
    assert fidelity["captures"]["c01"]["exact_share"] < 0.5
    assert fidelity["captures"]["c01"]["first_divergence"]


def test_the_manifest_says_what_carries_no_verdict_and_why(project: Path) -> None:
    manifest = json.loads((Layout(project, "toy").ingest / "manifest.json").read_text())
    capture = manifest["captures"][0]
    assert capture["streams"] == 2 and capture["eligible_streams"] == 1
    assert capture["excluded"] == {"fewer than ten reads": {"recorded_ns": 3000, "streams": 1}}
    assert str(project) not in json.dumps(manifest)


def test_a_capture_without_demand_is_left_out_and_named(toy: Subsystem, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "data" / "toy", passes=1, reads=50)
    next(dataset.glob("*/*/sys_enter_pread64/c01-0.parquet")).unlink()
    stages.run("ingest", params.load(make_params(tmp_path)), toy)
    manifest = json.loads((Layout(tmp_path, "toy").ingest / "manifest.json").read_text())
    assert list(manifest["without_demand"]) == ["c01"]
    assert "no reads" in manifest["without_demand"]["c01"]
    assert [c["capture"] for c in manifest["captures"]] == ["c00", "c02", "c03"]


def test_what_an_earlier_run_left_is_not_among_the_outputs(toy: Subsystem, tmp_path: Path) -> None:
    write_dataset(tmp_path / "data" / "toy", passes=1, reads=50)
    loaded = params.load(make_params(tmp_path))
    stale = Layout(tmp_path, "toy").ingest / "demand" / "old" / "ops.parquet"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"")
    stages.run("ingest", loaded, toy)
    assert not stale.exists()


def test_the_whole_pipeline_twice_gives_the_same_bytes(toy: Subsystem, tmp_path: Path) -> None:
    found = []
    for name in ("first", "second/in/another/place"):
        root = tmp_path / name
        write_dataset(root / "data" / "toy", reads=300)
        loaded = params.load(make_params(root, train={"trees": 8, "depth": 3}))
        for stage in STAGES:
            stages.run(stage, loaded, toy)
        found.append(hashes(root))
    assert found[0] == found[1]
    names = set(found[0])
    assert {
        "build/toy/train/model.ubj",
        "build/toy/evaluate/report.json",
        "models/exported/toy-0.1.0/golden.parquet",
        "reports/toy/report.html",
        "reports/toy/metrics.json",
        "reports/toy/plots/delay.csv",
    } <= names


def copy_of(project: Path, tmp_path: Path) -> Path:
    root = tmp_path / "copy"
    shutil.copytree(project, root)
    return root


def test_training_on_the_program_that_is_tested_is_refused(
    project: Path, toy: Subsystem, tmp_path: Path
) -> None:
    root = copy_of(project, tmp_path)
    path = Layout(root, "toy").train / "training.json"
    training = json.loads(path.read_text())
    training["without"]["db"]["captures"].append("c01")
    path.write_text(json.dumps(training))
    with pytest.raises(VerificationError, match="new_workload"):
        stages.run("evaluate", params.load(root / "params.yaml"), toy)


def test_training_on_what_comes_later_is_refused(project: Path, toy: Subsystem, tmp_path: Path) -> None:
    root = copy_of(project, tmp_path)
    path = Layout(root, "toy").train / "training.json"
    training = json.loads(path.read_text())
    training["model"]["captures"].append("c10")
    path.write_text(json.dumps(training))
    with pytest.raises(VerificationError, match="tomorrow"):
        stages.run("evaluate", params.load(root / "params.yaml"), toy)


def test_one_program_recorded_once_leaves_nothing_to_test_on(toy: Subsystem, tmp_path: Path) -> None:
    from datasets import write_capture

    write_capture(tmp_path / "data" / "toy", "c", "scan", "reader", 10**18, ("phases",))
    loaded = params.load(make_params(tmp_path, train={"trees": 4}))
    for stage in ("ingest", "featurize", "train"):
        stages.run(stage, loaded, toy)
    with pytest.raises(ConfigurationError, match="no capture to test on"):
        stages.run("evaluate", loaded, toy)


def test_a_stage_without_its_predecessor_says_so(toy: Subsystem, tmp_path: Path) -> None:
    loaded = params.load(make_params(tmp_path))
    for stage in STAGES[1:]:
        with pytest.raises(ConfigurationError, match="cannot be read"):
            stages.run(stage, loaded, toy)


def test_the_delay_of_advice_is_replayed(project: Path) -> None:
    report = json.loads((Layout(project, "toy").evaluate / "report.json").read_text())
    rows = {(r["arm"], r["delay"]): r["cost"]["value"] for r in report["delay"]}
    assert set(rows) == {(arm, delay) for arm in ("model", "rule") for delay in (0, 100_000_000)}
    assert rows["model", 0] != rows["model", 100_000_000]
