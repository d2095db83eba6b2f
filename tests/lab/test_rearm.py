from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hindsight.errors import HindsightError
from hindsight.lab import device as lab_device
from hindsight.lab.cached import cached_pages
from hindsight.lab.cold import make_cold
from hindsight.lab.rearm import EXACT, Advice, Openings, Rearming, every_file, rearm, same_open_file

PAGE = 4096
PAGES = 4096

READER = """
import os, sys
path, pages = sys.argv[1], [int(n) for n in sys.argv[2].split(",")]
for number in range(int(sys.argv[3])):  # opened so often, each time at the same number
    fd = os.open(path, os.O_RDONLY)
    print("open", flush=True)
    sys.stdin.readline()
    for page in pages:
        os.pread(fd, 4096, (page + 512 * number) * 4096)
    print("read", flush=True)
    sys.stdin.readline()
    os.close(fd)
"""


@pytest.fixture
def file(made: lab_device.LabDevice) -> Path:
    path = made.mount_point / "file"
    path.write_bytes(os.urandom(PAGES * PAGE))
    make_cold(made, made.mount_point)
    return path


class Reader:
    """A program of the device's group that opens and reads when it is told."""

    def __init__(self, device: lab_device.LabDevice, path: Path, pages: list[int], times: int = 1) -> None:
        text = ",".join(map(str, pages))
        self.process = subprocess.Popen(
            device.command([sys.executable, "-c", READER, str(path), text, str(times)]),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def wait(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == word

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.communicate(timeout=10)


def advised(following: Rearming, count: int) -> None:
    deadline = time.monotonic() + 5
    while following.advised < count:
        assert time.monotonic() < deadline, f"{following.advised} of {count} were advised"
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("kilobytes", "cached"),
    [(None, 32), (EXACT, 1), (16, 4), (64, 16), (1024, 256)],
)
def test_a_running_program_reads_ahead_as_it_is_told(
    made: lab_device.LabDevice, file: Path, kilobytes: int | None, cached: int
) -> None:
    # The first page of a file begins a window: half of the limit at once (the initial size of a small read is
    # four pages, or as much as the limit), and marks; reading on lets it grow to the limit.
    reader = Reader(made, file, [0])
    reader.wait("open")
    schedule = every_file([file], kilobytes) if kilobytes is not None else {}
    with Rearming(made, schedule, [file.parent]) as following:
        if kilobytes is not None:
            advised(following, 1)
        assert lab_device.read_ahead(made) == 128, "the device's own limit is back"
        reader.go()
        reader.wait("read")
    got, _ = cached_pages([file])
    # What a descriptor of ours makes of the same read, set up without any of this.
    reader.go()
    reader.end()
    make_cold(made, made.mount_point)
    lab_device.set_read_ahead(made, kilobytes if kilobytes else 128)
    fd = os.open(file, os.O_RDONLY)
    if kilobytes == EXACT:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    os.pread(fd, PAGE, 0)
    os.close(fd)
    lab_device.set_read_ahead(made, 128)
    assert got == cached_pages([file])[0]


def test_settings_can_be_told_apart_by_what_they_fetch(made: lab_device.LabDevice, file: Path) -> None:
    fetched = {}
    for kilobytes in (EXACT, 64, 1024):
        make_cold(made, made.mount_point)
        reader = Reader(made, file, list(range(80)))
        reader.wait("open")
        with Rearming(made, every_file([file], kilobytes), [file.parent]) as following:
            advised(following, 1)
            reader.go()
            reader.wait("read")
        fetched[kilobytes] = cached_pages([file])[0]
        reader.go()
        reader.end()
    assert fetched[EXACT] == 80 < fetched[64] < fetched[1024]


def test_a_file_that_is_opened_anew_is_advised_anew(made: lab_device.LabDevice, file: Path) -> None:
    reader = Reader(made, file, [7], times=3)
    with Rearming(made, every_file([file], EXACT), [file.parent]) as following:
        for number in range(1, 4):
            reader.wait("open")
            advised(following, number)
            reader.go()
            reader.wait("read")
            assert cached_pages([file])[0] == number, "exactly what was asked for"
            reader.go()
        reader.end()
        assert following.advised == 3


def test_a_plan_is_followed_in_time(made: lab_device.LabDevice, file: Path) -> None:
    reader = Reader(made, file, [7])
    reader.wait("open")
    plan = {file.stat().st_ino: [Advice(0, 64), Advice(100_000_000, EXACT)]}
    with Rearming(made, plan, [file.parent]) as following:
        advised(following, 1)
        begin = time.monotonic_ns()
        advised(following, 2)
        assert time.monotonic_ns() - begin >= 50_000_000
        reader.go()
        reader.wait("read")
    assert cached_pages([file])[0] == 1
    reader.go()
    reader.end()


def test_only_open_files_of_the_group_are_touched(made: lab_device.LabDevice, file: Path) -> None:
    fd = os.open(file, os.O_RDONLY)  # ours: not in the group
    try:
        with Rearming(made, every_file([file], EXACT), [file.parent]) as following:
            time.sleep(0.05)
            assert following.advised == 0
    finally:
        os.close(fd)


def test_the_limit_of_the_device_comes_back_when_advising_fails(made: lab_device.LabDevice) -> None:
    with pytest.raises(OSError):
        rearm(made, -1, 64)
    assert lab_device.read_ahead(made) == 128


def test_what_fails_while_following_is_raised(
    made: lab_device.LabDevice, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise HindsightError("no")

    monkeypatch.setattr("hindsight.lab.rearm.rearm", fail)
    reader = Reader(made, file, [0])
    reader.wait("open")
    with pytest.raises(HindsightError, match="no"), Rearming(made, every_file([file], 64), [file.parent]):
        time.sleep(0.2)
    reader.go()
    reader.wait("read")
    reader.go()
    reader.end()


def test_open_files_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    one, other = os.open(path, os.O_RDONLY), os.open(path, os.O_RDONLY)
    copy = os.dup(one)
    try:
        assert same_open_file(one, os.getpid(), copy)
        assert not same_open_file(one, os.getpid(), other)
        with pytest.raises(OSError):
            same_open_file(one, os.getpid(), 1_000_000)
    finally:
        for fd in (one, other, copy):
            os.close(fd)


def test_the_kernel_tells_of_files_that_are_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    openings = Openings([tmp_path, tmp_path])
    try:
        assert not openings.wait(0)
        (tmp_path / "file").read_text()
        assert openings.wait(5) and not openings.wait(0), "told once"
        openings.wake()
        assert not openings.wait(1e6), "what wakes it is no opening"
    finally:
        openings.close()
    with pytest.raises(OSError, match="inotify"):
        Openings([tmp_path / "absent"])
