"""Live: proxies beside a trace. What they do wrong is said, is a loss, and never ends the recording."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import conformance
import pyarrow.parquet as pq
import pytest
import served
from conformance import GOLDEN

from hindsight.capture import host
from hindsight.capture.conversion.convert import convert
from hindsight.capture.options import RecordOptions
from hindsight.capture.recording.record import Recording, record

Run = Callable[..., subprocess.CompletedProcess[str]]


def sleeping(seconds: float) -> tuple[str, ...]:
    return (sys.executable, "-c", f"import time; time.sleep({seconds})")


def table(out: Path, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for file in sorted(out.glob(f"host=*/date=*/{name}/*.parquet")):
        found += pq.read_table(file).to_pylist()
    return found


def recorded(
    tmp_path: Path, seconds: float, *names: str, **options: Any
) -> tuple[Recording, list[str], Path]:
    said: list[str] = []
    wanted = RecordOptions(
        out=tmp_path / "raw", command=sleeping(seconds), proxies=names, every_s=0.05, **options
    )
    recording = record(wanted, said.append)
    assert recording.status == 0
    convert(list(recording.segments), tmp_path / "out")
    return recording, said, tmp_path / "out"


@pytest.fixture
def fuse(live: Path, tmp_path: Path) -> Iterator[served.Fuse]:
    try:
        serving = served.Fuse(tmp_path)
    except conformance.Impossible as error:
        pytest.skip(str(error))
    serving.give(GOLDEN)
    yield serving
    serving.close()


def test_snapshots_are_rows_on_the_clock_of_the_trace(live: Path, tmp_path: Path) -> None:
    recording, said, out = recorded(tmp_path, 1.0, "memory,blockdev", "memory", rotate_s=0.4)
    assert len(recording.segments) >= 2
    assert not [line for line in said if "cannot be sampled" in line]
    (capture,) = {(row["host"], row["boot_id"]) for row in table(out, "captures")}
    snapshots = [row for row in table(out, "proxy_snapshots") if row["proxy"] == "memory"]
    assert 5 <= len(snapshots) <= 25
    assert [b["sequence"] - a["sequence"] for a, b in pairwise(snapshots)] == [1] * (len(snapshots) - 1)
    begin = min(row["start_ns"] for row in table(out, "captures"))
    end = max(row["end_ns"] for row in table(out, "captures"))
    for row in snapshots:
        assert begin - 10**9 <= row["mono_ns"] <= row["ts"] <= end + 10**9
        assert row["ts"] - row["mono_ns"] <= row["read_ns"] < 10**9
        assert row["boot_id"] == capture[1] != host.boot_id()
    values = [row for row in table(out, "proxy_values") if row["proxy"] == "memory"]
    assert {row["ts"] for row in values} == {row["ts"] for row in snapshots}
    faults = [row["value"] for row in values if row["name"] == "pgfault"]
    assert len(faults) == len(snapshots) and faults == sorted(faults)
    (swappiness,) = {
        (row["value"], row["min"], row["max"], row["scope"]) for row in values if row["name"] == "swappiness"
    }
    assert swappiness == (int(Path("/proc/sys/vm/swappiness").read_text()), 0, 200, "host")
    known = {row["name"]: row for row in table(out, "proxy_quantities") if row["proxy"] == "memory"}
    assert known["pgfault"]["unit"] == "faults" and known["pgfault"]["counter"]
    assert {row["name"] for row in values if row["kind"] == "state"} <= known.keys()
    assert not {row["own_events"] for row in table(out, "recorder")} - {0}


@pytest.mark.slow  # seven seconds of real time, which a busy machine stretches
def test_a_proxy_that_misbehaves_does_not_stop_the_recording(fuse: served.Fuse, tmp_path: Path) -> None:
    """Malformed, oversized, newer, hanging, gone, and sound again: each is said once, each is a loss."""
    begun = threading.Event()

    def misbehave() -> None:
        files = ".recording-*/rows/proxy_snapshots.jsonl"
        while not any("golden" in file.read_text() for file in (tmp_path / "raw").glob(files)):
            time.sleep(0.01)
        begun.set()
        for step in (
            lambda: fuse.give_bytes(b"{"),
            lambda: fuse.give_bytes(b" " * (1 << 17)),
            lambda: fuse.give(GOLDEN | {"schema": 3}),
            lambda: fuse.give(GOLDEN),
            fuse.hang,
            fuse.resume,
            fuse.vanish,
            fuse.appear,
        ):
            step()
            time.sleep(1.8 if step == fuse.hang else 0.4)

    thread = threading.Thread(target=misbehave)
    thread.start()
    _, said, out = recorded(tmp_path, 7.0, f"fuse:{fuse.place},memory")
    thread.join()
    assert begun.is_set()
    text = "\n".join(said)
    for reason in ("is not JSON", "more than 65536 bytes", "schema version 3", "did not answer within 1 s",
                   "Transport endpoint is not connected"):  # fmt: skip
        assert text.count(reason) == 1, text
        assert [row for row in table(out, "losses") if reason in row["cause"]], reason
    assert text.count("is sampled again") >= 2
    snapshots = table(out, "proxy_snapshots")
    memory = [row["ts"] for row in snapshots if row["proxy"] == "memory"]
    golden = [row["ts"] for row in snapshots if row["proxy"] == "golden"]
    # The others went on while this one hung; this one came back after each time.
    assert max(b - a for a, b in pairwise(memory)) < 10**9
    assert sum(b - a > 2 * 10**8 for a, b in pairwise(golden)) >= 3
    assert golden[-1] > memory[len(memory) // 2]
    values = [r for r in table(out, "proxy_values") if r["proxy"] == "golden" and r["ts"] == golden[0]]
    assert {r["name"]: r["value"] for r in values if r["kind"] == "state"} == GOLDEN["state"]
    assert [r["name"] for r in values] == [*sorted(GOLDEN["state"]), "offset", "window", "events"]


def test_snapshots_that_somebody_else_read_are_losses(fuse: served.Fuse, tmp_path: Path) -> None:
    stop = threading.Event()
    read = 0

    def reader() -> None:
        nonlocal read
        while not stop.is_set():
            (fuse.place / "state").read_bytes()
            read += 1
            time.sleep(0.01)

    thread = threading.Thread(target=reader)
    thread.start()
    try:
        _, _, out = recorded(tmp_path, 1.0, f"fuse:{fuse.place}")
    finally:
        stop.set()
        thread.join()
    snapshots = table(out, "proxy_snapshots")
    gaps = sum(b["sequence"] - a["sequence"] - 1 for a, b in pairwise(snapshots))
    losses = [row for row in table(out, "losses") if "were not read" in row["cause"]]
    assert 3 < gaps <= read
    assert sum(row["count_lower"] for row in losses) == gaps
    assert all(
        row["count_lower"] == row["count_upper"] and row["event"] == "proxy_snapshots" for row in losses
    )


def test_the_end_does_not_wait_for_a_proxy_that_hangs(fuse: served.Fuse, tmp_path: Path) -> None:
    fuse.hang()
    begun = time.monotonic()
    _, _, out = recorded(tmp_path, 0.5, f"fuse:{fuse.place}")
    assert time.monotonic() - begun < 30
    assert not table(out, "proxy_snapshots")
    assert [row for row in table(out, "losses") if "fuse:" in row["cause"]]
    fuse.resume()


def test_a_process_that_hangs_in_a_proxy_can_end(fuse: served.Fuse, hindsight: Run) -> None:
    """The thread that is left behind in the kernel does not keep the command."""
    fuse.hang()
    begun = time.monotonic()
    result = hindsight("capture", "proxy", "show", f"fuse:{fuse.place}")
    assert result.returncode == 1 and "did not answer within 1 s" in result.stderr
    assert time.monotonic() - begun < 20
    fuse.resume()


def test_names_that_are_none_are_refused_before_anything_begins(tmp_path: Path, hindsight: Run) -> None:
    for name in ("nothing", "fuse:relative", "char:", "memory,", "bpf"):
        result = hindsight("capture", "record", "-o", tmp_path / "raw", "--proxy", name, "--", "true")
        assert result.returncode == 2 and "is no proxy" in result.stderr, name
    assert not (tmp_path / "raw").exists()


def test_list_and_show(hindsight: Run) -> None:
    listed = json.loads(hindsight("capture", "proxy", "list", "--json").stdout)
    assert {"memory", "readahead"} <= {look["name"] for look in listed}
    shown = json.loads(hindsight("capture", "proxy", "show", "memory", "--json").stdout)
    assert (
        shown[0]["snapshot"]["state"]["pgfault"] > 0 and shown[0]["quantities"]["pgfault"]["unit"] == "faults"
    )
    plain = hindsight("capture", "proxy", "show", "memory")
    assert plain.returncode == 0 and "pgmajfault" in plain.stdout
    assert hindsight("capture", "proxy", "list").stdout.startswith("memory")
    assert hindsight("capture", "proxy", "show").returncode == 2
    assert hindsight("capture", "proxy", "list", "memory").returncode == 2
    assert hindsight("capture", "proxy", "show", "blockdev:none").returncode == 1
    assert hindsight("capture", "proxy", "show", "blockdev:none", "memory").returncode == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="the proxies of this host need root")
def test_list_and_doctor_find_a_served_proxy(fuse: served.Fuse, hindsight: Run) -> None:
    listed = json.loads(hindsight("capture", "proxy", "list", "--json").stdout)
    (found,) = [look for look in listed if look["name"] == f"fuse:{fuse.place}"]
    assert found["snapshot"]["proxy"] == "golden"
    checks = {c["id"]: c for c in json.loads(hindsight("capture", "doctor", "--json").stdout)["checks"]}
    assert f"fuse:{fuse.place}" in checks["proxies"]["why"] and "memory" in checks["proxies"]["why"]
    fuse.give_bytes(b"nonsense")
    checks = {c["id"]: c for c in json.loads(hindsight("capture", "doctor", "--json").stdout)["checks"]}
    assert checks[f"proxy-fuse:{fuse.place}"]["state"] == "warn"
    assert checks[f"proxy-fuse:{fuse.place}"]["remedy"]
