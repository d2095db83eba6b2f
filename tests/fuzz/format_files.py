"""The kernel's descriptions of events and pages: generated ones, recorded ones, damaged.

Oracle: a parser of one line at a time with no regular expression. A text that is accepted must say, line by
line, what the parsed layout says; one field too few or a number read differently is a wrong row later on.
"""

from __future__ import annotations

import random
import string
import tempfile
import tracemalloc
from collections import Counter
from pathlib import Path

import mutation
import numpy as np
from reference import reference
from target import Failed, fixture, source

from hindsight.capture.conversion.columns import EventTable
from hindsight.capture.conversion.decode import decode_cpu
from hindsight.capture.formats import EventFormat, PageLayout, parse_event, parse_header_page
from hindsight.capture.schema import EVENT_COLUMNS, TABLES, Column, Table
from hindsight.capture.segments.segment import open_segment
from hindsight.errors import HindsightError, VerificationError

WORDS = (
    "field:", "offset:", "size:", "signed:", ";", "\t", "\n", "[", "]", "[16]", "[TASK_COMM_LEN]", "name: ",
    "ID: ", "format:", "print fmt:", "unsigned ", "int ", "char ", "__data_loc ", "__rel_loc ", "common_type",
    "common_pid", "timestamp", "commit", "data", "offset:8;", "size:4;", "signed:1;", "",
)  # fmt: skip
ROOM = 1 << 20
"""What a parser may allocate whatever it is given, besides 64 bytes for each character."""


def fields_of(text: str) -> dict[str, tuple[int, int, bool]]:
    """Name → (offset, size, signed) of every line that describes a field."""
    found = {}
    for line in text.split("\n"):
        if not line.lstrip(" \t").startswith("field:"):
            continue
        declaration, *rest = line.lstrip(" \t")[len("field:") :].split(";")
        values = dict(part.strip(" \t").split(":", 1) for part in rest if ":" in part)
        name = declaration.strip()
        if name.endswith("]"):
            name = name[: name.rindex("[")].rstrip()
        begin = len(name)
        while begin and (name[begin - 1].isalnum() or name[begin - 1] == "_"):
            begin -= 1
        name = name[begin:]
        found[name] = (int(values["offset"]), int(values["size"]), values.get("signed") == "1")
    return found


def written(kind: EventFormat) -> str:
    """A format file, as the kernel writes it (kernel/trace/trace_events.c, f_show)."""
    lines = [f"name: {kind.name}", f"ID: {kind.id}", "format:"]
    for number, f in enumerate(kind.fields.values()):
        where = f"offset:{f.offset};\tsize:{f.size};\tsigned:{int(f.signed)};"
        bound = f"[{f.array}]" if f.array else ""
        lines.append(f"\tfield:{f.ctype} {f.name}{bound};\t{where}")
        if number == 3:
            lines.append("")
    return "\n".join([*lines, "", 'print fmt: "field:%d;\toffset:%d", REC->a, REC->b', ""])


