"""Recorders that are really killed: what the next call finds, keeps and removes."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from hindsight.capture import owner
from hindsight.capture.conversion.convert import convert
from hindsight.capture.operation import state
from hindsight.capture.profiles import profile
from hindsight.capture.schema import TABLES
from hindsight.capture.segments.recover import recover_all, unsealed
from hindsight.capture.segments.segment import find_segments, open_segment
from hindsight.capture.segments.tidy import tidy
from hindsight.command import main

GROUPS = tuple(profile("readahead").events)

Run = Callable[..., subprocess.CompletedProcess[str]]
LOAD = "while :; do dd if=/dev/zero of=/dev/null bs=1 count=20000 status=none; done"


@pytest.fixture
def run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """State files of this test alone."""
    directory = tmp_path / "run" / "hindsight"
    directory.parent.mkdir()
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(directory))
    monkeypatch.setattr(state, "RUN", directory)
    return directory


class Killed:
    """A recorder and its command; :meth:`kill` ends the recorder as SIGKILL does."""

    def __init__(self, live: Path, out: Path, *options: str, load: str = LOAD) -> None:
        self.root = live
        self.out = out
        command = [sys.executable, "-m", "hindsight", "capture", "record", "-o", str(out), *options]
        self.process = subprocess.Popen(
            [*command, "--", "sh", "-c", load], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        self.owner = owner.Owner(
            owner.own().namespace, self.process.pid, owner._start_ticks(self.process.pid) or 0
        )

    def instances(self) -> list[Path]:
        return sorted((self.root / "instances").glob(f"hindsight-{self.owner}-*"))

    def wait_until_it_records(self, least: int = 1) -> None:
        for _ in range(1000):
            if sum(path.stat().st_size for path in self.out.rglob("*.pages")) >= least:
                return
            time.sleep(0.01)
        raise AssertionError("it does not record")

    def wait_until_it_is_open(self) -> None:
        for _ in range(1000):
            if list(self.out.glob(".recording-*/journal.jsonl")):
                return
            time.sleep(0.01)
        raise AssertionError("it does not record")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, number)
            except ProcessLookupError:
                break
            time.sleep(0.05)
        self.process.wait()


@pytest.fixture
def recorder(live: Path, tmp_path: Path) -> Iterator[Callable[..., Killed]]:
    made: list[Killed] = []

    def record(*options: str, **more: Any) -> Killed:
        made.append(Killed(live, tmp_path / "raw", *options, **more))
        return made[-1]

    yield record
    for one in made:
        one.end()
        for path in one.instances():
            path.rmdir()


def lost(out: Path) -> list[dict[str, Any]]:
    return [row for path in out.glob("host=*/date=*/losses/*") for row in pq.read_table(path).to_pylist()]


def check_counts(segments: list[Path], out: Path) -> None:
    """Recorded + lost is what the kernel counted, in all and for each instance and CPU of each segment."""
    for path in segments:
        segment = open_segment(path)
        (result,) = convert([path], out)
        read = missed = 0
        for instance in segment.facts["instances"].values():
            for cpu, after in instance["stats_after"].items():
                before = instance["stats_before"][cpu]
                read += after["read events"] - before["read events"]
                missed += after["dropped events"] - before["dropped events"]
        rows = sum(count for table, count in result.tables.items() if TABLES[table].tracepoint)
        assert rows == result.events
        # What sat in the recorder's pipe was read, as the kernel counts, and is lost.
        assert result.events + result.lost == read + missed
        assert read - 20_000 <= result.events <= read


def test_killed_recorder(live: Path, recorder: Callable[..., Killed], tmp_path: Path) -> None:
    """Ring buffers that are too small, a recorder that is killed: every event is accounted for."""
    killed = recorder("--buffer-kb", "256")
    killed.wait_until_it_records(1 << 20)
    killed.kill()
    time.sleep(0.3)  # its ring buffers fill
    assert len(killed.instances()) == len(GROUPS)
    said: list[str] = []
    done = recover_all(tmp_path / "raw", said.append)
    assert len(done.sealed) == 1 and not done.failed and not done.left and not done.keep
    assert killed.instances() == [] and unsealed(tmp_path / "raw") == []
    assert len(said) == 1 and "its recorder died" in said[0]
    check_counts(done.sealed, tmp_path / "out")
    facts = open_segment(done.sealed[0]).facts
    assert facts["closed"] == "recovered"
    assert {"recorder died"} <= {row["cause"] for row in facts["losses"]} <= {"recorder died", "ring full"}
    died = [row for row in facts["losses"] if row["cause"] == "recorder died"]
    assert all(row["count_lower"] == row["count_upper"] > 0 for row in died)
    assert facts["tables"]["files"] == [] or facts["tables"]["files"][0]["path"] is None


@pytest.mark.slow
def test_killed_in_the_middle_of_a_chain(live: Path, recorder: Callable[..., Killed], tmp_path: Path) -> None:
    killed = recorder("--rotate-size", "1M", "--buffer-kb", "256")
    for _ in range(2000):
        if tmp_path.joinpath("raw").exists() and len(list((tmp_path / "raw").glob("2*"))) >= 3:
            break
        time.sleep(0.01)
    killed.kill()
    done = recover_all(tmp_path / "raw", print)
    assert not done.failed and not done.left and killed.instances() == []
    segments = find_segments([tmp_path / "raw"])
    facts = [open_segment(path).facts for path in segments]
    assert [f["segment"] for f in facts] == list(range(len(facts)))
    for former, latter in pairwise(facts):
        for name, instance in former["instances"].items():
            assert instance["stats_after"] == latter["instances"][name]["stats_before"]
    out = tmp_path / "out"
    convert(segments, out)
    totals = {"read events": 0, "dropped events": 0}
    for counter in totals:
        for name in facts[0]["instances"]:
            for cpu, before in facts[0]["instances"][name]["stats_before"].items():
                totals[counter] += facts[-1]["instances"][name]["stats_after"][cpu][counter] - before[counter]
    events = sum(
        pq.read_metadata(path).num_rows
        for path in out.glob("host=*/date=*/*/*.parquet")
        if TABLES[path.parent.name].tracepoint
    )
    assert events + sum(row["count_lower"] for row in lost(out)) == sum(totals.values())


def test_killed_flight_recorder_is_read(live: Path, recorder: Callable[..., Killed], tmp_path: Path) -> None:
    """What it held in memory is what it was for."""
    killed = recorder(
        "--flight", "--buffer-kb", "512", load="dd if=/dev/zero of=/dev/null bs=1 count=30000; sleep 9"
    )
    for _ in range(1000):
        stats = [path.read_text() for one in killed.instances() for path in one.glob("per_cpu/cpu*/stats")]
        if any(re.search("^overrun: [1-9]", text, re.M) for text in stats):
            break
        time.sleep(0.01)
    killed.kill()
    done = recover_all(tmp_path / "raw", print)
    assert len(done.sealed) == 1 and killed.instances() == []
    (result,) = convert(done.sealed, tmp_path / "out")
    assert result.events > 3000
    facts = open_segment(done.sealed[0]).facts
    gone = sum(
        after["overrun"] - instance["stats_before"][cpu]["overrun"]
        for instance in facts["instances"].values()
        for cpu, after in instance["stats_after"].items()
    )
    assert sum(row["count_lower"] for row in lost(tmp_path / "out")) == gone
    assert {row["cause"] for row in lost(tmp_path / "out")} <= {"ring overrun"}


def test_the_next_recorder_puts_it_in_order(
    live: Path, recorder: Callable[..., Killed], tmp_path: Path, hindsight: Run
) -> None:
    killed = recorder()
    killed.wait_until_it_records()
    killed.kill()
    done = hindsight("capture", "record", "-o", tmp_path / "raw", "--", "true")
    assert done.returncode == 0, done.stderr
    assert "was left unsealed (its recorder died): it is sealed now" in done.stderr
    assert len(find_segments([tmp_path / "raw"])) == 2
    assert killed.instances() == []


def test_clean(
    live: Path, recorder: Callable[..., Killed], tmp_path: Path, run_directory: Path, hindsight: Run
) -> None:
    """Found through the state file alone; a living recorder is left alone."""
    killed, living = recorder(), recorder()
    for one in (killed, living):
        one.wait_until_it_records()
    for _ in range(500):
        if len(list(run_directory.glob("*.json"))) == 2 and len(unsealed(tmp_path / "raw")) >= 2:
            break
        time.sleep(0.01)
    killed.kill()
    before = sorted(path for path in tmp_path.rglob("*.json") if str(killed.process.pid) in path.read_text())
    look = hindsight("capture", "clean", "-o", tmp_path / "raw", "--dry-run", "--json")
    assert look.returncode == 0, look.stderr
    would = json.loads(look.stdout)
    assert all(path.exists() for path in before) and len(killed.instances()) == len(GROUPS)
    assert find_unsealed(would["sealed"]) <= find_unsealed(map(str, unsealed(tmp_path / "raw")))
    done = hindsight("capture", "clean", "-o", tmp_path / "raw", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert len(report["sealed"]) == 1 and sorted(report["instances_removed"]) == sorted(
        f"hindsight-{killed.owner}-{name}" for name in GROUPS
    )
    assert find_unsealed(would["sealed"]) == {Path(path).name for path in report["sealed"]}
    assert report["failed"] == [] and report["moved_aside"] == []
    reasons = {entry["what"]: entry["why"] for entry in report["left"]}
    assert {f"hindsight-{living.owner}-{name}" for name in GROUPS} <= reasons.keys()
    assert any("being recorded" in why for why in reasons.values())
    assert killed.instances() == [] and len(living.instances()) == len(GROUPS)
    living.process.send_signal(signal.SIGTERM)
    assert living.process.wait(20) == 0
    assert len(find_segments([tmp_path / "raw"])) == 2


def test_state_files_lead_to_recordings(
    live: Path, recorder: Callable[..., Killed], tmp_path: Path, run_directory: Path
) -> None:
    killed = recorder()
    killed.wait_until_it_records()
    (file,) = run_directory.glob("*.json")
    killed.kill()
    looked = tidy(print, dry_run=True)
    assert looked.state_files == [file] and file.exists() and len(looked.sealed) == 1
    assert len(killed.instances()) == len(GROUPS)
    done = tidy(print)
    assert [path.parent for path in done.sealed] == [tmp_path / "raw"] and done.state_files == [file]
    assert not file.exists() and killed.instances() == []
    again = tidy(print)
    assert not again.sealed and not again.instances and not again.state_files and not again.failed


@pytest.mark.slow
def test_no_room_for_what_the_ring_buffers_hold(
    live: Path, recorder: Callable[..., Killed], tmp_path: Path
) -> None:
    """Nothing is read that could not be written; the instances are kept until it can be."""
    small = tmp_path / "raw"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40M", "tmpfs", small], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        killed = recorder("--buffer-kb", "8192")
        killed.wait_until_it_records()
        killed.kill()
        time.sleep(0.5)
        filler = small / "filler"
        with pytest.raises(OSError, match="No space"), open(filler, "wb", buffering=0) as file:
            while file.write(bytes(1 << 20)) == 1 << 20:
                pass
            raise OSError("No space")
        said: list[str] = []
        done = tidy(said.append, [small])
        assert len(done.failed) == 1 and "Make space" in said[0] and not done.sealed
        assert len(killed.instances()) == len(GROUPS) and len(unsealed(small)) == 1
        assert main(["capture", "clean", "-o", str(small)]) == 1
        filler.unlink()
        done = tidy(print, [small])
        assert len(done.sealed) == 1 and killed.instances() == []
        check_counts(done.sealed, tmp_path / "out")
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def test_instances_that_cannot_be_judged_are_left(live: Path, tmp_path: Path, run_directory: Path) -> None:
    names = (f"hindsight-1-{os.getpid()}-7-tasks", "hindsight-of-somebody-else")
    for name in names:
        (live / "instances" / name).mkdir()
    try:
        reasons = dict(tidy(print).left)
        assert "pid namespace" in reasons[names[0]] and "name" in reasons[names[1]]
        assert all((live / "instances" / name).exists() for name in names)
    finally:
        for name in names:
            (live / "instances" / name).rmdir()


def test_without_privilege(tmp_path: Path) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 99
        try:
            os.dup2(write, 2)
            sys.stderr = os.fdopen(2, "w")
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            status = main(["capture", "clean"])
            sys.stderr.flush()
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4
    assert "sudo hindsight capture clean" in said


def test_directory_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if os.geteuid() != 0:
        pytest.skip("cleaning up needs root")
    assert main(["capture", "clean", "-o", str(tmp_path / "none")]) == 3
    assert "not a directory" in capsys.readouterr().err


def find_unsealed(paths: Iterable[str]) -> set[str]:
    return {Path(path).name.removeprefix(".recording-") for path in paths}


def settle(raw: Path, killed: Killed) -> None:
    """Put in order; another recorder on this host may be about to do the same."""
    for _ in range(100):
        done = tidy(print, [raw])
        assert not done.failed and not done.aside
        if not unsealed(raw) and not killed.instances():
            return
        time.sleep(0.1)
    raise AssertionError(f"left: {unsealed(raw)} {killed.instances()}")


@pytest.mark.slow
def test_killed_at_random_moments(live: Path, recorder: Callable[..., Killed], tmp_path: Path) -> None:
    """A hundred recorders, killed anywhere between their start and some rotations later."""
    chance = random.Random(20261123)
    sealed = 0
    kinds = [["--buffer-kb", "256"], ["--rotate-size", "512K"], ["--rotate-every", "0.1"], ["--flight"]]
    for number in range(100):
        options = kinds[number % 4]
        killed = recorder(*options)
        if number % 5:
            killed.wait_until_it_is_open()
        time.sleep(chance.uniform(0, 0.6))
        killed.kill()
        time.sleep(chance.uniform(0, 0.1))
        settle(tmp_path / "raw", killed)
        killed.end()
        segments = find_segments([tmp_path / "raw"]) if list((tmp_path / "raw").glob("2*")) else []
        if "--flight" not in options:
            out = tmp_path / "out"
            convert(segments, out)
            totals = 0
            facts = [open_segment(path).facts for path in segments]
            for name in facts[0]["instances"] if facts else ():
                for cpu, before in facts[0]["instances"][name]["stats_before"].items():
                    after = facts[-1]["instances"][name]["stats_after"][cpu]
                    totals += sum(after[c] - before[c] for c in ("read events", "dropped events"))
            events = sum(
                pq.read_metadata(path).num_rows
                for path in out.glob("host=*/date=*/*/*.parquet")
                if TABLES[path.parent.name].tracepoint
            )
            assert events + sum(row["count_lower"] for row in lost(out)) == totals
            shutil.rmtree(out, ignore_errors=True)
        sealed += len(segments)
        shutil.rmtree(tmp_path / "raw", ignore_errors=True)
    assert sealed > 50
