"""What must not be at rest is not: in the schema, in what the kernel says of its events, in tables."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from hindsight.capture import profiles
from hindsight.capture.conversion.convert import convert
from hindsight.capture.formats import EventFormat, parse_event
from hindsight.capture.ftrace import scrub
from hindsight.capture.schema import TABLES

_SUSPECT = re.compile(r"pfn|ptr|address|(^|_)addr($|_)|pointer|kaddr|vaddr|folio|mapping|page$")
USER_ADDRESSES = {("sys_enter_mmap", "addr"), ("sys_enter_munmap", "addr")}
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


def test_this_kernel_has_no_others(live: Path) -> None:
    for event in profiles.profile("readahead").tracepoints:
        system = event.split("/")[0]
        path = live / "events" / event / "format"
        if system != "syscalls" and path.exists():
            fields = hidden_or_pointer(parse_event(system, path.read_text()))
            assert fields <= scrub.HIDDEN, event


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


@pytest.mark.parametrize("page", ["privacy.md"])
def test_the_page_names_what_is_hidden(page: str) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / page).read_text()
    for name in (*scrub.HIDDEN, "mm_filemap_add_to_page_cache", "mm_filemap_delete_from_page_cache"):
        assert name in text
