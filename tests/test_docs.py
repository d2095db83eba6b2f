"""The documentation says what the code does: generated pages, every command, every example."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hindsight.command import ROOMS, build_parser

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])


def _generator():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "page",
    ["data-dictionary.md", "exit-codes.md", "manifest.schema.json", "proxy-records.md", "proxy.schema.json"],
)
def test_generated_pages_are_up_to_date(page: str) -> None:
    assert (ROOT / "docs" / page).read_text() == _generator().PAGES[page](), "run `make docs`"


def _commands(parser: argparse.ArgumentParser, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    subs = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not subs and len(words) > 1:
        yield words
    for action in subs:
        for name, sub in action.choices.items():
            yield from _commands(sub, (*words, name))


def _all_commands() -> list[str]:
    found = []
    for room in ROOMS:
        found += [
            " ".join(w) for w in _commands(build_parser(room), ("hindsight",)) if w[1] == room and len(w) > 2
        ]
    return sorted(set(found))


@pytest.mark.parametrize("command", _all_commands())
def test_every_command_is_documented(command: str) -> None:
    pages = "\n".join(page.read_text() for page in PAGES)
    assert command in pages, f"no page under docs/ mentions `{command}`"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_between_pages_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def _examples(page: Path) -> list[str]:
    """The lines that begin with `$ ` in blocks fenced as `console`, in order; `\\` continues a line."""
    lines = []
    for block in re.findall(r"^```console\n(.*?)^```", page.read_text(), re.S | re.M):
        joined = block.replace("\\\n", " ")
        lines += [line[2:] for line in joined.splitlines() if line.startswith("$ ")]
    return lines


WITH_EXAMPLES = [p for p in PAGES if _examples(p)]


@pytest.mark.skipif(os.geteuid() != 0, reason="the examples record with tracefs: root is needed")
@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda p: p.name)
def test_the_examples_of_a_page_run(page: Path, tmp_path: Path) -> None:
    # The examples may write: they get a data directory of their own, with the sample in it.
    (tmp_path / "data").mkdir()
    for name in ("data/sample", "params.yaml", "dvc.yaml"):
        (tmp_path / name).symlink_to(ROOT / name)
    env = dict(os.environ)
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    bash = shutil.which("bash")
    assert bash
    for line in _examples(page):
        run = subprocess.run(
            [bash, "-c", re.sub(r"^sudo ", "", line)],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert run.returncode == 0, f"$ {line}\n{run.stdout[-2000:]}{run.stderr[-2000:]}"


def _python_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.S | re.M)


@pytest.mark.parametrize("page", [p for p in PAGES if _python_blocks(p)], ids=lambda p: p.name)
def test_python_in_a_page_parses_and_names_what_exists(page: Path) -> None:
    for block in _python_blocks(page):
        for node in ast.parse(block).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                exec(compile(ast.Module([node], []), str(page), "exec"), {})
