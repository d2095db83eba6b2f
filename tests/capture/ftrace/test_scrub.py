"""Page frame numbers leave the raw trace, and nothing else does."""

from __future__ import annotations

import json
import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hindsight.capture import hiding
from hindsight.capture.conversion.decode import decode_cpu, load_words
from hindsight.capture.formats import EventFormat, Field, parse_event, parse_header_page
from hindsight.capture.ftrace import scrub
from hindsight.capture.options import RecordOptions
from hindsight.capture.recording.record import record
from hindsight.capture.segments.segment import open_segment

PAGE = 4096
ADD, DELETE, READ, EXIT, LONG = 600, 601, 0x0258 ^ 1 << 8, 610, 620


def kind(
    number: int, size: int, hidden: tuple[int, int] | None = None, name: tuple[int, int] | None = None
) -> EventFormat:
    fields = {"common_type": Field("common_type", "unsigned short", 0, 2, False)}
    if hidden:
        fields["pfn"] = Field("pfn", "unsigned long", *hidden, False)
    if name:
        fields["comm"] = Field("comm", "char", *name, False, name[1])
    fields["last"] = Field("last", "unsigned char", size - 1, 1, False)
    return EventFormat("system", f"event{number}", number, fields)


KINDS = [
    kind(ADD, 37, (8, 8)), kind(DELETE, 37, (8, 8)), kind(READ, 40), kind(EXIT, 24, None, (8, 15)),
    kind(LONG, 8),
]  # fmt: skip
HIDDEN = hiding.hidden_fields(KINDS)
NAMES = hiding.NameHash("6b6579").field


