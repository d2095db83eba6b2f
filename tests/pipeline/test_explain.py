"""What drives the advice, where it is on unknown ground, and which streams are drawn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from hindsight.pipeline import explain
from hindsight.pipeline.params import Layout
from hindsight.pipeline.report import courses


@pytest.fixture
def found(project: Path) -> dict:  # type: ignore[type-arg]
    report = json.loads((Layout(project, "toy").evaluate / "report.json").read_text())
    explanations: dict = report["explanations"]  # type: ignore[type-arg]
    return explanations


def test_the_feature_that_decides_is_worth_most(found: dict) -> None:  # type: ignore[type-arg]
    """The toy's programs read in order or at random: that alone makes a window good or bad."""
    lost = {row["feature"]: row["lost"]["value"] for row in found["features"]}
    assert set(lost) == {"sequential", "window", "fetch"}
    assert max(lost, key=lambda name: lost[name]) == "sequential" and lost["sequential"] > 1.0
    assert found["features"][0]["feature"] == "sequential"
    assert found["features"][0]["lost"]["label"] == "modelled"


def test_decisions_on_known_ground_are_not_outside(found: dict) -> None:  # type: ignore[type-arg]
    assert found["decisions"] > 0
    assert 0.0 <= found["outside"]["value"] <= 100.0
    assert found["outside"]["value"] >= max(row["outside"]["value"] for row in found["features"])


def test_examples_are_those_of_the_evaluation(project: Path, found: dict) -> None:  # type: ignore[type-arg]
    table = pl.read_parquet(Layout(project, "toy").evaluate / "blocks.parquet")
    part = table.filter(pl.col("evaluation") == "tomorrow")
    helped = [row for row in found["examples"] if row["helped"]]
    assert 1 <= len(helped) <= explain.EXAMPLES
    for row in found["examples"]:
        mine = part.filter(pl.col("capture") == row["capture"])
        for arm in ("stock", "model"):
            whole = int(mine.filter(pl.col("arm") == arm)["stall_ns"].sum())
            assert 0 <= row["costs"][arm]["value"] <= whole
        assert (row["costs"]["model"]["value"] < row["costs"]["stock"]["value"]) == row["helped"]
    gains = [row["costs"]["stock"]["value"] - row["costs"]["model"]["value"] for row in helped]
    assert gains == sorted(gains, reverse=True)


def test_an_example_is_drawn_with_its_text(found: dict) -> None:  # type: ignore[type-arg]
    drawn = courses.drawings({"explanations": found})
    assert [d.name for d in drawn] == [courses.name_of(i) for i in range(len(found["examples"]))]
    assert "stock fetched" in drawn[0].alternative and "blocks" in drawn[0].alternative
    assert drawn[0].wide.count("mark-rule") >= 4 and 'viewBox="0 0 0' not in drawn[0].wide


def test_outside_is_beyond_the_ends() -> None:
    values = np.array([[0.0, 5.0], [1.0, np.nan], [2.0, 7.0], [-0.1, 6.0]], np.float32)
    outside = explain.beyond(values, [[0.0, 1.5], []])
    assert outside.tolist() == [[False, True], [False, False], [True, True], [True, True]]


def test_accesses_that_follow_each_other_are_one() -> None:
    def columns(*rows: tuple[int, ...]) -> dict[str, np.ndarray]:
        names = ("ts", "begin", "end", "used")[: len(rows[0])]
        return {name: np.array([row[i] for row in rows]) for i, name in enumerate(names)}

    joined = explain.joined(columns((1, 0, 4), (2, 4, 8), (3, 6, 9), (4, 2, 3), (5, 20, 21)))
    assert list(zip(*(joined[n].tolist() for n in ("ts", "until", "begin", "end")), strict=True)) == [
        (1, 3, 0, 9), (4, 4, 2, 3), (5, 5, 20, 21),
    ]  # fmt: skip
    fetched = explain.joined(columns((1, 0, 4, 4), (2, 4, 8, 4), (3, 8, 12, 1), (4, 12, 16, 4)))
    assert fetched["begin"].tolist() == [0, 8, 12] and fetched["used"].tolist() == [8, 1, 4]
    assert explain.joined({n: np.zeros(0) for n in ("ts", "begin", "end")})["until"].tolist() == []


class Told:
    """A policy that remembers what it was told."""

    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def __call__(self, simulation: object, features: np.ndarray) -> int:
        self.seen.append(features.tolist())
        return -1


def test_a_shuffled_feature_is_that_of_another_decision() -> None:
    told, pool = Told(), np.arange(100, dtype=np.float32)
    policy = explain.Shuffled(told, 1, pool, 7, "c1")
    features = np.array([5.0, 6.0, 7.0], np.float32)
    for _ in range(50):
        policy(None, features)  # type: ignore[arg-type]
    assert features.tolist() == [5.0, 6.0, 7.0]
    assert all(row[0] == 5.0 and row[2] == 7.0 and row[1] in pool for row in told.seen)
    assert len({row[1] for row in told.seen}) > 20
    again = explain.Shuffled(Told(), 1, pool, 7, "c1")
    for _ in range(50):
        again(None, features)  # type: ignore[arg-type]
    assert again.policy.seen == told.seen  # type: ignore[attr-defined]
