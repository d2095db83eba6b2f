"""What a recorded run would have come to under settings that were not recorded: pages, requests, time.

The demand of a recording under stock is replayed through the project's own simulators
(``subsystems.readahead``) with other limits, or with a packaged model in the loop. All that is known of the
settings is what the replay makes of them; nothing measured under them exists yet.

- Pages: as the replay fetches them. Exact where the setting is in force from the opening of a file, for then
  they depend on the order of the reads alone; modelled where it comes later: the first read that it reaches
  depends on time.
- Requests of the device: bios, cut as the block layer cuts them (:mod:`hindsight.lab.requests`), of a replay
  in which advice comes before the reads that the simulation says. Modelled.
- Time: the simulated time until the last read has ended, and the recorded time before the first and after
  the last one. Modelled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.lab.rearm import EXACT
from hindsight.lab.requests import Limits, count_requests
from hindsight.lab.suites import STOCK, Scope, Setting
from hindsight.pipeline.drive import Policy
from hindsight.subsystems.contract import KEEP, Columns
from hindsight.subsystems.readahead import actions, device, features, metrics, timeline
from hindsight.subsystems.readahead.replay import ADVISED_PAGES
from hindsight.subsystems.readahead.simulation import PARAMETERS, ReadaheadSimulation, device_name
from hindsight.subsystems.readahead.state import FADV_NORMAL, FADV_RANDOM
from hindsight.subsystems.readahead.world import ADVISED, DUE, END, KIND, POS, RET, STREAM, TS

Demand = Mapping[str, Columns]

PAGE_BYTES = 4096
ADVICE_NS = 500_000
"""From the opening of a file until advice through a duplicate of its descriptor reaches it.

