"""Layouts that the kernel describes itself: a tracepoint's ``format``, the sub-buffer's ``header_page``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

from hindsight.errors import VerificationError


@dataclass(frozen=True)
class Field:
    """A field of an event: ``offset`` and ``size`` in bytes within the payload.

    ``array`` is the number of elements of a fixed array, -1 where the kernel gives it by a name, a sum, or
    not
    at all (``args[]``, ``func[30+1]``: ``size`` counts), else 0; a ``data_loc`` field holds the position of
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


MAX_TEXT = 1 << 18
"""The longest format that is looked at; the longest of Linux 6.18 has 5,523 characters."""
MAX_FIELDS = 1024
MAX_EVENT_BYTES = 1 << 16
"""No field lies beyond; positions within an event have 16 bits (``__data_loc``)."""

MAX_SUBBUFFER = 1 << 20
"""The largest sub-buffer that is decoded; a kernel's are a page unless somebody changed it."""

_FIELD = re.compile(r"[ \t]*field:")
_LINE = re.compile(
    r"[ \t]*field:(?P<declaration>[^;\n]{1,512});[ \t]*offset:(?P<offset>[0-9]{1,9});"
    r"[ \t]*size:(?P<size>[0-9]{1,9});(?:[ \t]*signed:(?P<signed>[01]);)?[ \t]*"
)
_DECLARATION = re.compile(
    r"(?P<ctype>[ -~\t]*[ \t*\])}])?(?P<name>[A-Za-z_]\w*)[ \t]*(?:\[(?P<array>[\w +*()-]{0,64})\])?[ \t]*",
    re.ASCII,
)


def _fields(text: str, limit: int) -> dict[str, Field]:
    """The fields that a description lists; each line that begins with ``field:`` has to be one."""
    fields: dict[str, Field] = {}
    for text_line in text.split("\n"):
        if _FIELD.match(text_line) is None:
            continue
        line = _LINE.fullmatch(text_line)
        declaration = _DECLARATION.fullmatch(line["declaration"].strip()) if line else None
        if line is None or declaration is None or declaration["name"] in fields or len(fields) == MAX_FIELDS:
            raise VerificationError(
                f"a field of a tracepoint cannot be understood: {text_line.strip()[:200]}"
            )
        offset, size = int(line["offset"]), int(line["size"])
        if offset + size > limit:
            raise VerificationError(
                f"a field of a tracepoint lies beyond any event: {text_line.strip()[:200]}"
            )
        ctype = (declaration["ctype"] or "").strip()
        fields[declaration["name"]] = Field(
            declaration["name"],
            ctype,
            offset,
            size,
            line["signed"] == "1",
            _elements(declaration["array"]),
            ctype.startswith("__data_loc"),
        )
    return fields


def _elements(text: str | None) -> int:
    if text is None:
        return 0
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else -1


def _check_length(text: str) -> None:
    if len(text) > MAX_TEXT:
        raise VerificationError(f"a description of {len(text)} characters is none that a kernel wrote")


def parse_event(system: str, text: str) -> EventFormat:
    """Parse ``events/<system>/<event>/format``. Raises VerificationError when it is not one."""
    _check_length(text)
    # What follows is the kernel's print format: text of any kind.
    head = text.partition("\nprint fmt:")[0]
    name = re.search(r"^name:[ \t]*(\w+)[ \t]*$", head, re.MULTILINE | re.ASCII)
    number = re.search(r"^ID:[ \t]*([0-9]{1,9})[ \t]*$", head, re.MULTILINE)
    fields = _fields(head, MAX_EVENT_BYTES)
    common = fields.get("common_type")
    pid = fields.get("common_pid")
    if name is None or number is None or common is None or pid is None:
        raise VerificationError(f"a format of the trace system {system} is damaged")
    if int(number[1]) >= 1 << 16:  # common_type has 16 bits
        raise VerificationError(f"{system}/{name[1]} has an impossible id: {number[1]}")
    if (common.offset, common.size) != (0, 2) or (pid.offset % 4, pid.size) != (0, 4):
        raise VerificationError(f"{system}/{name[1]} has common fields that this program cannot decode")
    placed = sorted(fields.values(), key=lambda field: field.offset)
    # They are the members of a C structure.
    if any(one.offset + one.size > other.offset for one, other in pairwise(placed)):
        raise VerificationError(f"{system}/{name[1]} has fields that overlap: its format is damaged")
    return EventFormat(system, name[1], int(number[1]), fields)


def parse_header_page(text: str) -> PageLayout:
    """Parse ``events/header_page``. Raises VerificationError when it is not one, or is out of range."""
    _check_length(text)
    fields = _fields(text, MAX_SUBBUFFER)
    try:
        stamp, commit, data = fields["timestamp"], fields["commit"], fields["data"]
    except KeyError as missing:
        raise VerificationError(f"header_page is damaged: no field {missing}") from None
    layout = PageLayout(commit.offset, commit.size, data.offset, data.size)
    sound = (
        (stamp.offset, stamp.size) == (0, 8)
        and commit.offset % 4 == 0
        and commit.offset >= stamp.size
        and commit.size in (4, 8)
        and data.offset % 4 == 0
        and data.offset >= commit.offset + commit.size
        and layout.page_bytes % 4 == 0
        and layout.page_bytes <= MAX_SUBBUFFER
        and data.size > 0
    )
    if not sound:
        raise VerificationError("header_page describes a sub-buffer that this program cannot decode")
    return layout
