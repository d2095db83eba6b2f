"""Parameters of the model of time, fitted to recorded reads under factual replay of the stock policy.

What the capture knows is not fitted: the throttle of the traced command, the largest request. Service times
and processor costs are found by a coordinate search on a geometric grid that minimises how far the modelled
time of reads is from the recorded one: the ratio of the totals per capture, plus that of the deciles of
single reads. Integers only, in a fixed order, so that the same captures give the same parameters on every
machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hindsight.subsystems.contract import Columns
from hindsight.subsystems.readahead import device, timeline
from hindsight.subsystems.readahead.simulation import (
    ANY_DEVICE,
    ReadaheadSimulation,
    device_name,
    parameters_of,
)
from hindsight.subsystems.readahead.world import ELIGIBLE, END, KIND, RET, STREAM, TS

Demand = Mapping[str, Columns]
Parameters = dict[str, int]

START: Parameters = {
    "service_ns": 80_000,
    "page_ns": 800,
    "iops": 0,
    "bps": 0,
    "tick_ns": device.TICK_NS,
    "read_ns": 1_500,
    "copy_ns": 300,
    "fetch_ns": 400,
}
FITTED = ("service_ns", "page_ns", "fetch_ns", "read_ns", "copy_ns")
STEPS = (4, 2)
"""A parameter moves by these factors first, and by 5/4 and 9/8 at the end."""
LEAST_READS = 64
"""A capture with fewer reads on a device tells little about it: it is left out, unless there is no other."""

_PPM = 1_000_000
_FAR, _PULL = _PPM, 16
"""What is further off than by a factor of two was probably disturbed, and pulls by a sixteenth only."""
_NO_DECISIONS = {"epoch_ns": 2**62, "epoch_reads": 2**62, "advice_delay_ns": 0, "block_ns": 1_000_000_000}


def _ratio(modelled: int, recorded: int) -> int:
    """How far apart two times are: larger / smaller - 1, in millionths; less where it is a lot."""
    low, high = sorted((max(int(modelled), 1), max(int(recorded), 1)))
    ratio = min((high - low) * _PPM // low, 1000 * _PPM)
    return ratio if ratio <= _FAR else _FAR + (ratio - _FAR) // _PULL


def only_device(demand: Demand, row: int) -> dict[str, Columns]:
    """The demand with the streams of one device alone; what tasks did elsewhere is time that they spent."""
    streams = dict(demand["streams"])
    eligible = np.asarray(streams["eligible"], bool) & (np.asarray(streams["device_id"]) == row)
    streams["eligible"] = eligible
    return {**demand, "streams": streams}


def counted_reads(simulation: ReadaheadSimulation) -> NDArray[np.int64]:
    """Rows of ``world.ops`` that are reads of streams that carry a verdict."""
    world = simulation.world
    eligible = world.streams[world.ops[:, STREAM], ELIGIBLE] != 0
    return np.flatnonzero(eligible & (world.ops[:, KIND] == timeline.READ))


def read_durations(simulation: ReadaheadSimulation) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(modelled, recorded) time of every read, in ns; runs the simulation to its end."""
    simulation.reset()
    modelled = simulation.read_times()
    ops = simulation.world.ops
    reads = counted_reads(simulation)
    return modelled[reads], (ops[:, END] - ops[:, TS])[reads]


