"""Conversion slice by slice: the same bytes however it is cut, shared out, or interrupted."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
import reshape
from test_decode import KINDS, LAYOUT, page_st

from hindsight.capture.conversion import index
from hindsight.capture.conversion.columns import EventTable
from hindsight.capture.conversion.convert import COMMIT_TABLE, convert
from hindsight.capture.conversion.decode import EARLIEST, LATEST, PageDecoder, decode_cpu
from hindsight.capture.conversion.index import RawIndex, index_pages
from hindsight.capture.conversion.parquet import ROW_GROUP, row_bytes, row_groups
from hindsight.capture.conversion.progress import Progress
from hindsight.capture.conversion.scratch import Scratch
from hindsight.capture.conversion.slices import cut, decode_slice
from hindsight.capture.conversion.staging import PREFIX, BusyError, Staging, sweep
from hindsight.capture.conversion.workers import NONE, Workers
from hindsight.command import main
from hindsight.errors import ConfigurationError, VerificationError


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()
    }


@pytest.fixture(scope="module")
def long(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorded segment, 16 times as long."""
    return reshape.repeat(recorded, tmp_path_factory.mktemp("long"), 16)


@pytest.fixture(scope="module")
def whole(long: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What it becomes in one slice, in one thread."""
    out = tmp_path_factory.mktemp("whole") / "out"
    convert([long], out, jobs=1)
    return contents(out)


@pytest.fixture(scope="module")
def several(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four times the recorded segment, cut into three; the directory that holds them."""
    directory = tmp_path_factory.mktemp("several")
    reshape.split(reshape.repeat(recorded, directory / "source", 4), directory / "raw", 3)
    return directory / "raw"


@pytest.fixture(scope="module")
def undisturbed(several: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the three segments become."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    convert([several], out, jobs=1)
    return contents(out)


# --- slices ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slice_bytes, jobs", [(1, 1), (300_000, 3)])
def test_the_bytes_depend_neither_on_slices_nor_on_jobs(
    long: Path, whole: dict[str, bytes], tmp_path: Path, slice_bytes: int, jobs: int
) -> None:
    (sliced,) = convert([long], tmp_path, jobs=jobs, slice_bytes=slice_bytes)
    assert sliced.lost == 0 and contents(tmp_path) == whole
    for path in tmp_path.glob("*/*/sys_enter_read/*"):
        table = pq.read_table(path)
        keys = list(zip(table["ts"].to_pylist(), table["cpu"].to_pylist(), strict=True))
        assert keys == sorted(keys)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=st.lists(st.lists(page_st, max_size=6), min_size=1, max_size=3),
    slice_bytes=st.sampled_from([1, 8192, 12288, 1 << 20]),
    jobs=st.sampled_from([1, 2]),
)
def test_each_event_is_in_one_slice_whatever_the_times(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    files: list[list[bytes]],
    slice_bytes: int,
    jobs: int,
) -> None:
    """Pages with arbitrary times, in blocks of one page, against decoding everything at once."""
    monkeypatch.setattr(index, "BLOCK_BYTES", 4096)
    monkeypatch.setattr(index, "_PIECE_BYTES", 8192)
    directory = tmp_path_factory.mktemp("pages")
    decoder = PageDecoder(LAYOUT, KINDS)
    indexes = []
    for cpu, pages in enumerate(files):
        path = directory / f"cpu{cpu}.pages"
        path.write_bytes(b"".join(pages))
        expected = {"bytes": path.stat().st_size, "crc32": reshape.digest(path)}
        indexes.append(index_pages(cpu, directory, path.name, expected, decoder))
    cpus = [
        decode_cpu(cpu, np.frombuffer(b"".join(pages), "<u4"), LAYOUT, KINDS)
        for cpu, pages in enumerate(files)
    ]
    assert [i.unusable for i in indexes] == [c.unusable for c in cpus]
    assert [i.events for i in indexes] == [c.events for c in cpus]
    scratch, found = Scratch(), [[] for _ in KINDS]
    last = EARLIEST - 1
    with Workers(jobs) as workers:
        for part in cut(indexes, slice_bytes):
            assert part.earliest == last + 1
            last = part.latest
            events = decode_slice(part, indexes, scratch, workers)
            for number, kind in enumerate(KINDS):
                table = EventTable(number, kind, events)
                payload = np.empty(table.rows, np.uint64)
                for i, at in enumerate(table._run.at.tolist()):
                    payload[i] = table._words[at + 1]
                rows = zip(table.ts.tolist(), table.cpu.tolist(), payload.tolist(), strict=True)
                found[number] += list(rows)
    assert last == LATEST or not any(files)
    for number, kind in enumerate(KINDS):
        table = EventTable(number, kind, cpus)
        assert [row[:2] for row in found[number]] == list(
            zip(table.ts.tolist(), table.cpu.tolist(), strict=True)
        )


def test_slices_stay_small(long: Path) -> None:
    """Raw bytes decoded at once: what was asked for, and a block per CPU."""
    from hindsight.capture.conversion.events import index_segment
    from hindsight.capture.segments.segment import open_segment

    for instance in index_segment(open_segment(long)):
        total = sum(int(i.offset[-1]) for i in instance.cpus)
        fresh = 0
        for part in cut(instance.cpus, 1 << 20):
            sizes = [
                int(np.diff(i.offset)[blocks].sum())
                for i, blocks in zip(instance.cpus, part.blocks, strict=True)
            ]
            assert sum(sizes) <= (1 << 20) + len(sizes) * index.BLOCK_BYTES
            fresh += part.fresh_bytes
        assert fresh == total


@given(
    st.dictionaries(
        st.sampled_from(["sys_enter_read", "sys_exit_read", "page_cache_sync_ra", "block_rq_issue"]),
        st.integers(1, 1 << 34),
    ),
    st.sampled_from([1 << 20, 64 << 20, 192 << 20]),
)
def test_row_groups_fit_into_their_budget(rows: dict[str, int], budget: int) -> None:
    groups = row_groups(rows, budget)
    assert groups.keys() == rows.keys()
    assert all(0 < groups[name] <= min(count, ROW_GROUP) for name, count in rows.items())
    assert sum(row_bytes(name) * size for name, size in groups.items()) <= budget


def test_rows_go_into_several_row_groups(
    long: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hindsight.capture.conversion.parquet.ROW_GROUP", 1 << 10)
    convert([long], tmp_path, jobs=1, slice_bytes=1 << 20)
    grouped = 0
    for name, data in whole.items():
        path = tmp_path / name
        if pq.read_metadata(path).num_row_groups > 1:
            assert pq.read_table(path).equals(pq.read_table(io.BytesIO(data))), name
            grouped += 1
    assert grouped > 3


@pytest.mark.slow
def test_memory_does_not_grow_with_the_recording(long: Path, tmp_path: Path) -> None:
    """1 GiB of raw pages in less than 1 GB; hardly more than a quarter of it takes."""
    size = sum(path.stat().st_size for path in long.rglob("*.pages"))
    peaks = []
    for bytes_wanted in (1 << 28, 1 << 30):
        segment = reshape.repeat(long, tmp_path / str(bytes_wanted), -(-bytes_wanted // size))
        # What wait4(2) says of a child is at least what this process took when it started it.
        program = (
            "import sys; from hindsight.command import main; assert main(sys.argv[1:]) == 0;"
            "from hindsight.capture.recording import footprint; print(footprint.peak_resident_bytes())"
        )
        command = [sys.executable, "-c", program, "capture", "convert", str(segment)]
        output = subprocess.check_output([*command, "-o", str(tmp_path / "out")], stderr=subprocess.DEVNULL)
        peaks.append(int(output))
    assert peaks[1] <= 10**9
    assert peaks[1] - peaks[0] < 100 << 20


# --- interrupted -----------------------------------------------------------------------------------------


class Server:
    """tests/capture/converting.py, running."""

    def __init__(self, raw: Path, slice_bytes: int) -> None:
        script = Path(__file__).parents[1] / "converting.py"
        self.process = subprocess.Popen(
            [sys.executable, str(script), str(raw), str(slice_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None and self.process.stdout.readline() == "ready\n"

    def start(self, out: Path, what: str = "convert") -> int:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{what} {out}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def status(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())


@pytest.fixture(scope="module")
def converting(several: Path) -> Iterator[Server]:
    server = Server(several, 1 << 18)
    yield server
    server.process.communicate(timeout=60)


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """A dataset to be, in memory where that is possible: fsync takes no time there."""
    memory = Path("/dev/shm")
    base = memory if os.access(memory, os.W_OK) else tmp_path
    with tempfile.TemporaryDirectory(dir=base) as directory:
        yield Path(directory) / "out"


def check_what_is_visible(out: Path, undisturbed: dict[str, bytes]) -> set[str]:
    """Every segment that has `captures` is complete; returns these."""
    found = contents(out) if out.exists() else {}
    complete = {Path(name).stem for name in found if f"/{COMMIT_TABLE}/" in name}
    for name, data in undisturbed.items():
        if Path(name).stem in complete:
            assert found[name] == data, name
    return complete


def kill_and_resume(
    converting: Server, several: Path, out: Path, undisturbed: dict[str, bytes], kills: int
) -> None:
    generator = random.Random(kills)
    killed, whole = 0, 1.0
    while killed < kills:
        shutil.rmtree(out, ignore_errors=True)
        complete: set[str] = set()
        for _ in range(3):  # killed up to three times in a row
            child = converting.start(out)
            time.sleep(generator.random() * whole)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            if converting.status() == -signal.SIGKILL:
                killed += 1
            else:
                whole *= 0.7  # it had ended before
            assert complete <= check_what_is_visible(out, undisturbed)
            complete = check_what_is_visible(out, undisturbed)
        results = convert([several], out, jobs=1)
        assert complete == {r.segment for r in results if not r.converted}
        assert contents(out) == undisturbed
        assert not list(out.glob(".*"))


def test_killed_at_any_moment_it_goes_on(
    converting: Server, several: Path, out: Path, undisturbed: dict[str, bytes]
) -> None:
    kill_and_resume(converting, several, out, undisturbed, 6)


@pytest.mark.slow
def test_killed_at_a_hundred_moments_it_goes_on(
    converting: Server, several: Path, out: Path, undisturbed: dict[str, bytes]
) -> None:
    kill_and_resume(converting, several, out, undisturbed, 100)


def test_interrupted_by_the_user(
    converting: Server, several: Path, out: Path, undisturbed: dict[str, bytes]
) -> None:
    for _ in range(10):  # on a busy machine it may be through before the signal is sent
        child = converting.start(out, "command")
        while not list(out.glob(f"{PREFIX}*")):
            time.sleep(0.0005)
        os.kill(child, signal.SIGINT)
        if (status := converting.status()) != 0:
            break
        shutil.rmtree(out)
    assert status == 130
    check_what_is_visible(out, undisturbed)
    convert([several], out)
    assert contents(out) == undisturbed
    assert not list(out.glob(".*"))


def test_forced_again_with_names_never_mixes(recorded: Path, tmp_path: Path) -> None:
    """The old `captures` goes before the first new table comes."""
    out = tmp_path / "out"
    convert([recorded], out)
    seen = []

    class Stop(Exception):
        pass

    def stop(path: Path, target: Path) -> None:
        seen.append(target)
        raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hindsight.capture.conversion.staging.os.rename", stop)
        with pytest.raises(Stop):
            convert([recorded], out, comm=True, force=True)
    first = seen[0].stem
    assert not list(out.glob(f"*/*/{COMMIT_TABLE}/{first}.parquet"))
    assert [r.converted for r in convert([recorded], out, comm=True)] == [True]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with 200 KiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    path = tmp_path / "small"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(path)], check=False)
    if mounted.returncode != 0:
        pytest.skip("tmpfs cannot be mounted here")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_leaves_nothing_half(several: Path, small_disk: Path) -> None:
    with pytest.raises(ConfigurationError, match="No space left") as raised:
        convert([several], small_disk / "out", jobs=2, slice_bytes=1 << 20)
    assert "make room" in (raised.value.remedy or "")
    assert not list((small_disk / "out").rglob("*.parquet"))
    assert not list((small_disk / "out").glob(".*"))


def test_a_file_size_limit_leaves_nothing_half(recorded: Path, tmp_path: Path) -> None:
    """EFBIG while a table is written, without any privilege."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, before[1]))
    try:
        with pytest.raises(ConfigurationError, match="tables cannot be written"):
            convert([recorded], tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list((tmp_path / "out").rglob("*.parquet")) and not list((tmp_path / "out").glob(".*"))


def test_two_at_once(recorded: Path, tmp_path: Path) -> None:
    """Who comes second is told, and disturbs nothing."""
    with Staging(tmp_path, recorded.name) as staging:
        (staging.path / "table").write_text("half")
        with pytest.raises(BusyError, match="another process"):
            convert([recorded], tmp_path)
        sweep(tmp_path)
        assert (staging.path / "table").exists()
    convert([recorded], tmp_path)
    assert not list(tmp_path.glob(".*"))


def test_what_a_dead_process_left_is_removed(recorded: Path, tmp_path: Path) -> None:
    for name in (recorded.name, "20200101T000000Z-00000000-0000"):
        (tmp_path / f"{PREFIX}{name}").mkdir(parents=True)
        (tmp_path / f"{PREFIX}{name}" / "sys_enter_read").write_text("half")
    convert([recorded], tmp_path)
    assert not list(tmp_path.glob(".*"))


# --- what may be wrong with a segment --------------------------------------------------------------------


def test_a_raw_file_of_no_instance_is_not_passed_over(recorded: Path, tmp_path: Path) -> None:
    segment = Path(shutil.copytree(recorded, tmp_path / "raw" / recorded.name))
    (segment / "raw" / "other").mkdir()
    (segment / "raw" / "other" / "cpu0.pages").write_bytes(b"\0" * 4096)
    reshape.reseal(segment)
    with pytest.raises(VerificationError, match="know nothing of raw/other"):
        convert([segment], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_that_changes_while_it_is_read(recorded: Path, tmp_path: Path) -> None:
    """After it was indexed: an error, never a row from beyond what was counted."""
    decoder = PageDecoder(LAYOUT, KINDS)
    from test_decode import event, page

    path = tmp_path / "cpu0.pages"
    path.write_bytes(page(10, [event(5, 1, b"")]))
    expected = {"bytes": 4096, "crc32": reshape.digest(path)}
    indexed: RawIndex = index_pages(0, tmp_path, path.name, expected, decoder)
    (part,) = cut([indexed])
    path.write_bytes(page(10, [event(5, 1, b"")] * 50))
    with pytest.raises(VerificationError, match="changed while it was read"):
        decode_slice(part, [indexed], Scratch(), NONE)
    path.write_bytes(b"")
    with pytest.raises(VerificationError, match="became shorter"):
        decode_slice(part, [indexed], Scratch(), NONE)


def test_damage_everywhere_is_one_problem(tmp_path: Path) -> None:
    path = tmp_path / "cpu0.pages"
    path.write_bytes(b"".join(struct.pack("<QQ", 10 + n, 4084) + bytes(4080) for n in range(5000)))
    expected = {"bytes": path.stat().st_size, "crc32": reshape.digest(path)}
    found = index_pages(0, tmp_path, path.name, expected, PageDecoder(LAYOUT, KINDS))
    (problem,) = found.problems
    assert (problem.from_ns, problem.to_ns, problem.count) == (10, 5009, None)
    assert found.unusable == 5000


# --- progress, threads -----------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_drawn_on_a_terminal_alone(recorded: Path, tmp_path: Path) -> None:
    terminal, pipe = Terminal(), io.StringIO()
    convert([recorded], tmp_path / "a", progress=Progress(stream=terminal))
    convert([recorded], tmp_path / "b", progress=Progress(stream=pipe))
    convert([recorded], tmp_path / "c", progress=Progress(wanted=False, stream=terminal))
    assert pipe.getvalue() == ""
    drawn = terminal.getvalue()
    assert recorded.name in drawn and "MB" in drawn and drawn.endswith("\r\x1b[K")
    assert drawn.count(recorded.name) < 200


def test_progress_line() -> None:
    bar = Progress(stream=Terminal())
    bar.start("segment", 10_000_000)
    bar.advance(10_000_000)
    assert "] 5/10 MB, verifying" in bar.line(1.0)
    bar.advance(10_000_000, 3_000_000)
    assert "#" * 24 + "] 10/10 MB, 3.0 M events/s" in bar.line(1.0)


def test_workers_have_stopped_when_one_fails() -> None:
    working = []

    def work(number: int) -> int:
        if number == 1:
            raise ValueError("one")
        working.append(number)
        time.sleep(0.01)
        working.remove(number)
        return number

    with Workers(4) as workers:
        with pytest.raises(ValueError, match="one"):
            workers.each(work, range(50))
        assert working == []
        assert workers.each(lambda n: n * n, range(5)) == [0, 1, 4, 9, 16]
    assert NONE.each(str, [1, 2]) == ["1", "2"]


def test_command_names_jobs_and_reports_each_segment(
    several: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["capture", "convert", str(several), "-o", str(tmp_path)]
    assert main([*command, "--jobs", "2", "--json"]) == 0
    said = capsys.readouterr()
    assert len(json.loads(said.out)) == 3
    lines = said.err.splitlines()
    assert len(lines) == 3 and all("events in" in line for line in lines) and "\r" not in said.err
    with pytest.raises(SystemExit) as ended:
        main([*command, "--jobs", "0"])
    assert ended.value.code == 2
