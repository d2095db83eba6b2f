"""Rates estimated from sub-buffers: the walk finds what was put in, and what the compiled decoder finds."""

from __future__ import annotations

import struct
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hindsight.capture.conversion.decode import decode_cpu, load_words
from hindsight.capture.formats import EventFormat, PageLayout, parse_event
from hindsight.capture.profiles import profile
from hindsight.capture.recording.rates import (
    DEMAND,
    DESCRIPTORS,
    FRESH_NS,
    PAGES,
    TASKS,
    Estimator,
    Unit,
    count_events,
    page_time,
    units_of,
)
from hindsight.capture.recording.vitals import Vitals
from hindsight.capture.segments.segment import open_segment

PAGE = 4096
LAYOUT = PageLayout(8, 8, 16, PAGE - 16)
SECOND = 10**9
FORMAT = """name: {name}
ID: {number}
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;
"""


def kind(number: int) -> EventFormat:
    return parse_event("test", FORMAT.format(name=f"event{number}", number=number))


def entry(number: int, delta: int, words: int = 5, long: bool = False) -> bytes:
    payload = struct.pack("<HHi", number, 0, 1).ljust(words * 4, b"\0")
    if long:
        return struct.pack("<II", delta << 5, len(payload) + 4) + payload
    return struct.pack("<I", delta << 5 | words) + payload


def extend(delta: int) -> bytes:
    return struct.pack("<II", (delta & (1 << 27) - 1) << 5 | 30, delta >> 27)


def stamp(time: int) -> bytes:
    return struct.pack("<II", (time & (1 << 27) - 1) << 5 | 31, time >> 27)


def discarded(delta: int, words: int) -> bytes:
    return struct.pack("<II", delta << 5 | 29, words * 4) + bytes(words * 4 - 4)


def page(time: int, body: bytes, flags: int = 0) -> bytes:
    return (struct.pack("<QQ", time, len(body) | flags) + body).ljust(PAGE, b"\0")