def event(number: int, payload: bytes, delta: int = 7) -> bytes:
    data = struct.pack("<H", number) + payload[2:]
    data += bytes(-len(data) % 4)
    if len(data) <= 112:
        return struct.pack("<I", delta << 5 | len(data) // 4) + data
    return struct.pack("<II", delta << 5, len(data) + 4) + data


def page(events: list[bytes]) -> bytes:
    data = b""
    for one in events:
        if len(data) + len(one) <= PAGE - 16:
            data += one
    return (struct.pack("<QQ", 10**9, len(data)) + data).ljust(PAGE, b"\0")


fixed = {ADD: 40, DELETE: 40, READ: 40, EXIT: 24}
plain = st.sampled_from(sorted(fixed)).flatmap(
    lambda n: st.builds(
        event, st.just(n), st.binary(min_size=fixed[n], max_size=fixed[n]), st.integers(0, 99)
    )
)
# What a program passes to a system call, or calls itself, may look like an event.
decoy = st.builds(
    lambda inner, n: event(n, b"\0" * 8 + inner[: fixed.get(n, 200) - 8].ljust(fixed.get(n, 200) - 8, b"\1")),
    st.sampled_from([ADD, DELETE]).map(lambda n: event(n, b"\xff" * 40)),
    st.sampled_from([READ, LONG]),
)
stamps = st.builds(
    lambda t, d: struct.pack("<II", 5 << 5 | t, d), st.sampled_from([30, 31]), st.integers(0, 99)
)
long_one = st.integers(113, 400).map(lambda n: event(LONG, b"\x58\x02" * n))
discarded = st.integers(1, 12).map(lambda n: struct.pack("<II", 3 << 5 | 29, 4 * n) + b"\x55" * (4 * n - 4))
common = st.lists(st.one_of(plain, plain, plain, decoy), max_size=110)
rare = st.lists(st.one_of(plain, decoy, stamps, long_one, discarded), max_size=110)


def expected(path: Path) -> bytes:
    """By the compiled decoder, which shares no code with the scrubber."""
    layout = parse_header_page(
        "field: u64 timestamp;\toffset:0;\tsize:8;\nfield: local_t commit;\toffset:8;\tsize:8;\n"
        f"field: char data;\toffset:16;\tsize:{PAGE - 16};\n"
    )
    words, _ = load_words(path, layout)
    found = decode_cpu(0, words, layout, KINDS)
    data = bytearray(path.read_bytes())
    for position in found.at[found.first[0] : found.first[2]].tolist():
        field = slice(4 * position + 8, 4 * position + 16)
        data[field] = bytes(8)
    for position in found.at[found.first[3] : found.first[4]].tolist():
        field = slice(4 * position + 8, 4 * position + 23)
        data[field] = NAMES(bytes(data[field]))
    return bytes(data)


def discarded_bytes(pages: list[list[bytes]]) -> list[int]:
    """Where the remains of discarded events lie, by how the pages were built."""
    found = []
    for number, events in enumerate(pages):
        at = number * PAGE + 16
        for one in events:
            if at + len(one) <= (number + 1) * PAGE:
                if one[0] & 31 == 29:
                    found += range(at + 8, at + len(one))
                at += len(one)
    return found


arrays = st.builds(
    lambda one, n: [one] * n,
    st.sampled_from([event(ADD, b"\x11" * 40), event(READ, b"\x22" * 40)]),
    st.integers(1, 92),
)


@given(st.lists(common | rare | arrays, min_size=1, max_size=5))
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_only_the_hidden_fields_of_real_events_change(tmp_path: Path, pages: list[list[bytes]]) -> None:
    path = tmp_path / "cpu0.pages"
    path.write_bytes(b"".join(map(page, pages)))
    wanted = bytearray(expected(path))
    scrub.scrub(path, HIDDEN, PAGE, NAMES)
    after = path.read_bytes()
    for at in discarded_bytes(pages):
        wanted[at] = 0
    assert after == wanted
    assert scrub.scrub(path, HIDDEN, PAGE, NAMES) == 0
    assert path.read_bytes() == after


@given(st.binary(max_size=2 * PAGE), st.integers(0, 4080))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_never_raises_nor_grows(tmp_path: Path, junk: bytes, length: int) -> None:
    path = tmp_path / "cpu0.pages"
    good = page([event(ADD, b"\x11" * 40)] * 80)
    path.write_bytes(good + struct.pack("<QQ", 1, length) + junk)
    size = path.stat().st_size
    scrub.scrub(path, HIDDEN, PAGE, NAMES)
    assert path.stat().st_size == size
    assert path.read_bytes()[:PAGE].count(b"\x11" * 8 + bytes(8)) <= 80


def test_a_recorded_segment(recorded: Path, tmp_path: Path) -> None:
    """Page frame numbers put back into pages that the kernel wrote are taken out; nothing else moves."""
    texts = json.loads((recorded / "formats.json").read_text())
    layout = parse_header_page(texts["header_page"])
    kinds = [parse_event(n.split("/")[0], t) for n, t in sorted(texts.items()) if "/" in n]
    hidden = hiding.hidden_fields(kinds, names=True, paths=True)
    assert len(hidden) == 2
    changed = 0
    for source in sorted(recorded.glob("raw/*/*.pages")):
        words, _ = load_words(source, layout)
        events = decode_cpu(0, words, layout, kinds)
        data = np.fromfile(source, np.uint8)
        for number, one in enumerate(kinds):
            if "pfn" in one.fields:
                at = events.at[events.first[number] : events.first[number + 1]].astype(np.int64) * 4
                assert not data[at[:, None] + one.fields["pfn"].offset + np.arange(8)].any()
                data[at[:, None] + one.fields["pfn"].offset + np.arange(5)] = 0x5A
        path = tmp_path / "copy.pages"
        data.tofile(path)
        changed += scrub.scrub(path, hidden, layout.page_bytes, NAMES)
        assert path.read_bytes() == source.read_bytes(), source
    assert changed > 0


@given(st.binary(min_size=24, max_size=80), st.integers(0, 90), st.integers(0, 90))
def test_text_is_zeroed_where_it_lies(payload: bytes, where: int, length: int) -> None:
    window = bytearray(b"\xee" * 8 + payload + b"\xee" * 120)
    end = 8 + len(payload)
    struct.pack_into("<HH", window, 8 + 12, where, length)
    before = bytes(window)
    hiding.hide(window, 8, end, [hiding.Hidden(5, 12, 4, hiding.TEXT)], NAMES)
    first, last = (8 + where, min(8 + where + length, end)) if where >= 2 else (8, 8)
    expected = bytearray(before)
    if last > first:
        expected[first:last] = bytes(last - first)
    assert window == expected


def test_a_field_that_is_the_id() -> None:
    with pytest.raises(ValueError, match="id"):
        scrub.scrub(Path(os.devnull), [hiding.Hidden(5, 0, 8)], PAGE, NAMES)


def test_no_page_frame_number_is_at_rest(live: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(os.urandom(1 << 20))
    read = (
        "import os,sys; f=os.open(sys.argv[1],0); os.fsync(f);"
        "os.posix_fadvise(f,0,0,os.POSIX_FADV_DONTNEED); [*iter(lambda: os.read(f,4096),b'')]"
    )
    recording = record(RecordOptions(tmp_path / "raw", (sys.executable, "-c", read, str(file))))
    segment = open_segment(recording.path)
    layout = parse_header_page(segment.formats["header_page"])
    seen = 0
    for name, instance in segment.facts["instances"].items():
        kinds = [parse_event(e.split("/")[0], segment.formats[e]) for e in instance["events"]]
        for cpu in map(int, instance["stats_after"]):
            path = segment.raw(name, cpu)
            if path is None:
                continue
            decoded = decode_cpu(cpu, load_words(path, layout)[0], layout, kinds)
            for number, kind in enumerate(kinds):
                if "pfn" in kind.fields:
                    rows = slice(int(decoded.first[number]), int(decoded.first[number + 1]))
                    payload = decoded.words.view("<u1")[
                        4 * decoded.at[rows].astype(np.int64)[:, None] + np.arange(48)
                    ]
                    assert not payload[:, 8:16].any()  # pfn
                    assert payload[:, 16:24].any(axis=1).all()  # i_ino
                    assert (kind.fields["pfn"].offset, kind.fields["i_ino"].offset) == (8, 16)
                    seen += payload.shape[0]
    assert seen >= 2