Measured of 240 files: 0.4 ms at the median (90 %: 0.6) to make reads exact, 0.5 ms (1.0) to set a limit,
which takes two writes to the device's. A read more or less may come before it.
"""

_NEVER = {"epoch_ns": 2**62, "epoch_reads": 2**62, "advice_delay_ns": 0, "block_ns": 1_000_000_000}
_EVERY_READ = {**_NEVER, "epoch_ns": 0, "epoch_reads": 1}

Given = tuple[int, int, int]
"""Advice: stream, recorded time from which it is in force, action."""


@dataclass(frozen=True)
class Model:
    """A packaged model: a policy, and when it may decide (``decision`` section of params.yaml)."""

    policy: Policy
    n_features: int
    decision: Mapping[str, Any]


@dataclass(frozen=True)
class Blocks:
    """What the block layer makes of bios: ``limits`` of a request, and ``breaks``, file (its ordinal) ->
    pages where the file goes on elsewhere on the device."""

    limits: Limits
    breaks: Mapping[int, NDArray[np.int64]]


@dataclass(frozen=True)
class Outcome:
    """Predicted for one run; ``elapsed_ns`` with what the program does before and after it reads.

    ``advice``: (stream, ns from the stream's first read, action) of a model.
    """

    pages_fetched: int
    pages_wasted: int
    requests: int
    elapsed_ns: int
    advice: tuple[tuple[int, int, int], ...] = field(default=(), compare=False)


def action_of(kilobytes: int) -> int:
    """The action that sets this limit (or exact reads); ValueError if there is none."""
    return actions.EXACT if kilobytes == EXACT else actions.index_of_limit(kilobytes * 1024 // PAGE_BYTES)


def outside_ns(demand: Demand, begin_ns: int, end_ns: int) -> int:
    """Recorded time of the program (``begin_ns`` … ``end_ns``) before its first and after its last simulated
    operation."""
    ops = _untimed(demand).world.ops
    return max(int(ops[:, TS].min()) - begin_ns, 0) + max(end_ns - int(ops[:, END].max()), 0)


def demanded(demand: Demand) -> tuple[int, int]:
    """(pages, bytes): different pages that were asked for; bytes that were read, repeated ones too."""
    world = _untimed(demand).world
    reads = world.ops[(world.ops[:, KIND] == timeline.READ) & (world.ops[:, RET] > 0)]
    file = np.asarray(demand["streams"]["file_id"]).astype(np.int64)[reads[:, STREAM]]
    first, last = reads[:, POS] // PAGE_BYTES, (reads[:, POS] + reads[:, RET] - 1) // PAGE_BYTES
    pages = 0
    for number in np.unique(file):
        here = file == number
        order = np.argsort(first[here], kind="stable")
        begin, end = first[here][order], np.maximum.accumulate(last[here][order])
        fresh = np.concatenate([[-1], end[:-1]])
        pages += int(np.maximum(end - np.maximum(begin - 1, fresh), 0).sum())
    return pages, int(reads[:, RET].sum())


def predict(
    demand: Demand,
    calibration: Mapping[str, Mapping[str, int]],
    setting: Setting,
    outside: int,
    blocks: Blocks,
    model: Model | None = None,
) -> Outcome:  # fmt: skip
    """One setting on one recording; ``outside`` is :func:`outside_ns`."""
    if setting.scope in (Scope.STOCK, Scope.DEVICE):
        timed = _simulation(demand, calibration, _NEVER)
        timed.reset(KEEP if setting == STOCK else action_of(setting.kilobytes))
        while timed.advance() >= 0:
            pass
        altered = demand if setting == STOCK else _limited(demand, setting.kilobytes)
        return _outcome(timed, count_requests(altered, blocks.limits, blocks.breaks), outside, ())
    told: list[tuple[int, int, int]] = []
    if setting.scope is Scope.FILE:
        timed = _simulation(demand, calibration, _EVERY_READ)
        given = _advise(timed, demand, action_of(setting.kilobytes))
    else:
        assert model is not None
        timed = _simulation(demand, calibration, model.decision)
        given, told = _decide(timed, model)
    requests = count_requests(_advised(demand, given), blocks.limits, blocks.breaks)
    return _outcome(timed, requests, outside, tuple(told))


def _limited(demand: Demand, kilobytes: int) -> Demand:
    """The demand of files that are opened on a device with that limit."""
    streams = dict(demand["streams"])
    streams["ra_pages"] = np.full_like(streams["ra_pages"], kilobytes * 1024 // PAGE_BYTES)
    return {**demand, "streams": streams}


def _advise(timed: ReadaheadSimulation, demand: Demand, action: int) -> list[Given]:
    """Run with advice to every stream, ADVICE_NS after its opening in simulated time.

    Advice that comes during the first read of a stream reaches the second.
    """
    timed.reset()
    ops = timed.world.ops
    reads = ops[ops[:, KIND] == timeline.READ]
    streams, first = np.unique(reads[:, STREAM], return_index=True)
    begins = dict(zip(streams.tolist(), reads[first, TS].tolist(), strict=True))
    opened = np.asarray(demand["streams"]["from_ns"]).astype(np.int64)
    reached = {s: ts for s, ts in begins.items() if ts - opened[s] >= ADVICE_NS}
    early = list(reached)
    timed.live.streams[early, ADVISED] = action
    timed.live.streams[early, DUE] = 0
    begun: dict[int, int] = {}
    while (stream := timed.advance()) >= 0:
        taken = KEEP
        if stream not in reached:
            # Its first epoch began with its first read.
            start = begun.setdefault(stream, int(timed.live.streams[stream, features.EPOCH_NS]))
            if timed.now - start >= ADVICE_NS - (begins[stream] - int(opened[stream])):
                reached[stream] = timed.recorded_ts
                taken = action
        timed.act(taken)
    return [(stream, ts, action) for stream, ts in reached.items()]


def _advised(demand: Demand, given: Sequence[Given]) -> Demand:
    """The demand with that advice, each before the first read of its stream that begins then or later."""
    ops = {name: np.asarray(column) for name, column in demand["ops"].items()}
    limits = np.asarray(demand["streams"]["ra_pages"])
    ops[ADVISED_PAGES] = limits[ops["stream"].astype(np.int64)]
    reads = np.flatnonzero(ops["kind"] == timeline.READ)
    places = []
    for stream, ts, action in sorted(given, key=lambda one: one[1]):
        mine = reads[ops["stream"][reads] == stream]
        after = mine[ops["ts"][mine] >= ts]
        if after.size:
            places.append((int(after[0]), action))
    where = np.array([place for place, _ in places], np.int64)
    acts = [action for _, action in places]
    fixed: dict[str, Any] = {
        "kind": timeline.FADVISE,
        "pos": 0,
        "count": 0,
        "ret": 0,
        "advice": [FADV_RANDOM if action == actions.EXACT else FADV_NORMAL for action in acts],
        ADVISED_PAGES: [0 if action == actions.EXACT else actions.RA_PAGES[action] for action in acts],
    }
    rows = {
        name: np.insert(column, where, fixed[name] if name in fixed else column[where])
        for name, column in ops.items()
    }
    return {**demand, "ops": rows}


def _untimed(demand: Demand) -> ReadaheadSimulation:
    """One on devices that take no time."""
    free = dict.fromkeys(PARAMETERS, 0) | {"tick_ns": device.TICK_NS}
    names = (device_name(demand, row) for row in range(len(demand["devices"]["name"])))
    return _simulation(demand, dict.fromkeys(names, free), _NEVER)


def _simulation(
    demand: Demand, calibration: Mapping[str, Mapping[str, int]], decision: Mapping[str, Any]
) -> ReadaheadSimulation:
    return ReadaheadSimulation(demand, calibration, decision)


def _decide(simulation: ReadaheadSimulation, model: Model) -> tuple[list[Given], list[tuple[int, int, int]]]:
    """Run with the model in the loop; its advice, and the same from when its stream first read."""
    values = np.zeros(model.n_features, np.float32)
    begun: dict[int, int] = {}
    delay = int(model.decision["advice_delay_ns"])
    given: list[Given] = []
    told: list[tuple[int, int, int]] = []
    simulation.reset()
    while (stream := simulation.advance()) >= 0:
        # Its first epoch began with its first read.
        start = begun.setdefault(stream, int(simulation.live.streams[stream, features.EPOCH_NS]))
        simulation.features(values)
        action = model.policy(simulation, values)
        if action != KEEP:
            given.append((stream, simulation.recorded_ts + delay, action))
            told.append((stream, simulation.now - start + delay, action))
        simulation.act(action)
    return given, told


def _outcome(
    timed: ReadaheadSimulation, requests: int, outside: int, advice: tuple[tuple[int, int, int], ...]
) -> Outcome:
    totals = timed.stream_account().sum(axis=0)
    elapsed = int(timed.live.ended.max()) - int(timed.world.ops[:, TS].min())
    return Outcome(
        pages_fetched=int(totals[metrics.PAGES_FETCHED]),
        pages_wasted=int(totals[metrics.PAGES_WASTED]),
        requests=requests,
        elapsed_ns=elapsed + outside,
        advice=advice,
    )
