"""``status`` tells what runs and what was left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hindsight.capture import host, owner
from hindsight.capture.operation import state, status
from hindsight.capture.owner import Owner

Run = Callable[..., subprocess.CompletedProcess[str]]


def write(place: Path, who: Owner, **changes: Any) -> None:
    values = {
        "capture": "c",
        "owner": who.as_dict(),
        "out": "/raw",
        "boot": host.boot_id(),
        "pid": who.pid,
        "started": time.time() - 60,
        "updated": time.time(),
        "state": "recording",
        "recorded": 1234567,
        "rate": 20.0,
    } | changes
    state.write(place / f"{values['capture']}.json", values)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where state files are looked for in this process."""
    directory = tmp_path / "run"
    directory.mkdir()
    monkeypatch.setattr(state, "directories", lambda: [directory])
    monkeypatch.setattr(status, "_INSTANCES", (tmp_path / "instances",))
    return directory


@pytest.fixture
def dead() -> Owner:
    gone = subprocess.Popen(["true"])
    gone.wait()
    return Owner(owner.own().namespace, gone.pid, 1)


def test_nothing_runs(place: Path) -> None:
    found = status.survey()
    assert found["ok"] and found["recorders"] == [] and found["abandoned"] == []
    assert list(status.lines(found)) == ["no recorder runs"]


def test_a_recorder_that_is_well(place: Path) -> None:
    write(place, owner.own(), shed=["syscalls/sys_enter_read"], raw_bytes=5 << 20)
    found = status.survey()
    assert found["ok"]
    text = "\n".join(status.lines(found))
    assert "1,234,567 recorded" in text and "5.0 MiB raw" in text and "sys_enter_read" in text
    assert json.loads(json.dumps(found))["recorders"][0]["lag_s"] < 5


def test_a_recorder_that_does_not_answer(place: Path) -> None:
    write(place, owner.own(), updated=time.time() - 3600)
    (row,) = status.survey()["recorders"]
    assert "not been heard of" in row["remedy"]
    assert not status.survey()["ok"]


def test_a_dead_recorder_and_its_remains(place: Path, dead: Owner, tmp_path: Path) -> None:
    out = tmp_path / "raw"
    (out / ".recording-c-0003").mkdir(parents=True)
    (out / ".recording-other-0001").mkdir()
    write(place, dead, out=str(out))
    instances = tmp_path / "instances"
    for name in (
        f"hindsight-{dead}-tasks",
        f"hindsight-{owner.own()}-tasks",
        "somebody-else",
        "hindsight-5-x",
    ):
        (instances / name).mkdir(parents=True)
    found = status.survey()
    assert not found["ok"]
    assert found["recorders"][0]["state"] == "dead"
    assert found["recorders"][0]["unsealed"] == ["c-0003"]
    assert f"clean -o {out}" in found["recorders"][0]["remedy"]
    assert found["abandoned"] == [f"hindsight-{dead}-tasks"]
    assert "c-0003" in "\n".join(status.lines(found))


def test_control_characters_do_not_reach_the_terminal(place: Path) -> None:
    write(place, owner.own(), state="\x1b[31mred", out="/raw\x1b[2J", shed=["\x07"])
    assert "\x1b" not in "".join(status.lines(status.survey()))


def test_strange_values_are_shown_not_believed(place: Path) -> None:
    write(place, owner.own(), recorded="many", started=None, shed={"a": 1}, pid=[1])
    assert list(status.lines(status.survey()))


@pytest.fixture
def recorder(live: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "hindsight", "capture", "record", "-o", str(tmp_path / "raw")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield process
    if process.poll() is None:
        process.terminate()
    process.communicate(timeout=30)


def test_a_real_recorder_from_start_to_end(
    recorder: subprocess.Popen[str], hindsight: Run, tmp_path: Path
) -> None:
    assert recorder.stderr is not None
    assert "whole host" in recorder.stderr.readline()
    row = None
    for _ in range(100):
        found = json.loads(hindsight("capture", "status", "--json").stdout)
        row = next((r for r in found["recorders"] if r["pid"] == recorder.pid and r.get("recorded")), None)
        if row is not None:
            break
        time.sleep(0.1)
    assert row is not None
    assert row["alive"] and row["state"] == "recording" and row["out"] == str(tmp_path / "raw")
    assert row["cpu_ns"] > 0 and row["ring_bytes"] > 0 and row["remedy"] is None
    assert row["unsealed"] == [f"{row['capture']}-0000"]
    recorder.terminate()
    recorder.wait(30)
    left = json.loads(hindsight("capture", "status", "--json").stdout)
    assert recorder.pid not in [r["pid"] for r in left["recorders"]]


def test_a_killed_recorder_is_seen_and_cleaned_up(
    recorder: subprocess.Popen[str], hindsight: Run, tmp_path: Path
) -> None:
    assert recorder.stderr is not None
    recorder.stderr.readline()
    recorder.kill()
    recorder.wait(30)
    done = hindsight("capture", "status", "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert recorder.pid in [r["pid"] for r in found["recorders"] if r["alive"] is False]
    assert any(f"-{recorder.pid}-" in name for name in found["abandoned"])
    assert "capture clean" in done.stderr
    for _ in range(20):  # any recorder that starts meanwhile cleans up as well, and holds it for a moment
        assert hindsight("capture", "clean", "-o", tmp_path / "raw").returncode == 0
        after = json.loads(hindsight("capture", "status", "--json").stdout)
        pids = [r["pid"] for r in after["recorders"]]
        if recorder.pid not in pids and not any(f"-{recorder.pid}-" in name for name in after["abandoned"]):
            break
        time.sleep(0.1)
    else:
        pytest.fail(f"not cleaned up: {after}")


def test_anybody_may_ask(hindsight: Run) -> None:
    if os.geteuid() == 0:
        child = os.fork()
        if child == 0:
            code = 99
            try:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                from hindsight.command import main

                code = main(["capture", "status", "--json"])
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) in (0, 1)
