"""Live: what the BPF programs record, held against programs that read a known number of times."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from followed import Reader, count, decoded, read_ahead_pages, total
from forked import Forked

from hindsight.capture.bpf import open_files
from hindsight.capture.bpf.tracer import OpenFilesTracer
from hindsight.capture.schema import openfiles


def test_every_read_is_recorded(
    tracer_of: Callable[..., OpenFilesTracer], data: Path, tmp_path: Path
) -> None:
    tracer = tracer_of()
    reader = Reader(data, 5000)
    tracer.follow([reader.pid])
    before = time.monotonic_ns()
    tracer.on()
    reader.go()
    reader.wait()
    tracer.off()
    assert tracer.finish() > 0
    after = time.monotonic_ns()
    stats = tracer.stats()
    assert total(stats, "dropped events") == 0 and total(stats, "bytes") == 0
    rows = decoded(tmp_path / "raw0")
    assert sum(count(rows).values()) == total(stats, "read events")
    reads = rows["file_reads"]
    assert reads["pos"].tolist() == [0, *range(5000)] and set(reads["count"].tolist()) == {1}
    assert set(reads["pid"].tolist()) == {reader.pid} == set(rows["opens"]["pid"].tolist())
    assert ((before < reads["ts"]) & (reads["ts"] < after)).all()
    (ordinal,) = set(reads["ordinal"].tolist())
    (at,) = np.flatnonzero(rows["opens"]["ordinal"] == ordinal)
    status = data.stat()
    assert rows["opens"]["i_ino"][at] == status.st_ino
    assert rows["opens"]["s_dev_major"][at] == os.major(status.st_dev)
    assert rows["opens"]["s_dev_minor"][at] == os.minor(status.st_dev)
    assert rows["opens"]["origin"][at] == openfiles.OPENED_AT_USE and rows["opens"]["prev_pos"][at] == -1
    assert rows["opens"]["tgid"][at] == reader.pid
    assert ordinal in rows["file_releases"]["ordinal"].tolist()


def test_each_read_says_how_large_its_file_is(
    tracer_of: Callable[..., OpenFilesTracer], data: Path, tmp_path: Path
) -> None:
    """Whoever changed it: through this descriptor, another one, or its path."""
    file = tmp_path / "changes"
    file.write_bytes(b"x" * 10_000)

    def work() -> None:
        reading, writing = os.open(file, os.O_RDONLY), os.open(file, os.O_WRONLY)
        os.pread(reading, 10, 0)
        os.pwrite(writing, b"y" * 100, 12_000)
        os.pread(reading, 10, 0)
        os.ftruncate(writing, 5)
        os.pread(reading, 10, 0)
        os.truncate(file, 1 << 33)
        os.pread(reading, 10, 0)
        os.close(os.open(file, os.O_WRONLY | os.O_TRUNC))
        os.pread(reading, 10, 0)

    sizes = [10_000, 12_100, 5, 1 << 33, 0]
    tracer = tracer_of()
    child = Forked(work)
    tracer.follow([child.pid])
    tracer.on()
    child.run()
    tracer.off()
    tracer.finish()
    assert decoded(tmp_path / "raw0")["file_reads"]["i_size"].tolist() == sizes


def test_each_call_says_where_it_reads(
    tracer_of: Callable[..., OpenFilesTracer], data: Path, tmp_path: Path
) -> None:
    """Every system call that is looked at, with its position; advice shows in the state that follows."""
    if platform.machine() != "x86_64":
        pytest.skip("numbers of system calls")
    libc = ctypes.CDLL(None, use_errno=True)

    def work() -> None:
        fd, out = os.open(data, os.O_RDONLY), os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT, 0o600)
        os.read(fd, 10)
        os.pread(fd, 11, 20)
        os.readv(fd, [bytearray(5)])
        libc.syscall(295, fd, ctypes.byref(iovec), 1, 33, 0)
        os.preadv(fd, [bytearray(1)], 34)
        libc.syscall(327, fd, ctypes.byref(iovec), 1, ctypes.c_int64(-1), ctypes.c_int64(-1), 0)
        os.sendfile(out, fd, 40, 12)
        os.sendfile(out, fd, None, 13)  # type: ignore[arg-type]
        read_end, write_end = os.pipe()
        os.splice(fd, write_end, 14, offset_src=50)
        os.splice(fd, write_end, 15)
        os.copy_file_range(fd, out, 16, 60)
        libc.readahead(fd, ctypes.c_int64(70), ctypes.c_size_t(17))
        os.posix_fadvise(fd, 4096, 18, os.POSIX_FADV_RANDOM)
        os.pread(fd, 19, 80)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        os.pread(fd, 21, 90)
        mmap.mmap(fd, 4096, prot=mmap.PROT_READ, offset=8192).close()
        os.preadv(fd, [bytearray(2)] * 3, 100)
        os.preadv(fd, [bytearray(1)] * 70, 110)  # too many pieces
        os.read(read_end, 5)  # a pipe has no pages

    buffer = ctypes.create_string_buffer(8)
    iovec = (ctypes.c_uint64 * 2)(ctypes.addressof(buffer), 4)
    tracer = tracer_of()
    child = Forked(work)
    tracer.follow([child.pid])
    tracer.on()
    child.run()
    tracer.off()
    tracer.finish()
    rows = decoded(tmp_path / "raw0")
    reads = rows["file_reads"]
    ino = dict(zip(rows["opens"]["ordinal"].tolist(), rows["opens"]["i_ino"].tolist(), strict=True))
    mine = [n for n, o in enumerate(reads["ordinal"].tolist()) if ino[o] == data.stat().st_ino]
    none = 2**64 - 1
    seen = [
        (openfiles.FILE_READ_CALLS[int(reads["call"][n]) - 1], int(reads["pos"][n]), int(reads["count"][n]))
        for n in mine
    ]
    wrapped = seen[4][0]  # which of the two Python uses is its choice
    assert wrapped in ("preadv", "preadv2") and seen == [
        ("read", 0, 10), ("pread64", 20, 11), ("readv", 10, 5), ("preadv", 33, 4), (wrapped, 34, 1),
        ("preadv2", 15, 4), ("sendfile64", 40, 12), ("sendfile64", 19, 13), ("splice", 50, 14),
        ("splice", 32, 15), ("copy_file_range", 60, 16), ("readahead", 70, 17), ("fadvise64", 4096, 18),
        ("pread64", 80, 19), ("fadvise64", 0, 0), ("pread64", 90, 21), ("mmap", 8192, 4096),
        (wrapped, 100, 6), (wrapped, 110, none),
    ]  # fmt: skip
    # POSIX_FADV_RANDOM and SEQUENTIAL, in the state that the kernel keeps.
    after = {
        int(reads["count"][n]): (int(reads["mode"][n]) & 0x1000, int(reads["ra_pages"][n])) for n in mine
    }
    pages = read_ahead_pages(data)
    assert (after[11], after[19], after[21]) == ((0, pages), (0x1000, pages), (0, 2 * pages))
    assert {flags & os.O_ACCMODE for flags in reads["flags"][mine].tolist()} == {os.O_RDONLY}


def test_files_open_at_the_beginning_are_described(
    tracer_of: Callable[..., OpenFilesTracer], data: Path, tmp_path: Path
) -> None:
    fd = os.open(data, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    os.lseek(fd, 1234, os.SEEK_SET)
    tracer = tracer_of()
    tracer.follow([os.getpid()])
    tracer.on()
    tracer.off()
    tracer.finish()
    os.close(fd)
    opens = decoded(tmp_path / "raw0")["opens"]
    (at,) = np.flatnonzero(opens["i_ino"] == data.stat().st_ino)
    assert opens["origin"][at] == openfiles.OPENED_AT_START and opens["fd"][at] == fd
    assert opens["pos"][at] == 1234 and opens["ra_pages"][at] == 2 * read_ahead_pages(data)


def test_threads_and_children_are_followed_and_nobody_else(
    tracer_of: Callable[..., OpenFilesTracer], data: Path, tmp_path: Path
) -> None:
    def work() -> None:
        fd = os.open(data, os.O_RDONLY)
        threads = [threading.Thread(target=os.pread, args=(fd, 100 + n, 0)) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if os.fork() == 0:
            os.pread(fd, 200, 0)
            command = "import os, sys; os.pread(int(sys.argv[1]), 300, 0)"
            os.set_inheritable(fd, True)
            os.execv(sys.executable, [sys.executable, "-S", "-c", command, str(fd)])
        os.wait()

    tracer = tracer_of()
    child = Forked(work)
    stranger = Reader(data, 50)
    tracer.follow([child.pid])
    tracer.on()
    stranger.go()
    child.run()
    stranger.wait()
    tracer.off()
    tracer.finish()
    rows = decoded(tmp_path / "raw0")
    ino = dict(zip(rows["opens"]["ordinal"].tolist(), rows["opens"]["i_ino"].tolist(), strict=True))
    reads = rows["file_reads"]
    mine = np.array([ino[o] == data.stat().st_ino for o in reads["ordinal"].tolist()])
    assert sorted(reads["count"][mine].tolist()) == [100, 101, 102, 200, 300]
    assert len(set(reads["ordinal"][mine].tolist())) == 1
    assert stranger.pid not in reads["pid"].tolist()


def test_only_files_of_the_devices_that_are_wanted(
    tracer_of: Callable[..., OpenFilesTracer], data: Path, tmp_path: Path
) -> None:
    device = data.stat().st_dev
    wanted = (os.major(device), os.minor(device))
    for devices, expected in (([(250, 77), wanted], 11), ([(250, 77)], 0)):
        for path in (tmp_path / "raw0").glob("*"):
            path.unlink()
        tracer = tracer_of(wanted=devices)
        reader = Reader(data, 10)
        tracer.follow([reader.pid])
        tracer.on()
        reader.go()
        reader.wait()
        tracer.off()
        tracer.finish()
        assert count(decoded(tmp_path / "raw0"))["file_reads"] == expected
        tracer.close()


def test_an_address_that_is_used_again_is_another_open_file(
    tracer_of: Callable[..., OpenFilesTracer], data: Path, tmp_path: Path
) -> None:
    """The kernel gives the memory of a released file to the next: one number and one inode, 200 times."""

    def work() -> None:
        os.sched_setaffinity(0, {0})
        for _ in range(200):
            fd = os.open(data, os.O_RDONLY)
            os.pread(fd, 7, 0)
            os.close(fd)

    tracer = tracer_of()
    child = Forked(work)
    tracer.follow([child.pid])
    tracer.on()
    child.run()
    tracer.off()
    tracer.finish()
    reads = decoded(tmp_path / "raw0")["file_reads"]
    mine = reads["ordinal"][reads["count"] == 7]
    assert len(mine) == len(set(mine.tolist())) == 200


def test_reads_through_io_uring(tracer_of: Callable[..., OpenFilesTracer], tmp_path: Path) -> None:
    """Two files read by fio at random, held against its own log of what it read where."""
    fio = shutil.which("fio")
    if fio is None:
        pytest.skip("fio is not installed")
    disabled = Path("/proc/sys/kernel/io_uring_disabled")
    if not disabled.exists() or disabled.read_text().strip() == "2":
        pytest.skip("there is no io_uring here")
    log = tmp_path / "iolog"
    command = [fio, "--name=ring", "--ioengine=io_uring", "--rw=randread", "--bsrange=4k-32k"]
    command += ["--iodepth=8", "--nrfiles=2", "--size=8m", f"--directory={tmp_path}", "--invalidate=1"]
    subprocess.run([*command, "--create_only=1"], check=True, capture_output=True)
    tracer = tracer_of()
    child = Forked(lambda: os.execv(fio, [*command, f"--write_iolog={log}"]))
    tracer.follow([child.pid])
    tracer.on()
    child.run()
    tracer.off()
    tracer.finish()
    rows = decoded(tmp_path / "raw0")
    ino = dict(zip(rows["opens"]["ordinal"].tolist(), rows["opens"]["i_ino"].tolist(), strict=True))
    reads = rows["file_reads"]
    ring = reads["call"] == 1 + openfiles.FILE_READ_CALLS.index("io_uring")
    seen = sorted(
        (ino[o], p, n)
        for o, p, n in zip(
            reads["ordinal"][ring].tolist(),
            reads["pos"][ring].tolist(),
            reads["count"][ring].tolist(),
            strict=True,
        )
    )
    said = []
    for line in log.read_text().splitlines():
        words = line.split()
        if "read" in words:
            at = words.index("read")
            said.append((os.stat(words[at - 1]).st_ino, int(words[at + 1]), int(words[at + 2])))
    assert len(said) > 100 and seen == sorted(said)
    ordinals = {(ino[o], o) for o in reads["ordinal"][ring].tolist()}
    assert len(ordinals) == 2
    decisions = rows["file_readahead"]
    ours = np.isin(decisions["i_ino"], [number for number, _ in ordinals])
    assert ours.sum() > 10
    assert (
        set(zip(decisions["i_ino"][ours].tolist(), decisions["ordinal"][ours].tolist(), strict=True))
        == ordinals
    )


def test_what_is_shed_is_not_recorded(
    tracer_of: Callable[..., OpenFilesTracer], data: Path, tmp_path: Path
) -> None:
    tracer = tracer_of()
    reader = Reader(data, 100)
    tracer.follow([reader.pid])
    tracer.shed(["open_files/file_reads"])
    tracer.on()
    reader.go()
    reader.wait()
    tracer.off()
    tracer.finish()
    found = count(decoded(tmp_path / "raw0"))
    assert found["file_reads"] == 0 and found["opens"] >= 1
    tracer.restore(["open_files/file_reads"])
    assert tracer._files.state.shed == 0


def test_without_room_for_more_files_they_are_not_known(
    tracer_of: Callable[..., OpenFilesTracer], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_files, "room", lambda: 2)

    def work() -> None:
        files = [os.open(data, os.O_RDONLY) for _ in range(200)]
        for _ in range(2):
            for number, fd in enumerate(files):
                os.pread(fd, 1000 + number, 0)

    tracer = tracer_of()
    child = Forked(work)
    tracer.follow([child.pid])
    tracer.on()
    child.run()
    tracer.off()
    tracer.finish()
    reads = decoded(tmp_path / "raw0")["file_reads"]
    told: dict[int, set[int]] = {}
    for size, ordinal in zip(reads["count"].tolist(), reads["ordinal"].tolist(), strict=True):
        if size >= 1000:
            told.setdefault(size, set()).add(ordinal)
    assert len(told) == 200 and {0} in told.values()
    known = [ordinal for found in told.values() for ordinal in found if ordinal]
    assert len(known) == len(set(known))


def test_room_for_files(tmp_path: Path) -> None:
    (tmp_path / "file-nr").write_text("50000\t0\t9223372036854775807\n")
    assert open_files.room(tmp_path / "file-nr") == 100_000
    (tmp_path / "file-nr").write_text("7000000\t0\t9223372036854775807\n")
    assert open_files.room(tmp_path / "file-nr") == 1 << 20
    assert open_files.room(tmp_path / "absent") == 1 << 14
