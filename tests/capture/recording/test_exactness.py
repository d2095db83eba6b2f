"""Live: every event and every field equals what the kernel itself prints for the same events."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from hindsight.capture.conversion.convert import convert
from hindsight.capture.ftrace.tracer import FtraceTracer
from hindsight.capture.recording.record import Recording, RecordOptions, record
from hindsight.capture.schema import TABLES

HEAD = re.compile(r"^\s*.+-(?P<pid>\d+)\s+\[(?P<cpu>\d+)\]\s+\S+\s+(?P<s>\d+)\.(?P<us>\d{6}): (?P<rest>.*)$")
FIELD = re.compile(r"(\w+)=(.*?)(?=\s\w+=|$)")

Row = dict[str, Any]


def _ra_state(r: Row) -> str:
    return (
        f"{_inode(r)} index={r['index']} req_count={r['req_count']} order={r['order']} "
        f"size={r['size']} async_size={r['async_size']} ra_pages={r['ra_pages']} "
        f"mmap_miss={r['mmap_miss']} prev_pos={r['prev_pos']}"
    )


def _inode(r: Row) -> str:
    return f"dev={r['s_dev_major']}:{r['s_dev_minor']} ino={r['i_ino']:x}"


def _ioprio(r: Row) -> str:
    value = r["ioprio"]
    names = {0: "none", 1: "rt", 2: "be", 3: "idle", 7: "invalid"}
    return f"{names[value >> 13]},{value >> 3 & 1023},{value & 7}"


def _block(r: Row, size: str) -> str:
    where = f"{r['sector']} + {r['nr_sector']} {_ioprio(r)}"
    return f"{r['dev_major']},{r['dev_minor']} {r['rwbs']} {size}() {where}"


def _folio(r: Row) -> str:
    where = f"dev {r['s_dev_major']}:{r['s_dev_minor']} ino {r['i_ino']:x}"
    return f"{where} ofs={r['index'] << 12} order={r['order']}"


# What the kernel's `print fmt` of each tracepoint makes of a row. The page frame number, the name of an
# executed file and the bytes of a SCSI command are not kept: they are cut out of the kernel's text.
PRINTED: dict[str, Callable[[Row], str]] = {
    "page_cache_sync_ra": _ra_state,
    "page_cache_async_ra": _ra_state,
    "page_cache_ra_order": lambda r: (
        f"{_inode(r)} index={r['index']} order={r['order']} size={r['size']} "
        f"async_size={r['async_size']} ra_pages={r['ra_pages']}"
    ),
    "page_cache_ra_unbounded": lambda r: (
        f"{_inode(r)} index={r['index']} nr_to_read={r['nr_to_read']} lookahead_size={r['lookahead_size']}"
    ),
    "mm_filemap_get_pages": lambda r: f"{_inode(r)} ofs={r['index'] << 12}-{(r['last_index'] + 1 << 12) - 1}",
    "mm_filemap_map_pages": lambda r: f"{_inode(r)} ofs={r['index'] << 12}-{(r['last_index'] + 1 << 12) - 1}",
    "mm_filemap_fault": lambda r: f"{_inode(r)} ofs={r['index'] << 12}",
    "mm_filemap_add_to_page_cache": _folio,
    "mm_filemap_delete_from_page_cache": _folio,
    "block_rq_issue": lambda r: f"{_block(r, str(r['bytes']) + ' ')} [{r['comm']}]",
    "block_rq_complete": lambda r: f"{_block(r, '')} [{r['error']}]",
    "task_newtask": lambda r: (
        f"pid={r['child_pid']} comm={r['comm']} clone_flags={r['clone_flags']:x} "
        f"oom_score_adj={r['oom_score_adj']}"
    ),
    "task_rename": lambda r: (
        f"pid={r['target_pid']} oldcomm={r['oldcomm']} newcomm={r['newcomm']} "
        f"oom_score_adj={r['oom_score_adj']}"
    ),
    "sched_process_exec": lambda r: f"pid={r['target_pid']} old_pid={r['old_pid']}",
    "sched_process_exit": lambda r: (
        f"comm={r['comm']} pid={r['target_pid']} prio={r['prio']} group_dead={str(r['group_dead']).lower()}"
    ),
}
CUT = re.compile(r" pfn=0x[0-9a-f]+|^filename=\S+ |(?<=\()[0-9a-f ]+(?=\) \d+ \+)")


class Text:
    """The kernel's text of a recording: (pid, cpu, microseconds, rest of the line), by tracepoint name."""

    def __init__(self) -> None:
        self.printed: dict[str, list[tuple[int, int, int, str]]] = defaultdict(list)
        self.fields: dict[str, list[tuple[int, int, int, str]]] = defaultdict(list)

    def take(self, tracer: FtraceTracer) -> None:
        """Read the trace without consuming it, once by `print fmt` and once with all fields."""
        for option, into in (("0", self.printed), ("1", self.fields)):
            tracer.instance.write("options/fields", option)
            for line in tracer.instance.read("trace").splitlines():
                if line.startswith("#"):
                    continue
                head = HEAD.match(line)
                assert head is not None, line
                name, rest = _split(head["rest"])
                when = int(head["s"]) * 10**6 + int(head["us"])
                into[name].append((int(head["pid"]), int(head["cpu"]), when, rest))


