"""Is there anything to win? Stock, best static setting, best known policy, per device, program and file.

Needs no model. The time model is calibrated on the very captures that it is then asked about: the figures say
where to look, not what a model will gain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.errors import ConfigurationError
from hindsight.pipeline import arms
from hindsight.pipeline.dataset import Capture, find_captures
from hindsight.pipeline.demand import Demand, exclusions, read_demands
from hindsight.pipeline.parallel import each
from hindsight.pipeline.store import rounded
from hindsight.subsystems.contract import Subsystem

Key = tuple[str, str, str]
KEY = ("device", "program", "file")

NOTE = (
    "best static: the one setting, for all streams and from their opening, that served this line best in "
    "hindsight. best known: the cheaper of that and a greedy policy that tries every action at each decision "
    "and looks {horizon} ahead; a better one may exist. The time model was calibrated on these very captures."
)


@dataclass(frozen=True)
class Accounts:
    """Metrics of one capture: arm -> (n_streams, n_metrics)."""

    keys: list[Key]
    eligible: NDArray[np.bool_]
    by_arm: Mapping[str, NDArray[np.int64]]
    bound: int


def headroom(
    dataset: Path, subsystem: Subsystem, decision: Mapping[str, Any], horizon_ns: int
) -> dict[str, Any]:
    """The lines of the headroom table, the largest saving first, their sum, and what is left out.

    Raises ConfigurationError if the dataset is unusable or no stream may carry a verdict.
    """
    found, without = read_demands(subsystem, find_captures(dataset))
    calibration = subsystem.calibrate([demand for _, demand in found])

    def account(item: tuple[Capture, Demand]) -> Accounts:
        _, demand = item
        streams = demand["streams"]
        keys = list(zip(*(map(str, streams[name]) for name in KEY), strict=True))
        simulation = subsystem.simulation(demand, calibration, decision)
        every = [arms.STOCK, *arms.static_arms(subsystem), arms.best_known_arm(subsystem, horizon_ns)]
        by_arm = {arm.name: arm.run(subsystem, simulation, item[0].id).streams for arm in every}
        return Accounts(keys, np.asarray(streams["eligible"], bool), by_arm, int(simulation.bound()))

    accounts = each(account, found, "replay every setting")
    totals = sum_by_key(accounts)
    if not totals:
        raise ConfigurationError(
            f"no stream of {dataset} may carry a verdict",
            f"left out: {'; '.join(_excluded(subsystem, [demand for _, demand in found])) or 'no stream'}",
        )
    lines = [line(subsystem, dict(zip(KEY, key, strict=True)), arms_) for key, arms_ in totals.items()]
    lines.sort(key=lambda entry: (-entry["headroom"], entry["device"], entry["program"], entry["file"]))
    names = next(iter(totals.values()))
    whole = {name: np.sum([by_arm[name] for by_arm in totals.values()], axis=0) for name in names}
    return {
        "subsystem": subsystem.name,
        "metrics": [
            {"name": m.name, "unit": m.unit, "label": m.label.value, "meaning": m.meaning}
            for m in subsystem.metrics
        ],
        "captures": len(found),
        "captures_without_demand": without,
        "lines": lines,
        "total": line(subsystem, {}, whole) | {"bound": sum(a.bound for a in accounts)},
        "excluded_streams": _excluded(subsystem, [demand for _, demand in found]),
        "calibration": _calibration(subsystem, found, calibration),
        "note": NOTE.format(horizon=f"{horizon_ns / 1e9:g} s"),
    }


def sum_by_key(accounts: Sequence[Accounts]) -> dict[Key, dict[str, NDArray[np.int64]]]:
    """Metrics of the eligible streams summed over captures: key -> arm -> (n_metrics,)."""
    totals: dict[Key, dict[str, NDArray[np.int64]]] = {}
    for account in accounts:
        for stream in np.flatnonzero(account.eligible):
            by_arm = totals.setdefault(account.keys[stream], {})
            for name, values in account.by_arm.items():
                by_arm[name] = by_arm.get(name, 0) + values[stream]
    return totals


def line(
    subsystem: Subsystem, key: Mapping[str, str], by_arm: Mapping[str, NDArray[np.int64]]
) -> dict[str, Any]:
    """Metrics of stock, the best static setting and the best known; ``headroom`` in the cost's unit."""
    names = [metric.name for metric in subsystem.metrics]
    statics = [f"static:{action.name}" for action in subsystem.actions]
    stock = by_arm["stock"]
    static = min(statics, key=lambda name: int(by_arm[name][0]))
    known = min([static, "best_known", "stock"], key=lambda name: int(by_arm[name][0]))
    saved = int(stock[0] - by_arm[known][0])
    return {
        **key,
        "stock": dict(zip(names, map(int, stock), strict=True)),
        "best_static": {
            "action": static.removeprefix("static:"),
            **dict(zip(names, map(int, by_arm[static]), strict=True)),
        },
        "best_known": dict(zip(names, map(int, by_arm[known]), strict=True)),
        "headroom": saved,
        "headroom_share": rounded(saved / int(stock[0])) if stock[0] else 0.0,
    }


def _excluded(subsystem: Subsystem, demands: Sequence[Demand]) -> dict[str, dict[str, int]]:
    summed: dict[str, dict[str, int]] = {}
    for demand in demands:
        for reason, entry in exclusions(subsystem, demand["streams"]).items():
            into = summed.setdefault(reason, {"streams": 0, "recorded_ns": 0})
            for name, value in entry.items():
                into[name] += value
    return dict(sorted(summed.items()))


def _calibration(
    subsystem: Subsystem,
    found: Sequence[tuple[Capture, Demand]],
    calibration: Mapping[str, Mapping[str, int]],
) -> dict[str, dict[str, int]]:
    errors = {}
    for capture, demand in found:
        modelled, recorded = subsystem.calibration_error(demand, calibration)
        errors[capture.id] = {"modelled_ns": int(modelled), "recorded_ns": int(recorded)}
    return errors
