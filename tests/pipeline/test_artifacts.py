"""Packages as artifacts of DVC: tagged, fetched into an empty clone, verified, compared; no network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, Command, make_params

from hindsight.models.package import read_package
from hindsight.pipeline import params, stages
from hindsight.subsystems.contract import Subsystem

DVC_YAML: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())


def run(*line: object, cwd: Path) -> str:
    """A command without a network, without the settings of whoever runs the tests."""
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "1",
        "DVC_STUDIO_OFFLINE": "1",
        "DVC_SITE_CACHE_DIR": str(cwd.parent / "site"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }
    for who in ("AUTHOR", "COMMITTER"):
        env |= {f"GIT_{who}_NAME": "test", f"GIT_{who}_EMAIL": "test@localhost"}
    done = subprocess.run([*map(str, line)], cwd=cwd, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
    return done.stdout


def toy_stages() -> dict[str, Any]:
    """dvc.yaml of the repository for the toy; without its dependencies on code, which is not there."""
    text = json.dumps({"stages": DVC_YAML["stages"], "artifacts": DVC_YAML["artifacts"]})
    document: dict[str, Any] = json.loads(text.replace("readahead", "toy"))
    for stage in document["stages"].values():
        stage["deps"] = [dep for dep in stage["deps"] if dep.startswith(("build/", "data/${"))]
    return document


@pytest.fixture(scope="module")
def repository(packaged: Path, toy: Subsystem, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions, tagged and pushed: v0.1.0, which is in production, and v0.2.0, of deeper trees."""
    root = tmp_path_factory.mktemp("artifacts") / "repository"
    shutil.copytree(packaged.parents[2], root)
    run("git", "init", "-q", "-b", "main", cwd=root)
    run("dvc", "init", "-q", cwd=root)
    run("dvc", "remote", "add", "-q", "-d", "store", root.parent / "store", cwd=root)
    (root / "dvc.yaml").write_text(yaml.safe_dump(toy_stages()))
    (root / ".gitignore").write_text("/build/\n/models/exported/\n")
    for version, depth in (("0.1.0", 4), ("0.2.0", 2)):
        make_params(root, train={"trees": 20, "depth": depth}, package={"version": version})
        loaded = params.load(root / "params.yaml")
        for stage in ("train", "evaluate", "package", "report") if depth != 4 else ("report",):
            stages.run(stage, loaded, toy)
        run("dvc", "commit", "-q", "-f", cwd=root)
        run("git", "add", "-A", cwd=root)
        run("git", "commit", "-q", "-m", version, cwd=root)
        run("git", "tag", "-a", f"toy@v{version}", "-m", version, cwd=root)
        run("dvc", "push", "-q", cwd=root)
    run("git", "tag", "-a", "toy#prod#1", "-m", "in production", "toy@v0.1.0^{}", cwd=root)
    return root


@pytest.fixture
def clone(repository: Path, tmp_path: Path) -> Path:
    """A clone that has nothing of DVC's but the address of the store."""
    run("git", "clone", "-q", repository, tmp_path / "clone", cwd=tmp_path)
    assert not (tmp_path / "clone" / "models").exists()
    return tmp_path / "clone"


def test_every_subsystem_is_an_artifact_of_its_package() -> None:
    matrix = DVC_YAML["stages"]["package"]["matrix"]["subsystem"]
    out = DVC_YAML["stages"]["package"]["outs"][0]
    assert list(DVC_YAML["artifacts"]) == matrix
    for name, artifact in DVC_YAML["artifacts"].items():
        assert artifact["path"] == out.replace("${item.subsystem}", name) and artifact["type"] == "model"


def test_an_artifact_that_was_fetched_verifies(clone: Path, repository: Path, command: Command) -> None:
    for wanted, version in ((("--rev", "v0.2.0"), "0.2.0"), (("--stage", "prod"), "0.1.0")):
        run("dvc", "artifacts", "get", ".", "toy", *wanted, cwd=clone)
        got = clone / f"toy-{version}"
        assert read_package(got).manifest.version == version
        assert command("models", "verify", got).returncode == 0
    run("git", "checkout", "-q", "toy@v0.1.0", cwd=clone)
    done = command("pipeline", "verify", clone / "toy-0.1.0", "--subsystem", "toy", cwd=clone)
    assert done.returncode == 0, done.stderr
    # Code and data are the same at both revisions, the parameters are not.
    done = command("pipeline", "verify", clone / "toy-0.2.0", "--subsystem", "toy", cwd=clone)
    assert done.returncode == 3 and "train.depth" in done.stderr


