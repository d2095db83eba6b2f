"""Installing on a host: one wheel or one zip application, units, manual page, completion; and removal."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from hindsight.capture.operation import install
from hindsight.errors import ConfigurationError, NotPermittedError

ROOT = Path(__file__).resolve().parents[3]
SHARE = ROOT / "capture" / "operation" / "share"
Run = Callable[..., subprocess.CompletedProcess[str]]
CLEAN = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}


def generated() -> dict[str, str]:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {Path(name).name: page() for name, page in module.PAGES.items() if "/share/" in name}


def test_manual_page_and_completion_are_up_to_date() -> None:
    found = generated()
    assert set(found) == {path.name for path in SHARE.iterdir()} == set(install._SHARED)
    for name, text in found.items():
        assert (SHARE / name).read_text() == text, "run `make docs`"


def test_manual_page_is_well_formed() -> None:
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    page = SHARE / "hindsight-capture.1"
    done = subprocess.run(["groff", "-man", "-ww", "-Tutf8", "-P-cbou", page], capture_output=True, text=True)
    assert done.stderr == ""
    text = done.stdout
    for heading in ("NAME", "SYNOPSIS", "COMMANDS", "SIGNALS", "FILES", "EXIT STATUS", "EXAMPLES"):
        assert heading in text
    source = page.read_text()
    for option in (r"\-\-max\-disk", r"\-\-dry\-run", r"\-\-no\-wait", r"\-\-uninstall"):
        assert option in source
    if shutil.which("man"):
        done = subprocess.run(["man", "--warnings", "-l", page], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


def completed(*words: str, cwd: Path) -> set[str]:
    script = (
        f'source {SHARE}/hindsight.bash; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
        '_hindsight; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", script, "bash", *words], capture_output=True, text=True, cwd=cwd)
    assert done.stderr == ""
    return set(done.stdout.split())


def test_completion_in_bash(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    assert {"capture", "pipeline", "lab", "models"} <= completed("hindsight", "", cwd=tmp_path)
    assert completed("hindsight", "capture", "rec", cwd=tmp_path) == {"record"}
    assert completed("hindsight", "capture", "record", "--dur", cwd=tmp_path) == {"--duration"}
    assert completed("hindsight", "capture", "record", "--source", "", cwd=tmp_path) == {"ftrace", "perf"}
    assert completed("hindsight", "capture", "record", "-o", "", cwd=tmp_path) == {"directory"}
    assert completed("hindsight", "capture", "convert", "d", cwd=tmp_path) == {"directory"}
    assert completed("hindsight", "capture", "status", "--", cwd=tmp_path) >= {"--json"}
    assert completed("hindsight", "capture", "record", "--", "x", cwd=tmp_path) == set()
    assert "record" not in completed("hindsight", "pipeline", "", cwd=tmp_path)


@pytest.mark.slow
def test_completion_in_fish(tmp_path: Path) -> None:
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")

    def complete(line: str) -> set[str]:
        script = f"source {SHARE}/hindsight.fish; complete -C '{line}'"
        done = subprocess.run(
            ["fish", "--no-config", "-c", script], capture_output=True, text=True, cwd=tmp_path,
            env=CLEAN | {"HOME": str(tmp_path)},
        )  # fmt: skip
        assert done.stderr == ""
        return {word.split("\t")[0] for word in done.stdout.splitlines()}

    assert {"capture", "pipeline"} <= complete("hindsight ")
    assert {"record", "doctor", "status"} <= complete("hindsight capture ")
    assert complete("hindsight capture record --sou") == {"--source"}
    assert complete("hindsight capture record --source ") == {"ftrace", "perf"}


_ZPTY = """
zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z 'PS1=; fpath=({share} $fpath); autoload -Uz compinit; compinit -u -d {tmp}/dump; echo rea""dy'
while zpty -r -t z line || true; do [[ $line == *ready* ]] && break; sleep 0.05; done
zpty -w -n z $'hindsight capture record --sou\\t f\\t\\n'
for i in {{1..100}}; do
    zpty -r -t z line && print -rn -- $line
    [[ $line == *ftrace* ]] && break
    sleep 0.05
