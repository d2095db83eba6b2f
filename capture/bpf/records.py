"""Layouts of the records that the BPF programs emit, as texts like the kernel's own of a tracepoint.

They are stored with a recording as those are, so that one decoder serves both. They are the structures of
``open_files.bpf.c``, whose records begin as a tracepoint's (``common_type`` to ``common_pid``).
"""

from __future__ import annotations

SYSTEM = "open_files"

_HEAD = (
    ("unsigned short", "common_type", 2),
    ("unsigned char", "common_flags", 1),
    ("unsigned char", "common_preempt_count", 1),
    ("int", "common_pid", 4),
    ("u32", "ordinal", 4),
)
_Fields = tuple[tuple[str, str, int], ...]
# By name: common_type, then type, name and bytes of each field.
_RECORDS: dict[str, tuple[int, _Fields]] = {
    "opens": (
        1,
        (
            ("int", "fd", 4),
            ("s64", "pos", 8),
            ("s64", "prev_pos", 8),
            ("u64", "i_ino", 8),
            ("u64", "start", 8),
            ("dev_t", "s_dev", 4),
            ("u32", "flags", 4),
            ("u32", "ra_pages", 4),
            ("u32", "size", 4),
            ("u32", "async_size", 4),
            ("int", "tgid", 4),
            ("u16", "mode", 2),
            ("u8", "origin", 1),
        ),
    ),
    "file_releases": (2, ()),
    "file_reads": (
        3,
        (
            ("int", "fd", 4),
            ("s64", "pos", 8),
            ("s64", "prev_pos", 8),
            ("u64", "count", 8),
            ("s64", "i_size", 8),
            ("u32", "flags", 4),
            ("u32", "ra_pages", 4),
            ("u16", "mode", 2),
            ("u8", "call", 1),
        ),
    ),
    "file_readahead": (
        4,
        (
            ("dev_t", "s_dev", 4),
            ("u64", "i_ino", 8),
            ("u64", "index", 8),
            ("s64", "pos", 8),
            ("u32", "flags", 4),
            ("u32", "ra_pages", 4),
            ("u16", "mode", 2),
            ("u8", "kind", 1),
        ),
    ),
}
EVENTS = tuple(f"{SYSTEM}/{name}" for name in _RECORDS)
"""The records, as ``system/event``."""

DECISIONS = f"{SYSTEM}/file_readahead"


def number(event: str) -> int:
    """The ``common_type`` of a record (``system/event``)."""
    return _RECORDS[event.split("/")[1]][0]


def formats() -> dict[str, str]:
    """The layout of each record, in the form of ``events/<system>/<event>/format`` of tracefs."""
    return {f"{SYSTEM}/{name}": _format(name, kind, fields) for name, (kind, fields) in _RECORDS.items()}


def _format(name: str, kind: int, fields: _Fields) -> str:
    lines = [f"name: {name}", f"ID: {kind}", "format:"]
    at = 0
    for ctype, field, size in (*_HEAD, *fields):
        at += -at % min(size, 4)
        signed = int(ctype in ("int", "s64"))
        lines.append(f"\tfield:{ctype} {field};\toffset:{at};\tsize:{size};\tsigned:{signed};")
        at += size
    return "\n".join((*lines, "", 'print fmt: "ordinal=%u", REC->ordinal', ""))
