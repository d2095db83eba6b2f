"""Perf records: decoded like a decoder in plain Python, whatever the bytes are."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hindsight.capture.conversion.decode import CpuEvents
from hindsight.capture.conversion.events import InstanceTrace
from hindsight.capture.conversion.reconcile import UNSAMPLED, Decoded, reconcile
from hindsight.capture.conversion.workers import Workers
from hindsight.capture.formats import EventFormat, Field
from hindsight.capture.hiding import Hidden
from hindsight.capture.perf import records
from hindsight.capture.perf.blocks import as_subbuffer, count_samples
from hindsight.capture.perf.inodes import RecordScan
from hindsight.capture.perf.records import RecordDecoder, decode_records, index_records
from hindsight.capture.perf.salvage import trusted_records
from hindsight.capture.perf.scrub import scrub_records
from hindsight.capture.recording.rates import count_events
from hindsight.capture.segments.checksum import checksum
from hindsight.errors import VerificationError

SAMPLE, LOST, THROTTLE = 9, 2, 5


def kind(number: int, payload: int) -> EventFormat:
    return EventFormat(
        "test", f"event{number}", number, {"common_type": Field("common_type", "u16", 0, payload, False)}
    )


KINDS = [kind(700, 8), kind(9, 4), kind(65535, 40)]
NEED = {700: 8, 9: 4, 65535: 40}


def sample(number: int, ts: int, payload: int, filler: bytes = b"\xaa") -> bytes:
    """A sample as the kernel writes it: its size is a multiple of 8, the raw data is padded up to that."""
    raw = struct.pack("<H", number) + filler * (payload - 2)
    raw += b"\0" * (-(28 + len(raw)) % 8)
    return struct.pack("<IHHQQI", SAMPLE, 1, 28 + len(raw), 77, ts, len(raw)) + raw


def other(kind_of_record: int, body: bytes) -> bytes:
    body += b"\0" * (-len(body) % 8)
    return struct.pack("<IHH", kind_of_record, 0, 8 + len(body)) + body


Reference = dict[int, list[tuple[int, int]]]


def reference(data: bytes) -> tuple[Reference, int, int, bool]:
    """By id: (time, payload position); unusable samples; bytes of whole records; whether damage follows."""
    found: Reference = {k.id: [] for k in KINDS}
    at, unusable = 0, 0
    while at + 8 <= len(data) // 4 * 4:
        record, _, size = struct.unpack_from("<IHH", data, at)
        if size < 8 or size % 8:
            return found, unusable, at, True
        if at + size > len(data) // 4 * 4:
            break
        if record == SAMPLE:
            good = False
            if size >= 32:
                ts, length, number = struct.unpack_from("<QIH", data, at + 16)
                payload = length // 4 * 4
                good = (
                    0 < payload <= size - 28
                    and number in found
                    and payload >= (NEED[number] + 3) // 4 * 4
                    and ts < 1 << 63
                )
                if good:
                    found[number].append((ts, at + 28))
            unusable += not good
        at += size
    return found, unusable, at, False


def rows(events: CpuEvents) -> Reference:
    return {
        k.id: list(
            zip(events.ts[events.span(n)].tolist(), (events.at[events.span(n)] * 4).tolist(), strict=True)
        )
        for n, k in enumerate(KINDS)
    }


def words(data: bytes) -> np.ndarray:
    return np.frombuffer(data[: len(data) // 4 * 4], "<u4")


samples = st.builds(
    sample,
    st.sampled_from([700, 9, 65535, 4]),
    st.one_of(st.integers(0, 2000), st.integers(0, (1 << 64) - 1)),
    st.integers(2, 120),
)
others = st.builds(other, st.sampled_from([LOST, THROTTLE, 6, 77]), st.binary(max_size=40))
streams = st.lists(st.one_of(samples, others), max_size=60).map(b"".join)


@st.composite
def damaged(draw: Any) -> bytes:
    data = bytearray(draw(streams) + draw(st.binary(max_size=40)))
    for _ in range(draw(st.integers(0, 4))):
        if data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))])


@given(streams)
@settings(deadline=None, max_examples=150)
def test_same_as_plain_python(data: bytes) -> None:
    found, unusable, used, bad = reference(data)
    assert (used, bad) == (len(data), False)
    events = decode_records(3, words(data), KINDS)
    assert rows(events) == found
    assert events.unusable == unusable == sum(p.count or 0 for p in events.problems)


@given(damaged())
@settings(deadline=None, max_examples=400)
def test_any_bytes(data: bytes) -> None:
    found, unusable, used, bad = reference(data)
    events = decode_records(0, words(data), KINDS)
    assert rows(events) == found
    assert events.unusable == unusable
    incomplete = used < len(data) // 4 * 4
    assert any(p.count is None for p in events.problems) == incomplete
    assert ("records are damaged" in [p.detail for p in events.problems]) == bad


@given(st.binary(max_size=400))
@settings(deadline=None, max_examples=200)
def test_random_bytes(data: bytes) -> None:
    assert rows(decode_records(0, words(data), KINDS)) == reference(data)[0]


def written(tmp_path: Path, data: bytes) -> dict[str, object]:
    (tmp_path / "raw/tasks").mkdir(parents=True, exist_ok=True)
    (tmp_path / "raw/tasks/cpu0.perf").write_bytes(data)
    return {"bytes": len(data), "crc32": checksum(data)}


def indexed(tmp_path: Path, data: bytes) -> records.RawIndex:
    expected = written(tmp_path, data)
    return index_records(0, tmp_path, "raw/tasks/cpu0.perf", expected, RecordDecoder(KINDS))


@given(damaged(), st.integers(8, 400), st.integers(0, 3))
@settings(deadline=None, max_examples=60)
def test_in_slices(tmp_path_factory: pytest.TempPathFactory, data: bytes, block: int, spare: int) -> None:
    """Indexed in small pieces and decoded in small slices, the rows are the same, in order of time."""
    directory = tmp_path_factory.mktemp("perf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "_PIECE_BYTES", 65536 + spare)
        patch.setattr(RecordDecoder.count, "__defaults__", (block,))
        index = indexed(directory, data)
        found, unusable, used, bad = reference(data)
        assert index.unusable == unusable
        assert index.events == sum(map(len, found.values()))
        assert int(index.offset[-1]) == used
        assert any(p.count is None for p in index.problems) == (bad or used < len(data))
        times: dict[int, list[int]] = {k.id: [] for k in KINDS}
        trace = InstanceTrace("tasks", [], [index])
        for part, _ in trace.slices(Workers(1), 300):
            for events in part.cpus:
                for number, k in enumerate(KINDS):
                    here = events.ts[events.span(number)]
                    times[k.id] += np.sort(here).tolist()
                    ids = events.words[events.at[events.span(number)]] & 0xFFFF
                    assert (ids == k.id).all()
    assert times == {number: sorted(ts for ts, _ in entries) for number, entries in found.items()}


def test_large_file(tmp_path: Path) -> None:
    """Records that straddle the pieces in which a file is read."""
    rng = np.random.default_rng(5)
    data = b"".join(sample([700, 9, 65535][i % 3], i, int(rng.integers(40, 500))) for i in range(20_000))
    index = indexed(tmp_path, data)
    assert len(index.low) > 20 and index.events == 20_000 and not index.problems
    assert (index.low[1:] > index.high[:-1]).all()


def test_altered_file(tmp_path: Path) -> None:
    data = sample(9, 1, 8)
    expected = written(tmp_path, data)
    (tmp_path / "raw/tasks/cpu0.perf").write_bytes(sample(9, 2, 8))
    with pytest.raises(VerificationError, match="checksum"):
        index_records(0, tmp_path, "raw/tasks/cpu0.perf", expected, RecordDecoder(KINDS))


@given(streams, st.data())
@settings(deadline=None, max_examples=80)
def test_cut_by_power_loss(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, drawn: st.DataObject
) -> None:
    """Cut, or continued with zeros, anywhere beyond what was durable: only true, whole records count."""
    at, ends = 0, [0]
    while at < len(data):
        at += struct.unpack_from("<H", data, at + 6)[0]
        ends.append(at)
    durable = drawn.draw(st.sampled_from(ends))
    length = drawn.draw(st.integers(durable, len(data)))
    zeros = drawn.draw(st.sampled_from([0, 0, 1, 8, 64, 5000]))
    # Zeros that end just where the cut record would have ended cannot be told from its own.
    assume(length in ends or length + zeros not in ends)
    file = tmp_path_factory.mktemp("cut") / "file"
    file.write_bytes(data[:length] + bytes(zeros))
    good, last = trusted_records(file, durable)
    found = reference(data[:good])[0]
    assert good in ends
    assert data[:length] + bytes(zeros) == data[:good] + (data[:length] + bytes(zeros))[good:]
    times = [ts for entries in found.values() for ts, _ in entries]
    assert not times or (last is not None and last >= max(times))
    if all(
        struct.unpack_from("<Q", data, e + 16)[0] in range(1, 1 << 63) for e in ends[:-1] if data[e] == SAMPLE
    ):
        assert good >= durable
        whole = max(end for end in ends if end <= length)
        if not zeros and any(data[max(whole - 8, 0) : whole]):
            assert good == whole


def test_killed_in_the_middle_of_a_write(tmp_path: Path) -> None:
    file = tmp_path / "file"
    one, two = sample(9, 500, 8), sample(700, 900, 3000)
    for cut_at in range(len(two)):
        file.write_bytes(one + two[:cut_at])
        assert trusted_records(file, len(one) + cut_at) == (len(one), 500)
    file.write_bytes((one + two) * 1000)  # several windows
    assert trusted_records(file, 0) == (1000 * len(one + two), 900)


def test_inodes() -> None:
    """Wherever the records lie in the windows."""
    device = struct.pack("<I", 8 << 20 | 1)
    raw = b"\xbc\x02" + bytes(6) + struct.pack("<Q", 4711) + device
    record = struct.pack("<IHHQQI", SAMPLE, 1, 48, 7, 9, len(raw)) + raw
    for lead in (0, 8, 1 << 20, (1 << 20) - 8, (1 << 20) - 24, (1 << 20) - 32, (1 << 20) - 40):
        scan = RecordScan([(700, 8, 16)], [(8, 1)])
        data = bytes(lead) + record + bytes(100)
        for at in range(0, len(data), scan.window_bytes):
            scan.feed(data[at : at + scan.window_bytes])
        assert ((8, 1), 4711) in scan.inodes


@given(
    st.lists(st.tuples(st.sampled_from([700, 9]), st.integers(10**9, 10**12), st.integers(2, 60)), min_size=1)
)
@settings(deadline=None, max_examples=50)
def test_shown_as_a_subbuffer(events: list[tuple[int, int, int]]) -> None:
    """What estimates rates reads the same mix and the same span from the records."""
    block = b"".join(sample(*event) for event in events)
    seen = count_events(as_subbuffer(block + other(LOST, b"x" * 16) + block[:20]))
    assert seen is not None
    assert seen.counts == {n: sum(e[0] == n for e in events) for n in {e[0] for e in events}}
    assert (seen.first_ns, seen.last_ns) == (min(e[1] for e in events), max(e[1] for e in events))
    assert as_subbuffer(block[:20]) == b""


def test_count_samples(tmp_path: Path) -> None:
    data = b"".join(
        sample(9, i, 8 + i % 900) + (other(LOST, bytes(16)) if i % 7 == 0 else b"") for i in range(5000)
    )
    file = tmp_path / "file"
    file.write_bytes(data)
    descriptor = os.open(file, os.O_RDONLY)
    try:
        assert count_samples(descriptor, 0, len(data)) == 5000
        assert count_samples(descriptor, len(sample(9, 0, 8)) + 24, len(data)) == 4999
    finally:
        os.close(descriptor)


@given(damaged())
@settings(deadline=None, max_examples=150)
def test_hidden_fields_are_zeroed(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Only they, only in events of that kind, wherever the record lies; damage ends it."""
    file = tmp_path_factory.mktemp("scrub") / "file"
    file.write_bytes(data)
    expected, events, at = bytearray(data), 0, 0
    while at + 8 <= len(data):
        record, _, size = struct.unpack_from("<IHH", data, at)
        if size < 8 or size % 8 or at + size > len(data):
            break
        if record == SAMPLE and size >= 36 and struct.unpack_from("<H", data, at + 28)[0] == 700:
            events += any(expected[at + 32 : at + 36])
            expected[at + 32 : at + 36] = bytes(4)
        at += size
    assert scrub_records(file, [Hidden(700, 4, 4)], bytes) == events
    assert file.read_bytes() == expected