done
zpty -d z
"""


@pytest.mark.slow
def test_completion_in_zsh(tmp_path: Path) -> None:
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed")
    script = tmp_path / "complete.zsh"
    script.write_text(_ZPTY.format(share=SHARE, tmp=tmp_path))
    done = subprocess.run(
        ["zsh", "-f", script], capture_output=True, text=True, timeout=30, cwd=tmp_path,
        env=CLEAN | {"HOME": str(tmp_path), "TERM": "dumb"},
    )  # fmt: skip
    assert "--source" in done.stdout and "ftrace" in done.stdout, done.stdout + done.stderr


def test_installs_and_removes(hindsight: Run, tmp_path: Path) -> None:
    root = tmp_path / "image"
    first = hindsight("capture", "install", "--root", root, "--prefix", "/usr")
    assert first.returncode == 0
    written = [Path(line) for line in first.stdout.splitlines()]
    there = sorted(path for path in root.rglob("*") if path.is_file())
    assert sorted(written) == there
    for path in (
        "usr/lib/systemd/system/hindsight-capture.service", "etc/hindsight/capture.conf",
        "usr/share/man/man1/hindsight-capture.1", "usr/share/bash-completion/completions/hindsight",
    ):  # fmt: skip
        assert (root / path).stat().st_mode & 0o777 == 0o644
    unit = (root / "usr/lib/systemd/system/hindsight-capture.service").read_text()
    assert (
        f"ExecStart={sys.executable} -I -m hindsight capture record" in unit
        and "@" not in unit.split("[Service]")[0]
    )
    assert not (root / "etc/hindsight/host.key").exists()  # an image has no key

    again = hindsight("capture", "install", "--root", root, "--prefix", "/usr")
    assert again.stdout == "" and "in place already" in again.stderr
    (root / "etc/hindsight/capture.conf").write_text("HINDSIGHT_RECORD=--flight\n")
    upgraded = hindsight("capture", "install", "--root", root, "--prefix", "/usr")
    assert upgraded.stdout.strip() == str(root / "etc/hindsight/capture.conf.new")
    assert "kept" in upgraded.stderr
    gone = hindsight("capture", "install", "--root", root, "--prefix", "/usr", "--uninstall")
    assert gone.returncode == 0
    assert [p.name for p in root.rglob("*") if p.is_file()] == ["capture.conf"]


def test_dry_run_writes_nothing(hindsight: Run, tmp_path: Path) -> None:
    done = hindsight("capture", "install", "--root", tmp_path / "image", "--dry-run")
    assert len(done.stdout.splitlines()) >= 8
    assert list(tmp_path.iterdir()) == []


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="absolute"):
        install.install(tmp_path, Path("usr"), print)
    with pytest.raises(ConfigurationError, match="absolute"):
        install.install(tmp_path, Path("/usr/../../etc"), print)
    install.files(Path("/usr/local"))  # imports what the child, as another user, may not be able to read
    child = os.fork()
    if child == 0:
        code = 99
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            install.install(Path("/"), Path("/usr/local"), print)
        except NotPermittedError:
            code = 4
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zip application, as `make zipapp` builds it."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    path = tmp_path_factory.mktemp("zipapp") / "hindsight.pyz"
    command = ["make", "--no-print-directory", "zipapp", f"ZIPAPP={path}", f"PYTHON={sys.executable}"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return path


def run_archive(archive: Path, *arguments: object, **kwargs: object) -> subprocess.CompletedProcess[str]:
    """With python3 alone: no site-packages, no user's settings, an empty environment."""
    command = [sys.executable, "-I", "-S", str(archive), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={}, timeout=60, **kwargs)  # type: ignore[call-overload]


def test_zip_application_holds_the_whole_command(archive: Path) -> None:
    names = set(zipfile.ZipFile(archive).namelist())
    assert {
        "hindsight/capture/operation/units/hindsight-capture.service",
        "hindsight/capture/recording/record.py",
    } <= names
    assert not any(name.endswith((".so", ".parquet")) or "test" in name for name in names)
    assert run_archive(archive, "--version").stdout.startswith("hindsight ")
    assert run_archive(archive, "nonsense").returncode == 2


def test_zip_application_installs_itself(archive: Path, tmp_path: Path) -> None:
    root = tmp_path / "image"
    assert run_archive(archive, "capture", "install", "--root", root).returncode == 0
    program = root / "usr/local/bin/hindsight"
    assert program.read_bytes() == archive.read_bytes() and os.access(program, os.X_OK)
    unit = (root / "usr/local/lib/systemd/system/hindsight-capture.service").read_text()
    assert f"ExecStart={sys.executable} -I -S /usr/local/bin/hindsight capture record" in unit
    assert run_archive(program, "capture", "install", "--root", root, "--uninstall").returncode == 0
    assert [p for p in root.rglob("*") if p.is_file()] == []


def test_zip_application_records(archive: Path, live: Path, tmp_path: Path) -> None:
    done = run_archive(archive, "capture", "doctor", "--json")
    assert done.returncode in (0, 1), done.stderr
    done = run_archive(archive, "capture", "record", "-o", tmp_path / "raw", "--", "/bin/true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    segment = Path(done.stdout.splitlines()[-1])
    assert (segment / "manifest.json").is_file()
    for verb in ("status", "clean"):
        assert run_archive(archive, "capture", verb).returncode in (0, 1)
    refused = run_archive(archive, "capture", "convert", segment, "-o", tmp_path / "out")
    assert refused.returncode == 3 and "pip install" in refused.stderr


@pytest.mark.slow
def test_wheel_records_on_a_host_without_anything_else(live: Path, tmp_path: Path) -> None:
    """Built without a network from a copy of the sources; installed into an empty environment."""
    source = tmp_path / "source"
    for name in ("hindsight", "capture", "subsystems", "models", "pipeline", "advisor", "lab"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "exported"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if uv is None:
        pytest.skip("uv is not installed")
    offline = ["--offline", "--no-build-isolation", "--python", sys.executable]
    subprocess.run([uv, "build", "--wheel", *offline, "-o", tmp_path / "dist", source], check=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "hindsight/capture/operation/share/hindsight-capture.1" in names
    (metadata,) = (n for n in names if n.endswith("METADATA"))
    requires = [
        line for line in zipfile.ZipFile(wheel).read(metadata).decode().splitlines()
        if line.startswith("Requires-Dist:") and "extra ==" not in line
    ]  # fmt: skip
    assert requires == []
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    subprocess.run(
        [uv, "pip", "install", "--offline", "--no-deps", "--python", venv / "bin/python", wheel], check=True
    )
    program = venv / "bin/hindsight"
    done = subprocess.run(
        [program, "capture", "record", "-o", tmp_path / "raw", "--", "/bin/true"],
        capture_output=True, text=True, env=CLEAN, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (Path(done.stdout.splitlines()[-1]) / "manifest.json").is_file()
