from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import hindsight.subsystems
from hindsight.subsystems import contract

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session", autouse=True)
def _toy_is_installed() -> None:
    path = str(HERE / "subsystems")
    if path not in hindsight.subsystems.__path__:
        hindsight.subsystems.__path__.append(path)


@pytest.fixture(scope="session")
def toy(_toy_is_installed: None) -> contract.Subsystem:
    return contract.load("toy")


@pytest.fixture(scope="session")
def command() -> Command:
    """Run the real command in a process of its own, with the toy installed."""

    def run(*args: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, str(HERE / "with_toy.py"), *map(str, args)]
        return subprocess.run(line, cwd=cwd, capture_output=True, text=True, timeout=300)

    return run


def make_params(root: Path, **changed: dict[str, object]) -> Path:
    """The parameters of the repository, smaller; ``changed`` by section."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    small = {
        "data": {"source": "toy"},
        "train": {"trees": 20, "depth": 4},
        "evaluate": {"draws": 200, "delays_ns": [0, 100_000_000]},
    }
    for section, values in (*small.items(), *changed.items()):
        params[section] |= values
    path = root / "params.yaml"
    root.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(params))
    return path


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory, toy: contract.Subsystem) -> Path:
    """A directory in which the stages up to evaluate ran on a small dataset of the toy."""
    from datasets import write_dataset

    from hindsight.pipeline import params, stages

    root = tmp_path_factory.mktemp("project")
    write_dataset(root / "data" / "toy")
    loaded = params.load(make_params(root))
    for stage in ("ingest", "featurize", "train", "evaluate"):
        stages.run(stage, loaded, toy)
    return root


@pytest.fixture(scope="session")
def packaged(project: Path, toy: contract.Subsystem, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of a copy of ``project``; data, parameters and stages are beside it, as in a repository."""
    import shutil

    from hindsight.pipeline import params, stages

    root = tmp_path_factory.mktemp("packaged") / "project"
    shutil.copytree(project, root)
    stages.run("package", params.load(root / "params.yaml"), toy)
    return root / "models" / "exported" / "toy-0.1.0"
