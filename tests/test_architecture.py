"""The import rules of the rooms, held by reading every import in the source."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("capture", "subsystems", "models", "pipeline", "advisor", "lab")

# room -> (rooms or modules of ours that it may import, third-party packages that it may import)
RULES: dict[str, tuple[set[str], set[str]]] = {
    "capture": (set(), {"numpy", "numba", "llvmlite", "pyarrow", "isal", "zstandard"}),
    "subsystems": ({"hindsight.capture.schema"}, {"numpy", "numba"}),
    "models": (set(), {"numpy", "numba", "xgboost", "cryptography"}),
    "pipeline": (
        {"hindsight.capture.schema", "hindsight.subsystems", "hindsight.models"},
        {
            "numpy",
            "numba",
            "polars",
            "pyarrow",
            "xgboost",
            "scipy",
            "altair",
            "vl_convert",
            "jinja2",
            "markupsafe",
            "dvc",
            "yaml",
        },
    ),
    "advisor": (
        {
            "hindsight.capture.schema",
            "hindsight.capture.proxy",
            "hindsight.subsystems",
            "hindsight.models",
        },
        {"numpy", "numba", "cryptography", "pyarrow"},
    ),
    "lab": (
        {"hindsight.capture", "hindsight.subsystems", "hindsight.models", "hindsight.pipeline"},
        {"numpy", "pyarrow", "altair", "vl_convert"},
    ),
}
# What every room may use: the errors that carry the exit codes, the version, where compiled code is kept.
CONTRACT = {"hindsight", "hindsight.errors", "hindsight.compiled"}
HEAVY = {
    "pyarrow", "isal", "zstandard", "numba", "polars", "xgboost", "numpy", "scipy", "dvc", "cryptography",
}  # fmt: skip


def _imports(path: Path, package: str) -> list[tuple[int, str]]:
    """(line, absolute module) of every import in a file, wherever it stands."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parts, base] if base else parts)
            found += [(node.lineno, base)]
            if base in {"hindsight", *(f"hindsight.{room}" for room in ROOMS)}:
                found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
    return found


def _files(room: str) -> list[tuple[Path, str]]:
    files = []
    for path in sorted((ROOT / room).rglob("*.py")):
        parts = path.relative_to(ROOT).parent.parts
        files.append((path, ".".join(("hindsight", *parts))))
    return files


def _violations(room: str, path: Path, package: str) -> list[str]:
    ours, third_party = RULES[room]
    bad = []
    for line, module in _imports(path, package):
        top = module.split(".")[0]
        where = f"{path.relative_to(ROOT)}:{line} imports {module}"
        if top == "hindsight":
            own = module == f"hindsight.{room}" or module.startswith(f"hindsight.{room}.")
            allowed = any(module == m or module.startswith(m + ".") for m in ours)
            # `from hindsight import __version__`, `import hindsight.subsystems as package`
            parent = any(m.startswith(module + ".") for m in ours) and module != "hindsight.capture"
            contract = module in CONTRACT or any(module.startswith(f"{c}.") for c in CONTRACT - {"hindsight"})
            if not (own or allowed or parent or contract or module == "hindsight.__version__"):
                bad.append(where)
        elif top not in sys.stdlib_module_names and top not in third_party:
            bad.append(where)
    return bad


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_the_architecture_allows(room: str) -> None:
    files = _files(room)
    assert files, f"room {room} has no module"
    assert [v for path, package in files for v in _violations(room, path, package)] == []


def test_the_rule_finds_a_forbidden_import(tmp_path: Path) -> None:
    path = ROOT / "capture" / "host.py"
    assert _violations("capture", path, "hindsight.capture") == []
    source = tmp_path / "leak.py"
    source.write_text("def f():\n    from hindsight.pipeline import ingest\n    import polars\n")
    found = [module for _, module in _imports(source, "hindsight.capture")]
    assert found == ["hindsight.pipeline", "hindsight.pipeline.ingest", "polars"]


def _modules_after(code: str) -> set[str]:
    probe = (
        f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\n"
        "print('\\n'.join(sys.modules), file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd="/")
    return {line.split(".")[0] for line in run.stderr.splitlines()}


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["capture", "--help"], ["capture", "record", "--help"],
     ["pipeline", "--help"],
     ["lab", "--help"], ["models", "--help"], ["advisor", "--help"]],
    ids=" ".join,
)  # fmt: skip
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    loaded = _modules_after(f"from hindsight.command import main; main({arguments!r})")
    assert loaded & HEAVY == set()


def test_recording_needs_the_standard_library_alone() -> None:
    loaded = _modules_after(
        "import hindsight.capture.cli; from hindsight.capture.recording import record, session"
    )
    foreign = {m for m in loaded if m not in sys.stdlib_module_names and not m.startswith(("_", "hindsight"))}
    # What an editable install and the interpreter's site hooks bring along.
    assert {m for m in foreign if not re.match(r"distutils|sitecustomize|usercustomize", m)} == set()


def test_the_engine_knows_no_subsystem_by_name() -> None:
    subsystems = [p.name for p in (ROOT / "subsystems").iterdir() if (p / "__init__.py").exists()]
    assert subsystems
    named = [
        f"{path.relative_to(ROOT)}: {name}"
        for room in ("pipeline", "models")
        for path, _ in _files(room)
        for name in subsystems
        if re.search(rf"\b{name}\b", path.read_text())
    ]
    assert named == []


def test_no_catch_all_module_and_no_oversized_one() -> None:
    for room in (*ROOMS, "hindsight"):
        for path in (ROOT / room).rglob("*.py"):
            assert path.stem not in {"utils", "util", "helpers", "helper", "common", "misc"}, path
            assert len(path.read_text().splitlines()) <= 420, f"{path} is too long for one idea"


def test_a_host_that_records_installs_nothing_else() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dependencies"] == []
    lock = (ROOT / "requirements.lock").read_text()
    assert "--hash=sha256:" in lock
    for extra in ("convert", "models", "pipeline", "advisor", "test"):
        for requirement in project["project"]["optional-dependencies"][extra]:
            name = re.split(r"[\[<>=~!]", requirement)[0].lower()
            assert name == "kernel-hindsight" or re.search(rf"^{re.escape(name)}==", lock, re.M), requirement
