"""Live: whole recordings through perf events: their rows, their losses, and what they need."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from caller import MAGIC, Caller

from hindsight.capture.conversion.convert import convert
from hindsight.capture.options import PERF
from hindsight.capture.recording.record import RecordOptions, record
from hindsight.capture.schema import TABLES


def _rows(out: Path) -> dict[str, list[dict[str, Any]]]:
    return {
        path.parent.name: pq.read_table(path).to_pylist()
        for path in sorted(out.glob("host=*/date=*/*/*.parquet"))
    }


def test_same_rows_as_ftrace(allowed: None, live: Path, workload: tuple[str, ...], tmp_path: Path) -> None:
    """One run of a program recorded by both at once: the rows of its threads are the same, field by field."""
    work = tmp_path / "work"
    work.mkdir()
    inner = [sys.executable, "-m", "hindsight", "capture", "record", "--comm", "-o", str(tmp_path / "ftrace")]
    inner.append("--")
    options = RecordOptions(tmp_path / "perf", (*inner, *workload, str(work)), source=PERF, comm=True)
    recording = record(options, lambda text: None)
    assert recording.status == 0 and recording.lost == 0
    convert([tmp_path / "perf"], tmp_path / "perf.out", comm=True)
    convert([tmp_path / "ftrace"], tmp_path / "ftrace.out", comm=True)
    theirs, ours = _rows(tmp_path / "ftrace.out"), _rows(tmp_path / "perf.out")
    assert "losses" not in theirs
    tasks = {name for name in theirs if TABLES[name].tracepoint and name not in ANY_CONTEXT}
    assert len(tasks) >= 78
    pids = {row["pid"] for name in tasks for row in theirs[name]}
    compared = 0
    for name in sorted(tasks):
        mine, other = _by_pid(ours[name], pids), _by_pid(theirs[name], pids)
        for pid, rows in other.items():
            # perf began earlier: what the command did before it was let go is not in the other recording.
            found = mine[pid][len(mine[pid]) - len(rows) :]
            assert [_without_time(row) for row in found] == [_without_time(row) for row in rows], (name, pid)
            for a, b in zip(found, rows, strict=True):
                # Each reads the clock for itself, one after the other.
                assert a["cpu"] == b["cpu"] and abs(a["ts"] - b["ts"]) < 50_000_000
            compared += len(rows)
    assert compared > 1000
    silent = sum(row["count_lower"] for row in ours.get("losses", []))
    for name in ANY_CONTEXT & theirs.keys():
        mine = Counter(tuple(sorted(_without_time(row).items())) for row in ours.get(name, []))
        other = Counter(tuple(sorted(_without_time(row).items())) for row in theirs[name])
        # What perf does not have, it says that it does not have (events of an idle processor).
        assert (other - mine).total() <= silent, name


ANY_CONTEXT = {"block_rq_issue", "block_rq_complete", "mm_filemap_delete_from_page_cache"}


def _without_time(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("ts", "cpu")}


def _by_pid(rows: list[dict[str, Any]], pids: set[int]) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["pid"] in pids:
            found[row["pid"]].append(row)
    return found


@pytest.mark.slow
def test_killed_recorder(
    allowed: None, tmp_path: Path, hindsight: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """What was copied is sealed later; the rest, which was in its own memory, is a loss."""
    out = tmp_path / "raw"
    caller = Caller(1_000_000)
    command = [sys.executable, "-m", "hindsight", "capture", "record", "--source", "perf", "-o", str(out)]
    recorder = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert recorder.stderr is not None
    while "recording" not in recorder.stderr.readline():
        assert recorder.poll() is None
    caller.go()
    time.sleep(0.2)
    recorder.kill()
    recorder.wait()
    recorder.stderr.close()
    os.kill(caller.pid, 9)
    os.waitpid(caller.pid, 0)
    cleaned = hindsight("capture", "clean", "-o", out)
    assert cleaned.returncode == 0, cleaned.stderr
    (segment,) = (path for path in out.iterdir() if not path.name.startswith("."))
    (converted,) = convert([segment], tmp_path / "pq")
    rows = _rows(tmp_path / "pq")
    assert converted.events > 1000 and len(rows["sys_enter_lseek"]) > 1000
    assert {"recorder died"} <= {row["cause"] for row in rows["losses"]}
    assert all(row["count_upper"] is None for row in rows["losses"] if row["cause"] == "recorder died")


def _as_nobody(out: Path, capabilities: str, *options: str) -> subprocess.CompletedProcess[str]:
    nobody = pwd.getpwnam("nobody")
    out.mkdir()
    os.chown(out, nobody.pw_uid, nobody.pw_gid)
    drop = ["setpriv", "--reuid", str(nobody.pw_uid), "--regid", str(nobody.pw_gid), "--clear-groups"]
    drop += [f"--{kind}={capabilities}" for kind in ("inh-caps", "ambient-caps", "bounding-set")]
    command = [
        sys.executable,
        "-m",
        "hindsight",
        "capture",
        "record",
        "--source",
        "perf",
        "-o",
        str(out / "raw"),
    ]
    return subprocess.run([*drop, *command, *options], capture_output=True, text=True, timeout=60)


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that other users may enter."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("dropping privileges needs root and setpriv")
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.mark.slow
def test_least_privilege(allowed: None, public: Path) -> None:
    """CAP_PERFMON and CAP_DAC_READ_SEARCH suffice, with CAP_IPC_LOCK for large ring buffers."""
    refused = _as_nobody(public / "none", "-all", "--duration", "0.1")
    if "No module named" in refused.stderr or "Permission denied" in refused.stderr:
        pytest.skip("another user may not run this installation")
    assert refused.returncode == 4 and "CAP_DAC_READ_SEARCH" in refused.stderr
    refused = _as_nobody(public / "read", "-all,+dac_read_search", "--duration", "0.1")
    assert refused.returncode == 4 and "CAP_PERFMON" in refused.stderr
    done = _as_nobody(
        public / "all", "-all,+dac_read_search,+perfmon,+ipc_lock", "--duration", "0.1", "--buffer-kb", "2048"
    )
    assert done.returncode == 0, done.stderr
    (converted,) = convert([Path(done.stdout.strip())], public / "pq")
    assert converted.events > 0


@pytest.mark.slow
def test_segments_of_a_recording_that_loses(allowed: None, tmp_path: Path) -> None:
    """Cut into segments under a load that its ring buffers cannot hold: rows and losses are all there was."""
    calls = 400_000
    program = (
        f"import os\nfd, seek = os.open('/proc/self/exe', os.O_RDONLY), os.lseek\nfor _ in range({calls}):\n"
    )
    program += f"    seek(fd, {MAGIC}, 0)\n"
    options = RecordOptions(
        tmp_path / "raw",
        (sys.executable, "-S", "-c", program),
        source=PERF,
        buffer_kb=256,
        rotate_bytes=1 << 20,
    )
    recording = record(options, lambda text: None)
    assert recording.status == 0 and recording.lost > 1000 and len(recording.segments) > 2
    results = convert([tmp_path / "raw"], tmp_path / "out")
    losses, seeks = [], 0
    for path in sorted((tmp_path / "out").glob("host=*/date=*/*/*.parquet")):
        if path.parent.name == "losses":
            losses += pq.read_table(path).to_pylist()
        elif path.parent.name == "sys_enter_lseek":
            offsets = pq.read_table(path).column("offset").to_pylist()
            seeks += sum(offset == MAGIC for offset in offsets)
    full = sum(row["count_lower"] for row in losses if row["cause"] == "ring full")
    silent = sum(row["count_lower"] for row in losses if row["cause"].startswith("perf source"))
    assert full == recording.lost
    assert sum(result.events for result in results) + silent == recording.events
    assert calls - full <= seeks <= calls
