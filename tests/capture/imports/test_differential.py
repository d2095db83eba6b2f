"""Files recorded here by trace-cmd and perf: every event and every value that their own tools print is the
same.

The tools run in a mount namespace of their own, as in benchmarks/capture (trace-cmd cannot start everywhere
without). perf loses events of idle processors before they reach the file: the file is what is compared.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from hindsight.capture.imports.importing import import_files

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks" / "capture"
EVENTS = ("sched:sched_switch", "sched:sched_process_exec", "irq:softirq_entry", "raw_syscalls:sys_enter")
WORK = ["sh", "-c", "for i in 1 2 3; do ls -lR /usr/share/doc/perl > /dev/null; done"]
RECORD = """
import json, subprocess, sys
sys.path.insert(0, sys.argv[1])
import recorders
from pathlib import Path
try:
    recorders.private_tracing(Path(sys.argv[2]))
except recorders.Absent as reason:
    print(reason)
    sys.exit(77)
with recorders.top_level_restored():
    for command in json.loads(sys.argv[3]):
        subprocess.run(command, check=True, cwd=sys.argv[2])
"""


def record(where: Path, commands: list[list[str]]) -> None:
    """Run recorders; skips the test where they cannot run."""
    for command in commands:
        if shutil.which(command[0]) is None:
            pytest.skip(f"{command[0]} is not installed")
    words = [sys.executable, "-c", RECORD, str(BENCHMARKS), str(where), json.dumps(commands)]
    result = subprocess.run(words, capture_output=True, text=True, timeout=300)
    if result.returncode == 77:
        pytest.skip(f"trace-cmd cannot run here: {result.stdout.strip()}")
    assert result.returncode == 0, result.stderr


def selected() -> list[str]:
    return [word for event in EVENTS for word in ("-e", event)]


def rows_of(out: Path) -> dict[str, list[dict[str, Any]]]:
    """All rows of events, by the event's own name."""
    found = {}
    for file in out.glob("host=*/date=*/*/*.parquet"):
        name = file.parent.name
        if name not in ("captures", "losses"):
            found[name.rpartition(".")[2]] = pq.read_table(file).to_pylist()
    return found


def our_values(name: str, row: dict[str, Any]) -> tuple[object, ...]:
    """What the tools print of an event, out of a row."""
    if name == "sched_switch":
        return (
            row["prev_pid"], row["prev_prio"],
            row["next_pid"], row["next_prio"],
        )  # fmt: skip
    if name == "softirq_entry":
        return (row["vec"],)
    if name == "sys_enter":
        args = bytes.fromhex(row["args"])
        return (row["id"], *(int.from_bytes(args[n : n + 8], "little") for n in range(0, 48, 8)))
    return (row["target_pid"], row["old_pid"])


def their_values(name: str, text: str) -> tuple[object, ...]:
    """The same, out of the text that trace-cmd or perf prints."""
    if name == "sched_switch":
        # perf prints the fields by name, trace-cmd in its own way.
        found = re.fullmatch(
            r"prev_comm=(.*) prev_pid=(\d+) prev_prio=(-?\d+) prev_state=\S+ ==> "
            r"next_comm=(.*) next_pid=(\d+) next_prio=(-?\d+)", text
        ) or re.fullmatch(r"(.*):(\d+) \[(-?\d+)\] \S+ ==> (.*):(\d+) \[(-?\d+)\]", text)  # fmt: skip
        assert found, text
        _, pid, prio, _, next_pid, next_prio = found.groups()
        return int(pid), int(prio), int(next_pid), int(next_prio)
    if name == "softirq_entry":
        return (int(re.match(r"vec=(\d+)", text)[1]),)  # type: ignore[index]
    if name == "sys_enter":
        number, args = re.fullmatch(r"NR (-?\d+) \((.*)\)", text).groups()  # type: ignore[union-attr]
        return (int(number), *(int(a, 16) for a in args.split(", ")))
    pid, old = re.search(r" pid=(\d+) old_pid=(\d+)", text).groups()  # type: ignore[union-attr]
    return int(pid), int(old)


LINE = re.compile(r"\s*.*?-?\s*(\d+)\s+\[(\d+)\]\s+(\d+)\.(\d+):\s+(?:\w+:)?(\w+):\s+(.*?)\s*")


