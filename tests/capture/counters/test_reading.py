"""Counters out of the kernel's own files: nothing is missed, nothing is made up, damage is left out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hindsight.capture.counters import reading
from hindsight.capture.counters.reading import Count


def pressure(text: str) -> Iterable[Count]:
    return reading.pressure(text, "", "io")


TEXTS = {
    path: Path(path).read_text()[:2000] if Path(path).exists() else ""
    for path in ("/proc/vmstat", "/proc/meminfo", "/proc/diskstats", "/proc/stat", "/proc/pressure/io")
}
"""As they were when the tests began."""
READERS: dict[str, Callable[[str], Iterable[Count]]] = {
    "/proc/vmstat": reading.vmstat,
    "/proc/meminfo": reading.meminfo,
    "/proc/diskstats": reading.diskstats,
    "/proc/stat": reading.stat,
    "/proc/pressure/io": pressure,
}


def values(counts: Iterable[Count]) -> dict[tuple[str, str], int]:
    found = {(count.scope, count.name): count.value for count in counts}
    return found


def test_every_line_of_vmstat_is_a_counter() -> None:
    text = Path("/proc/vmstat").read_text()
    expected = {("", name): int(value) for name, value in re.findall(r"^(\S+) (\d+)$", text, re.MULTILINE)}
    assert values(reading.vmstat(text)) == expected
    assert len(expected) > 50


def test_every_line_of_meminfo_is_a_level() -> None:
    text = Path("/proc/meminfo").read_text()
    found = list(reading.meminfo(text))
    assert len(found) == len(text.splitlines())
    assert {c.name: c.value for c in found}["MemTotal"] == int(text.split()[1])
    assert not any(c.total for c in found)


def test_totals_and_levels_of_vmstat_are_told_apart() -> None:
    kinds = {c.name: (c.unit, c.total) for c in reading.vmstat(Path("/proc/vmstat").read_text())}
    assert kinds["nr_free_pages"] == ("pages", False)
    assert kinds["nr_dirtied"] == ("pages", True)
    assert kinds["pgfault"] == kinds["pgpgin"] == ("events", True)


def test_fields_of_a_disk_stand_where_the_kernel_says() -> None:
    line = " 254       0 vda 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18\n"  # more than are known
    found = list(reading.diskstats(line))
    assert [c.value for c in found] == list(range(1, 18))
    assert {c.scope for c in found} == {"254:0"}
    named = {c.name: c for c in found}
    assert (named["sectors_read"].value, named["writes"].value, named["in_flight"].value) == (3, 5, 9)
    assert [c.name for c in found if not c.total] == ["in_flight"]


def test_pressure_keeps_hundredths() -> None:
    text = "some avg10=0.31 avg60=10.00 avg300=100.00 total=123456789\n"
    assert values(pressure(text)) == {
        ("", "io.some.avg10"): 31,
        ("", "io.some.avg60"): 1000,
        ("", "io.some.avg300"): 10000,
        ("", "io.some.total"): 123456789,
    }


def test_cgroup_files_of_both_versions() -> None:
    v1 = "8:0 Read 4096\n8:0 Write 12\n8:0 Total 4108\nTotal 4108\n"
    v2 = "8:0 rbytes=4096 wbytes=12 rios=1 wios=2\n"
    assert values(reading.by_device(v1, "9", "b", "bytes")) == {
        ("9/8:0", "b.Read"): 4096, ("9/8:0", "b.Write"): 12, ("9/8:0", "b.Total"): 4108,
    }  # fmt: skip
    units = {c.name: (c.value, c.unit) for c in reading.by_device(v2, "9", "io", "requests")}
    assert units["io.rbytes"] == (4096, "bytes") and units["io.rios"] == (1, "requests")
    flat = list(reading.flat("usage_usec 5\nnr_periods 2\n", "9", "cpu.stat", "events", True))
    assert [(c.name, c.unit) for c in flat] == [
        ("cpu.stat.usage_usec", "us"),
        ("cpu.stat.nr_periods", "events"),
    ]
    assert list(reading.flat("max\n", "9", "memory.max", "bytes", False)) == []
    assert next(iter(reading.flat("77\n", "9", "memory.current", "bytes", False))).name == "memory.current"
    memory = {c.name: c.total for c in reading.memory_stat("anon 1\npgfault 2\ntotal_pgmajfault 3\n", "9")}
    assert memory == {
        "memory.stat.anon": False, "memory.stat.pgfault": True, "memory.stat.total_pgmajfault": True,
    }  # fmt: skip


@pytest.mark.parametrize("text,value", [("0", 0), ("-5", -5), (str(2**63 - 1), 2**63 - 1)])
def test_numbers(text: str, value: int) -> None:
    assert reading.number(text) == value


@pytest.mark.parametrize("text", ["", "-", "max", "1.5", "٣", str(2**63), "9" * 5000, "1 2"])
def test_what_is_no_number_that_fits(text: str) -> None:
    assert reading.number(text) is None


@pytest.mark.parametrize("path", READERS)
@given(data=st.data())
def test_damaged_text_never_raises_and_never_leaves_the_range(path: str, data: st.DataObject) -> None:
    text = TEXTS[path]
    at = data.draw(st.integers(0, len(text)))
    damaged = text[:at] + data.draw(st.text(max_size=30)) + text[at + data.draw(st.integers(0, 30)) :]
    for count in READERS[path](damaged):
        assert -(2**63) <= count.value < 2**63
