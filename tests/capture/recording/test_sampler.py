"""Sources that are sampled beside the trace: failing, hanging and late ones cost their own samples alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from hindsight.capture.conversion.convert import convert
from hindsight.capture.options import RecordOptions
from hindsight.capture.recording import sampler as sampler_of
from hindsight.capture.recording import session
from hindsight.capture.recording.ledger import Loss
from hindsight.capture.recording.record import record
from hindsight.capture.recording.sampler import Sampled, Sampler
from hindsight.errors import ConfigurationError


class Uptime:
    """The host's uptime in hundredths of a second, as /proc says it."""

    name = "uptime"
    table = "counters"

    def __init__(self, every_s: float = 0.02, before: Callable[[int], None] = lambda number: None) -> None:
        self.every_s = every_s
        self.taken = 0
        self.closed = 0
        self._before = before

    def sample(self) -> Sampled:
        self.taken += 1
        self._before(self.taken)
        value = round(float(Path("/proc/uptime").read_text().split()[0]) * 100)
        row = {"ts": time.monotonic_ns(), "source": "uptime", "scope": "", "name": "uptime", "value": value}
        return Sampled({"counters": [row | {"unit": "10 ms", "total": True, "reset": False}]})

    def close(self) -> None:
        self.closed += 1


class Sink:
    """Takes rows as a recording does."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.said: list[str] = []
        self.error: OSError | None = None

    def append(self, sample: Mapping[str, Any]) -> bool:
        assert list(sample) == ["counters"]
        if self.error is not None:
            raise self.error
        self.rows += sample["counters"]
        return True


def run(sources: list[Uptime], seconds: float, sink: Sink) -> list[Loss]:
    sampler = Sampler(sources, sink.append, sink.said.append)
    sampler.start()
    time.sleep(seconds)
    sampler.stop()
    return sampler.losses()


def test_samples_come_at_intervals_and_nothing_is_missed() -> None:
    sink, source = Sink(), Uptime(0.05)
    assert [loss for loss in run([source], 1.0, sink) if "slow" not in loss.cause] == []
    assert 10 <= len(sink.rows) <= 22  # one more at the end
    assert source.closed == 1
    assert sink.said == []


def test_a_failing_source_is_said_once_and_is_a_loss_until_it_works() -> None:
    def fail(number: int) -> None:
        if 4 <= number < 8:
            raise ConfigurationError("it went away")

    sink, other = Sink(), Sink()
    source = Uptime(0.02, fail)
    losses = run([source], 0.6, sink)
    assert sink.said == ["uptime cannot be sampled: it went away", "uptime is sampled again"]
    (loss,) = [loss for loss in losses if "went away" in loss.cause]
    assert loss.event == "counters" and loss.count_upper is None
    times = [row["ts"] for row in sink.rows]
    assert loss.to_ns is not None and loss.from_ns < loss.to_ns
    # The sample that ended it is the first after it began.
    assert not [ts for ts in times if loss.from_ns < ts < loss.to_ns - 20_000_000]
    assert len(times) >= 8 and other.rows == []


def test_any_exception_of_a_source_is_its_own_loss() -> None:
    def divide(number: int) -> None:
        if number == 2:
            raise ZeroDivisionError

    sink = Sink()
    losses = run([Uptime(0.02, divide), Uptime(0.02)], 0.3, sink)
    assert ["ZeroDivisionError" in loss.cause for loss in losses].count(True) == 1
    assert len(sink.rows) > 10


def test_a_hanging_source_neither_stops_the_others_nor_the_end() -> None:
    release = threading.Event()
    sink, good, hanging = Sink(), Uptime(0.02), Uptime(0.02, lambda number: release.wait(30) and None)
    begun = time.monotonic()
    losses = run([hanging, good], 0.3, sink)
    assert time.monotonic() - begun < 5
    release.set()
    assert len(sink.rows) >= 5 and good.taken >= 5
    assert ["it hangs" in loss.cause for loss in losses].count(True) == 1
    assert hanging.closed == good.closed == 1


def test_a_hanging_source_is_said_while_it_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler_of, "_HANGS_S", 0.1)
    release = threading.Event()
    sink = Sink()
    source = Uptime(0.02, lambda number: release.wait(30) and None if number == 3 else None)
    sampler = Sampler([source], sink.append, sink.said.append)
    sampler.start()
    time.sleep(0.3)
    found = sampler.losses()
    assert sink.said == ["uptime cannot be sampled: it does not answer"] and len(sink.rows) == 2
    assert not [loss for loss in found if "answer" in loss.cause], "it is not over"
    assert sampler.losses() == [] and len(sink.said) == 1
    release.set()
    time.sleep(0.2)
    (loss,) = [loss for loss in sampler.losses() if "does not answer" in loss.cause]
    assert sink.said[1:] == ["uptime is sampled again"] and len(sink.rows) > 4
    assert loss.from_ns <= sink.rows[2]["ts"] and loss.to_ns is not None and loss.to_ns - loss.from_ns > 2e8
    sampler.stop()
    assert not [loss for loss in sampler.losses() if "answer" in loss.cause]


def test_a_slow_source_is_a_loss_and_is_not_caught_up_with() -> None:
    sink = Sink()
    source = Uptime(0.02, lambda number: time.sleep(0.2) if number == 3 else None)
    losses = run([source], 0.6, sink)
    slow = [loss for loss in losses if "slow" in loss.cause and loss.to_ns - loss.from_ns > 150_000_000]
    assert len(slow) == 1
    assert len(sink.rows) <= 0.6 / 0.02 - 6


def test_no_space_is_a_loss() -> None:
    sink = Sink()
    sink.error = OSError(28, "No space left on device")
    losses = run([Uptime(0.02)], 0.2, sink)
    assert [loss.cause for loss in losses] == ["not sampled: uptime: No space left on device"]


def test_sampled_rows_are_recorded_rotated_sealed_and_converted(
    live: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(number: int) -> None:
        if number == 20:
            raise OSError(5, "Input/output error")

    source = Uptime(0.02, fail)
    monkeypatch.setattr(session, "sources", lambda *given: [source])
    command = (
        "python3",
        "-c",
        "import time\nfor _ in range(150): open('/etc/passwd').read(); time.sleep(.01)",
    )
    recording = record(RecordOptions(out=tmp_path / "raw", command=command, rotate_s=0.5))
    assert recording.status == 0
    assert len(recording.segments) >= 3
    assert all((path / "rows/counters.jsonl").stat().st_mode & 0o777 == 0o600 for path in recording.segments)
    convert(list(recording.segments), tmp_path / "out")
    rows: list[dict[str, Any]] = []
    for file in sorted((tmp_path / "out").glob("host=*/date=*/counters/*.parquet")):
        rows += pq.read_table(file).to_pylist()
    assert len(rows) == source.taken - 1
    assert [row["ts"] for row in rows] == sorted(row["ts"] for row in rows)
    assert all(row["source"] == "uptime" and row["unit"] == "10 ms" for row in rows)
    assert all(0 <= b["value"] - a["value"] < 100 for a, b in pairwise(rows))
    losses: list[dict[str, Any]] = []
    for file in sorted((tmp_path / "out").glob("host=*/date=*/losses/*.parquet")):
        losses += pq.read_table(file).to_pylist()
    causes = {row["cause"] for row in losses if row["event"] == "counters"}
    assert "not sampled: uptime: Input/output error" in causes
