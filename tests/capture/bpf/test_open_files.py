"""Live: records of the BPF programs, held against programs that read a known number of times."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from hindsight.capture import schema
from hindsight.capture.bpf import libbpf, open_files, records
from hindsight.capture.bpf.calls import READ_CALLS
from hindsight.capture.bpf.open_files import OpenFiles
from hindsight.capture.bpf.ring import RingMemory
from hindsight.capture.bpf.tracer import OpenFilesTracer
from hindsight.capture.conversion.columns import EventTable
from hindsight.capture.conversion.convert import convert
from hindsight.capture.formats import parse_event
from hindsight.capture.perf import rings
from hindsight.capture.perf.records import decode_records
from hindsight.capture.profiles import FILES
from hindsight.capture.recording.record import RecordOptions, record
from hindsight.capture.schema import openfiles
from hindsight.errors import ExitCode, NotPermittedError, UsageError

FORMATS = [parse_event(records.SYSTEM, text) for text in records.formats().values()]
KINDS = {kind.name: number for number, kind in enumerate(FORMATS)}
LINES = {name: schema.TABLES[name] for name in KINDS}


@pytest.fixture(scope="module")
def allowed() -> None:
    """Skips the test when BPF programs cannot be loaded here."""
    memory = RingMemory(64, max(rings.online_cpus()) + 1)
    try:
        files = OpenFiles([], memory)
    except NotPermittedError as error:
        pytest.skip(f"open files cannot be told apart here: {error.message}")
    files.close()
    memory.close()


@pytest.fixture
def tracer_of(allowed: None, tmp_path: Path) -> Iterator[Callable[..., OpenFilesTracer]]:
    """Makes tracers whose files are in ``raw0``, and closes them."""
    made: list[OpenFilesTracer] = []

    def make(buffer_kb: int = 4096, **kwargs: Any) -> OpenFilesTracer:
        tracer = OpenFilesTracer(FILES, buffer_kb, records.EVENTS, **kwargs)
        made.append(tracer)
        (tmp_path / "raw0").mkdir(exist_ok=True)
        tracer.open(tmp_path / "raw0")
        return tracer

    yield make
    for tracer in made:
        tracer.close()


class Reader:
    """A process that, when it is let go, opens a file and reads of it ``reads`` times and once more."""

    def __init__(self, path: Path, reads: int, pause_s: float = 0.0) -> None:
        waiting, self._go = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            with contextlib.suppress(BaseException):
                os.close(self._go)
                os.read(waiting, 1)
                pread = os.pread
                fd = os.open(path, os.O_RDONLY)
                os.pread(fd, 1, 0)
                time.sleep(pause_s)
                for number in range(reads):
                    pread(fd, 1, number)
                code = 0
            os._exit(code)
        os.close(waiting)

    def go(self) -> None:
        os.write(self._go, b"g")
        os.close(self._go)

    def running(self) -> bool:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        assert status == 0
        return pid == 0

    def wait(self) -> None:
        assert os.waitpid(self.pid, 0)[1] == 0


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.write_bytes(b"x" * 100_000)
    return path


def total(stats: dict[int, dict[str, int]], counter: str) -> int:
    return sum(counters[counter] for counters in stats.values())


def decoded(directory: Path) -> dict[str, dict[str, np.ndarray]]:
    """The rows of each table in the files of a directory."""
    cpus = []
    for path in sorted(directory.glob("cpu*.perf")):
        events = decode_records(int(path.stem[3:]), np.fromfile(path, "<u4"), FORMATS)
        assert not events.problems
        cpus.append(events)
    return {
        name: EventTable(number, FORMATS[number], cpus).columns(LINES[name]) for name, number in KINDS.items()
    }


def count(rows: dict[str, dict[str, np.ndarray]]) -> dict[str, int]:
    return {name: len(columns["ts"]) for name, columns in rows.items()}


# What the programs record


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


def read_ahead_pages(path: Path) -> int:
    device = path.stat().st_dev
    return int(Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb").read_text()) // 4


def in_child(work: Callable[[], object]) -> tuple[int, Callable[[], None]]:
    """A child that waits, then works; its pid, and what lets it go and waits for its end."""
    waiting, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(BaseException):
            os.close(go)
            os.read(waiting, 1)
            work()
            code = 0
        os._exit(code)
    os.close(waiting)

    def run() -> None:
        os.write(go, b"g")
        os.close(go)
        assert os.waitpid(pid, 0)[1] == 0

    return pid, run


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
    pid, run = in_child(work)
    tracer.follow([pid])
    tracer.on()
    run()
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
    pid, run = in_child(work)
    tracer.follow([pid])
    tracer.on()
    run()
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
    pid, run = in_child(work)
    stranger = Reader(data, 50)
    tracer.follow([pid])
    tracer.on()
    stranger.go()
    run()
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
    pid, run = in_child(work)
    tracer.follow([pid])
    tracer.on()
    run()
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
    pid, run = in_child(lambda: os.execv(fio, [*command, f"--write_iolog={log}"]))
    tracer.follow([pid])
    tracer.on()
    run()
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
    pid, run = in_child(work)
    tracer.follow([pid])
    tracer.on()
    run()
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


# Losses


def test_recorded_and_lost_are_all(
    tracer_of: Callable[..., OpenFilesTracer], data: Path, tmp_path: Path
) -> None:
    """A ring buffer too small for a program of known reads."""
    tracer = tracer_of(16)
    reader = Reader(data, 50_000, pause_s=0.2)
    tracer.follow([reader.pid])
    tracer.on()
    tracer.drain()
    reader.go()
    while reader.running():
        tracer.drain()
        time.sleep(0.003)
    tracer.off()
    tracer.finish()
    stats = tracer.stats()
    lost = total(stats, "dropped events")
    rows = decoded(tmp_path / "raw0")
    assert lost > 1000
    assert sum(count(rows).values()) == total(stats, "read events")
    # It was opened, read once and 50,000 times, and released.
    others = count(rows)["opens"] - 1
    assert total(stats, "read events") + lost == others + 1 + 1 + 50_000 + 1


@pytest.mark.parametrize("fallback", [False, True])
def test_cuts_while_it_reads(
    tracer_of: Callable[..., OpenFilesTracer],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fallback: bool,
) -> None:
    """Each file holds exactly what the counters say was read between two cuts."""
    tracer = tracer_of(64)
    if fallback:

        def nowhere(*_: object) -> None:
            raise OSError(errno.EINVAL, "no such processor")

        monkeypatch.setattr(rings.os, "sched_setaffinity", nowhere)
    reader = Reader(data, 60_000)
    tracer.follow([reader.pid])
    tracer.on()
    reader.go()
    before = {cpu: 0 for cpu in rings.online_cpus()}
    cuts = 0
    while reader.running() or cuts == 0:
        time.sleep(0.01)
        tracer.drain()
        tracer.finish()
        counted = {cpu: counters["read events"] for cpu, counters in tracer.stats().items()}
        here = tmp_path / f"raw{cuts}"
        cuts += 1
        (tmp_path / f"raw{cuts}").mkdir()
        tracer.rotate(tmp_path / f"raw{cuts}")
        assert sum(count(decoded(here)).values()) == sum(counted[cpu] - before[cpu] for cpu in counted)
        before = counted
    assert cuts > 1
    tracer.off()


def test_open_files_are_described_again_in_the_next_segment(
    tracer_of: Callable[..., OpenFilesTracer], data: Path, tmp_path: Path
) -> None:
    tracer = tracer_of()
    fd = os.open(data, os.O_RDONLY)
    tracer.follow([os.getpid()])
    tracer.on()
    os.pread(fd, 31, 0)
    tracer.finish()
    (tmp_path / "raw1").mkdir()
    tracer.rotate(tmp_path / "raw1")
    os.pread(fd, 32, 0)
    os.pread(fd, 33, 0)
    tracer.off()
    tracer.finish()
    os.close(fd)
    first, second = decoded(tmp_path / "raw0"), decoded(tmp_path / "raw1")
    (ordinal,) = first["file_reads"]["ordinal"][first["file_reads"]["count"] == 31]
    opens = second["opens"]
    assert opens["origin"][opens["ordinal"] == ordinal].tolist() == [openfiles.OPENED_AGAIN]
    again = second["file_reads"]
    assert again["ordinal"][(again["count"] == 32) | (again["count"] == 33)].tolist() == [ordinal, ordinal]


def test_a_recording_accounts_for_all(allowed: None, live: Path, data: Path, tmp_path: Path) -> None:
    """Through `record`, with ring buffers that are too small, and converted: rows and losses are all."""
    program = f"import os\nfd = os.open({str(data)!r}, 0)\nfor n in range(200000): os.pread(fd, 1, n)"
    command = (sys.executable, "-S", "-c", program)
    options = RecordOptions(tmp_path / "raw", command, buffer_kb=64, open_files=True, rotate_bytes=1 << 20)
    done = record(options, lambda text: None)
    assert done.status == 0 and done.lost > 0
    convert([tmp_path / "raw"], tmp_path / "dataset")
    rows = sum(
        pq.read_metadata(path).num_rows
        for path in (tmp_path / "dataset").rglob("*.parquet")
        if schema.TABLES[path.parent.name].tracepoint
    )
    losses = [
        row
        for path in (tmp_path / "dataset").rglob("losses/*.parquet")
        for row in pq.read_table(path).to_pylist()
    ]
    assert {row["cause"] for row in losses} <= {"ring full"}
    assert sum(row["count_lower"] for row in losses) == done.lost
    assert rows == done.events


def test_what_a_killed_recorder_left_is_sealed(
    allowed: None, live: Path, data: Path, tmp_path: Path, hindsight: Callable[..., Any]
) -> None:
    program = (
        f"import os, time\nfd = os.open({str(data)!r}, 0)\n"
        "for _ in range(20000): os.pread(fd, 7, 0); time.sleep(0.001)"
    )
    command = [
        sys.executable,
        "-m",
        "hindsight",
        "capture",
        "record",
        "-o",
        str(tmp_path / "raw"),
        "--open-files",
    ]
    nothing = subprocess.DEVNULL  # what outlives this test holds nothing of it
    recorder = subprocess.Popen(
        [*command, "--", sys.executable, "-S", "-c", program], stdout=nothing, stderr=nothing
    )
    files = tmp_path / "raw"
    until = time.monotonic() + 30
    while time.monotonic() < until and not sum(
        p.stat().st_size > 8192 for p in files.glob(".rec*/raw/files/*")
    ):
        time.sleep(0.1)
    recorder.kill()
    recorder.wait()
    assert hindsight("capture", "clean", "-o", files).returncode == 0
    convert([files], tmp_path / "dataset")
    (path,) = (tmp_path / "dataset").rglob("file_reads/*.parquet")
    assert 7 in pq.read_table(path)["count"].to_pylist()
    (path,) = (tmp_path / "dataset").rglob("losses/*.parquet")
    died = [row for row in pq.read_table(path).to_pylist() if row["cause"] == "recorder died"]
    assert any(row["count_upper"] is None for row in died)  # what its ring buffers held is gone


def test_a_whole_host_without_the_recorder(allowed: None, live: Path, data: Path, tmp_path: Path) -> None:
    read = f"import os, time\ntime.sleep(1)\nfd = os.open({str(data)!r}, 0)\nos.pread(fd, 4321, 5)"
    reader = subprocess.Popen([sys.executable, "-S", "-c", read])
    done = record(RecordOptions(tmp_path / "raw", duration=2.5, open_files=True), lambda text: None)
    assert reader.wait() == 0
    convert([tmp_path / "raw"], tmp_path / "dataset")
    (path,) = (tmp_path / "dataset").rglob("file_reads/*.parquet")
    reads = pq.read_table(path).to_pydict()
    assert (reader.pid, 4321, 5) in set(zip(reads["pid"], reads["count"], reads["pos"], strict=True))
    assert os.getpid() not in reads["pid"]
    assert done.lost == 0


# What is missing


def test_layouts_are_those_of_the_program() -> None:
    """Sizes are in the C source; fields in it are checked by every test above."""
    source = Path(open_files.__file__).with_name("open_files.bpf.c").read_text()
    sizes = {
        "opens": "OPENED_BYTES",
        "file_releases": "RELEASED_BYTES",
        "file_reads": "READ_BYTES",
        "file_readahead": "DECISION_BYTES",
    }
    for kind in FORMATS:
        (size,) = (
            int(line.split()[2])
            for line in source.splitlines()
            if line.startswith(f"#define {sizes[kind.name]} ")
        )
        assert size % 8 == 4 and 0 <= size - kind.payload_bytes <= 1
    assert (*(call.name for call in READ_CALLS), "io_uring") == openfiles.FILE_READ_CALLS
    assert {f"{records.SYSTEM}/{name}" for name in KINDS} == set(records.EVENTS)


def refused(monkeypatch: pytest.MonkeyPatch, *change: Any) -> NotPermittedError:
    if change:
        monkeypatch.setattr(*change)
    with pytest.raises(NotPermittedError) as caught:
        OpenFilesTracer(FILES, 64, records.EVENTS)
    assert caught.value.exit_code == ExitCode.NOT_PERMITTED
    return caught.value


def test_without_libbpf(allowed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    error = refused(monkeypatch, libbpf, "LIBRARY", "libbpf-of-nobody.so.1")
    assert "not installed" in error.message and "apt-get install libbpf1" in str(error.remedy)


def test_without_types_of_the_kernel(allowed: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    error = refused(monkeypatch, libbpf, "BTF", tmp_path / "absent")
    assert "does not describe its types" in error.message and "CONFIG_DEBUG_INFO_BTF" in str(error.remedy)


def test_without_the_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    error = refused(monkeypatch, open_files, "OBJECT", "not-built.bpf.o")
    assert "were not built" in error.message and "make bpf" in str(error.remedy)


def test_programs_that_are_none(allowed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    error = refused(monkeypatch, open_files, "compiled", lambda: b"\x7fELF and nothing more")
    assert "cannot be read" in error.message


def test_on_a_kernel_without_some_tracepoints(
    tracer_of: Callable[..., OpenFilesTracer], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libbpf.BpfObject, "tracepoint_exists", lambda *_: False)
    tracer = tracer_of()
    assert tracer.missing == [records.DECISIONS] and records.DECISIONS not in tracer.events
    assert set(tracer.formats()) == set(tracer.events)
    reader = Reader(data, 10)
    tracer.follow([reader.pid])
    tracer.on()
    reader.go()
    reader.wait()
    tracer.off()
    tracer.finish()
    found = count(decoded(tmp_path / "raw0"))
    assert found["file_reads"] == 11 and found["file_readahead"] == 0


def test_tracepoints_are_found_or_not(allowed: None, tracer_of: Callable[..., OpenFilesTracer]) -> None:
    programs = tracer_of()._files.object
    there = {p.name for p in Path("/sys/kernel/tracing/events/readahead").glob("page_cache_*")}
    assert programs.tracepoint_exists("sync_decision") == ("page_cache_sync_ra" in there)
    assert programs.tracepoint_exists("read_call")


def test_on_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    error = refused(monkeypatch, open_files.platform, "machine", lambda: "riscv64")
    assert "riscv64" in error.message


def test_without_privilege(allowed: None) -> None:
    code = (
        "import os\nfrom hindsight.capture.bpf import records, tracer\n"
        "from hindsight.errors import HindsightError\nos.setgid(65534); os.setuid(65534)\n"
        "try:\n    tracer.OpenFilesTracer('files', 64, records.EVENTS)\n"
        "except HindsightError as error:\n    print(int(error.exit_code), error.message, '|', error.remedy)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("4 "), done
    assert "may not load BPF programs" in done.stdout and "CAP_BPF" in done.stdout


def test_flight_mode_is_refused(hindsight: Callable[..., Any], tmp_path: Path) -> None:
    done = hindsight("capture", "record", "-o", tmp_path / "raw", "--flight", "--open-files")
    assert done.returncode == ExitCode.USAGE and "--open-files" in done.stderr
    with pytest.raises(UsageError):
        OpenFilesTracer(FILES, 64, records.EVENTS, overwrite=True)


def test_nothing_is_left(allowed: None, tmp_path: Path) -> None:
    """Programs and memory are gone when a tracer is closed."""
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        tracer = OpenFilesTracer(FILES, 64, records.EVENTS)
        (tmp_path / "raw").mkdir(exist_ok=True)
        for path in (tmp_path / "raw").iterdir():
            path.unlink()
        tracer.open(tmp_path / "raw")
        tracer.on()
        tracer.off()
        tracer.close()
    assert len(os.listdir("/proc/self/fd")) == before
