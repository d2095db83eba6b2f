"""Conversion of a recorded segment, and what bad input leads to."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
import reshape
from reshape import alter_facts, reseal

from hindsight.capture.conversion.convert import convert
from hindsight.capture.conversion.info import describe
from hindsight.capture.schema import TABLES, arrow_schema
from hindsight.capture.segments.segment import FACTS, MANIFEST
from hindsight.command import main
from hindsight.errors import ConfigurationError, ExitCode, VerificationError

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def hindsight(capsys: pytest.CaptureFixture[str]) -> Run:
    """The command, in this process (numba and pyarrow are loaded already)."""

    def run(*args: object) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        status = main([*map(str, args)])
        said = capsys.readouterr()
        return subprocess.CompletedProcess([str(a) for a in args], status, said.out, said.err)

    return run


@pytest.fixture(scope="module")
def dataset(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorded segment, converted. Do not write to it."""
    out = tmp_path_factory.mktemp("converted") / "out"
    convert([recorded], out)
    return out


@pytest.fixture
def segment(recorded: Path, tmp_path: Path) -> Path:
    """A copy of the recorded segment to be altered."""
    return Path(shutil.copytree(recorded, tmp_path / "raw" / recorded.name))


def largest(segment: Path) -> Path:
    return max(segment.rglob("*.pages"), key=lambda path: path.stat().st_size)


def losses(out: Path) -> list[dict[str, Any]]:
    (path,) = out.glob("host=*/date=*/losses/*.parquet")
    return pq.read_table(path).to_pylist()


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()
    }


def test_files_have_the_schema(recorded: Path, dataset: Path) -> None:
    files = list(dataset.rglob("*.parquet"))
    assert len(files) > 85
    for path in files:
        name = path.parent.name
        assert path.stem == recorded.name
        assert path.parent.parent.name == "date=2026-11-23"
        schema = pq.read_schema(path)
        assert schema.equals(arrow_schema(name), check_metadata=True), name
        assert pq.read_metadata(path).num_rows > 0
        if TABLES[name].tracepoint:
            ts = pq.read_table(path)["ts"].to_pylist()
            assert ts == sorted(ts)
    columns = pq.read_metadata(dataset.rglob("sys_enter_read/*.parquet").__next__()).row_group(0)
    assert "DELTA_BINARY_PACKED" in columns.column(0).encodings
    assert "BYTE_STREAM_SPLIT" in columns.column(2).encodings
    assert columns.column(0).compression == "LZ4"


def test_twice_the_same_bytes(recorded: Path, dataset: Path, tmp_path: Path) -> None:
    convert([recorded], tmp_path / "again")
    assert contents(tmp_path / "again") == contents(dataset)


