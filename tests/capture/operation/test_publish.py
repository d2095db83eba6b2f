"""What a running recorder tells: its state file, its metrics, the service manager."""

from __future__ import annotations

import json
import os
import re
import socket
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hindsight.capture import owner
from hindsight.capture.operation import metrics, state
from hindsight.capture.operation.notify import Notifier
from hindsight.capture.operation.publish import Activity, Publisher
from hindsight.capture.options import Budgets, RecordOptions
from hindsight.capture.recording.vitals import Vitals
from hindsight.errors import ConfigurationError

VITALS = Vitals(10**9, 5 * 10**8, 30 << 20, 64 << 20, 1000, 2000, 100, 3, 4096, 512, lambda name, count: [])
RECORDING = Activity("recording", "stream", (), 0, None)


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """What a service manager listens on."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.setblocking(False)
    if request.param == "path":
        address = str(tmp_path / "notify")
        listener.bind(address)
    else:
        address = f"@hindsight-test-{os.getpid()}"
        listener.bind(f"\0{address[1:]}")
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    yield listener
    listener.close()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "hindsight-run"
    directory.mkdir()
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(directory))
    return directory


def heard(listener: socket.socket) -> list[dict[str, str]]:
    messages = []
    while True:
        try:
            text = listener.recv(4096).decode()
        except BlockingIOError:
            return messages
        messages.append(dict(line.split("=", 1) for line in text.split("\n")))


def test_the_service_manager_hears(manager: socket.socket, place: Path, tmp_path: Path) -> None:
    publisher = Publisher(RecordOptions(tmp_path), "20260101T000000Z-00000000", owner.own())
    publisher.ready()
    messages = heard(manager)
    for quarter in range(40):  # 10 s in steps of a look
        publisher.publish(replace(VITALS, now_ns=10**9 + quarter * 250_000_000), RECORDING)
        messages += heard(manager)
    publisher.stopping()
    publisher.close()
    messages += heard(manager)
    assert messages[0]["READY"] == "1"
    assert messages[-1]["STOPPING"] == "1"
    beats = sum("WATCHDOG" in message for message in messages)
    assert beats >= 10  # at least at half the interval of 2 s
    assert sum("STATUS" in message for message in messages[1:-1]) == 10
    assert any("recording, 100 events" in message.get("STATUS", "") for message in messages)


def test_a_manager_that_does_not_listen_blocks_nothing(manager: socket.socket) -> None:
    notifier = Notifier()
    while notifier.send(STATUS="x" * 1000):  # its queue is full in the end
        pass
    assert notifier.send(0.01, STOPPING=1) is False


def test_a_watchdog_of_another_process_is_not_ours() -> None:
    environment = {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid() + 1)}
    assert Notifier(environment).watchdog_ns is None
    assert Notifier({"WATCHDOG_USEC": "1000000"}).watchdog_ns == 10**9
    assert Notifier({"WATCHDOG_USEC": "x"}).watchdog_ns is None


@pytest.mark.parametrize("address", ["", "vsock:1:2", "/does/not/exist", "@nobody-listens"])
def test_no_manager_no_harm(address: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": address})
    assert notifier.send(READY=1) is False
    notifier.close()
    assert notifier.send(READY=1) is False


def test_state_file_and_metrics_while_it_records(place: Path, tmp_path: Path) -> None:
    textfile = tmp_path / "hindsight.prom"
    options = RecordOptions(tmp_path / "raw", label="nightly", metrics=textfile)
    publisher = Publisher(options, "20260101T000000Z-00000000", owner.own())
    assert publisher.path is not None and stat.S_IMODE(publisher.path.stat().st_mode) == 0o600
    publisher.publish(VITALS, RECORDING)
    later = replace(VITALS, now_ns=3 * 10**9, recorded=700, cpu_ns=10**9)
    publisher.publish(later, RECORDING)
    (found,) = state.running([place])
    assert found.alive is True
    assert found.owner == owner.own()
    assert found.out == tmp_path / "raw"
    assert (found.number("recorded"), found.number("rate"), found.number("lost")) == (700, 300, 3)
    assert found.number("cpu_percent") == 25
    assert found.sealed is None

    publisher.publish(replace(later, now_ns=3 * 10**9 + 1, recorded=800), RECORDING)
    assert state.running([place])[0].number("recorded") == 700  # once a second is enough
    sealed = replace(RECORDING, segments=1, sealed=tmp_path / "raw" / "x-0000")
    publisher.publish(replace(later, now_ns=3 * 10**9 + 2, recorded=800), sealed)
    assert state.running([place])[0].sealed == tmp_path / "raw" / "x-0000"  # a change is told at once

    assert stat.S_IMODE(textfile.stat().st_mode) == 0o644
    values = samples(textfile.read_text())
    assert values["hindsight_capture_events_total", ("recorder", "hindsight")] == 800
    publisher.close()
    assert list(place.iterdir()) == []
    ended = samples(textfile.read_text())
    assert ended["hindsight_capture_state", ("recorder", "hindsight"), ("state", "ended")] == 1
    assert ended["hindsight_capture_state", ("recorder", "hindsight"), ("state", "recording")] == 0


def test_metrics_that_cannot_be_written(place: Path, tmp_path: Path) -> None:
    options = RecordOptions(tmp_path, metrics=tmp_path / "none" / "x.prom")
    with pytest.raises(ConfigurationError, match="--metrics"):
        Publisher(options, "a", owner.own())
    assert list(place.iterdir()) == []


def test_a_disk_that_goes_away_does_not_end_the_recording(place: Path, tmp_path: Path) -> None:
    directory = tmp_path / "metrics"
    directory.mkdir()
    options = RecordOptions(tmp_path, metrics=directory / "x.prom")
    publisher = Publisher(options, "a", owner.own())
    directory.rmdir()
    (place / "a.json").unlink()
    place.rmdir()
    publisher.publish(VITALS, RECORDING)
    assert publisher.failed == 2
    publisher.close()


_METRIC = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*"'
_SAMPLE = re.compile(rf"({_METRIC})\{{({_LABEL}(?:,{_LABEL})*)\}} (-?[0-9.e+-]+)")


def samples(text: str) -> dict[tuple[object, ...], float]:
    """Read the exposition format strictly: every family has one HELP and one TYPE before its samples."""
    assert text.endswith("\n") and not text.endswith("\n\n")
    found: dict[tuple[object, ...], float] = {}
    families: dict[str, str] = {}
    lines = text[:-1].split("\n")
    for number, line in enumerate(lines):
        if line.startswith("# HELP "):
            name, meaning = line.removeprefix("# HELP ").split(" ", 1)
            assert meaning.strip() and name not in families
            assert lines[number + 1].startswith(f"# TYPE {name} ")
            families[name] = lines[number + 1].rpartition(" ")[2]
        elif not line.startswith("# TYPE "):
            match = _SAMPLE.fullmatch(line)
            assert match, line
            assert match[1] == list(families)[-1]
            assert (families[match[1]] == "counter") == match[1].endswith("_total")
            assert families[match[1]] in ("counter", "gauge")
            pairs = re.findall(r'([a-zA-Z0-9_]+)="((?:[^"\\]|\\.)*)"', match[2])
            labels = [(k, re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], v)) for k, v in pairs]
            key = (match[1], *labels)
            assert key not in found
            found[key] = float(match[3])
    return found


@given(
    label=st.text(max_size=20),
    recorder=st.text(max_size=20),
    numbers=st.lists(st.integers(0, 2**63), min_size=10, max_size=10),
    shed=st.sets(st.sampled_from(["syscalls/sys_enter_read", "block/block_rq_issue"])),
    current=st.sampled_from(["recording", "paused: disk", "resting", "ended", "strange"]),
    budgets=st.builds(
        Budgets,
        max_cpu=st.none() | st.floats(0.1, 100),
        max_disk=st.none() | st.integers(1, 2**50),
        max_memory=st.none() | st.integers(1, 2**50),
        max_rate=st.none() | st.floats(1, 1e9),
    ),
)
def test_metrics_are_always_well_formed(
    label: str, recorder: str, numbers: list[int], shed: set[str], current: str, budgets: Budgets
) -> None:
    vitals = Vitals(*numbers, recent=lambda name, count: [])
    activity = Activity(current, "stream", tuple(shed), 4, None)
    text = metrics.render(recorder, {"capture": label}, vitals, activity, budgets, 1.5, 2.5)
    values = samples(text)
    own = ("recorder", recorder)
    assert values["hindsight_capture_events_total", own] == float(vitals.recorded)
    assert values["hindsight_capture_lost_events_total", own] == float(vitals.lost)
    assert values["hindsight_capture_last_update_timestamp_seconds", own] == 2.5
    assert sum(v for k, v in values.items() if k[0] == "hindsight_capture_state") == 1
    assert {k[2][1] for k in values if k[0] == "hindsight_capture_shed"} == shed
    assert (("hindsight_capture_budget_disk_bytes", own) in values) == (budgets.max_disk is not None)


def test_values_have_base_units(tmp_path: Path) -> None:
    text = metrics.render("r", {}, VITALS, RECORDING, Budgets(max_cpu=5.0), 0, 0)
    values = samples(text)
    assert values["hindsight_capture_cpu_seconds_total", ("recorder", "r")] == 0.5
    assert values["hindsight_capture_budget_cpu_ratio", ("recorder", "r")] == 0.05


def test_state_file_is_json_without_secrets(place: Path, tmp_path: Path) -> None:
    publisher = Publisher(RecordOptions(tmp_path, command=("mysqldump", "-psecret")), "a", owner.own())
    assert publisher.path is not None
    text = publisher.path.read_text()
    publisher.close()
    assert "secret" not in text and json.loads(text)["version"] == state.STATE_VERSION
