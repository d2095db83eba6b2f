"""What a recorded run would have come to under settings that were not recorded: pages, requests, time.

The demand of a recording under stock is replayed through the project's own simulators
(``subsystems.readahead``) with other limits, or with a packaged model in the loop. All that is known of the
settings is what the replay makes of them; nothing measured under them exists yet.

- Pages: as the replay fetches them. Exact where the setting is in force from the opening of a file, for then
  they depend on the order of the reads alone; modelled where it comes later: the first read that it reaches
  depends on time.
- Requests of the device: bios, cut as the block layer cuts them (:mod:`hindsight.lab.requests`). Modelled.
  With a model in the loop they are counted otherwise, since the order in time matters: by a second replay
  on a device that takes the same time for each piece and knows no throttle; its busy time tells how many
  there were. That knows the largest request, but neither segments nor extents, and joins what adjoins: on the
  recordings of the sample it counts up to 1.5 % less where neither matters.
- Time: the simulated time until the last read has ended, and the recorded time before the first and after
  the last one. Modelled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.lab.rearm import EXACT
from hindsight.lab.requests import Limits, count_requests
from hindsight.lab.suites import STOCK, Scope, Setting
from hindsight.pipeline.drive import Policy
from hindsight.subsystems.contract import KEEP, Columns
from hindsight.subsystems.readahead import actions, device, metrics, timeline
from hindsight.subsystems.readahead.simulation import PARAMETERS, ReadaheadSimulation, device_name
from hindsight.subsystems.readahead.state import FADV_NORMAL, FADV_RANDOM
from hindsight.subsystems.readahead.world import ADVISED, DUE, END, FOREVER, KIND, POS, RET, STREAM, TS

Demand = Mapping[str, Columns]

PAGE_BYTES = 4096
ADVICE_NS = 1_000_000
"""From the opening of a file until advice through a duplicate of its descriptor reaches it.

