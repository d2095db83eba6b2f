"""The demand of one capture in simulated time, under any policy (``subsystems.contract.Simulation``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.errors import ConfigurationError, HindsightError
from hindsight.subsystems.contract import KEEP, Columns
from hindsight.subsystems.readahead import (
    actions,
    advice,
    bound,
    course,
    device,
    features,
    fetching,
    timeline,
    verdict,
)
from hindsight.subsystems.readahead import world as layout
from hindsight.subsystems.readahead.compiled import step
from hindsight.subsystems.readahead.demand import NO_RESULT
from hindsight.subsystems.readahead.state import Log, new_log
from hindsight.subsystems.readahead.world import (
    CLOCK,
    DEVICE,
    DEVICE_RA,
    FILE,
    FOREVER,
    NEXT,
    PAGE,
    POS,
    TS,
    Record,
    State,
    World,
)

PARAMETERS = ("service_ns", "page_ns", "iops", "bps", "tick_ns", "read_ns", "copy_ns", "fetch_ns")
"""Integers that describe a device and the processor beside it; ``calibration`` fits them."""

_MAX_RA = 2 * max(actions.RA_PAGES)
"""POSIX_FADV_SEQUENTIAL doubles a limit."""


BACKGROUND = (verdict.SHARED, verdict.RECLAIMED)
"""Reasons of streams without a verdict whose reads are simulated all the same, because they load the device.
"""

ANY_DEVICE = "*"
"""Key of the parameters of a device that was not calibrated itself; its throttle is the demand's."""


def device_name(demand: Mapping[str, Columns], row: int) -> str:
    """Name of a device of a demand: the key of its parameters in a calibration."""
    return str(demand["devices"]["name"][row])


def parameters_of(demand: Mapping[str, Columns], row: int) -> dict[str, int]:
    """The parameters of a device that the capture knows: the throttle of the traced command, 0 = none."""
    devices = demand["devices"]
    return {
        "iops": int(devices["throttle_read_iops"][row]),
        "bps": int(devices["throttle_read_bps"][row]),
    }


def find_parameters(
    demand: Mapping[str, Columns], row: int, calibration: Mapping[str, Mapping[str, int]]
) -> Mapping[str, int]:
    """Parameters of a device: its own; else those of one with the same throttle (device numbers change from
    boot to boot); else :data:`ANY_DEVICE` with the device's throttle.

    Raises ConfigurationError if the calibration has none of these.
    """
    name = device_name(demand, row)
    if name in calibration:
        return calibration[name]
    limits = name.partition("/")[2]
    alike = sorted(other for other in calibration if limits and other.partition("/")[2] == limits)
    if alike:
        return calibration[alike[0]]
    if ANY_DEVICE in calibration:
        return {**calibration[ANY_DEVICE], **parameters_of(demand, row)}
    raise ConfigurationError(
        f"device {name} has no calibration", "calibrate on captures that read from this device"
    )


