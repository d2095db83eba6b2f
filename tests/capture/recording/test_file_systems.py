"""What docs/file-systems.md says of each file system, seen again on one of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from scratch import file_system, overlay, remount, run

from hindsight.capture import devices, host, schema
from hindsight.capture.conversion.convert import convert
from hindsight.capture.devices import Device
from hindsight.capture.options import RecordOptions
from hindsight.capture.recording.record import record
from hindsight.capture.segments.files import file_facts
from hindsight.pipeline.dataset import find_captures, read_tables
from hindsight.subsystems.readahead import demand, fidelity, replay
from hindsight.subsystems.readahead.state import DECISION_TABLES
from hindsight.subsystems.readahead.verdict import CACHED_BEFORE, RECLAIMED

HERE = Path(__file__).resolve().parents[1]
ACCESS = HERE.parent / "subsystems" / "readahead" / "access.py"
SIZES = {"big": (16 << 20) + 12345, "odd": 333_333}


class Place(NamedTuple):
    """Where files are read, the device that the trace names for them, and how their cache is dropped."""

    where: Path
    device: Callable[[], Device]
    cold: Callable[[], None]


def fill(where: Path) -> None:
    for name, size in SIZES.items():
        (where / name).write_bytes(os.urandom(size))


@contextlib.contextmanager
def place(directory: Path, kind: str) -> Iterator[Place]:
    if kind == "overlay":
        with file_system(directory, "ext4") as (lower, device):
            fill(lower)
            (lower / "changes").mkdir()
            with overlay(directory, lower, lower / "changes") as where:

                def drop() -> None:
                    for name in SIZES:
                        descriptor = os.open(lower / name, os.O_RDONLY)
                        os.fsync(descriptor)
                        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                        os.close(descriptor)

                yield Place(where, lambda: device, drop)
        return
    with file_system(directory, kind) as (where, _):
        fill(where)

        def again() -> None:
            remount(where, kind)

        def number() -> Device:  # btrfs gets another one each time it is mounted
            (device,) = {mount.device for mount in devices.mounts() if mount.where == where}
            return device

        yield Place(where, number, again)


def read_alone(at: Place, directory: Path, *what: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tables and demand of a recording of seeded reads; again when the host reclaimed pages meanwhile."""
    command = ("/usr/bin/env", "python3", str(ACCESS), str(at.where), *what)
    for attempt in range(4):
        at.cold()
        out = directory / str(attempt)
        device = at.device()
        options = RecordOptions(out / "raw", command, comm=True, devices=(device,))
        record(options, say=lambda text: None)
        convert([out / "raw"], out / "data")
        (capture,) = find_captures(out / "data")
        tables = read_tables(capture, schema.TABLES)
        built = demand.build(tables)
        if not set(built["streams"]["reason"].tolist()) & {RECLAIMED, CACHED_BEFORE}:
            break
    return tables, built


def files_of(tables: dict[str, Any], table: str) -> set[tuple[int, int, int]]:
    rows = tables[table]
    columns = (rows["s_dev_major"].tolist(), rows["s_dev_minor"].tolist(), rows["i_ino"].tolist())
    return set(zip(*columns, strict=True))


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "overlay"])
def test_reads_of_a_file_system_are_seen_described_and_replayed(
    live: Path, tmp_path: Path, kind: str
) -> None:
    with place(tmp_path, kind) as at:
        tables, built = read_alone(at, tmp_path, "all", "1", "60")
        device = at.device()
        seen = {name: os.stat(at.where / name) for name in SIZES}
    files = {(*device, status.st_ino): status.st_size for status in seen.values()}

    # Which file an event is about: the device of the file system below, which stat(2) may name otherwise.
    for table in ("page_cache_sync_ra", "page_cache_ra_unbounded", "mm_filemap_get_pages"):
        assert files_of(tables, table) == files.keys(), table
    by_stat = {(os.major(status.st_dev), os.minor(status.st_dev)) for status in seen.values()}
    assert (by_stat == {device}) == (kind in ("ext4", "xfs"))

    # The demand is in system calls, whatever the file system.
    assert len(tables["sys_enter_pread64"]["ts"]) > 100

    # Files are described, by number.
    rows = tables["files"]
    sizes = dict(zip(rows["i_ino"].tolist(), rows["size"].tolist(), strict=True))
    assert sizes == {ino: size for (_, _, ino), size in files.items()}
    numbers = zip(tables["devices"]["dev_major"], tables["devices"]["dev_minor"], strict=True)
    (fact,) = [row for row, number in enumerate(numbers) if tuple(map(int, number)) == device]
    assert tables["devices"]["fstype"][fact] == ("ext4" if kind == "overlay" else kind)
    assert tables["devices"]["read_ahead_kb"][fact] == (4096 if kind == "btrfs" else 128)

    # Large folios are where the file system has them.
    orders = set(tables["mm_filemap_add_to_page_cache"]["order"].tolist())
    assert (orders == {0}) == (kind == "btrfs")

    # And the kernel's decisions follow from the demand, each of them.
    assert built["streams"]["eligible"].all()
    result = fidelity.compare(
        replay.run(built), {k: tables[k] for k in DECISION_TABLES if k in tables}, built
    )
    assert result.first_divergence is None
    assert result.matched == result.recorded == result.compared > 50


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "overlay"])
def test_every_kind_of_access_is_exact(live: Path, tmp_path: Path, kind: str) -> None:
    with place(tmp_path, kind) as at:
        for access in (
            "random", "sequential", "strided", "reverse", "local", "mixed", "several", "forks", "advised",
            "vectors", "whole",
        ):  # fmt: skip
            tables, built = read_alone(at, tmp_path / access, access, "5", "150")
            assert built["streams"]["eligible"].all(), access
            decided = {k: tables[k] for k in DECISION_TABLES if k in tables}
            result = fidelity.compare(replay.run(built), decided, built)
            assert result.first_divergence is None, access
            assert result.matched == result.recorded == result.compared > 0, access