def test_existing_output_is_kept_unless_forced(recorded: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert [r.converted for r in convert([recorded], out)] == [True]
    before = contents(out)
    assert [r.converted for r in convert([recorded.parent], out, comm=True)] == [False]
    assert contents(out) == before
    (result,) = convert([recorded], out, comm=True, force=True)
    assert result.converted and result.events == sum(
        rows for name, rows in result.tables.items() if TABLES[name].tracepoint
    )
    after = contents(out)
    assert after.keys() == before.keys() and after != before
    assert not [name for name in after if "/." in name]  # no temporary file is left


def test_names_of_programs(dataset: Path, recorded: Path, tmp_path: Path) -> None:
    def names(out: Path) -> set[str]:
        (path,) = out.glob("host=*/date=*/sched_process_exit/*.parquet")
        return set(pq.read_table(path)["comm"].to_pylist())

    convert([recorded], tmp_path, comm=True)
    assert {"python3", "true"} <= names(tmp_path)
    assert all(len(name) == 12 for name in names(dataset))
    assert not {"python3", "true"} & names(dataset)


def test_files_are_those_that_events_name(dataset: Path) -> None:
    (path,) = dataset.glob("host=*/date=*/files/*.parquet")
    files = {(r["s_dev_major"], r["s_dev_minor"], r["i_ino"]) for r in pq.read_table(path).to_pylist()}
    seen = set()
    for name in ("page_cache_sync_ra", "page_cache_async_ra"):
        (path,) = dataset.glob(f"host=*/date=*/{name}/*.parquet")
        seen |= {(r["s_dev_major"], r["s_dev_minor"], r["i_ino"]) for r in pq.read_table(path).to_pylist()}
    assert files and files <= seen


def test_files_that_no_event_names_are_dropped(segment: Path, tmp_path: Path) -> None:
    def add(facts: dict[str, Any]) -> None:
        facts["tables"]["files"].append({**facts["tables"]["files"][0], "i_ino": 12345678})

    alter_facts(segment, add)
    convert([segment], tmp_path / "out")
    (path,) = (tmp_path / "out").glob("host=*/date=*/files/*.parquet")
    assert 12345678 not in pq.read_table(path)["i_ino"].to_pylist()


def test_ring_losses(segment: Path, tmp_path: Path) -> None:
    row = {"instance": "tasks", "cpu": 1, "event": None, "from_ns": 5, "to_ns": 9}
    row |= {"count_lower": 77, "count_upper": 77, "cause": "ring full"}
    alter_facts(segment, lambda facts: facts["losses"].append(row))
    (result,) = convert([segment], tmp_path / "out")
    assert result.lost == 77
    expected = {"cpu": 1, "event": None, "from_ns": 5, "to_ns": 9, "count_lower": 77, "count_upper": 77}
    assert losses(tmp_path / "out") == [expected | {"cause": "ring full"}]
    cause = {"events": 77, "intervals": 1, "unknown": 0}
    by_cause = {"ring full": cause | {"ns": 4, "of": []}}
    assert describe(tmp_path / "out")["losses"] == cause | {"causes": by_cause}


def test_events_that_the_kernel_counted_but_no_page_holds(segment: Path, tmp_path: Path) -> None:
    def more(facts: dict[str, Any]) -> None:
        facts["instances"]["tasks"]["stats_after"]["0"]["read events"] += 5

    alter_facts(segment, more)
    convert([segment], tmp_path / "out")
    (row,) = losses(tmp_path / "out")
    assert (row["cpu"], row["count_lower"], row["count_upper"], row["cause"]) == (0, 5, 5, "decode error")


def test_more_events_than_the_kernel_counted(segment: Path, tmp_path: Path) -> None:
    def fewer(facts: dict[str, Any]) -> None:
        facts["instances"]["tasks"]["stats_after"]["0"]["read events"] -= 1

    alter_facts(segment, fewer)
    with pytest.raises(VerificationError, match="counted by the kernel"):
        convert([segment], tmp_path / "out")


def test_damaged_page_becomes_a_loss(segment: Path, tmp_path: Path, dataset: Path) -> None:
    path = largest(segment)
    data = bytearray(path.read_bytes())
    struct.pack_into("<Q", data, 4096 + 8, 4084)  # more data than a page can hold
    path.write_bytes(data)
    reseal(segment)
    (result,) = convert([segment], tmp_path / "out")
    (row,) = losses(tmp_path / "out")
    assert row["cause"] == "decode error" and row["from_ns"] < row["to_ns"]
    whole = sum(e["rows"] for n, e in describe(dataset)["tables"].items() if TABLES[n].tracepoint)
    # The kernel counted what the page held: rows and losses add up.
    assert 0 < result.events < whole == result.events + row["count_lower"]
    assert row["count_upper"] == row["count_lower"]


def test_unknown_events_become_losses(segment: Path, tmp_path: Path) -> None:
    """A kind of event whose layout is not there: counted, not guessed."""

    def forget(facts: dict[str, Any]) -> None:
        facts["instances"]["tasks"]["events"].remove("syscalls/sys_enter_read")

    alter_facts(segment, forget)
    convert([segment], tmp_path / "out")
    rows = losses(tmp_path / "out")
    assert {row["cause"] for row in rows} == {"decode error"}
    assert all(row["count_lower"] == row["count_upper"] > 0 for row in rows)
    assert not list((tmp_path / "out").rglob("sys_enter_read"))


def test_incomplete_last_page_becomes_a_loss(segment: Path, tmp_path: Path, dataset: Path) -> None:
    path = largest(segment)
    path.write_bytes(path.read_bytes()[:-100])
    reseal(segment)
    (result,) = convert([segment], tmp_path / "out")
    (row,) = losses(tmp_path / "out")
    whole = sum(e["rows"] for n, e in describe(dataset)["tables"].items() if TABLES[n].tracepoint)
    assert row["cause"] == "decode error"
    assert row["count_upper"] == row["count_lower"] == whole - result.events > 0


@pytest.mark.parametrize("damage", ["cut", "flip", "remove", "facts", "manifest", "version", "escape"])
def test_damaged_segment(segment: Path, tmp_path: Path, damage: str) -> None:
    pages = largest(segment)
    manifest = json.loads((segment / MANIFEST).read_text())
    if damage == "cut":
        pages.write_bytes(pages.read_bytes()[:-1])
    elif damage == "flip":
        data = bytearray(pages.read_bytes())
        data[2000] ^= 1
        pages.write_bytes(data)
    elif damage == "remove":
        pages.unlink()
    elif damage == "facts":
        (segment / FACTS).write_text("{")
        reseal(segment)
    elif damage == "manifest":
        (segment / MANIFEST).write_text("[]")
    elif damage == "version":
        (segment / MANIFEST).write_text(json.dumps(manifest | {"segment_version": 99}))
    else:
        manifest["files"]["../../../etc/passwd"] = {"bytes": 0, "crc32": ""}
        (segment / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(VerificationError) as raised:
        convert([segment], tmp_path / "out")
    assert raised.value.exit_code == ExitCode.VERIFICATION
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f.pop("comm_key"),
        lambda f: f.pop("instances"),
        lambda f: f["tables"].pop("captures"),
        lambda f: f["tables"].update(captures=[]),
        lambda f: f["tables"]["captures"][0].update(host="../../x"),
        lambda f: f["tables"]["captures"][0].pop("label"),
        lambda f: f["tables"]["captures"][0].update(cpus="two"),
        lambda f: f["tables"]["captures"][0].update(cpus=-1),
        lambda f: f["tables"].update(nonsense=[]),
        lambda f: f["tables"].update(files=[3]),
        lambda f: f["instances"]["tasks"].update(subbuffer_bytes=8192),
        lambda f: f["instances"]["tasks"]["events"].append("none/such"),
        lambda f: f.update(schema_version=77),
        lambda f: f.update(byteorder="big"),
        lambda f: f.update(date="/etc"),
    ],
)
def test_damaged_facts(segment: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    alter_facts(segment, change)
    with pytest.raises(VerificationError):
        convert([segment], tmp_path / "out")


@pytest.mark.parametrize(
    "label, told", [("\udcff", "\ufffd"), ("a\ud800", "a\ufffd\ufffd\ufffd"), ("é", "é")]
)
def test_facts_that_are_not_utf8(segment: Path, tmp_path: Path, label: str, told: str) -> None:
    alter_facts(segment, lambda f: f["tables"]["captures"][0].update(label=label))
    convert([segment], tmp_path / "out")
    (path,) = tmp_path.glob("out/host=*/date=*/captures/*.parquet")
    assert pq.read_table(path)["label"].to_pylist() == [told]


def test_kernel_whose_tracepoint_lacks_a_field(segment: Path, tmp_path: Path) -> None:
    formats = json.loads((segment / "formats.json").read_text())
    formats["readahead/page_cache_sync_ra"] = formats["readahead/page_cache_sync_ra"].replace(
        "req_count", "other"
    )
    (segment / "formats.json").write_text(json.dumps(formats))
    reseal(segment)
    with pytest.raises(VerificationError, match="has no field req_count"):
        convert([segment], tmp_path / "out")


def test_commands(segment: Path, tmp_path: Path, hindsight: Run) -> None:
    out = tmp_path / "out"
    assert hindsight("capture", "convert", segment.parent, "-o", out).returncode == 0
    done = hindsight("capture", "convert", segment, "-o", out, "--json")
    (result,) = json.loads(done.stdout)
    assert (result["segment"], result["converted"]) == (segment.name, False)
    assert "already there" in done.stderr
    info = json.loads(hindsight("capture", "info", out, "--json").stdout)
    assert info["tables"]["sys_enter_read"]["rows"] > 10
    assert info["losses"] == {"events": 0, "intervals": 0, "unknown": 0, "causes": {}}
    assert info["start_ns"] < info["end_ns"]
    text = hindsight("capture", "info", out).stdout
    assert "no event was lost" in text and "fixture" in text
    raw = json.loads(hindsight("capture", "info", segment.parent, "--json").stdout)
    assert (raw["start_ns"], raw["raw"]["segments"]) == (info["start_ns"], 1)
    assert raw["raw"]["events"] == sum(e["rows"] for n, e in info["tables"].items() if TABLES[n].tracepoint)
    assert "not converted" in hindsight("capture", "info", segment).stdout


def test_exit_codes(segment: Path, tmp_path: Path, hindsight: Run) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments in (
        ["info", empty],
        ["info", tmp_path / "none"],
        ["convert", empty, "-o", tmp_path / "out"],
    ):
        done = hindsight("capture", *arguments)
        assert done.returncode == 3, done.stderr
        assert "Traceback" not in done.stderr
    (tmp_path / "blocked").write_text("")
    assert hindsight("capture", "convert", segment, "-o", tmp_path / "blocked" / "out").returncode == 3
    pages = largest(segment)
    pages.write_bytes(b"x" + pages.read_bytes()[1:])
    done = hindsight("capture", "convert", segment, "-o", tmp_path / "out")
    assert done.returncode == 5 and "checksum" in done.stderr


def damage_dataset(out: Path, kind: str) -> str:
    (victim,) = out.glob("host=*/date=*/sys_enter_read/*.parquet")
    if kind == "truncated":
        victim.write_bytes(victim.read_bytes()[:-40])
        return "truncated or damaged"
    if kind == "empty file":
        victim.write_bytes(b"")
        return "truncated or damaged"
    if kind == "version":
        table = pq.read_table(victim)
        pq.write_table(table.replace_schema_metadata({"hindsight.schema_version": "99"}), victim)
        return "schema version 99"
    if kind == "foreign":
        pq.write_table(pa.table({"a": [1]}), victim)
        return "schema version None"
    if kind == "columns":
        table = pq.read_table(victim)
        pq.write_table(table.drop_columns(["fd"]).replace_schema_metadata(table.schema.metadata), victim)
        return "does not have the columns"
    if kind == "unknown table":
        victim.parent.rename(victim.parent.with_name("nonsense"))
        return "no table 'nonsense'"
    for path in out.glob("host=*/date=*/captures/*"):
        path.unlink()
    return "interrupted"


@pytest.mark.parametrize(
    "kind", ["truncated", "empty file", "version", "foreign", "columns", "unknown table", "no captures"]
)
def test_damaged_dataset(dataset: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    shutil.copytree(dataset, out)
    message = damage_dataset(out, kind)
    with pytest.raises(ConfigurationError, match=message) as raised:
        describe(out)
    assert raised.value.exit_code == ExitCode.CONFIGURATION and raised.value.remedy != ""


# --- what recording did to the trace; captures of several segments ------------------------------------------


def table(out: Path, name: str) -> list[dict[str, Any]]:
    paths = sorted(out.glob(f"host=*/date=*/{name}/*"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def test_traces_of_the_recorder_itself_are_counted(segment: Path, tmp_path: Path, dataset: Path) -> None:
    reads = table(dataset, "sys_enter_read")
    thread = reads[0]["pid"]
    requests = table(dataset, "block_rq_issue")
    disk = requests[0]["dev_major"], requests[0]["dev_minor"]
    (before,) = table(dataset, "recorder")
    assert (before["own_events"], before["segment"]) == (0, 0)

    def change(facts: dict[str, Any]) -> None:
        facts["recorder"] |= {"threads": [thread, 999_999], "out_device": [disk[0], 63]}
        facts["recorder"]["out_disk"] = list(disk)

    alter_facts(segment, change)
    convert([segment], tmp_path / "out")
    (row,) = table(tmp_path / "out", "recorder")
    devices = json.loads((segment / FACTS).read_text())["instances"]["devices"]["events"]
    names = {name for name, t in TABLES.items() if t.tracepoint and t.tracepoint not in devices}
    own = sum(r["pid"] == thread for name in names for r in table(dataset, name))
    assert row["own_events"] == own > 0
    writes = [r for r in requests if "W" in r["rwbs"] and (r["dev_major"], r["dev_minor"]) == disk]
    assert row["writeback_events"] == len(writes)
    assert (row["out_dev_major"], row["out_dev_minor"]) == (disk[0], 63)
    known = json.loads((segment / FACTS).read_text())["recorder"]
    assert row["raw_bytes"] == known["raw_bytes"] and row["cpu_ns"] == known["cpu_ns"]


def test_info_of_several_segments(recorded: Path, tmp_path: Path, hindsight: Run) -> None:
    parts = reshape.split(recorded, tmp_path / "raw", 4)
    loss = {"from_ns": 5, "to_ns": 1_500_000_005}
    shed = loss | {"instance": None, "cpu": None, "event": "block/block_rq_issue"}
    shed |= {"count_lower": 0, "count_upper": None, "cause": "budget shed: rate"}
    full = loss | {"instance": "tasks", "cpu": 1, "event": None}
    full |= {"count_lower": 7, "count_upper": 7, "cause": "ring full"}
    alter_facts(parts[3], lambda facts: facts["losses"].extend([shed, full]))
    shutil.rmtree(parts[0])
    shutil.rmtree(parts[2])
    convert([tmp_path / "raw"], tmp_path / "out")
    for path in (tmp_path / "out", tmp_path / "raw"):
        facts = describe(path)
        (capture,) = facts["captures"]
        assert capture["segments"] == [parts[1].name, parts[3].name] and capture["first_segment"] == 1
        (gap,) = capture["gaps"]
        assert (gap["after"], gap["before"], gap["missing"]) == (parts[1].name, parts[3].name, 1)
        causes = capture["losses"]["causes"]
        assert causes["budget shed: rate"] == {
            "events": 0, "intervals": 1, "unknown": 1, "ns": 1_500_000_000, "of": ["block/block_rq_issue"],
        }  # fmt: skip
        assert causes["ring full"]["events"] == facts["losses"]["events"] == 7
        text = hindsight("capture", "info", path).stdout
        assert "2 segments" in text and "GAP: it begins with segment 1" in text
        assert "GAP: 1 segment missing" in text
        assert "LOST: at least 7 events in 2 intervals, 1 of them of unknown size" in text
        assert "budget shed: rate: unknown count of block/block_rq_issue, 1 intervals, 1.500 s" in text
    assert json.loads(hindsight("capture", "info", tmp_path / "out", "--json").stdout)["captures"]


def test_info_of_a_segment_that_is_half_converted(recorded: Path, tmp_path: Path) -> None:
    reshape.split(recorded, tmp_path / "raw", 2)
    convert([tmp_path / "raw"], tmp_path / "out")
    (captures,) = (tmp_path / "out").rglob("captures/*-0001.parquet")
    captures.unlink()
    with pytest.raises(ConfigurationError, match="interrupted"):
        describe(tmp_path / "out")


def test_segments_are_converted_like_the_whole(recorded: Path, tmp_path: Path, dataset: Path) -> None:
    """Cut between pages, no row is lost or changed, and nothing is reported as lost."""
    reshape.split(recorded, tmp_path / "raw", 3)
    results = convert([tmp_path / "raw"], tmp_path / "out")
    assert [r.lost for r in results] == [0, 0, 0]
    for name, about in TABLES.items():
        if about.tracepoint:
            rows = [tuple(row.values()) for row in table(tmp_path / "out", name)]
            assert sorted(rows) == sorted(tuple(row.values()) for row in table(dataset, name)), name
