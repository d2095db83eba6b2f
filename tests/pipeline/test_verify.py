"""A package is made again from its inputs: what was altered is found, also if the hashes were made to fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Command
from test_stages import hashes

from hindsight.errors import ConfigurationError, VerificationError
from hindsight.models.package import read_package, write_package
from hindsight.pipeline import params, verify
from hindsight.pipeline.store import canonical_json
from hindsight.subsystems.contract import Subsystem


@pytest.fixture
def root(packaged: Path, tmp_path: Path) -> Path:
    """A repository of its own: data, parameters, outputs, the package."""
    shutil.copytree(packaged.parents[2], tmp_path / "project")
    return tmp_path / "project"


def rewritten(directory: Path, files: dict[str, bytes] | None = None, **fields: Any) -> None:
    """Alter a package and make its manifest fit, as whoever wants to deceive would."""
    package = read_package(directory)
    given = {
        k: v
        for k, v in package.manifest.document().items()
        if k not in ("files", "format_version", "xgboost_version")
    }
    write_package(directory, given | fields, {**package.files, **(files or {})})
    read_package(directory)


def check(root: Path, toy: Subsystem, said: list[str] | None = None) -> dict[str, Any]:
    told = said if said is not None else []
    directory = root / "models" / "exported" / "toy-0.1.0"
    return verify.verify(directory, params.load(root / "params.yaml"), toy, told.append)


def test_a_package_is_made_again_and_nothing_else_is_touched(root: Path, command: Command) -> None:
    before = hashes(root)
    # What an earlier run left is not read.
    shutil.rmtree(root / "build")
    before = {name: digest for name, digest in before.items() if not name.startswith("build/")}
    done = command(
        "pipeline", "verify", root / "models" / "exported" / "toy-0.1.0",
        "--subsystem", "toy", "--params", root / "params.yaml", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["same_bytes"] is True and result["name"] == "toy" and len(result["inputs"]) == 4
    assert hashes(root) == before
    assert [line.split()[0] for line in done.stderr.splitlines()] == list(verify.STAGES)


def test_an_altered_report_is_found_although_its_hash_fits(root: Path, command: Command) -> None:
    directory = root / "models" / "exported" / "toy-0.1.0"
    report = json.loads(read_package(directory).files["report.json"])
    gain = report["evaluations"][0]["model"]["gain"]
    gain["value"] = gain["value"] + 1.0
    rewritten(directory, {"report.json": canonical_json(report)})
    assert command("models", "verify", directory).returncode == 0
    done = command(
        "pipeline", "verify", directory, "--subsystem", "toy", "--params", root / "params.yaml"
    )  # fmt: skip
    assert done.returncode == 5 and done.stdout == "" and "Traceback" not in done.stderr
    assert "$.evaluations[0].model.gain.value is" in done.stderr


def test_an_altered_cost_or_mode_is_found(root: Path, toy: Subsystem) -> None:
    directory = root / "models" / "exported" / "toy-0.1.0"
    package = read_package(directory)
    rewritten(directory, {"MODEL_CARD.md": package.files["MODEL_CARD.md"] + b"\nbest of all\n"})
    with pytest.raises(VerificationError, match=r"MODEL_CARD\.md is not what"):
        check(root, toy)
    other = "learning" if package.manifest.mode != "learning" else "recommendation"
    rewritten(directory, dict(package.files), mode=other)
    with pytest.raises(VerificationError, match=r"manifest\.json .* differs in mode"):
        check(root, toy)


def test_another_model_is_found(root: Path, toy: Subsystem) -> None:
    directory = root / "models" / "exported" / "toy-0.1.0"
    inputs = dict(read_package(directory).manifest.inputs) | {"model": "0" * 64}
    rewritten(directory, inputs=inputs)
    said: list[str] = []
    with pytest.raises(VerificationError, match="another model"):
        check(root, toy, said)
    assert said[-1].startswith("train")


def test_inputs_that_differ_are_named_before_anything_runs(root: Path, toy: Subsystem) -> None:
    def refused(match: str) -> None:
        said: list[str] = []
        with pytest.raises(ConfigurationError, match=match):
            check(root, toy, said)
        assert said == []

    file = next((root / "data").glob("toy/*/*/sys_enter_pread64/c02-0.parquet"))
    kept = file.read_bytes()
    file.write_bytes(file.with_name("c03-0.parquet").read_bytes())
    refused(r"the data: host=h1/date=2024-01-01/sys_enter_pread64\n")
    file.write_bytes(kept)
    measured = root / "data" / "measured" / "toy" / "summary.json"
    measured.parent.mkdir(parents=True)
    measured.write_text("{}")
    refused("what was run live")
    measured.unlink()
    path = root / "params.yaml"
    values = yaml.safe_load(path.read_text())
    values["train"]["depth"] += 1
    path.write_text(yaml.safe_dump(values))
    refused(r"the parameters \(params\.yaml\): train\.depth\n")
    directory = root / "models" / "exported" / "toy-0.1.0"
    values["train"]["depth"] -= 1
    path.write_text(yaml.safe_dump(values))
    stated = dict(read_package(directory).manifest.inputs)
    rewritten(directory, inputs=stated | {"code": "0" * 64})
    refused("the code of this release")


def test_the_hash_of_the_data_counts_and_not_only_its_digests(root: Path, toy: Subsystem) -> None:
    directory = root / "models" / "exported" / "toy-0.1.0"
    stated = dict(read_package(directory).manifest.inputs)
    rewritten(directory, inputs=stated | {"data": "0" * 64})
    said: list[str] = []
    with pytest.raises(ConfigurationError, match="the data"):
        check(root, toy, said)
    assert said == ["ingest …"]


@pytest.mark.parametrize(
    ("stated", "made", "said"),
    [
        (b'{"a": 1, "b": 2}', b'{"a": 1, "b": 3}', "$.b is 2, not 3"),
        (b'{"a": {"x": [1, 2]}}', b'{"a": {"x": [1, 3]}}', "$.a.x[1] is 2, not 3"),
        (b'{"a": [1]}', b'{"a": [1, 2]}', "$.a has 1 entries, not 2"),
        (b'{"a": 1}', b'{"a": 1, "b": 0}', "$.b is absent"),
        (b'{"a": 1, "b": 0}', b'{"a": 1}', "$.b is not there when made again"),
        (b'{"a": 1}', b'{"a": 1.0}', "$.a is 1, not 1.0"),
        (b'{"a": true}', b'{"a": 1}', "$.a is true, not 1"),
        (b'{"a":1}', b'{"a": 1}', "the same values, written otherwise from byte 5"),
        (b"nothing", b"{}", "it is not JSON"),
    ],
)
def test_the_first_difference_is_named(stated: bytes, made: bytes, said: str) -> None:
    assert verify.first_difference(stated, made).startswith(said)
