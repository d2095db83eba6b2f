"""What must not be at rest is not: in the schema, in what the kernel says of its events, in tables."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from hindsight.capture import hiding, profiles
from hindsight.capture.conversion.convert import convert
from hindsight.capture.formats import EventFormat, parse_event
from hindsight.capture.ftrace.scrub import scrub
from hindsight.capture.options import FTRACE, PERF, RecordOptions
from hindsight.capture.recording.record import record
from hindsight.capture.schema import TABLES
from hindsight.capture.segments.checksum import checksum
from hindsight.capture.segments.facts import HASHED_NAMES
from hindsight.capture.segments.segment import FACTS, MANIFEST
from hindsight.errors import ConfigurationError

_SUSPECT = re.compile(r"pfn|ptr|address|(^|_)addr($|_)|pointer|kaddr|vaddr|folio|mapping|page$")
USER_ADDRESSES = {("sys_enter_mmap", "addr"), ("sys_enter_munmap", "addr"), ("page_fault_user", "address")}
"""Columns that hold addresses of the traced program's own memory."""


def formats(recorded: Path) -> dict[str, EventFormat]:
    texts = json.loads((recorded / "formats.json").read_text())
    return {name: parse_event(name.split("/")[0], text) for name, text in texts.items() if "/" in name}


def test_no_table_has_a_column_for_them() -> None:
    suspects = {
        (table.name, column.name)
        for table in TABLES.values()
        for column in table.columns
        if _SUSPECT.search(column.name)
    }
    assert suspects == USER_ADDRESSES


def hidden_or_pointer(kind: EventFormat) -> set[str]:
    return {
        field.name for field in kind.fields.values()
        if _SUSPECT.search(field.name) or ("*" in field.ctype and kind.system != "syscalls")
    }  # fmt: skip


def test_only_page_frame_numbers_are_in_the_kernels_events(recorded: Path) -> None:
    found = {n: hidden_or_pointer(k) for n, k in formats(recorded).items() if k.system != "syscalls"}
    assert {n: f for n, f in found.items() if f} == {
        "filemap/mm_filemap_add_to_page_cache": {"pfn"},
        "filemap/mm_filemap_delete_from_page_cache": {"pfn"},
    }


@pytest.mark.parametrize("profile", profiles.PROFILES)
def test_this_kernel_has_no_others(live: Path, profile: str) -> None:
    for event in profiles.profile(profile).tracepoints:
        system = event.split("/")[0]
        path = live / "events" / event / "format"
        if system != "syscalls" and path.exists():
            fields = hidden_or_pointer(parse_event(system, path.read_text()))
            if event != "exceptions/page_fault_user":  # (the program's own)
                assert fields <= hiding.NUMBERS, event


def test_tables_hold_neither_names_nor_keys(recorded: Path, tmp_path: Path) -> None:
    convert([recorded], tmp_path)
    facts = json.loads((recorded / "facts.json").read_text())
    names = {row["comm"] for row in facts["tables"]["tasks"] if len(row["comm"]) > 3}
    assert names
    seen = 0
    for path in tmp_path.rglob("*.parquet"):
        table = pq.read_table(path)
        assert {c.name for c in TABLES[path.parent.name].columns} == set(table.column_names)
        for column in table.column_names:
            if "comm" in column:
                for value in table[column].to_pylist():
                    seen += 1
                    assert value is None or re.fullmatch("[0-9a-f]{12}", value), (path, column)
        assert facts["comm_key"].encode() not in path.read_bytes()
    assert seen


def hidden(recorded: Path, target: Path) -> Path:
    """The recorded segment, sealed as a recording without names is: out of its pages, by the same code."""
    segment = target / recorded.name
    shutil.copytree(recorded, segment)
    facts, manifest = (json.loads((segment / name).read_text()) for name in (FACTS, MANIFEST))
    names = hiding.NameHash(facts["comm_key"])
    kinds = formats(segment)
    for name, instance in facts["instances"].items():
        fields = hiding.hidden_fields(kinds[event] for event in instance["events"])
        for path in segment.glob(f"raw/{name}/*"):
            scrub(path, fields, instance["subbuffer_bytes"], names.field)
    for row in facts["tables"]["tasks"]:
        row["comm"] = names.text(row["comm"])
    facts |= {"comm": HASHED_NAMES, "comm_key": ""}
    (segment / FACTS).write_text(json.dumps(facts))
    for name in manifest["files"]:
        data = (segment / name).read_bytes()
        manifest["files"][name] = {"bytes": len(data), "crc32": checksum(data)}
    (segment / MANIFEST).write_text(json.dumps(manifest))
    return segment


def test_names_hashed_at_rest_give_the_same_tables(recorded: Path, tmp_path: Path) -> None:
    segment = hidden(recorded, tmp_path / "hidden")
    everything = b"".join(path.read_bytes() for path in segment.rglob("*") if path.is_file())
    for name in (b"python3", b"workload.py", b"/bin/"):
        assert name not in everything.replace(b'"program": "python3"', b""), name
    convert([recorded], tmp_path / "late")
    convert([segment], tmp_path / "early")
    late, early = (
        {p.relative_to(out): p.read_bytes() for p in out.rglob("*.parquet")}
        for out in (tmp_path / "late", tmp_path / "early")
    )
    assert late == early
    with pytest.raises(ConfigurationError, match="no names"):
        convert([segment], tmp_path / "names", comm=True)


def test_a_hash_stays_a_hash() -> None:
    names = hiding.NameHash("00ff")
    once = names.field(b"kworker/0:1\0left")
    assert once == names.field(b"kworker/0:1".ljust(16, b"\0"))
    assert len(once) == 16 and names.field(once) == once == hiding.NameHash("00ff").field(once)
    assert once[:12].decode() == names.text("kworker/0:1") and once[12:] == b"\0\0\0\1"
    assert names.field(names.text("x").encode().ljust(16, b"\0")) != once  # a thread may call itself so


def test_only_small_ring_buffers_are_walked(live: Path) -> None:
    """What is taken out when a segment is sealed is not among the events of every read."""
    events = profiles.profile("readahead").events
    for group in (profiles.TASKS, profiles.INODES):
        for event in events[group]:
            path = live / "events" / event / "format"
            if path.exists():
                assert hiding.hidden_fields([parse_event(event.split("/")[0], path.read_text())]) == [], event


def test_a_recording_holds_no_name_and_no_path(live: Path, tmp_path: Path) -> None:
    program = tmp_path / "verysecretprogram"
    program.write_text("#!/bin/sh\ncat /etc/passwd >/dev/null\n")
    program.chmod(0o755)
    for source in (FTRACE, PERF):
        found = {}
        for keep in (False, True):
            options = RecordOptions(
                tmp_path / f"{source}{keep}", ("sh", "-c", str(program)), comm=keep, paths=keep, source=source
            )
            path = record(options, say=lambda text: None).path
            found[keep] = [file for file in path.rglob("*") if b"verysecret" in _content(file)]
        assert not found[False], source
        assert found[True], source


def _content(file: Path) -> bytes:
    return file.read_bytes() if file.is_file() else b""


@pytest.mark.parametrize("page", ["privacy.md"])
def test_the_page_names_what_is_hidden(page: str) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / page).read_text()
    for name in (*hiding.NUMBERS, "mm_filemap_add_to_page_cache", "mm_filemap_delete_from_page_cache"):
        assert name in text
