from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from hindsight.errors import ConfigurationError, UsageError, VerificationError
from hindsight.lab import device as lab_device
from hindsight.lab.measured import MEASURED, PLOT, PREDICTIONS, SUMMARY
from hindsight.lab.suites import Part, Suite, device_wide, per_file
from hindsight.lab.validate import JOURNAL, ValidateOptions, validate
from hindsight.lab.workloads import fio as fio_workloads

TINY = Suite("tiny", (Part("P2", ("fio-runs",), 0.1),), (*device_wide(16, 512), *per_file(0)), rounds=3)

PROGRAM = """
import sys
from pathlib import Path
from hindsight.lab.workloads import fio
from hindsight.lab.suites import Part, Suite, device_wide, per_file
from hindsight.lab.validate import ValidateOptions, validate
fio.FILE_BYTES = 32 << 20
suite = Suite("tiny", (Part("P2", ("fio-runs",), 0.1),), (*device_wide(16, 512), *per_file(0)), rounds=3)
work, output, images = map(Path, sys.argv[1:])
validate(ValidateOptions(suite, work, output, images=images, image_bytes=256 << 20))
"""


def left_behind(images: Path, before: set[str]) -> list[str]:
    loops = subprocess.run(["losetup", "-a"], capture_output=True, text=True, check=True).stdout
    groups = lab_device.find_hierarchy().root.glob("hindsight-lab-validate-*")
    return [
        *({one.name for one in lab_device.existing()[0]} - before),
        *(line for line in loops.splitlines() if str(images) in line),
        *(str(path) for path in images.glob("hindsight-lab-*")),
        *(str(group) for group in groups if not any(name in group.name for name in before)),
    ]