def mixed(time: int, span: int, numbers: list[int]) -> bytes:
    """A sub-buffer that holds these events, evenly over ``span`` ns."""
    return page(time, b"".join(entry(number, span // len(numbers)) for number in numbers))


NUMBERS = st.integers(1, 9)
DELTAS = st.integers(0, 1 << 20)
ENTRIES = st.one_of(  # what stands in the page, which event that is (0: none), how it moves the clock
    st.tuples(NUMBERS, DELTAS, st.integers(2, 28), st.booleans()).map(lambda e: (entry(*e), e[0], e[1])),
    st.integers(0, 1 << 40).map(lambda delta: (extend(delta), 0, delta)),
    st.tuples(st.integers(1, 1 << 20), st.integers(1, 40)).map(lambda d: (discarded(*d), 0, d[0])),
)


@given(st.lists(ENTRIES, max_size=30), st.integers(0, 1 << 58), st.booleans(), st.sampled_from([0, 1 << 31]))
def test_a_walk_finds_what_is_there(
    entries: list[tuple[bytes, int, int]], late: int, padded: bool, flags: int
) -> None:
    begin = 1 << 41
    body = b"".join(data for data, _, _ in entries)
    data = page(begin, body + stamp(late) + (struct.pack("<I", 29) if padded else b""), flags)
    sample = count_events(data)
    expected = Counter(number for _, number, _ in entries if number)
    assert Counter(sample.counts if sample else {}) == expected
    if sample is not None:
        assert sample.first_ns == page_time(data) == begin
        assert sample.last_ns == late
    sample = count_events(page(begin, body))
    if sample is not None:
        assert sample.last_ns == begin + sum(delta for _, _, delta in entries)
        assert sample.span_ns > 0


def test_recorded_pages(recorded: Path) -> None:
    segment = open_segment(recorded)
    walked = 0
    for instance in ("tasks", "devices"):
        kinds = [
            parse_event(event.split("/")[0], segment.formats[event])
            for event in segment.facts["instances"][instance]["events"]
        ]
        for file in sorted((recorded / "raw" / instance).glob("*.pages")):
            words = load_words(file, LAYOUT)[0]
            cpu = decode_cpu(0, words, LAYOUT, kinds)
            counts: Counter[int] = Counter()
            last = 0
            data = file.read_bytes()
            for offset in range(0, len(data), PAGE):
                sample = count_events(data[offset : offset + PAGE])
                assert sample is not None
                assert last <= sample.first_ns <= sample.last_ns
                last = sample.last_ns
                counts.update(sample.counts)
                walked += 1
            found = {k.id: int(cpu.first[n + 1] - cpu.first[n]) for n, k in enumerate(kinds)}
            assert dict(counts) == {number: n for number, n in found.items() if n}
            assert last == max(cpu.ts)
    assert walked > 10


@settings(max_examples=300)
@given(st.binary(max_size=300), st.integers(0, 1 << 64), st.integers(0, 5000))
def test_damage_ends_the_walk(noise: bytes, commit: int, cut: int) -> None:
    data = (struct.pack("<QQ", SECOND, commit % (1 << 64)) + noise * 20)[:cut]
    sample = count_events(data)
    if sample is not None:
        assert 0 < sum(sample.counts.values()) <= PAGE // 8 * 2


def test_units() -> None:
    units = {unit.name: unit for unit in units_of(profile("readahead").tracepoints)}
    assert units["read"] == Unit("read", ("syscalls/sys_enter_read", "syscalls/sys_exit_read"), DEMAND)
    assert units["mm_filemap_fault"].events == ("filemap/mm_filemap_fault",)
    descriptors = [
        "close",
        "close_range",
        "creat",
        "dup",
        "dup2",
        "dup3",
        "fcntl",
        "open",
        "openat",
        "openat2",
    ]
    assert sorted(name for name, unit in units.items() if unit.rank == DESCRIPTORS) == descriptors
    tasks = ["clone", "clone3", "execve", "fork", "sched_process_exec", "sched_process_exit"]
    tasks += ["task_newtask", "task_rename", "vfork"]
    assert sorted(name for name, unit in units.items() if unit.rank == TASKS) == tasks
    events = [event for unit in units.values() for event in unit.events]
    assert sorted(events) == sorted(profile("readahead").tracepoints)  # each once


def test_half_a_pair_is_a_unit() -> None:
    (unit,) = units_of(["syscalls/sys_enter_read"])
    assert unit.events == ("syscalls/sys_enter_read",)


EVENTS = {
    "tasks": {1: "syscalls/sys_enter_read", 2: "syscalls/sys_exit_read", 3: "filemap/mm_filemap_fault"},
    "devices": {7: "block/block_rq_issue"},
}


def vitals(now: int, pages: dict[str, list[bytes]]) -> Vitals:
    def recent(instance: str, count: int) -> list[bytes]:
        return pages.get(instance, [])[-count:]

    return Vitals(now, 0, 0, 0, 0, 0, 0, 0, 0, 0, recent)


def rates(estimator: Estimator, total: float, shed: set[str] = frozenset()) -> dict[str, float]:  # type: ignore[assignment]
    gone = {unit for unit in estimator.units if unit.name in shed}
    return {unit.name: rate for unit, rate in estimator.rates(total, gone).items()}


def test_the_mix_of_an_instance() -> None:
    estimator = Estimator(EVENTS)
    pages = [mixed(10 * SECOND + n, SECOND // 100, [1, 2] * 60 + [3] * 40) for n in range(PAGES)]
    estimator.look(vitals(10 * SECOND + SECOND // 5, {"tasks": pages}))
    assert rates(estimator, 16000) == pytest.approx({"read": 12000, "mm_filemap_fault": 4000})
    assert rates(estimator, 4000, {"read"}) == pytest.approx({"mm_filemap_fault": 4000})


def test_instances_are_weighed_by_their_time() -> None:
    estimator = Estimator(EVENTS)
    pages = {
        "tasks": [mixed(10 * SECOND + n, 10_000_000, [3] * 150) for n in range(4)],  # 15,000 a second
        "devices": [mixed(10 * SECOND + n, 150_000_000, [7] * 150) for n in range(4)],  # 1,000 a second
    }
    estimator.look(vitals(10 * SECOND + SECOND // 5, pages))
    assert rates(estimator, 16000) == pytest.approx(
        {"mm_filemap_fault": 15000, "block_rq_issue": 1000}, rel=1e-3
    )


def test_what_says_nothing_of_now_is_not_used() -> None:
    old = mixed(10 * SECOND, SECOND // 100, [1, 2] * 75)
    cut_short = page(20 * SECOND, entry(1, 0) + entry(2, 100))
    foreign = bytes(range(256)) * 16
    ahead = mixed(21 * SECOND, 1000, [1, 2] * 75)
    estimator = Estimator(EVENTS)
    now = 10 * SECOND + SECOND // 100 + FRESH_NS + 1
    estimator.look(vitals(now, {"tasks": [old]}))
    estimator.look(vitals(20 * SECOND + 1000, {"tasks": [cut_short, foreign, ahead, b"", b"\0" * PAGE]}))
    blind = rates(estimator, 100)
    assert blind["read"] > blind["mm_filemap_fault"] > blind["block_rq_issue"] > 0  # what is usual
    assert sum(blind.values()) == pytest.approx(100)


def test_samples_are_forgotten_and_taken_once() -> None:
    estimator = Estimator(EVENTS)
    first = mixed(10 * SECOND, SECOND // 100, [3] * 150)
    second = mixed(12 * SECOND, SECOND // 100, [1, 2] * 75)
    estimator.look(vitals(10 * SECOND + SECOND // 10, {"tasks": [first]}))
    estimator.look(vitals(10 * SECOND + SECOND // 5, {"tasks": [first, first]}))
    assert rates(estimator, 10) == pytest.approx({"mm_filemap_fault": 10})
    estimator.look(vitals(12 * SECOND + SECOND // 10, {"tasks": [first, second]}))
    assert rates(estimator, 10) == pytest.approx({"read": 10})