def test_versions_stages_and_revisions_are_compared_in_an_empty_clone(clone: Path, command: Command) -> None:
    asked = ("pipeline", "compare", "--subsystem", "toy", "--json")
    found = {}
    for old, new in (("toy@v0.1.0", "toy@v0.2.0"), ("toy#prod", "HEAD"), ("HEAD~1", "main")):
        done = command(*asked, old, new, cwd=clone)
        assert done.returncode == 0, done.stderr
        comparison = json.loads(done.stdout)
        assert [v["label"] for v in comparison["versions"]] == [old, new]
        assert [v["version"] for v in comparison["versions"]] == ["0.1.0", "0.2.0"]
        assert {"name": "train.depth", "from": 4, "to": 2} in comparison["differences"][0]["parameters"]
        found[old] = [
            {key: value for key, value in row.items() if key != "version"}
            for section in comparison["evaluations"]
            for row in (*section["overall"], *section["workloads"])
        ]
    assert found["toy@v0.1.0"] == found["toy#prod"] == found["HEAD~1"]
    assert not (clone / "models").exists()


@pytest.mark.parametrize("name", ["toy@v9.9.9", "toy#nowhere", "other@v0.1.0", "no-such-revision"])
def test_what_is_not_there_is_named(name: str, clone: Path, command: Command) -> None:
    done = command("pipeline", "compare", "--subsystem", "toy", "HEAD", name, cwd=clone)
    assert done.returncode == 3 and name in done.stderr and "Traceback" not in done.stderr


def test_a_version_that_is_not_in_the_store_is_named(
    repository: Path, command: Command, tmp_path: Path
) -> None:
    run("git", "clone", "-q", repository, tmp_path / "clone", cwd=tmp_path)
    run("dvc", "remote", "modify", "store", "url", tmp_path / "empty", cwd=tmp_path / "clone")
    done = command("pipeline", "compare", "--subsystem", "toy", "HEAD~1", "HEAD", cwd=tmp_path / "clone")
    assert done.returncode == 3 and "HEAD~1" in done.stderr and "Traceback" not in done.stderr


def test_a_package_from_before_costs_were_in_it_is_compared_by_the_table_of_its_stage(
    repository: Path, command: Command, tmp_path: Path
) -> None:
    """As an older release left it: neither costs per block nor parameters in the package."""
    from hindsight.models.package import write_package

    root = tmp_path / "older"
    shutil.copytree(repository, root, symlinks=True)
    directory = root / "models" / "exported" / "toy-0.2.0"
    package = read_package(directory)
    given = {
        k: v
        for k, v in package.manifest.document().items()
        if k not in ("files", "format_version", "xgboost_version")
    }
    kept = {k: v for k, v in package.files.items() if k not in ("blocks.parquet", "inputs.json")}
    write_package(directory, given, kept)
    assert command("pipeline", "compare", "--subsystem", "toy", directory, directory).returncode == 3
    run("dvc", "commit", "-q", "-f", cwd=root)
    run("git", "commit", "-q", "-a", "-m", "older", cwd=root)
    done = command("pipeline", "compare", "--subsystem", "toy", "--json", "HEAD~1", "HEAD", cwd=root)
    assert done.returncode == 0, done.stderr
    rows = [row for e in json.loads(done.stdout)["evaluations"] for row in (*e["overall"], *e["workloads"])]
    assert rows and all(row["gain"]["value"] == 0.0 for row in rows)


@pytest.mark.slow
def test_the_package_of_this_repository_is_delivered_and_verifies(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    run("git", "clone", "-q", ROOT, clone, cwd=tmp_path)
    run("dvc", "remote", "add", "-q", "-d", "store", tmp_path / "store", cwd=clone)
    run("dvc", "repro", "-q", "package@readahead", cwd=clone)
    run("git", "add", "-A", cwd=clone)
    run("git", "commit", "-q", "-m", "release", cwd=clone)
    run("git", "tag", "-a", "readahead@v0.1.0", "-m", "release", cwd=clone)
    run("dvc", "push", "-q", cwd=clone)
    run("git", "clone", "-q", clone, tmp_path / "user", cwd=tmp_path)
    run("dvc", "artifacts", "get", clone, "readahead", "--rev", "v0.1.0", "-o", "got", cwd=tmp_path / "user")
    got = tmp_path / "user" / "got"
    assert sum(path.stat().st_size for path in got.iterdir()) < 2_000_000
    said = run("hindsight", "pipeline", "verify", "got", "--json", cwd=tmp_path / "user")
    assert json.loads(said)["same_bytes"] is True
