from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hindsight.capture.ftrace import tracefs
from hindsight.errors import ConfigurationError, HindsightError, UsageError
from hindsight.lab import advice_delay
from hindsight.lab.advice_delay import (
    DelayOptions,
    advise,
    cold_file,
    decision_of,
    followed,
    measure,
    spinning,
)
from hindsight.lab.advice_result import (
    PARTS,
    Capturing,
    Condition,
    Piece,
    columns,
    quantile,
    summary,
    terminal,
)
from hindsight.lab.cached import cached_pages
from hindsight.lab.device import IMAGES
from hindsight.pipeline.store import read_columns

EXPORTED = Path(__file__).resolve().parents[2] / "models/exported"

QUICK_US = (1_000, 3_000)


@pytest.fixture
def host() -> Iterator[None]:
    """Skips where nothing can be followed, saying why; afterwards nothing of ours may be left."""
    if os.geteuid() != 0:
        pytest.skip("needs root: tracefs and pidfd_getfd")
    try:
        root = tracefs.locate()
    except HindsightError as error:
        pytest.skip(error.message)
    instances, files = _instances(root), set(IMAGES.glob("hindsight-delay-*"))
    yield
    assert _instances(root) == instances
    assert set(IMAGES.glob("hindsight-delay-*")) <= files
    assert _children(os.getpid()) == []


def _instances(root: Path, pid: int | None = None) -> list[str]:
    """Instances of a process of this pid namespace: hindsight-<namespace>-<pid>-…"""
    owner = str(os.getpid() if pid is None else pid)
    return sorted(p.name for p in (root / "instances").iterdir() if owner in p.name.split("-"))