def printed(command: list[str]) -> Iterator[tuple[object, ...]]:
    """(event, time in ns, processor, thread, values) of every line of an event."""
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for line in text.splitlines():
        found = LINE.fullmatch(line)
        if found is None:
            assert line.startswith("cpus=") or not line.strip(), line
            continue
        pid, cpu, seconds, rest, name, values = found.groups()
        assert len(rest) == 9, "the tool was asked for nanoseconds"
        yield name, int(seconds + rest), int(cpu), int(pid), their_values(name, values)


def imported(out: Path) -> Iterator[tuple[object, ...]]:
    for name, rows in rows_of(out).items():
        for row in rows:
            yield name, row["ts"], row["cpu"], row["pid"], our_values(name, row)


def compare(file: Path, out: Path, command: list[str]) -> None:
    """The same events, as often, with the same values."""
    results = import_files([file], out, comm=True)
    ours, theirs = Counter(imported(out)), Counter(printed(command))
    assert ours.total() == theirs.total() == sum(result.events for result in results)
    assert ours.total() > 100
    assert not ours - theirs, f"{(ours - theirs).total()} events that {command[0]} does not print so"
    assert not theirs - ours


@pytest.mark.parametrize(
    "options",
    [["--file-version", "6"], ["--compression", "none"], ["--compression", "zstd"]],
    ids=["version 6", "version 7", "version 7, zstd"],
)
def test_trace_dat_as_trace_cmd_reports_it(options: list[str], live: Path, tmp_path: Path) -> None:
    file = tmp_path / "trace.dat"
    record(
        tmp_path,
        [
            [
                "trace-cmd",
                "record",
                "-q",
                "-C",
                "mono",
                *options,
                "-o",
                str(file),
                *selected(),
                "-F",
                "-c",
                *WORK,
            ]
        ],
    )
    compare(file, tmp_path / "out", ["trace-cmd", "report", "-q", "-t", "-i", str(file)])


def test_perf_data_as_perf_prints_it(live: Path, tmp_path: Path) -> None:
    file, stream = tmp_path / "perf.data", tmp_path / "stream"
    perf = ["perf", "record", "-q", "-k", "CLOCK_MONOTONIC", "-m", "4M", "-c", "1", *selected()]
    piped = f"{' '.join(perf)} -o - -- true | cat > {stream}"
    record(tmp_path, [[*perf, "-o", str(file), "--", *WORK], ["sh", "-c", piped]])
    fields = ["--ns", "-F", "comm,tid,cpu,time,event,trace"]
    compare(file, tmp_path / "out", ["perf", "script", "-i", str(file), *fields])
    results = import_files([stream], tmp_path / "piped", comm=True)
    assert results[0].events > 20
    ours = Counter(imported(tmp_path / "piped"))
    theirs = Counter(printed(["sh", "-c", f"perf script -i - {' '.join(fields)} < {stream}"]))
    assert ours == theirs


def test_a_perf_data_with_call_chains_and_other_events(live: Path, tmp_path: Path) -> None:
    """Samples of other layouts beside those of tracepoints."""
    file = tmp_path / "perf.data"
    perf = [
        "perf",
        "record",
        "-q",
        "-g",
        "-m",
        "4M",
        "-c",
        "1",
        "-e",
        "sched:sched_switch",
        "-e",
        "cpu-clock:u",
    ]
    record(tmp_path, [[*perf, "-o", str(file), "--", *WORK]])
    import_files([file], tmp_path / "out", comm=True)
    text = subprocess.run(
        ["perf", "script", "-i", str(file), "-F", "event"], capture_output=True, text=True, check=True
    ).stdout
    rows = rows_of(tmp_path / "out")
    assert {name: len(of) for name, of in rows.items()} == {"sched_switch": text.count("sched:sched_switch")}


def test_what_perf_lost_is_told(live: Path, tmp_path: Path) -> None:
    """A ring buffer of one page: what perf counted as lost is what the table of losses has."""
    file = tmp_path / "perf.data"
    perf = ["perf", "record", "-q", "-m", "1", "-c", "1", "-e", "raw_syscalls:sys_enter", "-o", str(file)]
    record(tmp_path, [[*perf, "--", *WORK]])
    (result,) = import_files([file], tmp_path / "out")
    text = subprocess.run(["perf", "script", "-D", "-i", str(file)], capture_output=True, text=True).stdout
    told = sum(int(n) for n in re.findall(r"PERF_RECORD_LOST: id:\d+: lost:(\d+)", text))
    asked = sum(int(n) for n in re.findall(r"PERF_RECORD_LOST_SAMPLES: id:\d+: lost samples :(\d+)", text))
    if not told:
        pytest.skip("perf lost nothing")
    assert result.lost == max(told, asked)
