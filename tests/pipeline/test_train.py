from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from hindsight.errors import ConfigurationError
from hindsight.models import trees
from hindsight.pipeline import params
from hindsight.pipeline.featurize import read_decisions
from hindsight.pipeline.labels import States, join
from hindsight.pipeline.params import Layout
from hindsight.pipeline.train import Trainer, examples, fit, input_names, shuffled
from hindsight.subsystems.contract import Subsystem

LABELS = {"scale": 100, "clip": 2.0}


def states(n: int, generator: np.random.Generator) -> States:
    """The first feature decides which action is good."""
    features = generator.integers(0, 2, (n, 3)).astype(np.float32)
    kept = generator.integers(500, 1000, n)
    costs = np.repeat(kept[:, None], 5, axis=1)
    costs[:, 0] = np.where(features[:, 0] > 0, kept // 2, kept * 2)
    costs[:, 1] = np.where(features[:, 0] > 0, kept * 2, kept // 2)
    return States(np.arange(n, dtype=np.int32), np.zeros(n, np.int32), features, costs, np.ones(n, np.bool_))


@pytest.fixture(scope="module")
def options() -> dict[str, object]:
    root = Path(__file__).parents[2]
    return dict(params.load(root / "params.yaml")["train"]) | {"trees": 20, "depth": 6}


def test_a_state_gives_a_row_per_candidate(toy: Subsystem) -> None:
    found = states(7, np.random.default_rng(1))
    rows = examples(toy, found, LABELS)
    assert rows.inputs.shape == (35, 4) and rows.inputs.dtype == np.float32
    assert np.array_equal(rows.inputs[::5, :3], found.features)
    assert np.all(rows.targets[4::5] == 0)
    assert np.all(rows.weights[:5] == rows.weights[0]) and rows.weights.dtype == np.float32


def test_it_learns_which_action_is_good(toy: Subsystem, options: dict[str, object]) -> None:
    rows = examples(toy, states(400, np.random.default_rng(1)), LABELS)
    forest = trees.load(bytes(fit(rows, input_names(toy), options).save_raw("ubj")))
    test = examples(toy, states(100, np.random.default_rng(2)), LABELS)
    margins = trees.margins(forest, test.inputs).reshape(-1, 5)
    good = np.where(test.inputs[::5, 0] > 0, 0, 1)
    assert np.mean(np.argmin(margins[:, :4], axis=1) == good) > 0.95


def test_training_twice_gives_the_same_bytes(toy: Subsystem, options: dict[str, object]) -> None:
    rows = examples(toy, states(300, np.random.default_rng(1)), LABELS)
    first, second = (bytes(fit(rows, input_names(toy), options).save_raw("ubj")) for _ in range(2))
    assert first == second


def test_shuffled_labels_carry_no_average_gain(toy: Subsystem) -> None:
    rows = examples(toy, states(4000, np.random.default_rng(1)), LABELS)
    null = shuffled(rows, 5)
    assert np.array_equal(null.inputs, rows.inputs)
    assert not np.array_equal(null.targets, rows.targets)
    assert np.allclose(np.sort(np.abs(null.targets)), np.sort(np.abs(rows.targets)))
    per_action = null.targets.reshape(-1, 5).mean(axis=0)
    assert np.all(np.abs(per_action) < 6 * np.abs(rows.targets).std() / np.sqrt(4000))
    assert np.array_equal(shuffled(rows, 5).targets, null.targets)


def test_a_training_set_without_a_decision_is_refused(project: Path, toy: Subsystem) -> None:
    trainer = Trainer(params.load(project / "params.yaml"), toy, {}, {}, {})
    with pytest.raises(ConfigurationError, match="no decision"):
        trainer.train(["c00"], "model")


def test_relabelling_adds_the_states_that_the_model_reached(project: Path, toy: Subsystem) -> None:
    layout = Layout(project, "toy")
    training = json.loads((layout.train / "training.json").read_text())
    labelled = read_decisions(layout, toy)
    own = training["model"]["captures"]
    assert own == ["c00", "c01", "c02", "c03"]
    assert training["model"]["states"] > len(join([labelled[c] for c in own]))
    assert set(training["without"]) == {"db", "reader", "tool"}
    for program, fold in training["without"].items():
        assert not set(fold["captures"]) & set(fold["test"])
        assert (layout.train / fold["file"]).is_file(), program


def test_the_decisions_table_holds_features_and_costs_of_every_capture(project: Path, toy: Subsystem) -> None:
    stock = read_decisions(Layout(project, "toy"), toy)
    assert list(stock) == ["c00", "c01", "c02", "c03", "c10", "c11", "c12", "c13"]
    assert all(s.features.dtype == np.float32 and s.costs.dtype == np.int64 for s in stock.values())
    assert all(np.all(s.costs >= 0) for s in stock.values())


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("decision", "block_ns", 0),
        ("decision", "epoch_ns", "soon"),
        ("labels", "horizon_ns", 0),
        ("split", "purge_ns", 1),
        ("train", "trees", -1),
        ("evaluate", "delays_ns", [1, -1]),
        ("data", "source", ""),
        ("data", "source", 7),
    ],
)
def test_impossible_parameters_are_refused(tmp_path: Path, section: str, key: str, value: object) -> None:
    sections = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())
    sections[section][key] = value
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(sections))
    with pytest.raises(ConfigurationError, match=section):
        params.load(path)


def test_a_missing_or_broken_parameter_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        params.load(tmp_path / "params.yaml")
    for text in ("a: [", "[]", "data: {source: x}"):
        (tmp_path / "params.yaml").write_text(text)
        with pytest.raises(ConfigurationError):
            params.load(tmp_path / "params.yaml")


def test_exploration_leads_training_captures_where_stock_never_goes(project: Path, toy: Subsystem) -> None:
    import polars as pl

    table = pl.read_parquet(Layout(project, "toy").featurize / "decisions.parquet")
    policies = {c: set(table.filter(pl.col("capture") == c)["policy"]) for c in table["capture"].unique()}
    assert all(policies[c] == {"stock"} for c in ("c10", "c11", "c12", "c13"))
    assert {"stock", "random:0"} <= policies["c01"]
    windows = table.filter((pl.col("capture") == "c01") & (pl.col("policy") == "stock"))["window"]
    assert set(windows) == {8.0}
    assert {1.0, 64.0} <= set(table.filter(pl.col("capture") == "c01")["window"])
    # Each state once: the first epoch is the same under every policy.
    first = table.filter((pl.col("capture") == "c01") & (pl.col("epoch") == 0))
    assert first["policy"].to_list() == ["stock"]