Half of it until the file is seen, the rest until it is given. A read more or less may come before it.
"""

_PIECE_NS = 1_000_000
_NEVER = {"epoch_ns": 2**62, "epoch_reads": 2**62, "advice_delay_ns": 0, "block_ns": 1_000_000_000}
_EVERY_READ = {**_NEVER, "epoch_ns": 0, "epoch_reads": 1}

Act = Callable[[ReadaheadSimulation, int], int]
"""(simulation, the stream that begins a read) -> action or KEEP."""


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
    ops = _simulation(demand, _uniform(demand), _NEVER).world.ops
    return max(int(ops[:, TS].min()) - begin_ns, 0) + max(end_ns - int(ops[:, END].max()), 0)


def demanded(demand: Demand) -> tuple[int, int]:
    """(pages, bytes): different pages that were asked for; bytes that were read, repeated ones too."""
    world = _simulation(demand, _uniform(demand), _NEVER).world
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
    if setting.scope is Scope.MODEL:
        assert model is not None
        timed = _simulation(demand, calibration, model.decision)
        taken: dict[tuple[int, int], int] = {}
        advice = _decide(timed, model, taken)
        return _outcome(timed, _count_pieces(demand, taken), outside, advice)
    if setting.scope is Scope.FILE:
        timed = _simulation(demand, calibration, _NEVER)
        timed.reset()
        timed.live.streams[:, ADVISED] = action_of(setting.kilobytes)
        timed.live.streams[:, DUE] = _arrivals(demand)
        while timed.advance() >= 0:
            pass
        altered = _advised(demand, setting.kilobytes)
    else:
        static = KEEP if setting == STOCK else action_of(setting.kilobytes)
        timed = _simulation(demand, calibration, _NEVER)
        _follow(timed, static, lambda simulation, stream: KEEP)
        altered = demand if setting == STOCK else _limited(demand, setting.kilobytes)
    return _outcome(timed, count_requests(altered, blocks.limits, blocks.breaks), outside, ())


def _limited(demand: Demand, kilobytes: int) -> Demand:
    """The demand of files that are opened on a device with that limit."""
    streams = dict(demand["streams"])
    streams["ra_pages"] = np.full_like(streams["ra_pages"], kilobytes * 1024 // PAGE_BYTES)
    return {**demand, "streams": streams}


def _arrivals(demand: Demand) -> NDArray[np.int64]:
    """When advice reaches each stream: ADVICE_NS after it was opened."""
    return np.asarray(demand["streams"]["from_ns"]).astype(np.int64) + ADVICE_NS


def _advised(demand: Demand, kilobytes: int) -> Demand:
    """The demand with advice on every stream, before its first read that begins after the advice's arrival.

    A limit is that of the streams from their opening: the few reads before the advice count as if they had
    it.
    """
    ops = {name: np.asarray(column) for name, column in demand["ops"].items()}
    stream = ops["stream"].astype(np.int64)
    late = np.flatnonzero((ops["kind"] == timeline.READ) & (ops["ts"] >= _arrivals(demand)[stream]))
    _, first = np.unique(stream[late], return_index=True)
    where = np.sort(late[first])
    exact = kilobytes == EXACT
    fixed = {
        "kind": timeline.FADVISE,
        "pos": 0,
        "count": 0,
        "ret": 0,
        "advice": FADV_RANDOM if exact else FADV_NORMAL,
    }
    rows = {
        name: np.insert(column, where, fixed[name] if name in fixed else column[where])
        for name, column in ops.items()
    }
    altered = {**demand, "ops": rows}
    return altered if exact else _limited(altered, kilobytes)


def _count_pieces(demand: Demand, taken: Mapping[tuple[int, int], int]) -> int:
    """Requests under the decisions ``taken``: (stream, recorded time of the read) -> action."""

    def as_decided(simulation: ReadaheadSimulation, stream: int) -> int:
        return taken.get((stream, simulation.recorded_ts), KEEP)

    counted = _simulation(demand, _uniform(demand), _EVERY_READ)
    _follow(counted, KEEP, as_decided)
    pieces = 0
    for row in range(len(counted.live.devices.state)):
        device.observe(counted.live.devices, row, FOREVER)
        pieces += int(counted.live.devices.state[row, device.BUSY_NS]) // _PIECE_NS
    return pieces


def _simulation(
    demand: Demand, calibration: Mapping[str, Mapping[str, int]], decision: Mapping[str, Any]
) -> ReadaheadSimulation:
    return ReadaheadSimulation(demand, calibration, decision)


def _uniform(demand: Demand) -> dict[str, dict[str, int]]:
    """A device that takes _PIECE_NS for each request, whatever its size, and nothing else takes time."""
    parameters = {**dict.fromkeys(PARAMETERS, 0), "service_ns": _PIECE_NS, "tick_ns": device.TICK_NS}
    return {device_name(demand, row): parameters for row in range(len(demand["devices"]["name"]))}


def _follow(simulation: ReadaheadSimulation, static: int, act: Act) -> None:
    simulation.reset(static)
    while (stream := simulation.advance()) >= 0:
        simulation.act(act(simulation, stream))


def _decide(
    simulation: ReadaheadSimulation, model: Model, taken: dict[tuple[int, int], int]
) -> tuple[tuple[int, int, int], ...]:
    """Run with the model in the loop; fills ``taken`` with (stream, recorded time of the read) -> action."""
    features = np.zeros(model.n_features, np.float32)
    ops = simulation.world.ops
    begins = {int(s): int(ops[ops[:, STREAM] == s, TS].min()) for s in np.unique(ops[:, STREAM])}
    advice = []
    simulation.reset()
    while (stream := simulation.advance()) >= 0:
        simulation.features(features)
        action = model.policy(simulation, features)
        if action != KEEP:
            taken[stream, simulation.recorded_ts] = action
            delay = int(model.decision["advice_delay_ns"])
            advice.append((stream, max(simulation.now - begins[stream], 0) + delay, action))
        simulation.act(action)
    return tuple(advice)


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
