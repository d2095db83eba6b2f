from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hindsight.errors import ConfigurationError
from hindsight.lab.journal import Journal, begin, finished_blocks
from hindsight.lab.machine import machine_pseudonym

PLAN: dict[str, Any] = {"suite": "s", "seed": 1, "machine": "aaaaaaaaaaaa", "parts": [["P1", ["w"], 1.0]]}


def run(journal: Journal, setting: str, number: int = 1, workload: str = "w") -> None:
    journal.write("run", profile="P1", workload=workload, round=number, setting=setting, elapsed_ns=1)


def block(journal: Journal, number: int = 1, workload: str = "w") -> None:
    journal.write("block", profile="P1", workload=workload, round=number)


def settings(journal: Journal) -> dict[tuple[str, str, int], list[str]]:
    return {key: [run["setting"] for run in runs] for key, runs in finished_blocks(journal).items()}


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        assert begin(journal, PLAN) is False
        run(journal, "stock")
    with Journal(tmp_path / "j") as journal:
        assert [entry["kind"] for entry in journal.entries] == ["plan", "run"]
        assert begin(journal, PLAN) is True
        assert journal.of("run")[0]["setting"] == "stock"


def test_a_line_that_was_being_written_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal(path) as journal:
        begin(journal, PLAN)
        run(journal, "stock")
    whole = path.read_bytes()
    for cut in (1, 20, len(whole.splitlines()[-1])):
        path.write_bytes(whole[:-cut])
        with Journal(path) as journal:
            assert [entry["kind"] for entry in journal.entries] == ["plan"]
            run(journal, "again")
        assert [json.loads(line)["kind"] for line in path.read_text().splitlines()] == ["plan", "run"]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal(path) as journal:
        begin(journal, PLAN)
        run(journal, "stock")
    lines = path.read_bytes().splitlines(keepends=True)
    for damaged in (b"not json\n", b"[]\n", b"{}\n", b"\xff\n"):
        path.write_bytes(damaged + lines[1])
        with pytest.raises(ConfigurationError, match="line 1 is damaged"):
            Journal(path)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with Journal(tmp_path / "j"), pytest.raises(ConfigurationError, match="another process"):
        Journal(tmp_path / "j")
    Journal(tmp_path / "j").__exit__(None, None, None)


def test_another_machine_is_refused(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        begin(journal, PLAN)
        with pytest.raises(ConfigurationError, match="machine aaaaaaaaaaaa, this is bbbbbbbbbbbb"):
            begin(journal, PLAN | {"machine": "bbbbbbbbbbbb", "seed": 2})
        assert [entry["kind"] for entry in journal.entries] == ["plan"], "a refusal leaves it as it was"


def test_another_plan_is_refused_and_the_difference_is_named(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        begin(journal, PLAN)
        with pytest.raises(ConfigurationError, match=r"differs in: kernel, seed"):
            begin(journal, PLAN | {"seed": 2, "kernel": "other"})


def test_a_block_that_was_broken_off_counts_for_nothing(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        begin(journal, PLAN)
        run(journal, "stock")
        run(journal, "device:64")
        block(journal)
        run(journal, "stock", 2)  # killed here: what follows is another session
        journal.write("session", boot="x")
        assert settings(journal) == {("P1", "w", 1): ["stock", "device:64"]}
        run(journal, "device:64", 2)
        run(journal, "stock", 2)
        block(journal, 2)
        assert settings(journal) == {
            ("P1", "w", 1): ["stock", "device:64"],
            ("P1", "w", 2): ["device:64", "stock"],
        }, "the stock run before the interruption is no partner of a run after it"


WRITER = """
import sys
from pathlib import Path
from hindsight.lab.journal import Journal, begin
with Journal(Path(sys.argv[1])) as journal:
    begin(journal, {"machine": "m"})
    journal.write("session", boot="x")
    for number in range(1, 1000000):
        for setting in ("stock", "device:64"):
            journal.write("run", profile="P1", workload="w", round=number, setting=setting, number=number)
        journal.write("block", profile="P1", workload="w", round=number)
        print(number, flush=True)
"""


@pytest.mark.parametrize("after", [1, 7, 40])
def test_killed_in_the_middle_it_goes_on(tmp_path: Path, after: int) -> None:
    path = tmp_path / "j"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    for line in writer.stdout:
        if int(line) >= after:
            break
    os.kill(writer.pid, signal.SIGKILL)
    told = max([after, *(int(line) for line in writer.stdout.read().split())])
    writer.wait()
    with Journal(path) as journal:
        assert begin(journal, {"machine": "m"}) is True
        blocks = finished_blocks(journal)
    assert told <= len(blocks) <= told + 1, "what was said to be done is there"
    for (_, _, number), runs in blocks.items():
        assert [run["setting"] for run in runs] == ["stock", "device:64"]
        assert {run["number"] for run in runs} == {number}


def test_the_machine_has_one_name_and_it_is_no_secret(tmp_path: Path) -> None:
    first = machine_pseudonym(tmp_path)
    assert first == machine_pseudonym(tmp_path)
    assert len(first) == 12 and int(first, 16) >= 0
    assert first not in Path("/etc/machine-id").read_text() if Path("/etc/machine-id").exists() else True
