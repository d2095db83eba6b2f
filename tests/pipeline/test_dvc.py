"""dvc.yaml says what the stages really read: code, parameters, outputs."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import yaml

from hindsight.pipeline import package, params, stages

ROOT = Path(__file__).parents[2]
STAGES: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
ROOMS = ("capture", "models", "pipeline", "subsystems")

# What every stage runs through, without an effect on its outputs but to fail: not worth running again for.
SHELL = {
    "capture/__init__.py",
    "models/__init__.py",
    "pipeline/__init__.py",
    "pipeline/cli.py",
    "pipeline/stages.py",
    "subsystems/__init__.py",
}


def module_file(name: str) -> Path | None:
    """The source of hindsight.<name>, if it is one of ours."""
    parts = name.split(".")
    if parts[0] != "hindsight" or len(parts) < 2 or parts[1] not in ROOMS:
        return None
    path = ROOT.joinpath(*parts[1:])
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def imports(path: Path) -> set[Path]:
    """Files of ours that a file imports when it runs; what only a type checker sees does not count."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    found = set()
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found |= {file for name in names if (file := module_file(name))}
    return found


def closure(path: Path) -> set[str]:
    """All files of ours that a stage's module runs, itself among them."""
    reached, todo = set(), [path]
    while todo:
        file = todo.pop()
        if file not in reached:
            reached.add(file)
            todo += imports(file)
    return {file.relative_to(ROOT).as_posix() for file in reached} - SHELL


def deps(stage: str) -> list[str]:
    return [d.replace("${item.subsystem}", "readahead") for d in STAGES[stage]["deps"]]


def covered(file: str, by: list[str]) -> bool:
    return any(file == dep or file.startswith(f"{dep}/") for dep in by)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_code_that_it_runs(stage: str) -> None:
    module = "pipeline/report/__init__.py" if stage == "report" else f"pipeline/{stage}.py"
    needed = closure(ROOT / module)
    assert len(needed) > 2
    assert [file for file in sorted(needed) if not covered(file, deps(stage))] == []


@pytest.mark.parametrize("stage", STAGES)
def test_every_dependency_on_code_exists_and_no_stage_reads_its_own_output(stage: str) -> None:
    for dep in deps(stage):
        if not dep.startswith(("build/", "data/")):
            assert (ROOT / dep).exists(), dep
        assert not "models/exported".startswith(dep)


def test_the_hash_of_the_code_in_a_package_covers_its_dependencies_and_no_more() -> None:
    made = ("build/", "data/", "requirements.lock")
    code = [d for d in deps("package") if not d.startswith(made)]
    assert sorted(code) == sorted(package.CODE)


def test_the_stages_of_the_command_are_those_of_dvc() -> None:
    from hindsight.pipeline.cli import STAGES as COMMANDS

    assert list(COMMANDS) == list(STAGES)
    for name, stage in STAGES.items():
        assert stage["cmd"] == f"hindsight pipeline {name} --subsystem ${{item.subsystem}}"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_declares_the_sections_of_parameters_that_it_reads(stage: str) -> None:
    sections = {str(p).split(".")[0] for p in STAGES[stage].get("params", [])}
    module = "pipeline/report/__init__.py" if stage == "report" else f"pipeline/{stage}.py"
    read = set()
    for file in {module, *closure(ROOT / module)} - {"pipeline/params.py"}:
        for node in ast.walk(ast.parse((ROOT / file).read_text())):
            if isinstance(node, ast.Subscript) and ast.unparse(node.value) in ("params", "self.params"):
                index = node.slice
                if isinstance(index, ast.Constant) and index.value in params.REQUIRED:
                    read.add(index.value)
    assert read <= sections
    if stage in ("evaluate", "package"):
        assert set(params.EVALUATED) <= sections


def test_an_unknown_stage_is_refused(tmp_path: Path) -> None:
    from hindsight.errors import UsageError
    from hindsight.subsystems import contract

    with pytest.raises(UsageError):
        stages.run("deploy", params.Params(tmp_path, {}), contract.load("toy"))
