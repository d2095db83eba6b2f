"""What was realised, from computed journals to the page: the model advises, and the device is slower."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import journals
import numpy as np
import pytest
from conftest import make_params
from documents import Document

from hindsight.errors import VerificationError
from hindsight.models import trees
from hindsight.pipeline import params, stages
from hindsight.pipeline.context import realised as realised_context
from hindsight.pipeline.evaluate import evaluate
from hindsight.pipeline.evidence.realised import realised
from hindsight.pipeline.evidence.thresholds import Thresholds
from hindsight.pipeline.journal import TABLES
from hindsight.pipeline.params import Layout, Params
from hindsight.pipeline.policies import candidates
from hindsight.pipeline.realised import Realised, as_predicted, learned_from, load
from hindsight.pipeline.store import read_json, write_json
from hindsight.subsystems.contract import Subsystem

CALIBRATED = {"fetch_ns": 100_000, "block_ns": 20_000}
SLOW = {"fetch_ns": 1_000_000, "block_ns": 20_000}
"""Ten times as long until the first block comes: small windows save less, in parts of the whole."""
SMALLER: dict[str, dict[str, object]] = {
    "labels": {"explore": 1, "rounds": 1},
    "decision": {"min_gain": 0.01},
}
LIMITS = Thresholds(draws=300, seed=7)


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory, toy: Subsystem) -> tuple[Params, list[list[str]]]:
    """Four days without advice, and a model of the first two; the captures of each day."""
    root = tmp_path_factory.mktemp("before")
    days = journals.write_passes(root / "data" / "toy")
    loaded = params.load(make_params(root, **SMALLER))
    for stage in ("ingest", "featurize", "train"):
        stages.run(stage, loaded, toy)
    assert read_json(Layout(root, "toy").featurize / "split.json")["earlier"] == days[0] + days[1]
    return loaded, days


def lived(
    before: tuple[Params, list[list[str]]], root: Path, toy: Subsystem, slow_from: int, **changed: Any
) -> Params:
    """A copy of ``before`` in which the model advised; from day ``slow_from`` on the device is slow."""
    first, days = before
    shutil.copytree(first.root, root)
    model = Layout(first.root, "toy").train / "model.ubj"
    for day, captures in enumerate(days):
        for capture in captures:
            device = SLOW if day >= slow_from else CALIBRATED
            advisor = journals.advise(root / "data" / "toy", capture, toy, model, device, first.decision)
            journals.write(root / "data" / "toy", capture, journals.tables_of(advisor))
    loaded = params.load(make_params(root, **SMALLER, **changed))
    said = stages.run("ingest", loaded, toy)
    assert any(line.startswith("journal: ") and "not applied" in line for line in said)
    return loaded


@pytest.fixture(scope="module")
def drifted(
    before: tuple[Params, list[list[str]]], tmp_path_factory: pytest.TempPathFactory, toy: Subsystem
) -> Params:
    """The device becomes slow when the training captures end."""
    loaded = lived(before, tmp_path_factory.mktemp("drifted") / "project", toy, 2)
    for stage in ("train", "evaluate", "report"):
        stages.run(stage, loaded, toy)
    return loaded


def rows_of(loaded: Params) -> Realised:
    return load(Layout(loaded.root, "toy"))


def context_of(loaded: Params, toy: Subsystem) -> dict[str, Any]:
    layout = Layout(loaded.root, "toy")
    manifest, training = (
        read_json(p) for p in (layout.ingest / "manifest.json", layout.train / "training.json")
    )
    return realised_context(toy, loaded, manifest, load(layout), training)


def report_of(loaded: Params) -> dict[str, Any]:
    report: dict[str, Any] = read_json(Layout(loaded.root, "toy").report / "report.json")
    return report


def test_training_takes_what_was_realised_in_its_captures_and_in_no_other(
    before: tuple[Params, list[list[str]]], drifted: Params, toy: Subsystem
) -> None:
    layout, days = Layout(drifted.root, "toy"), before[1]
    training, rows = read_json(layout.train / "training.json"), rows_of(drifted).measured()
    own = training["model"]["realised"]
    assert set(rows.captures()) & {*days[2], *days[3]}  # there was something to leak
    assert set(own["captures"]) <= {*days[0], *days[1]}
    assert own["rows"] == len(rows.of(days[0] + days[1])) >= 20
    old = Layout(before[0].root, "toy").train
    for name in ("model.ubj", "null.ubj"):
        assert (layout.train / name).read_bytes() != (old / name).read_bytes()
    for fold in training["without"].values():
        taken = fold.get("realised", {"rows": 0, "captures": []})
        assert set(taken["captures"]) <= set(fold["captures"])
        assert taken["rows"] == len(rows.of(fold["captures"]))


def test_no_model_changes_with_what_was_realised_in_test_captures(
    before: tuple[Params, list[list[str]]], drifted: Params, toy: Subsystem, tmp_path: Path
) -> None:
    shutil.copytree(drifted.root, tmp_path / "project")
    loaded = params.load(tmp_path / "project" / "params.yaml")
    later = {*before[1][2], *before[1][3]}
    gone = [p for table in TABLES for p in loaded.dataset.rglob(f"{table}/*") if p.stem[:-2] in later]
    assert {path.parent.name for path in gone} == set(TABLES)
    for path in gone:
        path.unlink()
    for stage in ("ingest", "train"):
        stages.run(stage, loaded, toy)
    assert set(rows_of(loaded).captures()) < set(rows_of(drifted).captures())
    ours, theirs = (Layout(p.root, "toy").train for p in (loaded, drifted))
    for path in sorted(p.relative_to(theirs) for p in theirs.rglob("*") if p.is_file()):
        assert (ours / path).read_bytes() == (theirs / path).read_bytes(), path


def test_a_weight_of_nothing_gives_the_model_of_before(
    before: tuple[Params, list[list[str]]], drifted: Params, toy: Subsystem, tmp_path: Path
) -> None:
    shutil.copytree(drifted.root, tmp_path / "project")
    loaded = params.load(make_params(tmp_path / "project", **SMALLER, train={"realised_weight": 0}))
    stages.run("train", loaded, toy)
    ours, old = (Layout(p.root, "toy").train for p in (loaded, before[0]))
    for path in sorted(p.relative_to(old) for p in old.rglob("*") if p.is_file()):
        assert (ours / path).read_bytes() == (old / path).read_bytes(), path


def test_it_learns_from_a_slower_device_what_its_advice_brings_there(
    before: tuple[Params, list[list[str]]], tmp_path: Path, toy: Subsystem
) -> None:
    loaded = lived(before, tmp_path / "project", toy, 0, train={"realised_weight": 20.0})
    stages.run("train", loaded, toy)
    days = before[1]
    later = rows_of(loaded).measured().of(days[2] + days[3])
    target = as_predicted(later, loaded["labels"]) / 1e6
    inputs = candidates(toy)[later.columns["action"].astype(np.intp)]
    inputs[:, : len(toy.features)] = later.features(toy)

    def error(project: Params) -> float:
        forest = trees.load(Layout(project.root, "toy").train / "model.ubj")
        return float(np.abs(trees.margins(forest, inputs) - target).mean())

    assert len(later) >= 20
    assert error(loaded) < 0.5 * error(before[0])


@pytest.mark.parametrize("side", ["model", "without"])
def test_a_leak_is_refused(
    before: tuple[Params, list[list[str]]], drifted: Params, toy: Subsystem, tmp_path: Path, side: str
) -> None:
    shutil.copytree(drifted.root, tmp_path / "project")
    loaded = params.load(tmp_path / "project" / "params.yaml")
    path = Layout(loaded.root, "toy").train / "training.json"
    training = read_json(path)
    fold = training["model"] if side == "model" else training["without"]["db"]
    leaked = before[1][3][1]  # the last day's lookups, of the program db
    fold["realised"] = {"rows": 1, "captures": [leaked]}
    assert leaked in learned_from(fold)
    write_json(path, training)
    with pytest.raises(VerificationError, match=leaked if side == "model" else "'db'|" + leaked):
        evaluate(loaded, toy)


def test_the_page_shows_the_calibration_and_warns_of_the_drift(drifted: Params, toy: Subsystem) -> None:
    section, folder = report_of(drifted)["realised"], Layout(drifted.root, "toy").report
    assert section["enough"] and section["drift"]["enough"] and section["learned"] >= 20
    assert (
        section["drift"]["earlier"]["difference"]["high"]
        > -1
        > section["drift"]["recent"]["difference"]["high"]
    )
    assert len(section["warnings"]) == 2 and all(w.startswith("Drift: ") for w in section["warnings"])
    assert sum(b["n"] for b in section["bins"]) == section["measured"] and len(section["bins"]) > 2
    assert section["realised"]["label"] == section["bins"][0]["realised"]["label"] == "measured"
    page = (folder / "report.html").read_text()
    document = Document(page)
    assert not document.errors and not document.open
    ids = [attributes.get("id") for _, attributes in document.elements]
    assert "realised" in ids and ids.count("realised-wide-title") == 1
    assert "Realised against predicted gain of applied recommendations" in page
    text = " ".join(document.words)
    assert all(warning.split(" %")[0] in text.replace("\u00a0", " ") for warning in section["warnings"])
    notes = (folder / "report.md").read_text()
    assert "## Predicted, then realised" in notes and section["warnings"][0] in notes


def test_without_a_journal_nothing_is_said(project: Path, toy: Subsystem, tmp_path: Path) -> None:
    layout = Layout(project, "toy")
    assert "realised" not in read_json(layout.ingest / "manifest.json")
    assert len(load(layout)) == 0
    report = read_json(layout.evaluate / "report.json")
    assert "realised" not in report and "realised" not in read_json(layout.train / "training.json")["model"]
    from hindsight.pipeline.report import render

    paths = render(report, tmp_path)
    assert "realised" not in paths["report.html"].read_text().lower()
    assert "realised" not in paths["report.md"].read_text().lower()


def test_the_same_device_raises_no_warning(
    before: tuple[Params, list[list[str]]], tmp_path: Path, toy: Subsystem
) -> None:
    loaded = lived(before, tmp_path / "project", toy, 99)
    shutil.copy(Layout(before[0].root, "toy").train / "training.json", tmp_path)
    _, section = realised(context_of(loaded, toy), LIMITS)
    assert section is not None and section["drift"]["enough"]
    assert section["warnings"] == [] and not section["worse"]


def test_shuffled_outcomes_raise_no_false_claim(drifted: Params, toy: Subsystem) -> None:
    """What was realised goes to another recommendation: no drift is left, and nothing of the predictions."""
    context, generator = context_of(drifted, toy), np.random.default_rng(5)
    live, _ = realised(context, LIMITS)
    assert any("most recent" in warning for warning in live.warnings)
    drift = tied = 0
    for _ in range(100):
        given = shuffled(context, generator)
        live, section = realised(given, Thresholds(draws=200, seed=7))
        assert section is not None
        drift += any("most recent" in warning for warning in live.warnings)
        slope = section["slope"]
        tied += slope.interval is not None and not slope.interval[0] <= 0.0 <= slope.interval[1]
    # 2.5 % and 5 % are stated; 99.9 % of such samples stay below these.
    assert drift <= 9 and tied <= 13


def shuffled(context: Mapping[str, Any], generator: np.random.Generator) -> dict[str, Any]:
    rows = [dict(row) for row in context["realised"]["rows"]]
    known = [row for row in rows if row["measured"]]
    outcomes = [(row["realised_ppm"], row["comparable_ppm"]) for row in known]
    for row, number in zip(known, generator.permutation(len(known)).tolist(), strict=True):
        row["realised_ppm"], row["comparable_ppm"] = outcomes[number]
    return {"realised": {**context["realised"], "rows": rows}}


def test_the_report_is_the_same_again(drifted: Params, toy: Subsystem) -> None:
    first = (Layout(drifted.root, "toy").evaluate / "report.json").read_bytes()
    stages.run("evaluate", drifted, toy)
    assert (Layout(drifted.root, "toy").evaluate / "report.json").read_bytes() == first
    assert json.loads(first)["realised"]["measured"] == len(rows_of(drifted).measured())