class _Fit:
    """The captures that read from one device, and how well parameters explain them."""

    def __init__(self, parts: Sequence[tuple[Demand, int]], start: Parameters) -> None:
        self.parameters = dict(start)
        self.simulations: list[tuple[ReadaheadSimulation, int]] = []
        for demand, row in parts:
            names = [device_name(demand, r) for r in range(len(demand["devices"]["name"]))]
            simulation = ReadaheadSimulation(
                only_device(demand, row), dict.fromkeys(names, start), _NO_DECISIONS
            )
            if len(counted_reads(simulation)):
                self.simulations.append((simulation, row))
        enough = [s for s in self.simulations if len(counted_reads(s[0])) >= LEAST_READS]
        self.simulations = enough or self.simulations
        self._known: dict[tuple[int, ...], int] = {}

    def error(self, parameters: Parameters) -> int:
        key = tuple(parameters.values())
        if key not in self._known:
            self._known[key] = sum(self._capture_error(s, row, parameters) for s, row in self.simulations)
        return self._known[key]

    @staticmethod
    def _capture_error(simulation: ReadaheadSimulation, row: int, parameters: Parameters) -> int:
        simulation.set_parameters(row, parameters)
        modelled, recorded = read_durations(simulation)
        total = _ratio(int(modelled.sum()), int(recorded.sum()))
        at = np.arange(1, 10) * len(modelled) // 10
        deciles = zip(np.sort(modelled)[at].tolist(), np.sort(recorded)[at].tolist(), strict=True)
        return 4 * total + sum(_ratio(m, r) for m, r in deciles) // 9

    def processor_costs(self) -> None:
        """Start from what reads cost that found everything: median of small ones, slope to the large ones."""
        pages, durations = [], []
        for simulation, row in self.simulations:
            simulation.set_parameters(row, self.parameters)
            modelled, recorded = read_durations(simulation)
            ops = simulation.world.ops[counted_reads(simulation)]
            length = (np.maximum(ops[:, RET], 0) + device.PAGE_BYTES - 1) // device.PAGE_BYTES
            quick = modelled <= self.parameters["read_ns"] + (length + 1) * self.parameters["copy_ns"]
            pages.append(length[quick])
            durations.append(recorded[quick])
        length, duration = np.concatenate(pages), np.concatenate(durations)
        if len(length) < LEAST_READS:
            return
        middle = int(np.sort(length)[len(length) // 2])
        small, large = length <= middle, length > middle
        copy = self.parameters["copy_ns"]
        if np.count_nonzero(large) >= LEAST_READS:
            distance = int(np.median(length[large])) - int(np.median(length[small]))
            rise = int(np.median(duration[large])) - int(np.median(duration[small]))
            copy = max(rise // max(distance, 1), 50)
        rest = int(np.median(duration[small])) - copy * int(np.median(length[small]))
        self.parameters.update(copy_ns=copy, read_ns=max(rest, 200))

    def search(self, names: Sequence[str], moves: Callable[[int], Sequence[int]]) -> bool:
        """One round of the coordinate search; True if a parameter moved."""
        moved = False
        for name in names:
            for value in moves(self.parameters[name]):
                candidate = {**self.parameters, name: value}
                if self.error(candidate) < self.error(self.parameters):
                    self.parameters = candidate
                    moved = True
        return moved


def _fit(parts: Sequence[tuple[Demand, int]], start: Parameters) -> Parameters:
    fit = _Fit(parts, start)
    if not fit.simulations:
        return dict(start)
    fit.processor_costs()
    for step in STEPS:
        fit.search(FITTED, lambda v, step=step: (v * step, max(v // step, 1)))  # type: ignore[misc]
    for _ in range(2):
        if not fit.search(FITTED, lambda v: (v * 5 // 4 + 1, v * 4 // 5, v * 9 // 8 + 1, v * 8 // 9)):
            break
    return fit.parameters


def calibrate(demands: Sequence[Demand]) -> dict[str, Parameters]:
    """Parameters (``simulation.PARAMETERS``) per device name, and of any device (``simulation.ANY_DEVICE``).

    Devices without a read of an eligible stream get no entry of their own.
    """
    parts: dict[str, list[tuple[Demand, int]]] = {}
    for demand in demands:
        streams = demand["streams"]
        used = np.unique(np.asarray(streams["device_id"])[np.asarray(streams["eligible"], bool)])
        for row in used.tolist():
            parts.setdefault(device_name(demand, row), []).append((demand, row))
    result: dict[str, Parameters] = {}
    for name in sorted(parts):
        demand, row = parts[name][0]
        result[name] = _fit(parts[name], {**START, **parameters_of(demand, row)})
    most = max(parts, key=lambda name: (len(parts[name]), name), default=None)
    result[ANY_DEVICE] = {**(result[most] if most else START), "iops": 0, "bps": 0}
    return dict(sorted(result.items()))


def calibration_error(demand: Demand, calibration: Mapping[str, Mapping[str, int]]) -> tuple[int, int]:
    """(modelled, recorded) time in ns that the reads of the eligible streams of one capture took under
    stock.
    """
    modelled, recorded = read_durations(ReadaheadSimulation(demand, calibration, _NO_DECISIONS))
    return int(modelled.sum()), int(recorded.sum())