def _children(pid: int) -> list[str]:
    """What the readers and spinners of a process run now."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        command = Path(f"/proc/{child}/cmdline").read_bytes().decode()
        if "os.pread" in command or "spinning" in command:
            found.append(command)
    return found


def _piece(newest: int, delay: int, events: int = 1, awake: int = 10) -> Piece:
    at = newest + delay
    return Piece(events, newest - 5, newest, newest + awake, at - 30, at - 20, at, 7, 9)


def test_quantiles_are_values_that_were_measured() -> None:
    values = list(range(100, 0, -1))
    assert [quantile(values, p) for p in (1, 5, 55, 95, 100)] == [1, 5, 55, 95, 100]
    # Of twenty values 55 % are eleven exactly; with floats it would be the twelfth.
    assert quantile(list(range(1, 21)), 55) == 11
    assert [quantile([3, 1, 2], p) for p in (5, 34, 66, 67)] == [1, 2, 2, 3]
    assert quantile([8], 5) == quantile([8], 95) == 8
    with pytest.raises(UsageError):
        quantile([], 50)


def test_parts_add_up_to_the_delay() -> None:
    assert _piece(1000, 100).parts == (10, 60, 10, 20)
    # The newest event came when the advisor was awake already.
    late = _piece(1000, 100, awake=-3)
    assert late.parts == (0, 70, 10, 20)
    assert sum(late.parts) == late.delay_ns == 100
    assert late.oldest_delay_ns == 105


def test_a_summary_is_of_whole_numbers_and_of_all_conditions_together() -> None:
    idle = Condition(
        "idle", [_piece(1000 * k, 100 + k) for k in range(1, 21)], Capturing(20, 10, 10**9, 4000), 12
    )
    busy = Condition("busy", [_piece(9, 5000)], Capturing(5, 5, 10**9, 1000), 990)
    model = {"name": "m", "actions": 2, "features": 3, "trees": 4}
    result = summary(model, [idle, busy], Capturing(1000, 10, 10**8, 50_000))
    assert result["percents"] == [5, 15, 25, 35, 45, 55, 65, 75, 85, 95]
    one = result["conditions"]["idle"]
    assert one["quantiles_ns"] == [101, 103, 105, 107, 109, 111, 113, 115, 117, 119]
    assert (one["count"], one["maximum_ns"], one["processor_pressure_permille"]) == (20, 120, 12)
    assert one["costs"]["decision"] == {"mean_ns": 7, "median_ns": 7}
    assert one["costs"]["acting"] == {"mean_ns": 9, "median_ns": 9}
    assert one["costs"]["capture"] == {
        "events": 20,
        "events_per_second": 20,
        "wakeups": 10,
        "cpu_per_event_ns": 200,
        "cpu_per_wakeup_ns": 400,
    }
    together = result["together"]
    assert (together["count"], together["maximum_ns"]) == (21, 5000)
    assert together["costs"]["capture"]["cpu_per_event_ns"] == 5000 // 25
    assert result["capture_without_pause"]["events_per_second"] == 10_000
    text = json.dumps(result)
    assert "." not in text.replace(result["kernel"], ""), "no fractions"
    assert os.uname().nodename not in text
    assert "busy" in terminal(result)
    table = columns([idle, busy])
    assert table["condition"].tolist() == ["idle"] * 20 + ["busy"]
    assert table["delay_ns"].tolist() == [*range(101, 121), 5000]


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(UsageError, match="nothing to measure"):
        measure(DelayOptions(Path("nowhere"), samples=0))


def test_a_place_that_takes_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no file can be made"), cold_file(tmp_path / "missing"):
        pass


def test_a_measurement(host: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun = time.monotonic_ns()
    result = measure(DelayOptions(tmp_path / "out", samples=15))
    elapsed = time.monotonic_ns() - begun
    assert "no model" in capsys.readouterr().err
    assert json.loads((tmp_path / "out/summary.json").read_text()) == result
    table = read_columns(tmp_path / "out/delays.parquet")
    assert table["condition"].tolist() == ["idle"] * 15 + ["busy"] * 15
    # Less than a microsecond no system call from another process takes effect in.
    assert (table["delay_ns"] > 1000).all()
    assert (table["delay_ns"] < elapsed).all()
    assert (np.sum([table[part] for part in PARTS], axis=0) == table["delay_ns"]).all()
    assert all((table[part] >= 0).all() for part in PARTS)
    assert all((table[part] > 0).all() for part in PARTS[1:])
    assert (table["oldest_delay_ns"] >= table["delay_ns"]).all()
    assert (table["events"] >= 1).all()
    assert (table["acting_cpu_ns"] > 0).all()
    for name in ("idle", "busy"):
        one = result["conditions"][name]
        mine = np.sort(table["delay_ns"][table["condition"] == name])
        assert one["quantiles_ns"] == mine[[0, 2, 3, 5, 6, 8, 9, 11, 12, 14]].tolist()
        assert one["maximum_ns"] == mine[-1]
        assert 0 < one["costs"]["capture"]["cpu_per_event_ns"] < 100_000_000
    without = result["capture_without_pause"]
    # Read at once, an event costs a fraction of what it does with a wake-up of its own.
    assert (
        without["events_per_second"]
        > 10 * result["conditions"]["idle"]["costs"]["capture"]["events_per_second"]
    )
    assert without["cpu_per_event_ns"] < result["conditions"]["idle"]["costs"]["capture"]["cpu_per_event_ns"]


@pytest.mark.parametrize(("advice", "exact"), [(os.POSIX_FADV_RANDOM, True), (os.POSIX_FADV_NORMAL, False)])
def test_advice_takes_effect_on_the_program(host: None, advice: int, exact: bool) -> None:
    with cold_file(IMAGES) as path:
        with followed(path, QUICK_US, 1) as (reader, events):
            advise(reader, events, lambda: advice, 1, Capturing())  # loads code, and is late
        with followed(path, QUICK_US, 1) as (reader, events):
            advise(reader, events, lambda: advice, 150, Capturing())
            reads = reader.end()
        cached, _ = cached_pages([path])
    # Of two pages in a row the second makes the kernel read two more at least, unless it was told not to.
    assert 50 < reads < 512
    # A window that was begun before the first advice was in force is carried on once.
    assert (cached < 1.5 * reads) is exact
    assert (cached > 2 * reads) is not exact


def test_events_of_other_programs_and_files_are_not_taken(host: None) -> None:
    with (
        cold_file(IMAGES) as path,
        cold_file(IMAGES) as other,
        followed(path, QUICK_US, 1) as (reader, events),
        followed(other, (0, 0), 1),
    ):
        pieces = advise(reader, events, lambda: os.POSIX_FADV_NORMAL, 40, Capturing())
        # The other one, which reads without a pause, would give thousands of events a wake-up.
        assert 40 <= sum(piece.events for piece in pieces) <= 20 * reader.end()


def test_no_event_is_an_error_with_a_remedy(
    host: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not os.path.ismount("/dev/shm"):
        pytest.skip("no tmpfs in /dev/shm")
    monkeypatch.setattr(advice_delay, "PATIENCE_SECONDS", 0.5)
    with pytest.raises(HindsightError, match="no event of the program") as raised:
        measure(DelayOptions(tmp_path, samples=1, files=Path("/dev/shm")))
    assert "tmpfs" in (raised.value.remedy or "")


def test_spinning_takes_every_processor_and_ends() -> None:
    with spinning():
        begun = _busy()
        time.sleep(0.5)
        assert len(_children(os.getpid())) == len(os.sched_getaffinity(0))
        assert _busy() > begun
    assert _children(os.getpid()) == []


def _busy() -> int:
    """Clock ticks that the children of this process have computed."""
    ticks = 0
    for child in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split():
        ticks += int(Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[11])
    return ticks


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_measurement_leaves_nothing(host: None, tmp_path: Path, number: int) -> None:
    output = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "hindsight", "lab", "delay", "--samples", "100000", "-o", str(output)],
        stderr=subprocess.PIPE, cwd=tmp_path, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        while "pieces of advice" not in (line := process.stderr.readline()):
            assert line, "it ended before it measured"
        assert _instances(tracefs.locate(), process.pid) != []
        readers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert readers
        process.send_signal(number)
        assert process.wait(10) == 130
        assert process.stderr.read() == "hindsight: interrupted\n"
    finally:
        process.kill()
        process.communicate()
    assert _instances(tracefs.locate(), process.pid) == []
    assert not any(Path(f"/proc/{reader}").exists() for reader in readers)
    assert not output.exists()


def test_a_decision_without_a_package_is_to_leave_things_normal() -> None:
    decide, model = decision_of(None, 1)
    assert decide() == os.POSIX_FADV_NORMAL
    assert model["name"] == ""


def test_a_packaged_model_decides() -> None:
    packages = sorted(EXPORTED.glob("readahead-*/manifest.json"))
    if not packages:
        pytest.skip("no package in models/exported: dvc repro makes one")
    decide, model = decision_of(packages[-1].parent, 1)
    again, _ = decision_of(packages[-1].parent, 1)
    taken = [decide() for _ in range(1500)]
    assert taken == [again() for _ in range(1500)]
    assert set(taken) <= {os.POSIX_FADV_NORMAL, os.POSIX_FADV_SEQUENTIAL, os.POSIX_FADV_RANDOM}
    assert len(set(taken)) > 1, "what is decided depends on the features"
    assert model["name"] == packages[-1].parent.name
    assert min(model["trees"], model["features"], model["actions"]) > 1
