"""A small subsystem of its own, to try the engine on: how many blocks to fetch after a miss.

A capture holds pread64 calls; a thread is a stream. A block that the last fetch of the stream brought costs
nothing; any other costs a fetch of ``window`` blocks. Large windows suit runs, small ones suit jumps. What
the kernel "decided" stands in page_cache_ra_order.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.errors import ConfigurationError
from hindsight.subsystems.contract import (
    KEEP,
    Action,
    Columns,
    Feature,
    Fidelity,
    Label,
    Metric,
    Tables,
)

BLOCK = 4096
WINDOWS = (1, 4, 16, 64)
STOCK_WINDOW = 8


class ToySimulation:
    """All state is in ``at`` (the next operation) and ``streams`` (one list of integers each)."""

    def __init__(self, demand: Mapping[str, Columns], calibration: Any, params: Mapping[str, Any]) -> None:
        self.ts, self.stream, self.block = (demand["ops"][n] for n in ("ts", "stream", "block"))
        self.eligible = demand["streams"]["eligible"]
        self.costs = calibration[str(demand["streams"]["device"][0])]
        self.params = params
        self.delays = np.atleast_1d(params["advice_delay_ns"]).tolist()
        self.blocks = ((self.ts - self.ts[0]) // params["block_ns"]).astype(int)
        self.reset()

    def reset(self, static: int = KEEP) -> None:
        window = STOCK_WINDOW if static == KEEP else WINDOWS[static]
        first = int(self.ts[0])
        # window; first, last block fetched; previous; epoch: start, reads, sequential; advice: window, from
        self.streams = [[window, 0, -1, -2, first, 0, 0, 0, 0] for _ in self.eligible]
        self.at = 0
        self.waiting = -1
        self.missed = False
        self.fetched: list[tuple[int, int, int, int]] = []
        self.metrics = np.zeros((len(self.eligible), int(self.blocks[-1]) + 1, 3), np.int64)

    def _step(self) -> int:
        """One operation; what it cost."""
        i, now = int(self.stream[self.at]), int(self.ts[self.at])
        block, state = int(self.block[self.at]), self.streams[i]
        if state[7] and now >= state[8]:
            state[0], state[7] = state[7], 0
        state[5] += 1
        state[6] += block == state[3] + 1
        state[3] = block
        cost = 0
        self.missed = not state[1] <= block <= state[2]
        if self.missed:
            cost = self.costs["fetch_ns"] + state[0] * self.costs["block_ns"]
            state[1], state[2] = block, block + state[0] - 1
            self.fetched.append((i, now, block, block + state[0]))
            if self.eligible[i]:
                self.metrics[i, self.blocks[self.at]] += (cost, state[0], 1)
        self.at += 1
        return cost if self.eligible[i] else 0

    def advance(self) -> int:
        while self.at < len(self.ts):
            i = int(self.stream[self.at])
            state = self.streams[i]
            due = self.ts[self.at] - state[4] >= self.params["epoch_ns"]
            if (
                due
                and state[5] >= self.params["epoch_reads"]
                and self.eligible[i]
                and self.waiting != self.at
            ):
                self.waiting = self.at
                return i
            self._step()
        return -1

    def features(self, out: NDArray[np.float32]) -> None:
        state = self.streams[int(self.stream[self.at])]
        out[0] = round(64 * state[6] / state[5]) / 64
        out[1] = state[0]
        out[2] = self.costs["fetch_ns"] // 1000

    def act(self, action: int) -> None:
        state = self.streams[int(self.stream[self.at])]
        state[4], state[5], state[6] = int(self.ts[self.at]), 0, 0
        if action != KEEP:
            state[7], state[8] = WINDOWS[action], state[4] + self.delays[self.at % len(self.delays)]

    def rollout(self, action: int, horizon_ns: int) -> int:
        saved = copy.deepcopy((self.streams, self.at, self.waiting, self.fetched)), self.metrics.copy()
        self.act(action)
        end = self.ts[self.at] + horizon_ns
        cost = 0
        while self.at < len(self.ts) and self.ts[self.at] < end:
            cost += self._step()
        (self.streams, self.at, self.waiting, self.fetched), self.metrics = saved
        return cost

    def account(self) -> NDArray[np.int64]:
        return self.metrics.sum(axis=0)

    def stream_account(self) -> NDArray[np.int64]:
        return self.metrics.sum(axis=1)

    def course(self, stream: int) -> dict[str, Columns]:
        mine = self.stream == stream
        asked = {"ts": self.ts[mine], "begin": self.block[mine], "end": self.block[mine] + 1}
        rows = [row for row in self.fetched if row[0] == stream]
        fetched = {
            name: np.array([row[i] for row in rows], np.int64)
            for i, name in enumerate(("ts", "begin", "end"), 1)
        }
        used = [len(set(range(r[2], r[3])) & set(self.block[mine].tolist())) for r in rows]
        return {"asked": asked, "fetched": {**fetched, "used": np.array(used, np.int64)}}

    def bound(self) -> int:
        cost = 0
        for i in np.flatnonzero(self.eligible):
            distinct = len(np.unique(self.block[self.stream == i]))
            # Every block is fetched once at least, 64 at a time at most.
            cost += self.costs["fetch_ns"] * -(-distinct // max(WINDOWS)) + distinct * self.costs["block_ns"]
        return cost


class Toy:
    name = "toy"
    course_unit = "blocks"
    summary = "How many blocks to fetch after a miss."
    tables = ("captures", "sys_enter_pread64", "sys_exit_pread64", "devices")
    decision_tables = ("page_cache_ra_order",)
    actions = tuple(Action(f"window={w}", f"fetch {w} blocks", (float(w.bit_length() - 1),)) for w in WINDOWS)
    keep_encoding = (-1.0,)
    features = (
        Feature("sequential", "share", 0.0, 1.0, "share of reads that followed their predecessor"),
        Feature("window", "blocks", 1.0, 64.0, "current window"),
        Feature("fetch", "us", 0.0, 1e6, "latency of a fetch"),
    )
    metrics = (
        Metric("stall_ns", "ns", Label.MODELLED, "time waited for fetches"),
        Metric("fetched", "blocks", Label.EXACT, "blocks fetched"),
        Metric("missed", "blocks", Label.EXACT, "blocks that were not there"),
    )
    reasons = ("", "fewer than ten reads")
    rule_name = "window 64 if more than half of the reads were sequential, else 1"

    def demand(self, tables: Tables) -> dict[str, Columns]:
        if "sys_enter_pread64" not in tables:
            raise ConfigurationError("no reads: sys_enter_pread64 is empty", "record a program that reads")
        assert not set(tables) & set(self.decision_tables)
        enter = tables["sys_enter_pread64"]
        pids, stream, reads = np.unique(enter["pid"], return_inverse=True, return_counts=True)
        device = tables["devices"]["dev_minor"][0]
        n = len(pids)
        return {
            "ops": {
                "ts": enter["ts"],
                "stream": stream.astype(np.uint32),
                "block": enter["pos"] // BLOCK,
            },
            "streams": {
                "device": np.full(n, f"7:{device}", object),
                "program": np.full(n, tables["captures"]["program"][0], object),
                "file": np.array([f"7:{device}/{pid}" for pid in pids], object),
                "eligible": reads >= 10,
                "reason": (reads < 10).astype(np.uint8),
                "recorded_ns": reads.astype(np.int64) * 1000,
            },
        }

    def replay(self, demand: Mapping[str, Columns]) -> Columns:
        simulation = ToySimulation(demand, {str(demand["streams"]["device"][0]): CHEAP}, PARAMS)
        rows = []
        for ts, stream, block in zip(*(demand["ops"][n] for n in ("ts", "stream", "block")), strict=True):
            simulation._step()
            if simulation.missed:
                rows.append((int(ts), int(stream), int(block), STOCK_WINDOW))
        names = ("ts", "stream", "index", "size")
        return dict(zip(names, np.array(rows, np.int64).reshape(-1, 4).T.copy(), strict=True))

    def compare(self, emitted: Columns, recorded: Tables, demand: Mapping[str, Columns]) -> Fidelity:
        def rows(table: Columns) -> list[tuple[int, int]]:
            return list(zip(table["index"].tolist(), table["size"].tolist(), strict=True))

        theirs = rows(recorded["page_cache_ra_order"]) if recorded else []
        ours = rows(emitted)
        matched = sum(a == b for a, b in zip(ours, theirs, strict=False))
        wrong = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
        return Fidelity(
            recorded=len(theirs),
            compared=min(len(ours), len(theirs)),
            matched=matched,
            missing=max(0, len(theirs) - len(ours)),
            extra=max(0, len(ours) - len(theirs)) if theirs else 0,
            unattributed=0,
            first_divergence=None if wrong is None else {"row": wrong},
            per_stream=(),
        )

    def calibrate(self, demands: Sequence[Mapping[str, Columns]]) -> dict[str, dict[str, int]]:
        return {str(d["streams"]["device"][0]): CHEAP for d in demands}

    def calibration_error(self, demand: Mapping[str, Columns], calibration: Any) -> tuple[int, int]:
        recorded = int(demand["streams"]["recorded_ns"].sum())
        return recorded, recorded

    def simulation(self, demand: Mapping[str, Columns], calibration: Any, params: Any) -> ToySimulation:
        return ToySimulation(demand, calibration, params)

    def rule(self, features: NDArray[np.float32]) -> int:
        return len(WINDOWS) - 1 if features[0] > 0.5 else 0


CHEAP = {"fetch_ns": 100_000, "block_ns": 20_000}
PARAMS = {"epoch_ns": 1 << 60, "epoch_reads": 1 << 30, "advice_delay_ns": 0, "block_ns": 1_000_000_000}
SUBSYSTEM = Toy()