def _split(rest: str) -> tuple[str, str]:
    enter = re.match(r"sys_(\w+)\((.*)\)$", rest)
    if enter:
        return f"sys_enter_{enter[1]}", enter[2]
    leave = re.match(r"sys_(\w+) -> (0x[0-9a-f]+)$", rest)
    if leave:
        return f"sys_exit_{leave[1]}", f"ret: {leave[2]}"
    name, _, tail = rest.partition(": ")
    return name.rstrip(":"), tail


def same_number(row: Row, table: str, column: str, printed: int) -> None:
    bits = {"u8": 8, "i8": 8, "u16": 16, "i16": 16, "u32": 32, "i32": 32, "bool": 8}.get(
        TABLES[table].column(column).dtype, 64
    )
    assert (int(row[column]) - printed) % (1 << bits) == 0, (table, column, row, printed)


@pytest.fixture(scope="module")
def taken(
    live: Path, workload: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Recording, Text, dict[str, list[Row]]]:
    """A recording whose text was read before the first byte was drained, and its Parquet rows."""
    directory = tmp_path_factory.mktemp("exact")
    text = Text()
    with pytest.MonkeyPatch.context() as patch:
        finish = FtraceTracer.finish

        def read_first(tracer: FtraceTracer) -> int:
            text.take(tracer)
            return finish(tracer)

        patch.setattr(FtraceTracer, "drain", lambda self: 0)
        patch.setattr(FtraceTracer, "finish", read_first)
        work = directory / "work"
        work.mkdir()
        recording = record(RecordOptions(directory / "raw", (*workload, str(work)), comm=True))
    assert recording.status == 0
    convert([recording.path], directory / "out", comm=True)
    rows = {
        path.parent.name: pq.read_table(path).to_pylist()
        for path in (directory / "out").glob("host=*/date=*/*/*.parquet")
    }
    return recording, text, rows


def test_same_events(taken: tuple[Recording, Text, dict[str, list[Row]]]) -> None:
    recording, text, rows = taken
    assert recording.lost == 0 and "losses" not in rows
    events = {name: found for name, found in rows.items() if TABLES[name].tracepoint}
    assert {n: len(r) for n, r in events.items()} == {n: len(r) for n, r in text.printed.items()}
    assert sum(len(r) for r in events.values()) == recording.events > 1000
    assert len(events) >= 80
    for name, found in events.items():
        for row, (pid, cpu, when, _) in zip(found, text.printed[name], strict=True):
            # The kernel prints microseconds, rounded (ns2usecs in kernel/trace/trace.c).
            assert (row["pid"], row["cpu"], (row["ts"] + 500) // 1000) == (pid, cpu, when), name


def test_same_print_fmt(taken: tuple[Recording, Text, dict[str, list[Row]]]) -> None:
    _, text, rows = taken
    for name, found in rows.items():
        for row, (*_, printed) in (
            zip(found, text.printed.get(name, []), strict=True) if name in PRINTED else ()
        ):
            assert PRINTED[name](row) == CUT.sub("", printed), name
    assert PRINTED.keys() <= rows.keys()


def test_same_arguments(taken: tuple[Recording, Text, dict[str, list[Row]]]) -> None:
    """System calls, as the kernel prints their arguments and results."""
    _, text, rows = taken
    compared = 0
    for name, found in rows.items():
        if not TABLES[name].tracepoint.startswith("syscalls/"):
            continue
        columns = {column.name for column in TABLES[name].columns[3:]}
        for row, (*_, printed) in zip(found, text.printed[name], strict=True):
            values = dict(part.split(": ") for part in printed.split(", ") if part)
            assert columns <= values.keys()
            for column in columns:
                same_number(row, name, column, int(values[column].split()[0], 16))
                compared += 1
    assert compared > 500


def test_same_fields(taken: tuple[Recording, Text, dict[str, list[Row]]]) -> None:
    """All fields of all events, as the trace option `fields` prints them."""
    _, text, rows = taken
    if not text.fields:
        pytest.skip("this kernel has no trace option `fields`")
    for name, found in rows.items():
        if not TABLES[name].tracepoint:
            continue
        for row, (*_, printed) in zip(found, text.fields[name], strict=True):
            values = dict(FIELD.findall(printed))
            for column in TABLES[name].columns[3:]:
                field = {"child_pid": "pid", "target_pid": "pid"}.get(column.name, column.name)
                if column.dtype == "str":
                    assert values[field] == row[column.name]
                elif field.endswith("dev_major"):
                    assert int(values[field[:-6]].split()[0], 16) >> 20 == row[column.name]
                elif field.endswith("dev_minor"):
                    assert int(values[field[:-6]].split()[0], 16) & 0xFFFFF == row[column.name]
                else:
                    # A hexadecimal and a decimal number, or (for one byte) the decimal alone.
                    number = re.search(r"\((-?\d+)\)|0x([0-9a-f]+)", values[field])
                    assert number is not None, (name, printed)
                    same_number(row, name, column.name, int(number[1] or str(int(number[2], 16))))
