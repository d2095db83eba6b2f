"""Pages in the cache, extents on the device, requests of a bio: each against somebody else's count."""

from __future__ import annotations

import mmap
import os
import re
import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from hindsight.errors import HindsightError
from hindsight.lab import cached, cold
from hindsight.lab import device as lab_device
from hindsight.lab.cached import cached_pages, files_below
from hindsight.lab.extents import breaks
from hindsight.lab.programs import path_of
from hindsight.lab.requests import Limits, limits_of, pieces

PAGE = 4096
LOOP = Limits(pages=320, segments=128, segment_pages=16)


def test_pages_that_were_read_are_counted_and_no_others(made: lab_device.LabDevice) -> None:
    path = made.mount_point / "file"
    path.write_bytes(os.urandom(64 * PAGE))
    (made.mount_point / "link").symlink_to(path)
    cold.make_cold(made, made.mount_point)
    assert cached_pages([path])[0] == 0
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        for page in (3, 4, 40):
            os.pread(fd, PAGE, page * PAGE)
        assert cached._of(fd)[0] == cached._resident(fd) == 3
        assert cached_pages(files_below(made.mount_point))[0] == 3, "nothing else is cached, no link followed"
    finally:
        os.close(fd)


def test_cold_data_with_warm_metadata(made: lab_device.LabDevice) -> None:
    path = made.mount_point / "folder/file"
    path.parent.mkdir()
    path.write_bytes(os.urandom(4 * PAGE))
    cold.make_cold(made, path.parent)
    before = made.read_counters()
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(fd, PAGE, 0)
    finally:
        os.close(fd)
    requests, sectors = np.subtract(made.read_counters(), before)
    assert (requests, sectors) == (1, PAGE // 512), "opening and mapping the file cost no request"


def test_what_stays_cached_is_an_error(made: lab_device.LabDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made.mount_point / "file"
    path.write_bytes(os.urandom(4 * PAGE))
    monkeypatch.setattr(cold, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(cold, "remount_cold", lambda device: None)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as held:
        assert len(held[:]) == 4 * PAGE  # mapped pages stay, whatever is advised
        with pytest.raises(HindsightError, match=r"4 pages of .* are cached"):
            cold.make_cold(made, made.mount_point)


def test_a_copy_of_the_mount_in_another_name_space_keeps_nothing_cached(
    lab_host: None, images: Path, device_name: str
) -> None:
    unshare = path_of("unshare")
    if unshare is None:
        pytest.skip("unshare is not installed (apt-get install util-linux)")
    with lab_device.throttled_device(device_name, lab_device.PROFILES["P2"], 192 << 20, images) as made:
        path = made.mount_point / "file"
        path.write_bytes(os.urandom(64 * PAGE))
        os.sync()
        holder = subprocess.Popen(
            [unshare, "-m", "sh", "-c", "echo in; sleep 4"], stdout=subprocess.PIPE, text=True
        )
        assert holder.stdout is not None and holder.stdout.readline() == "in\n"
        lab_device.remount_cold(made)
        path.read_bytes()
        lab_device.remount_cold(made)
        assert cached_pages([path])[0] == 64, "the file system lived on"
        cold.make_cold(made, made.mount_point)
        assert cached_pages([path])[0] == 0
    assert not Path(made.image).exists(), "removing waited until the holder had ended"
    holder.communicate(timeout=10)


def test_breaks_are_those_that_filefrag_shows(made: lab_device.LabDevice) -> None:
    filefrag = path_of("filefrag")
    if filefrag is None:
        pytest.skip("filefrag is not installed (apt-get install e2fsprogs)")
    one, other, whole = (made.mount_point / name for name in ("one", "other", "whole"))
    whole.write_bytes(b"x" * (64 * PAGE))
    with open(one, "wb", buffering=0) as a, open(other, "wb", buffering=0) as b:
        for _ in range(300):  # more extents than are asked for at once
            for file in (a, b):
                os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, 2 * PAGE)
                file.seek(0, os.SEEK_END)
    os.sync()
    for path in (one, whole):
        text = subprocess.run([filefrag, "-v", path], capture_output=True, text=True, check=True).stdout
        rows = [
            tuple(map(int, row))
            for row in re.findall(r"^ *\d+: +(\d+)\.\. *\d+: +(\d+)\.\. *\d+: +(\d+):", text, re.M)
        ]
        assert rows
        expected = [here[0] for before, here in pairwise(rows) if before[1] + before[2] != here[1]]
        assert breaks(path).tolist() == expected
    assert len(breaks(one)) > 256


@pytest.mark.parametrize(
    ("bio", "expected"),
    [
        ([0], 1),
        ([0] * 128, 1),
        ([0] * 129, 2),  # segments
        ([0] * 256, 2),
        ([2] * 80, 1),  # 320 pages
        ([2] * 81, 2),
        ([9], 2),  # 512 pages: 320 and 192
        ([9, 9], 4),  # 1,024 pages: three of 320, and the rest
        ([4] * 20, 1),
        ([4] * 20 + [0], 2),
        ([0] * 127 + [9], 3),  # 127 segments and one of 16 pages; 320; the rest
    ],
)
def test_requests_of_a_bio_by_hand(bio: list[int], expected: int) -> None:
    assert pieces(bio, LOOP) == expected


def test_limits_of_a_device(made: lab_device.LabDevice) -> None:
    limits = limits_of(made)
    queue = Path("/sys/dev/block") / made.number / "queue"
    assert limits.pages * 4 == int((queue / "max_sectors_kb").read_text())
    assert limits.segments == int((queue / "max_segments").read_text())


def test_a_limit_of_memory_limits_what_is_cached(lab_host: None, images: Path, device_name: str) -> None:
    try:
        lab_device.find_memory_hierarchy()
    except HindsightError as error:
        pytest.skip(error.message)
    profile = lab_device.custom_profile(0, 512 << 20)
    limit = 24 << 20
    with lab_device.throttled_device(device_name, profile, 192 << 20, images, cache_bytes=limit) as made:
        path = made.mount_point / "file"
        path.write_bytes(os.urandom(96 << 20))
        lab_device.remount_cold(made)
        subprocess.run(made.command(["cat", str(path)]), stdout=subprocess.DEVNULL, check=True)
        assert 0 < cached_pages([path])[0] * PAGE <= limit
        group = Path(made.cache_group)
        lab_device.remount_cold(made)
        subprocess.run(["cat", str(path)], stdout=subprocess.DEVNULL, check=True)
        assert cached_pages([path])[0] * PAGE > limit, "outside of the group there is no limit"
        assert group.is_dir()
    assert not group.exists()
