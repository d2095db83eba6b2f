"""Live: what the profile of DAMON shows, of a kdamond of the test's own where there is room for one."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from taken import Row, Taken, python

KDAMONDS = Path("/sys/kernel/mm/damon/admin/kdamonds")


def _mapped(pid: int) -> tuple[int, int]:
    """From the lowest to the highest address of a process."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    ends = [[int(end, 16) for end in line.split()[0].split("-")] for line in lines]
    return min(low for low, _ in ends), max(high for _, high in ends)


def _largest_ram() -> tuple[int, int]:
    """Where the largest piece of memory is: physical addresses."""
    lines = [line for line in Path("/proc/iomem").read_text().splitlines() if line.endswith("System RAM")]
    ends = [[int(end, 16) for end in line.split(" : ")[0].split("-")] for line in lines]
    low, high = max(ends, key=lambda pair: pair[1] - pair[0])
    return low, high + 1


@pytest.fixture
def kdamond() -> Iterator[tuple[int, Callable[[str], int], tuple[int, int] | None]]:
    """A kdamond: its thread, its attributes, and the span of memory it watches if it is the test's own.

    The interface has room for one user: where a kdamond is set up already it is left as it is, and watched.
    """
    if os.geteuid() != 0 or not KDAMONDS.is_dir():
        pytest.skip("this kernel has no DAMON sysfs interface")
    intervals = KDAMONDS / "0/contexts/0/monitoring_attrs/intervals"
    regions = KDAMONDS / "0/contexts/0/monitoring_attrs/nr_regions"

    def attribute(name: str) -> int:
        return int((regions if name in ("min", "max") else intervals).joinpath(name).read_text())

    if (KDAMONDS / "nr_kdamonds").read_text().strip() != "0":
        if (KDAMONDS / "0/state").read_text().strip() != "on":
            pytest.skip("somebody has set up a kdamond that does not run")
        yield int((KDAMONDS / "0/pid").read_text()), attribute, None
        return
    text = (
        "import time; held = bytearray(b'x' * (64 << 20))\n"
        "while True: held[::4096] = bytes(len(held) // 4096); time.sleep(.01)"
    )
    watched = subprocess.Popen(python(text))
    try:
        (KDAMONDS / "nr_kdamonds").write_text("1")
        (KDAMONDS / "0/contexts/nr_contexts").write_text("1")
        context = KDAMONDS / "0/contexts/0"
        virtual = "vaddr" in (context / "avail_operations").read_text().split()
        (context / "operations").write_text("vaddr" if virtual else "paddr")
        (context / "targets/nr_targets").write_text("1")
        if virtual:
            (context / "targets/0/pid_target").write_text(str(watched.pid))
        else:
            region = context / "targets/0/regions/0"
            (region.parent / "nr_regions").write_text("1")
            for name, value in zip(("start", "end"), _largest_ram(), strict=True):
                (region / name).write_text(str(value))
        time.sleep(0.5)
        (KDAMONDS / "0/state").write_text("on")
        span = _mapped(watched.pid) if virtual else _largest_ram()
        yield int((KDAMONDS / "0/pid").read_text()), attribute, span
        (KDAMONDS / "0/state").write_text("off")
    finally:
        watched.kill()
        watched.wait()
        (KDAMONDS / "nr_kdamonds").write_text("0")


def test_damon_has_every_region_of_every_interval(
    live: Path, tmp_path: Path, kdamond: tuple[int, Callable[[str], int], tuple[int, int] | None]
) -> None:
    thread, attribute, span = kdamond
    interval_s = attribute("aggr_us") / 1e6
    if interval_s > 20:
        pytest.skip(f"the kdamond of this host says something every {interval_s} s only")
    taken = Taken(tmp_path, "damon", duration=max(2.5 * interval_s, 1.0))
    rows = taken.rows("damon_aggregated")
    assert rows and {row["pid"] for row in rows} == {thread}
    looks: list[list[Row]] = []
    for row in rows:  # the regions of an interval follow each other
        if not looks or row["ts"] - looks[-1][-1]["ts"] > interval_s * 2e8:
            looks.append([])
        looks[-1].append(row)
    assert len(looks) >= 2
    for one, other in pairwise(looks):
        assert 0.8 * interval_s <= (other[0]["ts"] - one[0]["ts"]) / 1e9 <= 2 * interval_s + 1
    samples = attribute("aggr_us") // attribute("sample_us")
    for look in looks:
        targets = {row["target_id"] for row in look}
        for target in targets:
            regions = [row for row in look if row["target_id"] == target]
            assert len(regions) == regions[0]["nr_regions"], "each region is there"
            assert len(regions) <= attribute("max")
            assert all(one["end"] <= other["start"] for one, other in pairwise(regions)), "in order"
            assert all(row["start"] < row["end"] for row in regions)
            assert all(row["nr_accesses"] <= samples for row in regions)
            if span is not None:
                assert all(span[0] <= row["start"] and row["end"] <= span[1] for row in regions)
