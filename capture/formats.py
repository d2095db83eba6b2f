"""Layouts that the kernel describes itself: a tracepoint's ``format``, the sub-buffer's ``header_page``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hindsight.errors import VerificationError


@dataclass(frozen=True)
class Field:
    """A field of an event: ``offset`` and ``size`` in bytes within the payload.

    ``array`` is the number of elements of a fixed array, else 0; a ``data_loc`` field holds the position of
    its data (low 16 bits: offset, high 16 bits: length).
    """

    name: str
    ctype: str
    offset: int
    size: int
    signed: bool
    array: int = 0
    data_loc: bool = False


@dataclass(frozen=True)
class EventFormat:
    """A tracepoint as this kernel wrote it."""

    system: str
    name: str
    id: int
    fields: dict[str, Field]

    @property
    def payload_bytes(self) -> int:
        """The smallest payload that holds every field."""
        return max((field.offset + field.size for field in self.fields.values()), default=0)


@dataclass(frozen=True)
class PageLayout:
    """The header of a sub-buffer and where its events begin; all in bytes."""

    commit_offset: int
    commit_size: int
    data_offset: int
    data_size: int

    @property
    def page_bytes(self) -> int:
        """Size of a whole sub-buffer."""
        return self.data_offset + self.data_size


_LINE = re.compile(
    r"^\s*field:(?P<declaration>[^;]+);\s*offset:(?P<offset>\d+);\s*size:(?P<size>\d+);"
    r"(?:\s*signed:(?P<signed>\d+);)?",
    re.MULTILINE,
)
_DECLARATION = re.compile(r"^(?P<ctype>.*?)\s*\b(?P<name>\w+)\s*(?:\[(?P<array>\d*)\w*\])?$", re.DOTALL)


def _fields(text: str) -> dict[str, Field]:
    fields = {}
    for line in _LINE.finditer(text):
        declaration = _DECLARATION.match(line["declaration"].strip())
        if declaration is None:
            raise VerificationError(f"a field of a tracepoint cannot be understood: {line[0].strip()}")
        ctype = declaration["ctype"]
        fields[declaration["name"]] = Field(
            declaration["name"],
            ctype,
            int(line["offset"]),
            int(line["size"]),
            line["signed"] == "1",
            int(declaration["array"] or 0),
            ctype.startswith("__data_loc"),
        )
    return fields


def parse_event(system: str, text: str) -> EventFormat:
    """Parse ``events/<system>/<event>/format``. Raises VerificationError when it is not one."""
    name = re.search(r"^name:\s*(\S+)", text, re.MULTILINE)
    number = re.search(r"^ID:\s*(\d+)", text, re.MULTILINE)
    fields = _fields(text)
    common = fields.get("common_type")
    pid = fields.get("common_pid")
    if name is None or number is None or common is None or pid is None:
        raise VerificationError(f"a format of the trace system {system} is damaged")
    if int(number[1]) >= 1 << 16:  # common_type has 16 bits
        raise VerificationError(f"{system}/{name[1]} has an impossible id: {number[1]}")
    if (common.offset, common.size) != (0, 2) or (pid.offset % 4, pid.size) != (0, 4):
        raise VerificationError(f"{system}/{name[1]} has common fields that this program cannot decode")
    return EventFormat(system, name[1], int(number[1]), fields)


def parse_header_page(text: str) -> PageLayout:
    """Parse ``events/header_page``. Raises VerificationError when it is not one, or is out of range."""
    fields = _fields(text)
    try:
        stamp, commit, data = fields["timestamp"], fields["commit"], fields["data"]
    except KeyError as missing:
        raise VerificationError(f"header_page is damaged: no field {missing}") from None
    layout = PageLayout(commit.offset, commit.size, data.offset, data.size)
    sound = (
        (stamp.offset, stamp.size) == (0, 8)
        and commit.offset % 4 == 0
        and commit.size in (4, 8)
        and data.offset % 4 == 0
        and data.offset >= commit.offset + commit.size
        and layout.page_bytes % 4 == 0
        and layout.page_bytes <= 1 << 20
        and data.size > 0
    )
    if not sound:
        raise VerificationError("header_page describes a sub-buffer that this program cannot decode")
    return layout
