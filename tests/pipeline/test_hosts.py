"""Several hosts: the evaluation *new host*, its leak checker, and what few hosts may claim."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from conftest import make_params
from datasets import write_dataset
from test_evidence_verdict import BEST, GOOD, against

from hindsight.errors import VerificationError
from hindsight.pipeline import params, stages
from hindsight.pipeline.evidence.comparisons import Finding
from hindsight.pipeline.evidence.verdict import LEAST_HOSTS, Outcome, decide
from hindsight.pipeline.params import Layout
from hindsight.subsystems.contract import Subsystem

HOSTS = ("h1", "h2", "h3")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, toy: Subsystem) -> Path:
    root = tmp_path_factory.mktemp("fleet")
    write_dataset(root / "data" / "toy", reads=300, hosts=HOSTS)
    given = params.load(make_params(root))
    for stage in ("ingest", "featurize", "train", "evaluate"):
        stages.run(stage, given, toy)
    return root


def test_each_host_is_tested_by_a_model_of_the_others(fleet: Path) -> None:
    training = json.loads((Layout(fleet, "toy").train / "training.json").read_text())
    assert sorted(training["without_host"]) == list(HOSTS)
    for host, fold in training["without_host"].items():
        suffixes = {c.partition("-")[2] or "h1" for c in fold["captures"]}
        assert suffixes == set(HOSTS) - {host}
        assert {c.partition("-")[2] or "h1" for c in fold["test"]} == {host}
    blocks = pl.read_parquet(Layout(fleet, "toy").evaluate / "blocks.parquet")
    part = blocks.filter(pl.col("evaluation") == "new_host")
    assert set(part["host"]) == set(HOSTS)
    tested = {c for fold in training["without_host"].values() for c in fold["test"]}
    assert set(part["capture"]) == tested
    files = [Layout(fleet, "toy").train / fold["file"] for fold in training["without_host"].values()]
    assert len({file.read_bytes() for file in files}) == len(HOSTS), "a model of its own for each host"


def test_the_report_has_it_and_claims_nothing_of_three_hosts(fleet: Path) -> None:
    report = json.loads((Layout(fleet, "toy").evaluate / "report.json").read_text())
    found = {section["name"]: section for section in report["evaluations"]}
    assert sorted(found) == ["new_host", "new_workload", "tomorrow"]
    assert (found["new_host"]["resampled"], found["new_host"]["units"]) == ("host", 3)
    assert found["new_host"]["advice_cost"]["decisions"] > 0
    assert "3 hosts: too few for a claim across hosts." in report["verdict"]["statements"]
    assert report["verdict"]["evaluation"] != "new_host"


def test_a_host_that_was_learned_from_is_not_new(fleet: Path, toy: Subsystem) -> None:
    path = Layout(fleet, "toy").train / "training.json"
    before = path.read_text()
    training = json.loads(before)
    training["without_host"]["h2"]["captures"].append("c00-h2")
    path.write_text(json.dumps(training))
    try:
        with pytest.raises(VerificationError, match="new_host: host 'h2' stands in training and in test"):
            stages.run("evaluate", params.load(fleet / "params.yaml"), toy)
    finally:
        path.write_text(before)


@pytest.mark.parametrize(
    ("hosts", "finding", "outcome"),
    [
        (LEAST_HOSTS, Finding.SAME, Outcome.NO_DIFFERENCE),
        (LEAST_HOSTS, Finding.BETTER, Outcome.GAIN),
        (LEAST_HOSTS - 1, Finding.SAME, Outcome.GAIN),
        (LEAST_HOSTS - 1, Finding.UNKNOWN, Outcome.GAIN),
        (LEAST_HOSTS - 1, Finding.WORSE, Outcome.HARM),
    ],
)
def test_few_hosts_claim_nothing_but_harm(hosts: int, finding: Finding, outcome: Outcome) -> None:
    stock = against(finding)
    stock = replace(stock, effect=replace(stock.effect, units=hosts))
    new = replace(GOOD, evaluation="new_host", stock=stock)
    verdict = decide(replace(BEST, evaluations=(*BEST.evaluations, new), hosts=hosts))
    assert verdict.outcome is outcome
    too_few = f"{hosts} hosts: too few for a claim across hosts."
    assert (too_few in verdict.statements) == (hosts < LEAST_HOSTS)