def _operations(demand: Mapping[str, Columns], block_ns: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """(ops i64[N, N_OP] sorted by (task, ts), where each task's begin u64[T + 1]).

    Simulated are the reads of eligible streams, and the advice and readahead(2) calls on their files. What
    the task did otherwise, reads of other streams included, is time between two operations. A read whose
    return was not recorded is taken to have got what it asked for, as far as the file goes.
    """
    ops, streams = demand["ops"], demand["streams"]
    column = {name: np.asarray(ops[name]).astype(np.int64) for name in ops}
    eligible = np.asarray(streams["eligible"], bool)
    file_of = np.asarray(streams["file_id"]).astype(np.int64)
    simulated = eligible | np.isin(np.asarray(streams["reason"]), BACKGROUND)
    simulated_files = np.zeros(len(demand["files"]["size"]), bool)
    simulated_files[file_of[simulated]] = True
    stream, kind = column["stream"], column["kind"]
    advised = np.isin(kind, (timeline.FADVISE, timeline.READAHEAD)) & (column["ret"] == 0)
    keep = (simulated[stream] & (kind == timeline.READ)) | (simulated_files[file_of[stream]] & advised)
    at = np.flatnonzero(keep & (column["pos"] >= 0))
    ts, task = column["ts"], column["task"]
    at = at[np.lexsort((at, ts[at], task[at]))]

    out = np.zeros((len(at), layout.N_OP), np.int64)
    for to, name in (
        (layout.TS, "ts"), (layout.END, "end"), (layout.STREAM, "stream"), (layout.KIND, "kind"),
        (layout.POS, "pos"), (layout.COUNT, "count"), (layout.RET, "ret"), (layout.ADVICE, "advice"),
    ):  # fmt: skip
        out[:, to] = column[name][at]
    reads = out[:, layout.KIND] == timeline.READ
    asked = np.maximum(out[:, layout.COUNT], out[:, layout.RET])
    got = np.where(out[:, layout.RET] > NO_RESULT, out[:, layout.RET], asked)
    size = np.asarray(demand["files"]["size"]).astype(np.int64)[file_of[out[:, layout.STREAM]]]
    end = np.minimum(out[:, POS] + got, size)
    out[:, layout.COUNT] = np.where(reads, asked, out[:, layout.COUNT])
    out[:, layout.RET] = np.where(reads, np.maximum(end - out[:, POS], 0), out[:, layout.RET])
    tasks = max(len(demand["tasks"]["pid"]), int(task.max(initial=-1)) + 1)
    first = np.searchsorted(task[at], np.arange(tasks + 1)).astype(np.uint64)
    if len(at):
        out[1:, layout.THINK] = np.maximum(out[1:, TS] - out[:-1, layout.END], 0)
        _order_within_files(out, file_of[out[:, layout.STREAM]], task[at])
    out[:, layout.BLOCK] = (out[:, TS] - int(ts.min(initial=FOREVER))) // block_ns
    return out, first


def _order_within_files(out: NDArray[np.int64], file: NDArray[np.int64], task: NDArray[np.int64]) -> None:
    """Fill the columns that keep the operations on a file in order across tasks."""
    order = np.lexsort((task, out[:, TS], file))
    before, here = order[:-1], order[1:]
    begins, ends = out[here, TS], out[before, layout.END]
    follows = (file[before] == file[here]) & (task[before] != task[here]) & (ends <= begins)
    out[:, layout.AFTER] = out[:, layout.GAP] = -1
    out[here[follows], layout.AFTER] = before[follows]
    out[before[follows], layout.AWAITED] = 1
    own = np.concatenate(
        [[np.iinfo(np.int64).min], np.where(task[1:] == task[:-1], out[:-1, layout.END], -1)]
    )
    last = follows & (ends >= own[here])
    out[here[last], layout.GAP] = (begins - ends)[last]


@step
def _targets(world: World, live: State, now: int, horizon: int, out: np.ndarray) -> None:
    """The operation at which each task's demand of the next ``horizon`` ns of recorded time ends."""
    for t in range(np.uint64(live.tasks.shape[0])):
        low = live.tasks[t, NEXT]
        high = np.int64(world.first[t + np.uint64(1)])
        if low < high:
            pause: Any = np.int64(0)
            if live.tasks[t, PAGE] < 0 and live.tasks[t, CLOCK] != FOREVER:
                pause = max(live.tasks[t, CLOCK] - now, 0)
            limit = world.ops[np.uint64(low), TS] + horizon - pause
            while low < high:
                middle = (low + high) // 2
                if world.ops[np.uint64(middle), TS] < limit:
                    low = middle + 1
                else:
                    high = middle
        out[t] = low


class ReadaheadSimulation:
    """A timed replay of the eligible streams of one capture; see the protocol for the meaning of the methods.

    ``demand``: the tables of ``demand.demand``; ``calibration``: :data:`PARAMETERS` per device name;
    ``params``: ``epoch_ns``, ``epoch_reads``, ``advice_delay_ns`` (one, or several of which each piece of
    advice takes one), ``block_ns``.
    """

    def __init__(
        self,
        demand: Mapping[str, Columns],
        calibration: Mapping[str, Mapping[str, int]],
        params: Mapping[str, Any],
        log_decisions: int = 0,
    ) -> None:
        streams, files, devices = demand["streams"], demand["files"], demand["devices"]
        names = len(devices["name"])
        self._device_params = np.zeros((names, device.N_PARAMS), np.int64)
        self._device_params[:, device.SPLIT_PAGES] = np.maximum(
            np.asarray(devices["io_pages"]).astype(np.int64), 1
        )
        ops, first = _operations(demand, int(params["block_ns"]))
        count = len(streams["eligible"])
        table = np.zeros((count, layout.N_CONSTANT), np.int64)
        table[:, FILE] = streams["file_id"]
        table[:, DEVICE] = streams["device_id"]
        table[:, layout.ELIGIBLE] = streams["eligible"]
        self._stock_ra = np.asarray(streams["ra_pages"]).astype(np.uint32)
        self._io_pages = np.asarray(streams["io_pages"]).astype(np.uint32)
        # Only files of simulated streams need pages.
        simulated = np.zeros(len(files["size"]), bool)
        simulated[np.unique(table[np.unique(ops[:, layout.STREAM]), FILE])] = True
        self._size = np.where(simulated, np.asarray(files["size"]).astype(np.int64), 0)
        self._max_order = np.asarray(files["max_order"]).astype(np.uint8)
        settings = np.array([params["epoch_ns"], params["epoch_reads"]], np.int64)
        delays = np.atleast_1d(np.asarray(params["advice_delay_ns"], np.int64))
        costs = np.zeros((names, layout.N_COST), np.int64)
        self.world = World(ops, first, table, costs, *actions.table(), settings, delays)
        for row in range(names):
            self.set_parameters(row, find_parameters(demand, row, calibration))
        self._file_of = table[:, FILE].astype(np.uint32)
        longest = max(
            [int(_MAX_RA), *(2 * int(v) for v in self._stock_ra), *(int(v) for v in self._io_pages)]
        )
        self.log: Log = new_log(log_decisions, 2 * longest)
        self._blocks = int(ops[:, layout.BLOCK].max(initial=-1)) + 1
        self._tasks = len(first) - 1
        self._targets = np.zeros(self._tasks, np.int64)
        self._no_stalls = np.zeros(0, np.int64)
        self._bound: int | None = None
        self.reset()

    def set_parameters(self, row: int, parameters: Mapping[str, int]) -> None:
        """Other parameters (:data:`PARAMETERS`) for a device of the demand, in force after :meth:`reset`."""
        tick = int(parameters["tick_ns"])
        self._device_params[row, : device.SPLIT_PAGES] = (
            parameters["service_ns"],
            parameters["page_ns"],
            parameters["iops"],
            parameters["bps"],
            tick,
            max(1_000_000_000 // device.SLICES_PER_SECOND // tick, 1),
        )
        self.world.costs[row] = parameters["read_ns"], parameters["copy_ns"], parameters["fetch_ns"]
        self._bound = None

    def reset(self, static: int = KEEP) -> None:
        """Back to the beginning; with ``static`` every stream opens with that action in force."""
        world = self.world
        ra_pages = self._stock_ra.copy()
        if static != KEEP and world.action_ra[static] != actions.KEEP_RA:
            ra_pages[:] = world.action_ra[static]
        world.streams[:, DEVICE_RA] = ra_pages
        arguments = (
            self._size,
            self._max_order,
            self._file_of,
            ra_pages,
            self._io_pages,
            self._device_params,
        )
        self.live = layout.new_state(*arguments, len(world.ops), self._tasks)
        if static != KEEP and world.action_random[static]:
            self.live.files.random[:] = 1
        timeline.start_tasks(world, self.live)
        self._spare: State | None = None
        pages, count = len(self.live.ready), len(ra_pages)
        self.record: Record = layout.new_record(pages, self._blocks, count)
        self._dirty = layout.new_dirty(pages, count)
        self._rolled = layout.new_dirty(pages, count)
        self._stream = -1
        self._task = -1

    def advance(self) -> int:
        """Run to the next decision epoch; the stream that may decide, -1 at the end of the demand."""
        return self._advance(self._no_stalls)

    def _advance(self, stalls: NDArray[np.int64]) -> int:
        resumed = self._stream >= 0
        if resumed:
            at = self.world.streams[self._stream, DEVICE]
            features.begin_epoch(self.live.streams[self._stream], self.live.devices.state[at], self.now)
            # The spare state must learn of it.
            layout.touch_stream(self._dirty, self._stream)
        self._stream, self._task, _ = self._run(self.live, self._dirty, True, resumed, stalls)
        return self._stream

    def _run(
        self, on: State, dirty: layout.Dirty, live: bool, resumed: bool, stalls: NDArray[np.int64]
    ) -> tuple[int, int, int]:
        stream, task, cost = timeline.run(
            self.world, on, self.record, dirty, self.log, live, resumed, self._targets, stalls
        )
        if stream == timeline.OVERFLOW:
            raise HindsightError(
                "a single decision inserted more folios than the log of the replay holds",
                "the capture's ra_pages or io_pages are implausible; see `hindsight capture info`",
            )
        return int(stream), int(task), int(cost)

    @property
    def now(self) -> int:
        """Simulated time (ns) of the epoch at which the simulation stands."""
        return int(self.live.tasks[self._standing(), CLOCK])

    @property
    def recorded_ts(self) -> int:
        """Recorded time (ns) of the read at which the simulation stands."""
        return int(self.world.ops[self.live.tasks[self._standing(), NEXT], TS])

    def _standing(self) -> int:
        if self._stream < 0:
            raise RuntimeError("the simulation stands at no decision epoch: call advance() first")
        return self._task

    def features(self, out: NDArray[np.float32]) -> None:
        """Write the features of the stream that may decide; ``out`` f32[len(features.FEATURES)]."""
        now, s = self.now, self._stream
        file, dev = (int(v) for v in self.world.streams[s, [FILE, DEVICE]])
        device.observe(self.live.devices, dev, now)
        files = self.live.files
        begun = self.live.streams[s, features.EPOCH_NS]
        seen = self.live.streams[:, features.LAST_READ_NS]
        active = int(np.count_nonzero((self.world.streams[:, DEVICE] == dev) & (seen >= begun) & (seen >= 0)))
        op = int(self.live.tasks[self._task, NEXT])
        features.compute(
            self.live.streams[s], self.live.devices.state[dev], now, int(self.world.ops[op, POS]),
            int(self._size[file]), int(files.ra_pages[s]), int(files.random[s]), int(files.io_pages[s]),
            active, out,
        )  # fmt: skip

    def act(self, action: int) -> None:
        """Take an action for that stream (or KEEP), effective after the advice delay."""
        now = self.now
        if action != KEEP:
            op = int(self.live.tasks[self._task, NEXT])
            advice.give_advice(self.world, self.live, self._dirty, self._stream, action, now, op)

    def rollout(self, action: int, horizon_ns: int) -> int:
        """Stall (ns) of the demand of the next ``horizon_ns`` if that stream takes ``action`` now."""
        now = self.now
        if self._spare is None:
            self._spare = layout.copy(self.live)
        layout.put_back(self.live, self._spare, self._dirty)
        if action != KEEP:
            op = int(self.live.tasks[self._task, NEXT])
            advice.give_advice(self.world, self._spare, self._rolled, self._stream, action, now, op)
        _targets(self.world, self.live, now, horizon_ns, self._targets)
        _, _, cost = self._run(self._spare, self._rolled, False, True, self._no_stalls)
        layout.put_back(self.live, self._spare, self._rolled)
        return cost

    def account(self) -> NDArray[np.int64]:
        """Metrics so far per block of recorded time: i64[n_blocks, n_metrics]. Pages that are not used yet
        count as wasted.
        """
        return self._final().blocks

    def stream_account(self) -> NDArray[np.int64]:
        """Metrics so far per stream: i64[n_streams, n_metrics]."""
        return self._final().streams

    def _final(self) -> Record:
        copy = self.record._replace(blocks=self.record.blocks.copy(), streams=self.record.streams.copy())
        fetching.count_waste(self.world, copy)
        return copy

    def read_times(self) -> NDArray[np.int64]:
        """Run to the end without advice; the time (ns) that each operation's read took under the model, in
        the order of ``world.ops``, -1 where it is no read.
        """
        times = np.full(len(self.world.ops), -1, np.int64)
        while self._advance(times) >= 0:
            pass
        return times

    def course(self, stream: int) -> dict[str, Columns]:
        """What the stream asked for and what was fetched, so far; see ``course.of_stream``."""
        return course.of_stream(self.world, self.record, self.live.cache.base, stream)

    def bound(self) -> int:
        """A proven lower bound of the stall of the whole capture; see ``bound.least_stall``."""
        if self._bound is None:
            self._bound = int(bound.least_stall(self.world, self._size, self._device_params))
        return self._bound