def test_hidden_fields_of_a_large_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    rng = np.random.default_rng(3)
    parts = [sample([700, 9, 65535][i % 3], i, 8 + 4 * int(rng.integers(0, 40))) for i in range(40_000)]
    file.write_bytes(b"".join(parts))
    changed = scrub_records(file, [Hidden(700, 4, 4)], bytes)
    assert changed == sum(1 for i, p in enumerate(parts) if i % 3 == 0 and any(p[32:36]))
    zeroed = b"".join(p[:32] + bytes(4) + p[36:] if i % 3 == 0 else p for i, p in enumerate(parts))
    assert file.read_bytes() == zeroed
    assert scrub_records(file, [], bytes) == 0
    with pytest.raises(ValueError, match="destroy"):
        scrub_records(file, [Hidden(700, 0, 4)], bytes)


@pytest.mark.parametrize(("source", "cause"), [("perf", UNSAMPLED), ("ftrace", "decode error")])
def test_counted_and_not_sampled(source: str, cause: str) -> None:
    """What perf counted and did not write is a loss of its own kind, exact for each processor."""
    counters = {"read events": 100, "dropped events": 0}
    facts = {
        "closed": "end",
        "losses": [],
        "instances": {
            "devices": {
                "source": source,
                "stats_before": {"0": dict.fromkeys(counters, 0), "1": dict.fromkeys(counters, 0)},
                "stats_after": {"0": counters, "1": counters},
            }
        },
        "tables": {"captures": [{"start_ns": 5, "end_ns": 9}]},
    }
    decoded = [Decoded("devices", 0, 100), Decoded("devices", 1, 34)]
    (row,) = reconcile(Path("segment"), facts, decoded)
    assert (row["cpu"], row["count_lower"], row["count_upper"], row["cause"]) == (1, 66, 66, cause)
    assert (row["from_ns"], row["to_ns"]) == (5, 9)
