"""Recorded beside the native recorder: the same rows for the same events of the same thread."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from hindsight.capture.conversion.convert import convert
from hindsight.capture.imports.importing import import_files

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks" / "capture"
BOTH = """
import json, sys
sys.path.insert(0, sys.argv[1])
import recorders, together
from pathlib import Path
where = Path(sys.argv[2])
try:
    recorders.private_tracing(where)
    with recorders.top_level_restored():
        together.record_both(where, json.loads(sys.argv[3]), 16384)
except recorders.Absent as reason:
    print(reason)
    sys.exit(77)
"""
NOT_OF_THREADS = {"block_rq_issue", "block_rq_complete", "mm_filemap_delete_from_page_cache"}


def rows_of(out: Path) -> dict[str, list[tuple[object, ...]]]:
    """All rows of the tables of events."""
    found = {}
    for file in out.glob("host=*/date=*/*/*.parquet"):
        data = pq.read_table(file)
        if data.schema.names[:3] == ["ts", "cpu", "pid"]:
            found[file.parent.name] = list(zip(*(c.to_pylist() for c in data.columns), strict=True))
    return found


def workload(tmp_path: Path) -> list[str]:
    file = tmp_path / "file"
    file.write_bytes(bytes(4 << 20))
    return [sys.executable, "-I", str(BENCHMARKS / "workload.py"), str(file), "2000", "60"]


def test_trace_cmd_beside_us(live: Path, tmp_path: Path) -> None:
    if shutil.which("trace-cmd") is None:
        pytest.skip("trace-cmd is not installed")
    words = [sys.executable, "-c", BOTH, str(BENCHMARKS), str(tmp_path), json.dumps(workload(tmp_path))]
    result = subprocess.run(words, capture_output=True, text=True, timeout=300)
    if result.returncode == 77:
        pytest.skip(f"trace-cmd cannot run here: {result.stdout.strip()}")
    assert result.returncode == 0, result.stderr
    convert([tmp_path / "raw"], tmp_path / "native")
    import_files([tmp_path / "trace.dat"], tmp_path / "imported")
    native, imported = rows_of(tmp_path / "native"), rows_of(tmp_path / "imported")
    of_threads = {name: rows for name, rows in native.items() if name not in NOT_OF_THREADS}
    assert sum(map(len, of_threads.values())) > 6000
    assert {n: len(r) for n, r in imported.items()} == {n: len(r) for n, r in of_threads.items()}

    # Each recorder has a ring buffer of its own, and reads the clock for each: all but the time is the same.
    def timeless(rows: dict[str, list[tuple[object, ...]]]) -> dict[str, list[tuple[object, ...]]]:
        return {name: [row[1:] for row in of] for name, of in rows.items()}

    assert timeless(imported) == timeless(of_threads)
    for name, rows in imported.items():
        apart = [abs(one[0] - two[0]) for one, two in zip(rows, of_threads[name], strict=True)]  # type: ignore[operator]
        assert sorted(apart)[len(apart) // 2] < 100_000, f"{name}: times of another clock"


def test_perf_beside_us(live: Path, tmp_path: Path) -> None:
    """perf runs the program, we record perf: the program's thread is seen by both from its execve on."""
    if shutil.which("perf") is None:
        pytest.skip("perf is not installed")
    names = ("syscalls:sys_enter_pread64", "syscalls:sys_exit_pread64", "filemap:mm_filemap_get_pages")
    events = [word for name in names for word in ("-e", name)]
    perf = ["perf", "record", "-q", "-k", "CLOCK_MONOTONIC", "-m", "4M", "-c", "1", *events]
    perf += ["-o", str(tmp_path / "perf.data"), "--", *workload(tmp_path)]
    record = [sys.executable, "-m", "hindsight", "capture", "record", "-o", str(tmp_path / "raw")]
    subprocess.run(
        [*record, "--buffer-kb", "16384", "--", *perf], check=True, capture_output=True, timeout=300
    )
    convert([tmp_path / "raw"], tmp_path / "native")
    import_files([tmp_path / "perf.data"], tmp_path / "imported")
    native, imported = rows_of(tmp_path / "native"), rows_of(tmp_path / "imported")
    (pid,) = {row[2] for row in imported["sys_enter_pread64"]}
    for name in (event.partition(":")[2] for event in names):
        ours = [row for row in native[name] if row[2] == pid]
        theirs = imported[name]
        more = len(ours) - len(theirs)
        # perf begins within the execve, when part of it is over.
        early, rest = ours[:more], ours[more:]
        assert more >= 0, f"{name}: {-more} rows that only perf has"
        assert [row[2:] for row in rest] == [row[2:] for row in theirs], (
            f"{name}: {more} rows perf does not have"
        )
        assert all(row[0] < theirs[0][0] for row in early), f"{name}: {more} rows that perf lost"  # type: ignore[operator]
        assert name == "mm_filemap_get_pages" or more == 0, f"{name}: {more} rows that perf does not have"
