"""Crash recovery: power losses, simulated by cutting and zeroing files, and recorders that are killed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hindsight.capture import owner
from hindsight.capture.conversion.convert import convert
from hindsight.capture.conversion.decode import decode_cpu, load_words
from hindsight.capture.formats import parse_event, parse_header_page
from hindsight.capture.segments.abandoned import DAMAGED
from hindsight.capture.segments.journal import Journal, encode
from hindsight.capture.segments.recover import recover, recover_all, unsealed
from hindsight.capture.segments.segment import UNSEALED, Segment, check_facts, open_segment
from hindsight.capture.segments.unsealed import JOURNAL, OPENING, OpenSegment

PAGE = 4096
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@pytest.fixture(scope="session")
def dead() -> owner.Owner:
    """Somebody who lived on this machine and does not any more."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    lived = owner.Owner(owner.own().namespace, child.pid, owner._start_ticks(child.pid) or 0)
    assert lived.alive
    child.communicate()
    assert lived.alive is False
    return lived


@pytest.fixture(scope="session")
def source(recorded: Path) -> Segment:
    return open_segment(recorded)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory in memory where there is one: a recovery makes many small things durable."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        yield Path(name)


def opening_of(source: Segment, who: owner.Owner, boot: str = "another boot") -> dict[str, Any]:
    """What the recorder of the fixture's segment would have known at its opening."""
    facts = source.facts
    (capture,) = facts["tables"]["captures"]
    names = ("source", "events", "filters", "buffer_kb", "overwrite", "subbuffer_bytes", "stats_before")
    instances = {
        name: {key: instance[key] for key in names} | {"path": "none"}
        for name, instance in facts["instances"].items()
    }
    tables = {name: facts["tables"][name] for name in ("devices", "descriptors", "tasks")}
    return {
        "segment_version": 3,
        "capture": facts["capture"],
        "segment": 0,
        "owner": who.as_dict(),
        "boot": boot,
        **{key: facts[key] for key in ("date", "schema_version", "byteorder", "comm", "comm_key")},
        "instances": instances,
        "losses": [],
        "tables": tables
        | {
            "captures": [{**capture, "end_ns": capture["start_ns"]}],
            "clock_anchors": facts["tables"]["clock_anchors"][:1],
        },
        "out_device": [254, 0],
        "threads": [1, 2],
    }


def raws(source: Segment) -> dict[str, bytes]:
    return {name: (source.path / name).read_bytes() for name in source.files if name.startswith("raw/")}


def looks(source: Segment) -> dict[str, Any]:
    return {name: instance["stats_after"] for name, instance in source.facts["instances"].items()}


def die(source: Segment, directory: Path, who: owner.Owner, durable: dict[str, int], **options: Any) -> Path:
    """Record the fixture's segment again, up to the moment before it is sealed; ``durable``: pages synced."""
    opening = opening_of(source, who, **options)
    segment = OpenSegment(directory, source.name, opening, source.formats)
    files = {name: segment.path / name for name in raws(source)}
    for name, data in raws(source).items():
        files[name].write_bytes(data[: durable.get(name, 0) * PAGE])
    start = opening["tables"]["captures"][0]["start_ns"]
    segment.note({"kind": "look", "ts": start + 10, "stats": looks(source)})
    segment.sync()
    for name, data in raws(source).items():
        files[name].write_bytes(data)
    segment.note({"kind": "anchor", "row": source.facts["tables"]["clock_anchors"][-1]})
    segment.abandon()
    return segment.path


def committed(data: bytes) -> list[bytes]:
    """The events' bytes of each sub-buffer: what the kernel left behind them does not matter."""
    pages = [data[at : at + PAGE] for at in range(0, len(data), PAGE)]
    return [page[: 16 + (int.from_bytes(page[8:12], "little") & 0xFFFFF)] for page in pages]


def all_but_one(source: Segment) -> dict[str, int]:
    """The last sub-buffer may end in zeros and nothing behind it says that they are its own."""
    return {name: len(data) - PAGE for name, data in raws(source).items()}