def entries(work: Path) -> list[dict[str, Any]]:
    lines = (work / JOURNAL).read_bytes().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def wait_for(process: subprocess.Popen[str], work: Path, kind: str, count: int) -> None:
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if (work / JOURNAL).exists() and sum(e["kind"] == kind for e in entries(work)) >= count:
            return
        time.sleep(0.02)
    raise AssertionError(f"no {count} entries {kind!r}: {process.communicate(timeout=5)}")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_tiny_suite_that_is_ended_in_the_middle_and_goes_on(
    lab_host: None, fio: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    work, output = tmp_path / "work", tmp_path / "out"
    before = {one.name for one in lab_device.existing()[0]}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(work), str(output), str(images)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(process, work, "run", 6)  # in the second round: a round has four runs
    os.kill(process.pid, number)
    process.communicate(timeout=30)
    if number == signal.SIGTERM:
        assert left_behind(images, before) == []
    else:
        assert left_behind(images, before) != [], "killed, it could not clean up"
        (left,) = [one for one in lab_device.existing()[0] if one.name not in before]
        # Its program may run on, too, and keep the mount busy.
        stays = ["sh", "-c", f"trap '' TERM; exec < {left.mount_point}/.files-written; echo in; sleep 600"]
        running = subprocess.Popen(left.command(stays), stdout=subprocess.PIPE, text=True)
        assert running.stdout is not None and running.stdout.readline() == "in\n"
    written = (work / PREDICTIONS).read_bytes()
    unfinished = len(entries(work))

    # The same in this process: it goes on, with the files as they were, or written again.
    monkeypatch.setattr(fio_workloads, "FILE_BYTES", 32 << 20)
    options = ValidateOptions(TINY, work, output, images=images, image_bytes=256 << 20)
    result = validate(options)
    assert left_behind(images, before) == []
    if number == signal.SIGKILL:
        assert running.wait(timeout=5) != 0, "what was running of the killed session was ended"
    journal = entries(work)
    kinds = [entry["kind"] for entry in journal]
    assert kinds.count("plan") == kinds.count("predicted") == 1 and kinds.count("session") == 2
    assert kinds.count("files") == (1 if number == signal.SIGKILL else 2)
    assert kinds.count("recorded") == 1, "what was recorded is not recorded again"
    assert kinds.index("predicted") < kinds.index("run")
    assert (work / PREDICTIONS).read_bytes() == (output / PREDICTIONS).read_bytes() == written
    assert result["predictions_sha256"] == hashlib.sha256(written).hexdigest()

    # Every round has all settings once, and no round is made of runs from before and after.
    rows = pq.read_table(output / MEASURED).to_pylist()
    names = {"stock", "device:16", "device:512", "file:exact"}
    assert {(r["round"], r["setting"]) for r in rows} == {(n, s) for n in (1, 2, 3) for s in names}
    again = [e for e in journal[unfinished:] if e["kind"] == "run"]
    assert {e["setting"] for e in again if e["round"] == 2} == names
    assert result["runs"] == 12 and result["rounds"] == {"P2/fio-runs": 3}

    # And the predictions are right where they can be exact.
    pages = {p["setting"]: p for p in result["pairs"] if p["metric"] == "pages_fetched"}
    for setting in ("device:16", "device:512"):
        assert pages[setting]["label"] == "exact"
        assert pages[setting]["measured"] == pytest.approx(pages[setting]["predicted"], abs=0.01)
    assert pages["device:16"]["measured"] < 0 < pages["device:512"]["measured"]
    assert pages["file:exact"]["label"] == "modelled" and pages["file:exact"]["measured"] < 0
    for name in (SUMMARY, PLOT):
        assert (output / name).stat().st_size > 0

    # Nothing is left to do: no device is made, the result is the same.
    first = {path.name: path.read_bytes() for path in output.iterdir()}
    validate(options)
    assert first == {path.name: path.read_bytes() for path in output.iterdir()}
    assert [e["kind"] for e in entries(work)] == kinds

    # Predictions that were changed afterwards are none.
    (work / PREDICTIONS).write_bytes(written.replace(b'"requests": ', b'"requests":  ', 1))
    with pytest.raises(VerificationError, match="not what was written before the runs"):
        validate(options)


def test_another_machine_does_not_go_on(
    lab_host: None, fio: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hindsight.lab.validate.devices.throttled_device", None)  # nothing may be made
    options = ValidateOptions(TINY, tmp_path, tmp_path / "out")
    monkeypatch.setattr("hindsight.lab.validate.machine_pseudonym", lambda _: "aaaaaaaaaaaa")
    with pytest.raises(TypeError):
        validate(options)
    monkeypatch.setattr("hindsight.lab.validate.machine_pseudonym", lambda _: "bbbbbbbbbbbb")
    with pytest.raises(ConfigurationError, match="never paired"):
        validate(options)


def _cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "hindsight", "lab", *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_nonsense_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    result = _cli("validate", "nothing")
    assert result.returncode == 2 and "readahead" in result.stderr
    for suite in (
        Suite("x", (), device_wide(64)),
        Suite("x", (Part("P1", ("fio-runs",), 1.0),), ()),
        Suite("x", (Part("P1", ("no-such",), 1.0),), device_wide(64)),
        Suite("x", (Part("P1", ("fio-runs",), 1.0),), device_wide(64), rounds=0),
    ):
        with pytest.raises(UsageError):
            validate(ValidateOptions(suite, tmp_path / "work", tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_a_device_of_limits_of_its_own(lab_host: None, images: Path, device_name: str) -> None:
    arguments = ("--iops", "400", "--bandwidth", "20M", "--size", "128M", "--images", str(images))
    created = _cli("device", "create", device_name, *arguments, "--cache", "32M")
    try:
        assert created.returncode == 0, created.stderr
        assert "limit 400" in created.stdout and "limit 20" in created.stdout
        assert "memory of its programs: 32 MiB" in created.stdout
        made = lab_device.find(device_name)
        assert made.profile.read_iops == 400 and made.profile.read_bps == 20 << 20
        assert os.stat(made.image).st_size == 128 << 20
        group = Path(made.cache_group)
        assert group.is_dir()
    finally:
        removed = _cli("device", "remove", device_name)
    assert removed.returncode == 0, removed.stderr
    assert not group.exists() and not Path(made.image).exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--profile", "P1", "--iops", "5"),
        ("--iops", "-5"),
        ("--iops", "0"),
        ("--bandwidth", "fast"),
        ("--size", "0"),
        ("--cache", "12Q"),
    ],
)
def test_devices_that_make_no_sense_are_usage_errors(arguments: tuple[str, ...]) -> None:
    assert _cli("device", "create", "x", *arguments).returncode == 2
