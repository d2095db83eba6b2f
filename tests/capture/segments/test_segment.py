"""Segments on disk: laid out, made durable, sealed; and read whatever their files hold."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hindsight.capture import devices, owner
from hindsight.capture.formats import parse_event
from hindsight.capture.segments import journal
from hindsight.capture.segments.checksum import checksum
from hindsight.capture.segments.facts import build_facts, check_facts
from hindsight.capture.segments.files import find_inodes
from hindsight.capture.segments.recover import recover
from hindsight.capture.segments.segment import FACTS, FORMATS, MANIFEST, find_segments, open_segment
from hindsight.capture.segments.unsealed import JOURNAL, MAX_FILE_ROWS, OPENING, RESERVE, OpenSegment
from hindsight.errors import ConfigurationError, HindsightError, VerificationError

COUNTERS = {
    "entries": 0,
    "overrun": 0,
    "commit overrun": 0,
    "dropped events": 0,
    "read events": 0,
    "bytes": 0,
}


def opening(**changes: Any) -> dict[str, Any]:
    instance = {
        "source": "ftrace",
        "path": "none",
        "events": ["readahead/page_cache_sync_ra"],
        "filters": {},
        "buffer_kb": 64,
        "overwrite": False,
        "subbuffer_bytes": 4096,
        "stats_before": {"0": COUNTERS, "1": COUNTERS},
    }
    row = {"capture": "20261123T000000Z-01234567", "host": "0123456789ab", "program": "cat"}
    row |= {"start_ns": 1000, "end_ns": 1000}
    return {
        "segment_version": 3,
        "capture": row["capture"],
        "segment": 0,
        "owner": owner.own().as_dict(),
        "boot": "0123456789ab",
        "date": "2026-11-23",
        "schema_version": 1,
        "byteorder": "little",
        "comm": "hashed",
        "comm_key": "00",
        "instances": {"tasks": instance},
        "losses": [],
        "tables": {
            "captures": [row],
            "clock_anchors": [{"ts": 1000, "realtime_ns": 1, "boottime_ns": 2, "bracket_ns": 3}],
            "devices": [],
            "descriptors": [],
            "tasks": [{"ts": 1000, "pid": 1, "tgid": 1, "comm": "cat"}],
        },
        "out_device": [8, 1],
        "threads": [4, 2],
        **changes,
    }


def closing(**changes: Any) -> dict[str, Any]:
    after = {**COUNTERS, "read events": 5}
    return {
        "closed": "end",
        "end_ns": 9000,
        "stats_after": {"tasks": {"0": after, "1": None}},
        "losses": [],
        "tables": {"clock_anchors": [{"ts": 9000, "realtime_ns": 1, "boottime_ns": 2, "bracket_ns": 3}]},
        "recorder": {"from_ns": 1000, "to_ns": 9000, "cpu_ns": 7, "raw_bytes": 0, "peak_rss_bytes": 8},
        "threads": [4, 9],
        **changes,
    }


@pytest.fixture(scope="session")
def formats(recorded: Path) -> dict[str, str]:
    return open_segment(recorded).formats


@pytest.fixture
def segment(recorded: Path, tmp_path: Path) -> Path:
    """A copy of the recorded segment to be altered."""
    return Path(shutil.copytree(recorded, tmp_path / "raw" / recorded.name))


def names(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def test_from_opening_to_seal(tmp_path: Path, formats: dict[str, str]) -> None:
    os.umask(previous := os.umask(0))
    os.umask(0)
    try:
        segment = OpenSegment(tmp_path / "new" / "raw", "x-0000", opening(), formats)
    finally:
        os.umask(previous)
    assert names(segment.path) == {OPENING, FORMATS, JOURNAL, RESERVE}
    assert segment.path.name == ".recording-x-0000" and segment.final == tmp_path / "new/raw/x-0000"
    assert os.stat(segment.path / RESERVE).st_blocks * 512 >= 1 << 20
    raw = segment.raw_directory("tasks")
    assert raw.is_dir()
    (raw / "cpu0.pages").write_bytes(b"x" * 8192)
    (raw / "cpu1.pages").write_bytes(b"")
    anchor = {"ts": 5000, "realtime_ns": 1, "boottime_ns": 2, "bracket_ns": 3}
    segment.note({"kind": "anchor", "row": anchor})
    segment.sync()
    final = segment.seal(closing())
    assert final == segment.final and not segment.path.exists()
    assert names(final) == {MANIFEST, FACTS, FORMATS, "raw/tasks/cpu0.pages"}
    sealed = open_segment(final)
    check_facts(final, sealed.facts)
    assert sealed.raw("tasks", 0) == final / "raw/tasks/cpu0.pages" and sealed.raw("tasks", 1) is None
    assert [row["ts"] for row in sealed.facts["tables"]["clock_anchors"]] == [1000, 5000, 9000]
    assert sealed.facts["recorder"]["threads"] == [2, 4, 9]
    assert sealed.facts["tables"]["captures"][0]["end_ns"] == 9000
    assert sealed.facts["instances"]["tasks"]["stats_after"]["1"] is None
    everything = [final, *final.rglob("*")]
    assert {stat.S_IMODE(p.stat().st_mode) for p in everything if p.is_dir()} == {0o700}
    assert {stat.S_IMODE(p.stat().st_mode) for p in everything if p.is_file()} == {0o600}


def test_discard_leaves_nothing(tmp_path: Path, formats: dict[str, str]) -> None:
    segment = OpenSegment(tmp_path, "x-0000", opening(), formats)
    segment.discard()
    assert list(tmp_path.iterdir()) == []
    segment.discard()


def test_where_nothing_can_be_written(tmp_path: Path, formats: dict[str, str]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        OpenSegment(tmp_path / "file" / "raw", "x-0000", opening(), formats)
    OpenSegment(tmp_path, "x-0000", opening(), formats).abandon()
    with pytest.raises(ConfigurationError, match="File exists"):
        OpenSegment(tmp_path, "x-0000", opening(), formats)


def test_a_look_notes_what_changed(tmp_path: Path, formats: dict[str, str]) -> None:
    segment = OpenSegment(tmp_path, "x-0000", opening(), formats)
    counters = {0: {"read events": 1}, 1: {"read events": 2}}
    for ts, value in ((1, 1), (2, 1), (3, 7)):
        counters[0]["read events"] = value
        segment.note({"kind": "look", "ts": ts, "stats": {"tasks": counters}})
    stats = [entry["stats"] for entry in journal.read(segment.path / JOURNAL)]
    both = {"tasks": {"0": {"read events": 1}, "1": {"read events": 2}}}
    assert stats == [both, {}, {"tasks": {"0": {"read events": 7}}}]
    segment.discard()


def test_sync_notes_what_is_durable(tmp_path: Path, formats: dict[str, str]) -> None:
    segment = OpenSegment(tmp_path, "x-0000", opening(), formats)
    path = segment.raw_directory("tasks") / "cpu0.pages"
    for pages in (1, 3):
        path.write_bytes(b"x" * 4096 * pages)
        segment.sync()
    noted = [entry["bytes"] for entry in journal.read(segment.path / JOURNAL) if entry["kind"] == "synced"]
    assert noted == [{"raw/tasks/cpu0.pages": 4096}, {"raw/tasks/cpu0.pages": 12288}]
    segment.discard()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting needs root")
    where = tmp_path / "small"
    where.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3M", "tmpfs", where], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", where], check=True)


def fill(directory: Path) -> Path:
    """A file that takes what space there is."""
    path = directory / "filler"
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError as error:
            assert error.errno == errno.ENOSPC
    return path


def test_full_disk_can_still_seal(small: Path, formats: dict[str, str]) -> None:
    segment = OpenSegment(small, "x-0000", opening(), formats)
    (segment.raw_directory("tasks") / "cpu0.pages").write_bytes(b"x" * 4096)
    fill(small)
    with pytest.raises(OSError, match="No space"):
        for ts in range(100_000):
            segment.note({"kind": "anchor", "row": {"ts": ts}})
    segment._kept.clear()
    open_segment(segment.seal(closing()))


def test_no_space_for_sealing_loses_nothing(small: Path, formats: dict[str, str]) -> None:
    """It stays as it is, and is sealed when there is space: by the recorder, or after its death."""
    many = [{"ts": 1, "pid": i, "tgid": i, "comm": "x" * 400} for i in range(2500)]
    for name in ("x-0000", "x-0001"):
        segment = OpenSegment(small, name, opening(segment=int(name[-1])), formats)
        (segment.raw_directory("tasks") / "cpu0.pages").write_bytes(b"x" * 4096)
        segment.sync()
        filler = fill(small)
        told = closing(tables={"tasks": many}, losses=[])
        with pytest.raises(HindsightError, match="could not be sealed: No space") as raised:
            segment.seal(told)
        assert "Make space" in str(raised.value.remedy) and "capture clean" in str(raised.value.remedy)
        assert segment.path.exists() and not segment.final.exists()
        filler.unlink()
        if name == "x-0000":
            segment.seal(told)
        else:
            segment.abandon()
            path = segment.path / OPENING
            dead = {"namespace": 1, "pid": 1, "start_ticks": 1}
            path.write_text(json.dumps({**json.loads(path.read_text()), "owner": dead}))
            assert recover(small, print) == [segment.final]
        sealed = open_segment(segment.final)
        assert sealed.facts["closed"] == "end" or name == "x-0001"
        assert sealed.raw("tasks", 0) is not None
        shutil.rmtree(segment.final)


def test_facts_of_what_was_opened_and_closed() -> None:
    loss = {"instance": "tasks", "cpu": 0, "event": None, "from_ns": 5, "to_ns": 6}
    loss |= {"count_lower": 1, "count_upper": None, "cause": "ring full"}
    rows = [{"dev_major": 8}]
    late = {**loss, "from_ns": 1, "cpu": None, "instance": None}
    facts = build_facts(opening(), [], closing(losses=[loss, late], tables={"devices": rows}))
    assert facts["losses"] == [late, loss]
    assert facts["tables"]["devices"] == rows
    check_facts(Path(), facts)


BAD_FACTS = {
    "no losses": lambda f: f.pop("losses"),
    "losses of no instance": lambda f: f["losses"].append({**LOSS, "instance": "other"}),
    "a loss that is negative": lambda f: f["losses"].append({**LOSS, "count_lower": -1}),
    "bounds that cross": lambda f: f["losses"].append({**LOSS, "count_upper": 0}),
    "a time beyond 64 bits": lambda f: f["losses"].append({**LOSS, "to_ns": 1 << 70}),
    "a loss that is none": lambda f: f["losses"].append(7),
    "unknown source": lambda f: f["instances"]["tasks"].update(source="ktap"),
    "instance that is a path": lambda f: f["instances"].update({"../x": f["instances"]["tasks"]}),
    "no counters": lambda f: f["instances"]["tasks"].update(stats_before=None),
    "counters of no CPU": lambda f: f["instances"]["tasks"]["stats_after"].update(x={"read events": 1}),
    "CPU beyond 16 bits": lambda f: f["instances"]["tasks"]["stats_after"].update({"65536": None}),
    "a truth for a number": lambda f: f["instances"]["tasks"]["stats_after"]["0"].update(
        {"read events": True}
    ),
    "a fraction": lambda f: f["instances"]["tasks"].update(buffer_kb=1.5),
    "huge sub-buffers": lambda f: f["instances"]["tasks"].update(subbuffer_bytes=1 << 40),
    "sub-buffers that are no pages": lambda f: f["instances"]["tasks"].update(subbuffer_bytes=4095),
    "event twice": lambda f: f["instances"]["tasks"]["events"].extend(["a/b", "a/b"]),
    "no recorder": lambda f: f.pop("recorder"),
    "device of one number": lambda f: f["recorder"].update(out_device=[1]),
    "closed in an unknown way": lambda f: f.update(closed="lunch"),
    "segment that is negative": lambda f: f.update(segment=-1),
    "another capture": lambda f: f.update(capture="other"),
    "no time": lambda f: f["tables"]["captures"][0].pop("end_ns"),
    "table that is none": lambda f: f["tables"].update(tasks={}),
    "facts that are none": lambda f: f.clear(),
}
LOSS = {"instance": None, "cpu": None, "event": None, "from_ns": 1, "to_ns": 2}
LOSS |= {"count_lower": 1, "count_upper": 1, "cause": "paused: disk"}


@pytest.mark.parametrize("damage", BAD_FACTS)
def test_damaged_facts_are_refused(recorded: Path, damage: str) -> None:
    facts = open_segment(recorded).facts
    check_facts(recorded, {**facts, "losses": [LOSS]})
    BAD_FACTS[damage](facts)
    with pytest.raises(VerificationError, match="facts are damaged"):
        check_facts(recorded, facts)


def list_file(segment: Path, name: str, data: bytes = b"") -> None:
    manifest = json.loads((segment / MANIFEST).read_text())
    manifest["files"][name] = {"bytes": len(data), "crc32": checksum(data)}
    (segment / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../other/facts.json", "raw/../facts.json", "raw/tasks/../../x", "raw//tasks/cpu0.pages",
     "raw/tasks/cpu0.pages/", "raw/tasks/cpu00.pages", "raw/tasks/cpu1.txt", "manifest.json", "", "\0",
     "raw/Tasks/cpu7.pages"],
)  # fmt: skip
def test_names_that_no_segment_has(segment: Path, name: str) -> None:
    list_file(segment, name)
    with pytest.raises(VerificationError, match="it names"):
        open_segment(segment)


@pytest.mark.parametrize("what", ["file", "directory"])
def test_links_are_refused(segment: Path, tmp_path: Path, what: str) -> None:
    victim = segment / "raw/tasks/cpu0.pages" if what == "file" else segment / "raw/tasks"
    victim.rename(tmp_path / "moved")
    victim.symlink_to(tmp_path / "moved")
    with pytest.raises(VerificationError, match=r"symbolic link|cannot be read"):
        open_segment(segment)


def test_a_pipe_in_place_of_a_file_does_not_hang(segment: Path) -> None:
    for name in (FACTS, MANIFEST, "raw/tasks/cpu0.pages"):
        (segment / name).rename(segment / "kept")
        os.mkfifo(segment / name)
        with pytest.raises(VerificationError, match="cannot be read"):
            open_segment(segment)
        (segment / name).unlink()
        (segment / "kept").rename(segment / name)
    open_segment(segment)


def test_what_is_too_large_is_not_read(segment: Path) -> None:
    os.truncate(segment / MANIFEST, 1 << 40)
    with pytest.raises(VerificationError, match="larger than 64 MiB"):
        open_segment(segment)


@pytest.mark.parametrize(
    "text", ["[" * 200_000, "NaN", "1" * 5000, '{"a": Infinity}', "\ud800", "null", '"x"']
)
def test_json_that_is_none(segment: Path, text: str) -> None:
    for name in (MANIFEST, FACTS, FORMATS):
        data = text.encode("utf-8", "surrogatepass")
        kept = (segment / name).read_bytes()
        (segment / name).write_bytes(data)
        with pytest.raises(VerificationError):
            open_segment(segment, verify=False)
        (segment / name).write_bytes(kept)


def test_hidden_and_unsealed_segments_are_not_found(segment: Path) -> None:
    for name in (".recording-y-0000", ".damaged-z-0000"):
        shutil.copytree(segment, segment.parent / name)
    assert find_segments([segment.parent]) == [segment]


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_journal_of_any_content(data: st.DataObject) -> None:
    """Whole lines are read whatever is around them; what is torn is left out; nothing is made up."""
    entry = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=9), max_size=4)
    noise = st.binary(max_size=40).map(lambda b: b.replace(b"\n", b"") + b"\n")
    parts = data.draw(st.lists(entry | noise, max_size=8))
    lines = [part if isinstance(part, bytes) else journal.encode(part) for part in parts]
    whole = [part for part in parts if not isinstance(part, bytes)]
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"".join(lines))
        file.flush()
        assert list(journal.read(Path(file.name))) == whole
        length = data.draw(st.integers(0, file.tell()))
        os.truncate(file.name, length)
        found = list(journal.read(Path(file.name)))
        assert found == whole[: len(found)]
        longer = journal.Journal(Path(file.name))
        longer.append({"more": 1})
        longer.close()
        # A line that lacked its end alone has got it.
        assert list(journal.read(Path(file.name))) in [
            [*whole[: len(found) + more], {"more": 1}] for more in (0, 1)
        ]


def test_lines_that_are_too_long_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "MAX_LINE", 64)
    path = tmp_path / "journal"
    first, last = {"kind": "first"}, {"kind": "last"}
    path.write_bytes(
        journal.encode(first) + journal.encode({"x": "y" * 500}) + b"\0" * 1000 + b"\n" + journal.encode(last)
    )
    assert list(journal.read(path)) == [first, last]


def test_inodes_are_those_that_decoding_finds(recorded: Path, tmp_path: Path) -> None:
    """A superset of what the decoder finds, in windows of any size, whatever bytes the id has."""
    import numpy as np

    from hindsight.capture.conversion.decode import decode_cpu, load_words
    from hindsight.capture.formats import parse_header_page

    segment = open_segment(recorded)
    layout = parse_header_page(segment.formats["header_page"])
    kinds = [
        parse_event(e.split("/")[0], segment.formats[e])
        for e in segment.facts["instances"]["tasks"]["events"]
    ]
    checked = 0
    for name in ("page_cache_sync_ra", "page_cache_async_ra", "mm_filemap_get_pages"):
        (number,) = [i for i, kind in enumerate(kinds) if kind.name == name]
        kind = kinds[number]
        ino, dev = kind.fields["i_ino"].offset, kind.fields["s_dev"].offset
        for cpu in (0, 1):
            path = segment.raw("tasks", cpu)
            assert path is not None
            events = decode_cpu(cpu, load_words(path, layout)[0], layout, kinds)
            data = path.read_bytes()
            seen = set()
            for at in np.asarray(events.at[events.first[number] : events.first[number + 1]]).tolist():
                word = int.from_bytes(data[4 * at + dev : 4 * at + dev + 4], "little")
                seen.add(
                    (
                        (word >> 20, word & 0xFFFFF),
                        int.from_bytes(data[4 * at + ino : 4 * at + ino + 8], "little"),
                    )
                )
            wanted = {device for device, _ in seen}
            assert find_inodes(path, [(kind.id, ino, dev)], wanted, 4096) >= seen
            # The same with an id whose bytes are everywhere.
            other = data.replace(kind.id.to_bytes(2, "little"), b"\0\0")
            (tmp_path / "other").write_bytes(other)
            assert find_inodes(tmp_path / "other", [(0, ino, dev)], wanted, 4096) >= seen
            checked += len(seen)
    assert checked > 5
    assert find_inodes(path, [(kind.id, ino, dev)], [], 4096) == set()
    assert devices.mounts() and MAX_FILE_ROWS * 200 < 64 << 20
