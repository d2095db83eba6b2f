"""Price every action at the state in which a simulation stands."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hindsight.subsystems.contract import KEEP, Simulation


def costs(simulation: Simulation, n_actions: int, horizon_ns: int) -> NDArray[np.int64]:
    """Cost over the horizon of every action, and of KEEP (last): (n_actions + 1,)."""
    actions = [*range(n_actions), KEEP]
    return np.array([simulation.rollout(action, horizon_ns) for action in actions], np.int64)


def cheapest(values: NDArray[np.int64]) -> int:
    """Index of the smallest of :func:`costs`; KEEP if nothing is strictly cheaper than KEEP."""
    best = int(np.argmin(values[:-1]))
    return best if values[best] < values[-1] else KEEP
