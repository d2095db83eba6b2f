"""What a recorder uses, measured against what was really used."""

from __future__ import annotations

import mmap
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hindsight.capture.recording.footprint import Footprint, own_cpu_ns, peak_resident_bytes, resident_bytes

KIB = 1024
MIB = 1 << 20


@pytest.fixture
def footprint(tmp_path: Path) -> Iterator[Footprint]:
    measured = Footprint(tmp_path)
    yield measured
    measured.close()


def recording(out: Path, name: str, size: int) -> Path:
    """A directory as sealed recordings are: under a temporary name first."""
    open_name = out / f".recording-{name}"
    (open_name / "raw" / "tasks").mkdir(parents=True)
    (open_name / "raw" / "tasks" / "cpu0.pages").write_bytes(b"x" * size)
    (open_name / "manifest.json").write_text("{}")
    return open_name.rename(out / name)


def allocated(out: Path) -> int:
    """What du(1) says of the recordings, without the output directory itself."""
    run = subprocess.run(["du", "-s", "-B1", *out.iterdir()], capture_output=True, text=True, check=True)
    return sum(int(line.split()[0]) for line in run.stdout.splitlines())


def spin(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_processor_time_of_threads_counts_and_of_children_does_not() -> None:
    before = own_cpu_ns()
    thread = threading.Thread(target=spin, args=(0.1,))
    thread.start()
    thread.join()
    spin(0.05)
    threads = own_cpu_ns() - before
    assert threads >= 0.15e9
    before = own_cpu_ns()
    code = "import time\nwhile time.process_time() < 0.5: pass"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert own_cpu_ns() - before < 0.4e9


def test_memory() -> None:
    before = resident_bytes()
    with mmap.mmap(-1, 64 * MIB) as block:
        block.write(b"x" * 64 * MIB)
        held = resident_bytes()
        assert held - before > 60 * MIB
    assert resident_bytes() < held - 60 * MIB
    assert peak_resident_bytes() >= held - MIB


def test_the_peak_is_not_that_of_the_program_before_exec() -> None:
    code = "from hindsight.capture.recording import footprint; print(footprint.peak_resident_bytes())"
    with mmap.mmap(-1, 100 * MIB) as block:
        block.write(b"x" * 100 * MIB)
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert MIB < int(run.stdout) < 80 * MIB


def test_an_empty_directory(tmp_path: Path, footprint: Footprint) -> None:
    use = footprint.look(0)
    assert use.disk_bytes == 0
    space = os.statvfs(tmp_path)
    assert use.free_bytes == pytest.approx(space.f_bavail * space.f_frsize, abs=64 * MIB)
    assert 0 < use.cpu_ns <= own_cpu_ns()
    assert use.rss_bytes > MIB


def test_recordings_come_and_go(tmp_path: Path, footprint: Footprint) -> None:
    first = recording(tmp_path, "20260101T000000Z-00000000-0000", 300 * KIB)
    second = recording(tmp_path, "20260101T000000Z-00000000-0001", 500 * KIB)
    assert footprint.look(0).disk_bytes == allocated(tmp_path) > 800 * KIB
    shutil.rmtree(first)
    assert footprint.look(0).disk_bytes == allocated(tmp_path) < 600 * KIB
    third = recording(tmp_path, "20260101T000000Z-00000000-0002", 100 * KIB)
    assert footprint.look(0).disk_bytes == allocated(tmp_path)
    for path in (second, third):
        shutil.rmtree(path)
    assert footprint.look(0).disk_bytes == 0


def test_raw_bytes_count_at_once(tmp_path: Path, footprint: Footprint) -> None:
    recording(tmp_path, "sealed-0000", 100 * KIB)
    raw = tmp_path / ".recording-x-0000" / "raw"
    raw.mkdir(parents=True)
    before = footprint.look(0).disk_bytes
    with (raw / "cpu0.pages").open("wb") as file:
        for written in range(64 * KIB, 10 * 64 * KIB, 64 * KIB):
            file.write(b"x" * 64 * KIB)
            file.flush()
            assert footprint.look(written).disk_bytes == pytest.approx(before + written, abs=8 * KIB)
    raw.parent.rename(tmp_path / "x-0000")
    (tmp_path / "x-0000" / "manifest.json").write_text("{}")
    assert footprint.look(written).disk_bytes == pytest.approx(before + written, abs=16 * KIB)


def test_other_files_do_not_count(tmp_path: Path, footprint: Footprint) -> None:
    (tmp_path / "notes").write_bytes(b"x" * MIB)
    (tmp_path / "parquet").mkdir()
    (tmp_path / "parquet" / "table").write_bytes(b"x" * MIB)
    elsewhere = recording(tmp_path.parent, f"{tmp_path.name}-elsewhere", 100)
    (tmp_path / "link").symlink_to(elsewhere)
    assert footprint.look(0).disk_bytes == 0
    shutil.rmtree(elsewhere)


def test_the_directory_may_vanish(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    footprint = Footprint(out)
    recording(out, "sealed-0000", 100)
    assert footprint.look(0).disk_bytes > 0
    shutil.rmtree(out)
    use = footprint.look(0)
    assert use.disk_bytes == 0
    assert use.free_bytes > 0
    footprint.close()
    footprint.close()