def generated(rng: random.Random) -> EventFormat:
    """Any layout that a kernel could have."""
    from hindsight.capture.formats import Field

    fields = {
        "common_type": Field("common_type", "unsigned short", 0, 2, False),
        "common_flags": Field("common_flags", "unsigned char", 2, 1, False),
        "common_preempt_count": Field("common_preempt_count", "unsigned char", 3, 1, False),
        "common_pid": Field("common_pid", "int", 4, 4, True),
    }
    at = 8
    for _ in range(rng.randrange(12)):
        name = rng.choice(string.ascii_letters + "_") + "".join(
            rng.choices(string.ascii_letters + string.digits + "_", k=rng.randrange(12))
        )
        ctype, size, is_signed, array = rng.choice((
            ("int", 4, True, 0), ("unsigned long", 8, False, 0), ("u8", 1, False, 0), ("char", 16, False, 16),
            ("const char *", 8, False, 0), ("__data_loc char[]", 4, True, 0), ("enum x", 4, False, 0),
            ("struct { int a }", 12, False, 0), ("unsigned short", 2, False, 0), ("__u64", 48, False, 6),
        ))  # fmt: skip
        at = -(-at // min(size, 8)) * min(size, 8) if size in (1, 2, 4, 8) else at
        located = ctype.startswith("__data_loc")
        fields.setdefault(name, Field(name, ctype, at, size, is_signed, array, located))
        at += size
    return EventFormat("any", "any_event", rng.randrange(1 << 16), fields)


class EventFormats:
    """``events/<system>/<event>/format``."""

    name = "format files"
    cases = 150_000
    batch = 200
    seconds = 30.0

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        with tempfile.TemporaryDirectory() as directory:
            segment = open_segment(fixture(Path(directory)))
            self.texts = {n: t for n, t in sorted(segment.formats.items()) if "/" in n}
            self.layout = parse_header_page(segment.formats["header_page"])
            raw = [(segment.path / n).read_bytes() for n in sorted(segment.files) if n.endswith(".pages")]
        self.pages = b"".join(raw)[: 8 * self.layout.page_bytes]

    def check(self, seed: int, first: int, count: int) -> None:
        """One text for each case; every 50th also with the memory traced and pages decoded by it."""
        for case in range(first, first + count):
            rng = source(self.name, seed, case)
            name = rng.choice(list(self.texts))
            text = self.texts[name]
            model = None
            if case % 4 == 0:
                model = generated(rng)
                text = written(model)
            if case % 8:
                text = mutation.text(rng, text, WORDS)
                model = None
            try:
                if case % 50 == 1:
                    self._bounded(text)
                self._parse(name.partition("/")[0], text, model, case % 50 == 2)
            except HindsightError as error:
                raise Failed(
                    case, f"refused a sound format: {error.message}", {"format": _bytes(text)}
                ) from error
            except Failed:
                raise
            except Exception as error:
                raise Failed(case, f"{type(error).__name__}: {error}", {"format": _bytes(text)}) from error

    def _parse(self, system: str, text: str, model: EventFormat | None, decode: bool) -> None:
        try:
            kind = parse_event(system, text)
        except VerificationError:
            assert model is None, "a sound format was refused"
            self.seen["refused"] += 1
            return
        self.seen["accepted"] += 1
        if model is not None:
            assert kind.fields == model.fields and kind.id == model.id, "a sound format was read differently"
        stated = fields_of(text.partition("\nprint fmt:")[0])
        parsed = {f.name: (f.offset, f.size, f.signed) for f in kind.fields.values()}
        assert parsed == stated, f"{parsed}, but the text says {stated}"
        assert kind.payload_bytes <= 1 << 16 and 0 <= kind.id < 1 << 16
        if decode:
            self._decode(kind)

    def _decode(self, kind: EventFormat) -> None:
        """Whatever was accepted can be decoded with: by the rules, and never beyond the page."""
        need = {kind.id: (kind.payload_bytes + 3) // 4 * 4}
        slow = reference(self.pages, self.layout, need)
        fast = decode_cpu(0, np.frombuffer(self.pages, "<u4"), self.layout, [kind])
        assert fast.events == len(slow.events) and fast.unusable == slow.unusable
        columns = tuple(
            Column(f.name, "str" if f.array or f.data_loc else "i64" if f.signed else "u64", "")
            for f in kind.fields.values()
            if f.name not in ("ts", "cpu", "pid")
        )
        try:
            for of in [Table(kind.name, EVENT_COLUMNS + columns, ""), *filter(None, [TABLES.get(kind.name)])]:
                EventTable(0, kind, [fast]).columns(of)
            self.seen["decoded with"] += 1
        except VerificationError:
            self.seen["refused when decoding"] += 1

    def _bounded(self, text: str) -> None:
        tracemalloc.start()
        try:
            parse_event("x", text)
        except VerificationError:
            pass
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak <= ROOM + 64 * len(text), f"{peak} bytes for a text of {len(text)}"


class HeaderPages:
    """``events/header_page``."""

    name = "header_page"
    cases = 100_000
    batch = 500
    seconds = 30.0

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        with tempfile.TemporaryDirectory() as directory:
            self.text = open_segment(fixture(Path(directory))).formats["header_page"]

    def check(self, seed: int, first: int, count: int) -> None:
        """One text for each case; what is accepted is a page that can be walked."""
        for case in range(first, first + count):
            text = mutation.text(source(self.name, seed, case), self.text, WORDS)
            try:
                self._parse(text)
            except Exception as error:
                raise Failed(
                    case, f"{type(error).__name__}: {error}", {"header_page": _bytes(text)}
                ) from error

    def _parse(self, text: str) -> None:
        try:
            layout = parse_header_page(text)
        except VerificationError:
            self.seen["refused"] += 1
            return
        self.seen["accepted"] += 1
        stated = fields_of(text)
        assert stated["commit"][:2] == (layout.commit_offset, layout.commit_size), stated
        assert stated["data"][:2] == (layout.data_offset, layout.data_size), stated
        assert 8 <= layout.commit_offset < layout.data_offset < layout.page_bytes <= 1 << 20
        if layout != PageLayout(8, 8, 16, 4080):
            self._walk(layout)

    def _walk(self, layout: PageLayout) -> None:
        data = (b"\x11" * layout.page_bytes + self.text.encode() * 3)[: layout.page_bytes]
        slow = reference(data, layout, {})
        fast = decode_cpu(0, np.frombuffer(data, "<u4"), layout, [])
        assert (fast.events, fast.unusable) == (len(slow.events), slow.unusable)
        self.seen["other sizes"] += 1


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