def times(source: Segment, instance: str, path: Path) -> list[int]:
    layout = parse_header_page(source.formats["header_page"])
    events = source.facts["instances"][instance]["events"]
    kinds = [parse_event(e.split("/")[0], source.formats[e]) for e in events]
    return sorted(decode_cpu(0, load_words(path, layout)[0], layout, kinds).ts.tolist())


def check_sealed(sealed: Path, source: Segment, floor: dict[str, int]) -> None:
    """What was sealed is a beginning of what was recorded, per CPU; what is missing is in ``losses``."""
    segment = open_segment(sealed)
    check_facts(segment)
    assert segment.facts["closed"] == "recovered"
    for name, data in raws(source).items():
        instance, cpu = name.split("/")[1], int(name.split("/cpu")[1].removesuffix(".pages"))
        path = segment.raw(instance, cpu)
        kept = path.read_bytes() if path is not None else b""
        assert len(kept) % PAGE == 0 and len(kept) >= floor.get(name, 0)
        assert committed(kept) == committed(data)[: len(kept) // PAGE]
        if len(kept) < len(data):
            lost = times(source, instance, source.path / name)[
                len(times(source, instance, path)) if path else 0 :
            ]
            rows = [r for r in segment.facts["losses"] if (r["instance"], r["cpu"]) == (instance, cpu)]
            assert any(r["from_ns"] <= lost[0] and r["count_upper"] is None for r in rows), name
            assert {r["cause"] for r in rows} == {"truncated"}
    assert not [p for p in sealed.rglob("*") if p.name in (OPENING, JOURNAL, "reserve")]


def test_power_loss_of_nothing_loses_nothing(source: Segment, dead: owner.Owner, place: Path) -> None:
    whole = {name: len(data) // PAGE for name, data in raws(source).items()}
    die(source, place / "raw", dead, whole)
    said: list[str] = []
    (sealed,) = recover(place / "raw", said.append)
    assert sealed == place / "raw" / source.name
    assert len(said) == 1 and "power loss" in said[0]
    check_sealed(sealed, source, {name: len(data) for name, data in raws(source).items()})
    assert unsealed(place / "raw") == []
    facts = open_segment(sealed).facts
    assert facts["tables"]["clock_anchors"] == source.facts["tables"]["clock_anchors"]
    assert facts["instances"]["tasks"]["stats_after"] == {"0": None, "1": None}
    # What the ring buffers held at the end is gone and unknown: each of them says so.
    assert len(facts["losses"]) == 4
    (result,) = convert([sealed], place / "out")
    (whole_result,) = convert([source.path], place / "whole")
    assert result.events == whole_result.events
    (path,) = (place / "out").glob("host=*/date=*/losses/*.parquet")
    assert {(r["cause"], r["count_upper"]) for r in pq.read_table(path).to_pylist()} == {("truncated", None)}


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_power_loss_at_any_byte(source: Segment, dead: owner.Owner, data: st.DataObject) -> None:
    lose_power(source, dead, data)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(data=st.data())
def test_power_loss_at_many_more_bytes(source: Segment, dead: owner.Owner, data: st.DataObject) -> None:
    lose_power(source, dead, data)


def lose_power(source: Segment, dead: owner.Owner, data: st.DataObject) -> None:
    """Any file cut anywhere; beyond what was durable, the end of a raw file may be zeros as well."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        directory = Path(name)
        pages = {file: len(content) // PAGE for file, content in raws(source).items()}
        durable = {file: data.draw(st.integers(0, count), f"durable {file}") for file, count in pages.items()}
        path = die(source, directory, dead, durable)
        floor = {file: count * PAGE for file, count in durable.items()}
        files = sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())
        for victim in data.draw(
            st.lists(st.sampled_from(files), min_size=1, max_size=3, unique=True), "victims"
        ):
            size = (path / victim).stat().st_size
            length = data.draw(st.integers(0, size), f"length of {victim}")
            zeros = length >= durable.get(victim, 0) * PAGE
            os.truncate(path / victim, length)
            if zeros and data.draw(st.booleans(), "zeros"):
                os.truncate(path / victim, size)
            if victim in floor:
                floor[victim] = min(floor[victim], length // PAGE * PAGE)
            if victim == JOURNAL:
                floor = {}
        said: list[str] = []
        done = recover_all(directory, said.append)
        assert not done.failed and not done.left
        if not said:  # neither an opening, nor a journal, nor a sub-buffer: it had not begun
            assert not done.sealed and not done.aside and list(directory.iterdir()) == []
            return
        assert len(said) == 1
        if done.sealed:
            check_sealed(done.sealed[0], source, floor)
        else:
            (aside,) = done.aside
            assert aside.name.startswith(DAMAGED) and str(aside) in said[0]
            assert {"opening.json", "formats.json"} & {v.name for v in aside.iterdir()}
        assert unsealed(directory) == []
        assert recover(directory, said.append) == [] and len(said) == 1


def test_zeros_within_the_last_event(source: Segment, dead: owner.Owner, place: Path) -> None:
    """Every length of zeros in place of the end of a file: never an event that was not there."""
    name = max(raws(source), key=lambda n: len(raws(source)[n]))
    data = raws(source)[name]
    end = 2 * PAGE - (PAGE - len(committed(data)[1]))
    for length in (*range(end - 60, end - 8, 5), *range(end - 8, end + 2)):
        path = die(source, place / str(length), dead, {})
        os.truncate(path / name, length)
        os.truncate(path / name, 3 * PAGE)
        (sealed,) = recover(place / str(length), print)
        check_sealed(sealed, source, {})


def test_torn_lines_of_the_journal(source: Segment, dead: owner.Owner, place: Path) -> None:
    path = die(source, place, dead, {})
    lines = (path / JOURNAL).read_bytes().splitlines(keepends=True)
    loss = {"instance": "tasks", "cpu": 1, "event": None, "count_lower": 7, "count_upper": 7}
    start = source.facts["tables"]["captures"][0]["start_ns"]
    loss |= {"from_ns": start, "to_ns": start + 5, "cause": "ring full"}
    lines.insert(1, b"00000000 {}\n")
    lines.insert(2, b"\xff\xfe not a line of a journal\n")
    lines.insert(3, encode({"kind": "loss", "row": loss}))
    lines.insert(4, encode({"kind": "loss", "row": {"cpu": 1}}))
    lines.insert(5, encode({"kind": "unheard of"}))
    lines.append(encode({"kind": "loss", "row": {**loss, "to_ns": start + 9, "cpu": 0}})[:-1])
    (path / JOURNAL).write_bytes(b"".join(lines))
    (sealed,) = recover(place, print)
    facts = open_segment(sealed).facts
    assert [row for row in facts["losses"] if row["cause"] == "ring full"] == [loss]
    assert facts["tables"]["clock_anchors"] == source.facts["tables"]["clock_anchors"]


def test_open_intervals_end_with_the_segment(source: Segment, dead: owner.Owner, place: Path) -> None:
    path = die(source, place, dead, {})
    opening = json.loads((path / OPENING).read_text())
    start = opening["tables"]["captures"][0]["start_ns"]
    row = {"instance": None, "cpu": None, "event": "syscalls/sys_enter_read", "from_ns": start, "to_ns": None}
    row |= {"count_lower": 0, "count_upper": None, "cause": "budget shed: cpu"}
    paused = {**row, "event": None, "cause": "paused: disk"}
    opening["losses"] = [row, paused]
    (path / OPENING).write_text(json.dumps(opening))
    journal = Journal(path / JOURNAL)
    journal.append({"kind": "loss", "row": {**paused, "to_ns": start + 77}})
    journal.close()
    (sealed,) = recover(place, print)
    facts = open_segment(sealed).facts
    end = facts["tables"]["captures"][0]["end_ns"]
    known = {r["cause"]: r["to_ns"] for r in facts["losses"]}
    assert (known["budget shed: cpu"], known["paused: disk"]) == (end, start + 77)


def test_a_living_recorder_is_left_alone(source: Segment, place: Path) -> None:
    segment = OpenSegment(place, source.name, opening_of(source, owner.own()), source.formats)
    done = recover_all(place, print)
    assert [path for path, _ in done.left] == [segment.path] and not done.sealed
    segment.abandon()
    segment.discard()


def test_lock_of_a_recorder_counts_more_than_its_owner(
    source: Segment, dead: owner.Owner, place: Path
) -> None:
    """A recorder in another pid namespace cannot be seen; its lock can."""
    elsewhere = owner.Owner(dead.namespace + 1, dead.pid, dead.start_ticks)
    segment = OpenSegment(place, source.name, opening_of(source, elsewhere), source.formats)
    assert not recover(place, print) and segment.path.exists()
    segment.abandon()
    assert recover(place, print) == [segment.final]


def test_start_of_a_recording_that_left_nothing(dead: owner.Owner, place: Path) -> None:
    (place / f"{UNSEALED}x-0000").mkdir()
    done = recover_all(place, print)
    assert list(place.iterdir()) == [] and not done.aside and not done.sealed


def test_sealed_segments_are_not_touched(source: Segment, dead: owner.Owner, place: Path) -> None:
    shutil.copytree(source.path, place / source.name)
    before = {p: p.stat().st_mtime_ns for p in (place / source.name).rglob("*")}
    die(source, place, dead, {})
    done = recover_all(place, print)
    assert not done.sealed and len(done.aside) == 1  # never in place of what is there
    assert {p: p.stat().st_mtime_ns for p in (place / source.name).rglob("*")} == before
    open_segment(place / source.name)


def test_killed_while_it_sealed(source: Segment, dead: owner.Owner, place: Path) -> None:
    """The recovery itself is killed, later each time: in the end it is sealed, and nothing more is lost."""
    script = """
import sys, os, json
from pathlib import Path
steps = int(sys.argv[2])
def count(event, arguments):
    global steps
    if event in ("open", "os.rename", "os.remove", "os.chmod", "os.truncate"):
        steps -= 1
        if steps < 0:
            os.kill(os.getpid(), 9)
from hindsight.capture.segments.recover import recover
from hindsight.capture import devices, host
from hindsight.capture.segments import files, salvage
from hindsight.capture.ftrace import pages
sys.addaudithook(count)
recover(Path(sys.argv[1]), lambda text: None)
"""
    path = die(source, place, dead, {name: 1 for name in raws(source)})
    kills = 0
    while unsealed(place):
        done = subprocess.run([sys.executable, "-c", script, str(place), str(4 + 7 * kills)])
        kills += done.returncode == -9
        assert done.returncode in (0, -9)
    assert kills >= 3
    check_sealed(place / source.name, source, all_but_one(source))
    assert not path.exists()


def test_two_at_once(source: Segment, dead: owner.Owner, place: Path) -> None:
    die(source, place, dead, {})
    script = "import sys; from pathlib import Path; from hindsight.capture.segments.recover import recover\n"
    script += "print(len(recover(Path(sys.argv[1]), lambda text: None)))"
    command = [sys.executable, "-c", script, str(place)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert sorted(child.communicate()[0].strip() for child in running) == ["0", "0", "1"]
    check_sealed(place / source.name, source, all_but_one(source))


def test_power_loss_after_it_was_closed(source: Segment, dead: owner.Owner, place: Path) -> None:
    """Its recorder had said how it ended, and the kernel's counts say how much of the trace is missing."""
    path = die(source, place, dead, {name: 1 for name in raws(source)})
    facts = source.facts
    start = facts["tables"]["captures"][0]["start_ns"]
    shed = {"instance": None, "cpu": None, "event": "a/b", "from_ns": start, "to_ns": start + 1}
    shed |= {"count_lower": 0, "count_upper": None, "cause": "budget shed: rate"}
    told = {
        "closed": "rotation",
        "end_ns": facts["tables"]["captures"][0]["end_ns"],
        "stats_after": looks(source),
        "losses": [shed],
        "tables": {},
        "recorder": {k: v for k, v in facts["recorder"].items() if k.endswith(("_ns", "_bytes"))},
        "threads": [],
    }
    with contextlib.closing(Journal(path / JOURNAL)) as book:
        book.append({"kind": "closing", "closing": told})
    victim = "raw/tasks/cpu1.pages"
    os.truncate(path / victim, 3 * PAGE)
    (sealed,) = recover(place, print)
    segment = open_segment(sealed)
    assert segment.facts["closed"] == "rotation"
    assert segment.facts["instances"]["tasks"]["stats_after"] == looks(source)["tasks"]
    causes = [row["cause"] for row in segment.facts["losses"]]
    assert causes.count("budget shed: rate") == 1 and "truncated" in causes
    (result,) = convert([sealed], place / "out")
    (whole,) = convert([source.path], place / "whole")
    assert result.events < whole.events == result.events + result.lost


def test_what_the_next_segment_says_of_the_one_before(
    source: Segment, dead: owner.Owner, place: Path
) -> None:
    """The recorder died after a rotation, before it sealed: the next segment's opening ends the former."""
    path = die(source, place, dead, {})
    capture, counters = source.facts["tables"]["captures"][0], looks(source)
    loss = {"instance": "tasks", "cpu": 1, "event": None, "from_ns": capture["start_ns"]}
    loss |= {"to_ns": capture["end_ns"], "count_lower": 40, "count_upper": 40, "cause": "ring full"}
    for instance in counters.values():
        for stats in instance.values():
            stats["dropped events"] = 0
    counters["tasks"]["1"]["dropped events"] = 100
    with contextlib.closing(Journal(path / JOURNAL)) as book:
        book.append(
            {
                "kind": "loss",
                "row": {**loss, "count_lower": 55, "count_upper": 55, "to_ns": loss["from_ns"] + 1},
            }
        )
        book.append({"kind": "loss", "row": {**loss, "from_ns": loss["from_ns"] + 5}})
    carried = {**loss, "from_ns": loss["from_ns"] + 5}
    opening = {**opening_of(source, dead), "segment": 1, "prepared": True}
    following = OpenSegment(place, source.name[:-1] + "1", opening, source.formats)
    idle = OpenSegment(place, source.name[:-1] + "2", {**opening, "segment": 2}, source.formats)
    following.note(
        {
            "kind": "opened", "ts": capture["end_ns"], "captures": {**capture, "start_ns": capture["end_ns"]},
            "anchor": source.facts["tables"]["clock_anchors"][-1], "stats_before": counters,
            "losses": [carried], "threads": [5],
        }
    )  # fmt: skip
    following.abandon()
    idle.abandon()
    first, second = recover(place, print)
    assert sorted(p.name for p in place.iterdir()) == [first.name, second.name]  # nothing of the idle one
    former, latter = open_segment(first).facts, open_segment(second).facts
    assert former["instances"]["tasks"]["stats_after"] == latter["instances"]["tasks"]["stats_before"]
    assert former["tables"]["captures"][0]["end_ns"] == latter["tables"]["captures"][0]["start_ns"]

    def known(facts: dict[str, Any]) -> list[tuple[int, int]]:
        rows = [row for row in facts["losses"] if row["cause"] == "ring full"]
        return sorted((row["count_lower"], row["count_upper"]) for row in rows)

    # Of 100 that were lost, 55 are noted, 40 are with the next segment, and 5 nobody had noted yet.
    assert known(former) == [(0, 40), (5, 5), (55, 55)]
    assert known(latter) == [(40, 40)]
