from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hindsight.errors import ConfigurationError, HindsightError, UsageError
from hindsight.lab.programs import path_of, require
from hindsight.lab.workloads import SAMPLE, WORKLOADS, Budget, file_sets, select
from hindsight.lab.workloads.files import write_tree
from hindsight.lab.workloads.run import ENVIRONMENT, run
from hindsight.lab.workloads.workload import MAX_READS

budgets = st.builds(
    Budget, seconds=st.floats(0.01, 60), read_iops=st.integers(1, 100_000)
)  # fmt: skip


@pytest.mark.parametrize("name", WORKLOADS)
@given(seed=st.integers(0, 1 << 31), budget=budgets)
def test_commands_are_well_formed(name: str, seed: int, budget: Budget) -> None:
    workload = WORKLOADS[name]
    directory = Path("/somewhere/files")
    argv = workload.command(directory, seed, budget)
    assert argv == workload.command(directory, seed, budget), "a command depends on its inputs alone"
    assert argv[0] == workload.program
    assert all(isinstance(word, str) and word and "\0" not in word for word in argv)
    assert any(str(directory) in word for word in argv), "it reads nothing of the device"
    assert name.startswith(f"{workload.program}-")
    for word in argv:
        option, _, value = word.partition("=")
        if option in ("--reads", "--number_ios", "--io_size"):
            assert int(value) > 0, word


@given(budgets)
def test_budgets_stay_within_their_caps(budget: Budget) -> None:
    assert 1 <= budget.random_reads <= MAX_READS
    assert 1 << 20 <= budget.stream_bytes <= 256 << 20


def test_the_sample_is_broad_enough() -> None:
    programs = {WORKLOADS[name].program for name in SAMPLE}
    assert len(SAMPLE) >= 12
    assert programs == {"db_bench", "sqlite3", "grep", "tar", "git", "fio"}
    assert any("--mmap_read=1" in WORKLOADS[name].command(Path("/d"), 1, Budget(1, 100)) for name in SAMPLE)


@pytest.mark.parametrize("name", ["fio-random-4k", "sqlite3-points", "db_bench-readrandom", "fio-several"])
def test_another_seed_is_another_command(name: str) -> None:
    command = WORKLOADS[name].command
    budget = Budget(8, 200)
    assert command(Path("/d"), 1, budget) != command(Path("/d"), 2, budget)


def test_selecting() -> None:
    assert [workload.name for workload in select(None)] == list(SAMPLE)
    assert [workload.name for workload in select(["fio-runs"])] == ["fio-runs"]
    assert [files.name for files in file_sets(select(["fio-runs", "grep-tree", "fio-stride"]))] == [
        "fio",
        "tree",
    ]
    with pytest.raises(UsageError, match="no-such"):
        select(["fio-runs", "no-such"])


def _digest(directory: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        digest.update(str(path.relative_to(directory)).encode())
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def test_a_tree_is_the_same_for_a_seed_and_differs_between_seeds(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_tree(tmp_path / name, seed, small=30, large=1, large_bytes=100_000)
    assert _digest(tmp_path / "a") == _digest(tmp_path / "b") != _digest(tmp_path / "c")
    files = [path for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert len(files) == 31
    (log,) = [path for path in files if path.suffix == ".log"]
    assert log.stat().st_size == 100_000
    assert all(512 <= path.stat().st_size <= 256 << 10 for path in files)


def test_sqlite_answers_from_the_file_that_it_prepared(tmp_path: Path) -> None:
    if path_of("sqlite3") is None:
        pytest.skip("sqlite3 is not installed (apt-get install sqlite3)")
    workload = WORKLOADS["sqlite3-points"]
    workload.files.prepare(tmp_path / "sqlite", 3)
    argv = workload.command(tmp_path / "sqlite", 3, Budget(1, 200))
    result = subprocess.run(argv, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    mapping, total = result.stdout.split()
    assert mapping == "0", "reads must not go through a mapping"
    assert 100 * 200 <= int(total) <= 100 * 1800, "a hundred rows of 200 … 1,800 bytes"


def test_a_missing_program_is_a_configuration_error_with_its_package() -> None:
    with pytest.raises(ConfigurationError, match="not installed: no-such-program") as caught:
        require("fio-of-the-future" if path_of("grep") is None else "grep", "no-such-program")
    assert "apt-get install" in str(caught.value)


def test_a_program_that_fails_says_why() -> None:
    with pytest.raises(HindsightError, match="failed with"):
        run("tar", "--extract", "--file=/nonexistent")
