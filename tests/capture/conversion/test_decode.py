"""The compiled decoder against a slow one in plain Python, on recorded, synthetic and damaged pages."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Decoded, reference, signed

from hindsight.capture.conversion.columns import EventTable, Text, intern, text_of
from hindsight.capture.conversion.convert import convert
from hindsight.capture.conversion.decode import decode_cpu, load_words
from hindsight.capture.formats import EventFormat, PageLayout, parse_event, parse_header_page
from hindsight.capture.profiles import profile
from hindsight.capture.schema import TABLES
from hindsight.capture.segments.segment import Segment, open_segment
from hindsight.errors import VerificationError

LAYOUT = PageLayout(8, 8, 16, 4080)


def compiled(data: bytes, layout: PageLayout, kinds: list[EventFormat]) -> Decoded:
    words = np.frombuffer(data, "<u4")
    cpu = decode_cpu(3, words, layout, kinds)
    events = []
    for number, kind in enumerate(kinds):
        rows = slice(int(cpu.first[number]), int(cpu.first[number + 1]))
        events += [(int(t), kind.id, int(a) * 4) for t, a in zip(cpu.ts[rows], cpu.at[rows], strict=True)]
    events.sort(key=lambda event: event[2])
    result = Decoded(events, cpu.unusable)
    result.missed = {n: p.count or 0 for n, p in enumerate(cpu.problems) if p.cause == "ring overrun"}
    result.damaged = {n for n, p in enumerate(cpu.problems) if p.cause == "decode error"}
    return result


def same(data: bytes, layout: PageLayout, kinds: list[EventFormat]) -> Decoded:
    need = {kind.id: (kind.payload_bytes + 3) // 4 * 4 for kind in kinds}
    expected, found = reference(data, layout, need), compiled(data, layout, kinds)
    assert found.events == expected.events
    assert found.unusable == expected.unusable
    assert len(found.damaged) == len(expected.damaged)
    assert sorted(found.missed.values()) == sorted(expected.missed.values())
    return expected


def layouts(segment: Segment, instance: str) -> list[EventFormat]:
    events = segment.facts["instances"][instance]["events"]
    return [parse_event(e.split("/")[0], segment.formats[e]) for e in events]


def raw_files(segment: Segment) -> list[tuple[str, Path]]:
    return [(name.split("/")[1], segment.path / name) for name in segment.files if name.endswith(".pages")]


def kind(number: int, payload: int = 8) -> EventFormat:
    text = (
        f"name: synthetic{number}\nID: {number}\nformat:\n"
        "\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n"
        "\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n"
    )
    for at in range(8, payload, 4):
        text += f"\tfield:unsigned int f{at};\toffset:{at};\tsize:4;\tsigned:0;\n"
    return parse_event("synthetic", text)


# --- synthetic pages -------------------------------------------------------------------------------------


def event(number: int, delta: int, payload: bytes, long: bool = False) -> bytes:
    body = struct.pack("<HBBi", number, 0, 0, 77) + payload
    if long or len(body) > 28 * 4:
        return struct.pack("<II", delta << 5, len(body) + 4) + body
    return struct.pack("<I", delta << 5 | len(body) // 4) + body


def extend(delta: int, kind_len: int = 30) -> bytes:
    return struct.pack("<II", (delta & (1 << 27) - 1) << 5 | kind_len, delta >> 27)


def discarded(delta: int, words: int) -> bytes:
    return struct.pack("<II", delta << 5 | 29, 4 * words + 4) + b"\xee" * 4 * words


def page(
    clock: int, items: list[bytes], flags: int = 0, missed: int | None = None, tail: bytes = b""
) -> bytes:
    body = b"".join(items)
    commit = len(body) | flags
    if missed is not None:
        tail = struct.pack("<Q", missed)
    return (struct.pack("<QQ", clock, commit) + body + tail).ljust(4096, b"\0")[:4096]


words_st = st.integers(0, 30)
delta_st = st.integers(0, (1 << 27) - 1)
item_st = st.one_of(
    st.builds(
        lambda n, d, w, long: event(n, d, b"\x5a" * 4 * w, long),
        st.sampled_from([5, 6, 0x268, 9999]), delta_st, words_st, st.booleans(),
    ),
    st.builds(extend, st.integers(0, (1 << 59) - 1)),
    st.builds(lambda ts: extend(ts, 31), st.integers(0, (1 << 59) - 1)),
    st.builds(discarded, st.integers(1, (1 << 27) - 1), st.integers(0, 5)),
)  # fmt: skip
page_st = st.builds(
    lambda clock, items, flags, missed, pad: page(
        clock, [*items, *([struct.pack("<I", 29) + b"\xff" * 8] if pad else [])], flags, missed
    ),
    st.integers(0, (1 << 63) - 1),
    st.lists(item_st, max_size=20),
    st.sampled_from([0, 0, 0, 1 << 31, 1 << 30, 3 << 30]),
    st.one_of(st.none(), st.integers(1, 1 << 40)),
    st.booleans(),
)
KINDS = [kind(5), kind(6, 16), kind(0x268, 40)]


@settings(max_examples=150, deadline=None)
@given(st.lists(page_st, max_size=4))
def test_synthetic_pages(pages: list[bytes]) -> None:
    same(b"".join(pages), LAYOUT, KINDS)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(0, 1021).map(lambda n: 4 * n), st.sampled_from([255, 35, 5]))
def test_noise(seed: int, commit: int, spread: int) -> None:
    noise = np.random.default_rng(seed).integers(0, spread, 4096, dtype=np.uint8).tobytes()
    same(noise[:8] + struct.pack("<I", commit) + noise[12:], LAYOUT, KINDS)


def test_time_of_every_header_kind() -> None:
    five = event(5, 3, b"")
    items = [
        event(5, 0, b""), five, extend(1 << 40), five, discarded(100, 2), five,
        extend(5_000, 31), five, event(5, 7, b"\1" * 200), struct.pack("<I", 29), five,
    ]  # fmt: skip
    times = [ts for ts, _, _ in same(page(1000, items), LAYOUT, KINDS).events]
    later = 1006 + (1 << 40)
    assert times == [1000, 1003, later, later + 3, 5003, 5010]  # nothing after the end of the page


def test_absolute_stamp_keeps_the_upper_bits() -> None:
    high = 0xA8 << 56
    events = same(page(high + 900, [extend(950, 31), event(5, 1, b"")]), LAYOUT, KINDS).events
    assert events[0][0] == signed(high + 951)
    wrapped = same(page(high + 900, [extend(5, 31), event(5, 1, b"")]), LAYOUT, KINDS).events
    assert wrapped[0][0] == signed(high + (1 << 59) + 6)


def test_missed_events_become_losses() -> None:
    data = page(10, [event(5, 5, b"")]) + page(90, [event(5, 0, b"")], 3 << 30, missed=1234)
    data += page(200, [event(5, 0, b"")], 1 << 31)
    cpu = decode_cpu(0, np.frombuffer(data, "<u4"), LAYOUT, KINDS)
    assert [(p.from_ns, p.to_ns, p.count, p.cause) for p in cpu.problems] == [
        (15, 90, 1234, "ring overrun"),
        (90, 200, None, "ring overrun"),
    ]


def test_damage_is_placed_and_bounded() -> None:
    good = page(10, [event(5, 5, b"")])
    unknown = page(90, [event(9999, 0, b""), event(5, 4, b"")])
    long = struct.pack("<QQ", 150, 4084) + b"\0" * 4080
    cut = page(200, [event(5, 1, b""), struct.pack("<I", 20)])
    cpu = decode_cpu(0, np.frombuffer(good + unknown + long + cut + good, "<u4"), LAYOUT, KINDS)
    assert [(p.from_ns, p.to_ns, p.count) for p in cpu.problems] == [
        (90, 150, 1), (150, 200, None), (200, 201, None),
    ]  # fmt: skip
    assert cpu.events == 4
    assert {p.cause for p in cpu.problems} == {"decode error"}


def test_other_sizes_of_subbuffers() -> None:
    layout = PageLayout(8, 4, 12, 16372)
    body = event(5, 5, b"") * 500
    data = (struct.pack("<QI", 7, len(body)) + body).ljust(16384, b"\0")
    assert len(same(data * 3, layout, KINDS).events) == 1500


def test_incomplete_last_page(tmp_path: Path) -> None:
    path = tmp_path / "cpu0.pages"
    path.write_bytes(page(10, [event(5, 5, b"")]) + b"\0" * 100)
    words, truncated = load_words(path, LAYOUT)
    assert (words.size, truncated) == (1024, True)
    (problem,) = decode_cpu(0, words, LAYOUT, KINDS, truncated).problems
    assert (problem.cause, problem.count, problem.from_ns) == ("decode error", None, 15)


def test_equal_times_stay_in_order_of_cpu_and_position() -> None:
    cpus = [
        decode_cpu(n, np.frombuffer(page(10, [event(5, d, b"") for d in deltas]), "<u4"), LAYOUT, KINDS)
        for n, deltas in ((1, (0, 0, 5)), (0, (0, 5, 0)))
    ]
    table = EventTable(0, KINDS[0], cpus)
    assert list(zip(table.ts.tolist(), table.cpu.tolist(), strict=True)) == [
        (10, 0), (10, 1), (10, 1), (15, 0), (15, 0), (15, 1),
    ]  # fmt: skip


# --- recorded pages --------------------------------------------------------------------------------------


def test_recorded_pages(recorded: Path) -> None:
    segment = open_segment(recorded)
    layout = parse_header_page(segment.formats["header_page"])
    total = 0
    for instance, path in raw_files(segment):
        found = same(path.read_bytes(), layout, layouts(segment, instance))
        assert not found.damaged and not found.missed and not found.unusable
        total += len(found.events)
    stats = [s for i in segment.facts["instances"].values() for s in i["stats_after"].values()]
    assert total == sum(s["read events"] for s in stats) > 1000


def slow_value(payload: bytes, layout: EventFormat, name: str) -> int | bytes:
    f = layout.fields[name]
    raw = payload[f.offset : f.offset + f.size]
    if f.array:
        return raw.split(b"\0")[0]
    return int.from_bytes(raw, "little", signed=f.signed)


def test_recorded_fields(recorded: Path, tmp_path: Path) -> None:
    """Every column of every row of the Parquet files, taken from the bytes by the reference decoder."""
    import pyarrow.parquet as pq

    convert([recorded], tmp_path, comm=True)
    segment = open_segment(recorded)
    layout = parse_header_page(segment.formats["header_page"])
    rows: dict[str, list[tuple[int, int, int, dict[str, object]]]] = {}
    for instance, path in raw_files(segment):
        kinds = {k.id: k for k in layouts(segment, instance)}
        data, cpu = path.read_bytes(), int(path.stem[3:])
        decoded = reference(data, layout, {n: (k.payload_bytes + 3) // 4 * 4 for n, k in kinds.items()})
        for ts, number, at in decoded.events:
            payload = data[at : at + kinds[number].payload_bytes]
            row: dict[str, object] = {"ts": ts, "cpu": cpu}
            row["pid"] = slow_value(payload, kinds[number], "common_pid")
            for column in TABLES[kinds[number].name].columns[3:]:
                source = {"child_pid": "pid", "target_pid": "pid"}.get(column.name, column.name)
                if source.endswith("dev_major"):
                    row[column.name] = int(slow_value(payload, kinds[number], source[:-6])) >> 20
                elif source.endswith("dev_minor"):
                    row[column.name] = int(slow_value(payload, kinds[number], source[:-6])) & 0xFFFFF
                else:
                    value = slow_value(payload, kinds[number], source)
                    if isinstance(value, bytes):
                        row[column.name] = value.decode()
                    elif column.dtype == "bool":
                        row[column.name] = bool(value)
                    else:
                        bits = int(column.dtype[1:])
                        value &= (1 << bits) - 1
                        negative = column.dtype[0] == "i" and value >> bits - 1
                        row[column.name] = value - (1 << bits) if negative else value
            rows.setdefault(kinds[number].name, []).append((ts, cpu, at, row))
    files = {p.parent.name: p for p in tmp_path.glob("host=*/date=*/*/*.parquet")}
    assert rows.keys() == {name for name in files if TABLES[name].tracepoint}
    since = {"sys_enter_unshare", "sys_exit_unshare"}  # the recording is older
    assert rows.keys() == {e.split("/")[1] for e in profile("readahead").tracepoints} - since
    for name, expected in rows.items():
        expected.sort(key=lambda entry: entry[:3])
        assert pq.read_table(files[name]).to_pylist() == [entry[3] for entry in expected], name


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_recording(recorded: Path, data: st.DataObject) -> None:
    """Whatever is overwritten, the compiled decoder neither crashes nor differs from the reference."""
    segment = open_segment(recorded, verify=False)
    layout = parse_header_page(segment.formats["header_page"])
    instance, path = data.draw(st.sampled_from(raw_files(segment)))
    pages = bytearray(path.read_bytes()[: 8 * layout.page_bytes])
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(pages) - 8))
        size = data.draw(st.integers(1, 8))
        pages[at : at + size] = data.draw(st.binary(min_size=size, max_size=size))
    kinds = layouts(segment, instance)
    same(bytes(pages), layout, kinds)
    cpu = decode_cpu(0, np.frombuffer(bytes(pages), "<u4"), layout, kinds)
    for number, k in enumerate(kinds):
        table = EventTable(number, k, [cpu])
        if table.rows and k.name in TABLES:
            assert all(len(v.codes if isinstance(v, Text) else v) == table.rows
                       for v in table.columns(TABLES[k.name]).values())  # fmt: skip


# --- layouts and texts -----------------------------------------------------------------------------------


def test_formats_are_parsed(recorded: Path) -> None:
    segment = open_segment(recorded, verify=False)
    block = parse_event("block", segment.formats["block/block_rq_issue"])
    assert (block.fields["rwbs"].array, block.fields["rwbs"].size) == (10, 10)
    assert block.fields["cmd"].data_loc and not block.fields["comm"].data_loc
    assert block.fields["common_pid"].signed and not block.fields["sector"].signed
    assert block.payload_bytes == 64
    assert parse_header_page(segment.formats["header_page"]) == LAYOUT


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name: x\nID: 5\n",
        "name: x\nformat:\n\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n",
    ],
)
def test_damaged_format(text: str) -> None:
    with pytest.raises(VerificationError):
        parse_event("x", text)


@pytest.mark.parametrize("commit, size", [("offset:8;\tsize:8", 1 << 21), ("offset:6;\tsize:8", 4080)])
def test_damaged_header_page(commit: str, size: int) -> None:
    text = (
        "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n"
        f"\tfield: local_t commit;\t{commit};\tsigned:1;\n"
        f"\tfield: char data;\toffset:16;\tsize:{size};\tsigned:0;\n"
    )
    with pytest.raises(VerificationError):
        parse_header_page(text)


def test_text_of_variable_length() -> None:
    layout = parse_event(
        "x",
        "name: located\nID: 7\nformat:\n"
        "\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n"
        "\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n"
        "\tfield:__data_loc char[] what;\toffset:8;\tsize:4;\tsigned:0;\n",
    )

    def located(text: bytes) -> bytes:
        return event(
            7, 1, struct.pack("<I", 12 | len(text) << 16) + text.ljust((len(text) + 3) // 4 * 4, b"\0")
        )

    texts = [b"abc\0", b"\0", b"a longer text\0", b"abc\0"]
    cpu = decode_cpu(0, np.frombuffer(page(1, [located(t) for t in texts]), "<u4"), LAYOUT, [layout])
    text = text_of(layout, layout.fields["what"], cpu.words, cpu.at)
    assert [text.values[code] for code in text.codes] == [t.rstrip(b"\0") for t in texts]
    beyond = event(7, 1, struct.pack("<I", 12 | 0xFFFF << 16))
    cpu = decode_cpu(0, np.frombuffer(page(1, [beyond]), "<u4"), LAYOUT, [layout])
    with pytest.raises(VerificationError):
        text_of(layout, layout.fields["what"], cpu.words, cpu.at)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=19), max_size=40), st.integers(19, 21))
def test_intern(texts: list[bytes], width: int) -> None:
    raw = np.array([list(t.ljust(width, b"\0")) for t in texts], np.uint8).reshape(len(texts), width)
    text = intern(raw)
    assert [text.values[code] for code in text.codes] == [t.rstrip(b"\0") for t in texts]
    assert text.values == sorted(set(text.values))
