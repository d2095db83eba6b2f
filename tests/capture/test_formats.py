"""Descriptions that no kernel wrote are refused; what this kernel writes is understood."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hindsight.capture.conversion.convert import convert
from hindsight.capture.formats import MAX_TEXT, parse_event, parse_header_page
from hindsight.capture.segments.checksum import checksum
from hindsight.capture.segments.segment import FORMATS, MANIFEST
from hindsight.errors import VerificationError

EVENT = (
    "name: an_event\nID: 77\nformat:\n"
    "\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n"
    "\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n"
    "\tfield:unsigned long index;\toffset:8;\tsize:8;\tsigned:0;\n"
    "\tfield:char comm[16];\toffset:16;\tsize:16;\tsigned:0;\n"
    '\nprint fmt: "\tfield:%d;\toffset:none", REC->index\n'
)
PAGE = (
    "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n"
    "\tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;\n"
    "\tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;\n"
    "\tfield: char data;\toffset:16;\tsize:4080;\tsigned:0;\n"
)


def test_a_sound_format() -> None:
    kind = parse_event("any", EVENT)
    assert [(f.name, f.offset, f.size) for f in kind.fields.values()] == [
        ("common_type", 0, 2), ("common_pid", 4, 4), ("index", 8, 8), ("comm", 16, 16),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("offset:8;", "offset:1000000000000000000;"),
        ("offset:8;", "offset:" + "9" * 5000 + ";"),
        ("offset:8;", "offset:-8;"),
        ("offset:8;", "offset:٨;"),
        ("offset:8;", "offset:65530;"),
        ("size:8;\tsigned:0;", "siz:8;\tsigned:0;"),
        ("size:8;\tsigned:0;", "size:9;\tsigned:0;"),
        ("signed:0;\n\tfield:char", "signed:2;\n\tfield:char"),
        ("index;", "common_pid;"),
        ("index;", "٣index;"),
        ("ID: 77", "ID: 65536"),
        ("ID: 77", "ID: "),
        ("name: an_event", "name: "),
        ("comm[16]", "comm[16"),
        ("field:char", "field:" + "char " * 200),
    ],
)
def test_a_damaged_format(old: str, new: str) -> None:
    """Each of these would be a field too few, one read from elsewhere, or an exception of Python's own."""
    assert old in EVENT
    with pytest.raises(VerificationError):
        parse_event("any", EVENT.replace(old, new, 1))


def test_a_format_without_end() -> None:
    with pytest.raises(VerificationError, match="none that a kernel wrote"):
        parse_event("any", EVENT + " " * MAX_TEXT)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("commit;\toffset:8;", "commit;\toffset:4;"),
        ("data;\toffset:16;", "data;\toffset:12;"),
        ("size:4080;", "size:1048576;"),
        ("size:4080;", "size:0;"),
        ("size:4080;", "size:4081;"),
    ],
)
def test_a_damaged_header_page(old: str, new: str) -> None:
    assert parse_header_page(PAGE).page_bytes == 4096
    with pytest.raises(VerificationError):
        parse_header_page(PAGE.replace(old, new, 1))


def test_every_tracepoint_of_this_kernel(live: Path) -> None:
    """No description that the kernel writes is refused, and no field of it is left out."""
    found = sorted(live.glob("events/*/*/format"))
    for path in found:
        text = path.read_text()
        kind = parse_event(path.parts[-3], text)
        assert kind.name == path.parts[-2]
        assert len(kind.fields) == sum(line.startswith("\tfield:") for line in text.splitlines()), path
    assert len(found) > 100


@pytest.mark.parametrize(
    "change",
    [
        lambda formats: formats.update({"filemap/mm_filemap_fault": formats["filemap/mm_filemap_map_pages"]}),
        lambda formats: formats.update(
            {"syscalls/sys_exit_read": formats["syscalls/sys_exit_pread64"].replace("_pread64", "_read")}
        ),
    ],
    ids=["of another event", "with the id of another"],
)
def test_formats_that_are_mixed_up(
    recorded: Path, tmp_path: Path, change: Callable[[dict[str, str]], object]
) -> None:
    """The rows of one event never land in the table of another."""
    segment = tmp_path / recorded.name
    shutil.copytree(recorded, segment)
    formats = json.loads((segment / FORMATS).read_text())
    change(formats)
    data = json.dumps(formats).encode()
    (segment / FORMATS).write_bytes(data)
    manifest = json.loads((segment / MANIFEST).read_text())
    manifest["files"][FORMATS] = {"bytes": len(data), "crc32": checksum(data)}
    (segment / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(VerificationError, match=r"is that of|the same id"):
        convert([segment], tmp_path / "out")
