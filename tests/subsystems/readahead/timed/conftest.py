"""Demands made by hand, so that what a timed replay must do with them can be worked out on paper."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from hindsight.subsystems.readahead.simulation import ReadaheadSimulation
from hindsight.subsystems.readahead.timeline import FADVISE, READ

PAGE = 4096
MS = 1_000_000
SECOND = 1_000_000_000
PARAMS = {"epoch_ns": 250 * MS, "epoch_reads": 64, "advice_delay_ns": MS, "block_ns": SECOND}
PLAIN = {
    "service_ns": 100_000, "page_ns": 1_000, "iops": 0, "bps": 0, "tick_ns": 4 * MS,
    "read_ns": 2_000, "copy_ns": 500, "fetch_ns": 100,
}  # fmt: skip


@dataclass
class Demand:
    """Reads and advice on files of one device; stream n reads file n unless ``file_of`` says otherwise."""

    pages: list[int]
    file_of: list[int] | None = None
    iops: int = 0
    bps: int = 0
    io_pages: int = 320
    max_order: int = 9
    rows: list[tuple] = field(default_factory=list)
    ineligible: tuple[int, ...] = ()

    def read(self, ts, page, pages=1, task=0, stream=0, took=1000):
        file = stream if self.file_of is None else self.file_of[stream]
        count = pages * PAGE
        got = max(min(count, self.pages[file] * PAGE - page * PAGE), 0)
        self.rows.append((ts, ts + took, task, stream, READ, page * PAGE, count, got, -1))
        return self

    def advise(self, ts, advice, task=0, stream=0, took=1000):
        self.rows.append((ts, ts + took, task, stream, FADVISE, 0, 0, 0, advice))
        return self

    def tables(self):
        rows = sorted(self.rows, key=lambda row: (row[0], row[2]))
        names = ("ts", "end", "task", "stream", "kind", "pos", "count", "ret", "advice")
        dtypes = (np.int64, np.int64, np.uint32, np.uint32, np.uint8, np.int64, np.int64, np.int64, np.int32)
        columns = zip(*rows, strict=True) if rows else [()] * len(names)
        file_of = np.array(self.file_of or range(len(self.pages)), np.uint32)
        count = len(file_of)
        eligible = np.array([s not in self.ineligible for s in range(count)])
        name = "7:0" + (f"/iops={self.iops}/bps={self.bps}" if self.iops or self.bps else "")
        return {
            "ops": {n: np.array(c, d) for n, c, d in zip(names, columns, dtypes, strict=True)},
            "tasks": {"pid": np.arange(max([r[2] for r in rows], default=0) + 1, dtype=np.int32)},
            "files": {
                "size": np.array(self.pages, np.int64) * PAGE,
                "max_order": np.full(len(self.pages), self.max_order, np.uint8),
            },
            "streams": {
                "eligible": eligible,
                "reason": np.where(eligible, 0, 1).astype(np.uint8),
                "file_id": file_of,
                "device_id": np.zeros(count, np.uint32),
                "ra_pages": np.full(count, 32, np.uint32),
                "io_pages": np.full(count, self.io_pages, np.uint32),
            },
            "devices": {
                "name": np.array([name], object),
                "ra_pages": np.array([32], np.uint32),
                "io_pages": np.array([self.io_pages], np.uint32),
                "throttle_read_iops": np.array([self.iops], np.uint64),
                "throttle_read_bps": np.array([self.bps], np.uint64),
            },
        }

    def simulation(self, plain=PLAIN, params=PARAMS, **arguments):
        tables = self.tables()
        (name,) = tables["devices"]["name"]
        limits = {"iops": self.iops, "bps": self.bps}
        return ReadaheadSimulation(tables, {name: {**plain, **limits}}, params, **arguments)


@pytest.fixture
def make():
    """The class of demands made by hand."""
    return Demand


@pytest.fixture
def busy():
    """Two tasks, three streams (sequential, random, strided), a throttled device, many decisions."""
    rng = np.random.default_rng(5)
    demand = Demand([4000, 3000, 5000], iops=400, bps=64 << 20)
    for i in range(900):
        demand.read(1000 + i * MS, (i * 4) % 3996, 4, task=0, stream=0, took=50_000)
    for i in range(800):
        demand.read(500 + i * MS, int(rng.integers(0, 2990)), 1, task=1, stream=1, took=100_000)
    for i in range(500):
        demand.read(500 + 800 * MS + i * MS, (i * 9) % 4990, 2, task=1, stream=2, took=100_000)
    demand.advise(2000 + 450 * MS, 4, task=0, stream=0)
    return demand


def drive(simulation, policy=None):
    """Run to the end; ``policy(simulation, stream) -> action``. Returns (simulated time, stream, action)s."""
    decisions = []
    while (stream := simulation.advance()) >= 0:
        action = -1 if policy is None else policy(simulation, stream)
        decisions.append((simulation.now, stream, action))
        simulation.act(action)
    return decisions


@pytest.fixture(name="drive")
def _drive():
    """Runs a simulation to its end under a policy."""
    return drive


@pytest.fixture(scope="session")
def make_demand():
    """As ``make``, for property-based tests, which want no fixture per test function."""
    return Demand