def test_metadata_of_btrfs_is_not_taken_for_a_file(live: Path, tmp_path: Path) -> None:
    """What is read ahead on advice brings pages of the trees, inode 1, with it."""
    with place(tmp_path, "btrfs") as at:
        tables, built = read_alone(at, tmp_path, "advised", "5", "150")
        device = at.device()
    assert (*device, 1) in files_of(tables, "mm_filemap_add_to_page_cache")
    assert len(built["streams"]["eligible"]) and built["streams"]["eligible"].all()
    decided = {k: tables[k] for k in DECISION_TABLES if k in tables}
    result = fidelity.compare(replay.run(built), decided, built)
    assert result.matched == result.recorded == result.compared > 10


def test_a_number_that_two_subvolumes_have_is_not_described(live: Path, tmp_path: Path) -> None:
    with place(tmp_path, "btrfs") as at:
        device, inode = at.device(), os.stat(at.where / "odd").st_ino
        assert [row["size"] for row in file_facts([(device, inode)], [], False)] == [SIZES["odd"]]
        run("btrfs", "subvolume", "create", at.where / "other")
        for name in ("a", "b", "c"):
            (at.where / "other" / name).write_bytes(b"x")
        assert inode in {os.stat(at.where / "other" / name).st_ino for name in ("a", "b", "c")}
        assert os.stat(at.where / "other").st_dev != os.stat(at.where).st_dev
        assert file_facts([(device, inode)], [], False) == []


def test_a_file_of_xfs_that_is_gone_is_not_described_as_another(live: Path, tmp_path: Path) -> None:
    with place(tmp_path, "xfs") as at:
        inodes = {name: os.stat(at.where / name).st_ino for name in SIZES}
        first = min(inodes, key=inodes.__getitem__)
        (at.where / first).unlink()
        rows = file_facts([(at.device(), inode) for inode in inodes.values()], [], True)
        (kept,) = SIZES.keys() - {first}
        assert [(row["i_ino"], row["size"], row["path"]) for row in rows] == [
            (inodes[kept], SIZES[kept], str(at.where / kept))
        ]


@pytest.mark.parametrize("kind", ["ext4", "btrfs"])
def test_open_files_are_named_as_the_trace_names_them(live: Path, tmp_path: Path, kind: str) -> None:
    with place(tmp_path, kind) as at, open(at.where / "big", "rb") as file:
        rows = [row for row in host.descriptors([os.getpid()]) if row["fd"] == file.fileno()]
        device = at.device()
    assert [(row["s_dev_major"], row["s_dev_minor"]) for row in rows] == [device]


@pytest.mark.parametrize("by_worker", [False, True])
def test_reads_through_io_uring_are_seen_and_their_demand_is_not(
    live: Path, tmp_path: Path, by_worker: bool
) -> None:
    size, count = 16384, 200
    words = [sys.executable, HERE / "uring.py", "FILE", size, count, *(["async"] if by_worker else [])]
    with place(tmp_path, "ext4") as at:
        command = tuple(str(at.where / "big") if word == "FILE" else str(word) for word in words)
        if "io_uring" not in Path("/proc/kallsyms").read_text() or _refused(command):
            pytest.skip("this kernel has no io_uring, or forbids it")
        at.cold()
        device = at.device()
        record(RecordOptions(tmp_path / "raw", command, devices=(device,)), say=lambda text: None)
    convert([tmp_path / "raw"], tmp_path / "data")
    (capture,) = find_captures(tmp_path / "data")
    tables = read_tables(capture, schema.TABLES)
    assert len(tables["sys_enter_io_uring_enter"]["ts"]) == count, "that something was asked for"
    (thread,) = set(tables["sys_enter_io_uring_enter"]["pid"].tolist())
    if by_worker:
        # The kernel's worker threads are created without the event by which children are followed.
        assert "mm_filemap_get_pages" not in tables
        assert thread in tables["task_newtask"]["pid"].tolist()
        return
    pages = tables["mm_filemap_get_pages"]
    assert set(pages["pid"].tolist()) == {thread}
    assert len(pages["ts"]) >= count
    assert len(tables["page_cache_ra_order"]["ts"]) > 10
    # But not of which file, where, how much: no stream, so no verdict.
    assert len(demand.build(tables)["streams"]["eligible"]) == 0


def _refused(command: tuple[str, ...]) -> bool:
    return subprocess.run(command, capture_output=True).returncode != 0
