"""Drive a simulation with a policy in the loop: each decision changes the states that come after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hindsight.subsystems.contract import KEEP, Simulation


class Policy(Protocol):
    """Who decides. ``features`` is (n_features,) float32 and is overwritten by the next decision."""

    def __call__(self, simulation: Simulation, features: NDArray[np.float32]) -> int:
        """An action (index into ``Subsystem.actions``) or KEEP; must leave the simulation as it is."""
        ...


Visit = Callable[[int, NDArray[np.float32]], None]
"""Called at each epoch before the decision, with the stream and the features."""


@dataclass(frozen=True)
class Outcome:
    """What one run came to: metrics per block (n_blocks, n_metrics) and per stream (n_streams, n_metrics),
    and how often each action was taken (n_actions + 1,; KEEP last)."""

    blocks: NDArray[np.int64]
    streams: NDArray[np.int64]
    taken: NDArray[np.int64]

    @property
    def cost(self) -> int:
        """The first metric, over all blocks."""
        return int(self.blocks[:, 0].sum())


def keep(simulation: Simulation, features: NDArray[np.float32]) -> int:
    """Stock: never advise."""
    return KEEP


def drive(
    simulation: Simulation,
    policy: Policy,
    n_features: int,
    n_actions: int,
    static: int = KEEP,
    visit: Visit | None = None,
) -> Outcome:
    """Run the whole demand of a simulation from its beginning.

    ``static`` is in force for every stream from its opening; ``policy`` decides at every epoch.
    """
    simulation.reset(static)
    features = np.zeros(n_features, np.float32)
    taken = np.zeros(n_actions + 1, np.int64)
    while (stream := simulation.advance()) >= 0:
        simulation.features(features)
        if visit is not None:
            visit(stream, features)
        action = policy(simulation, features)
        taken[action] += 1  # KEEP is -1: the last
        simulation.act(action)
    return Outcome(simulation.account().copy(), simulation.stream_account().copy(), taken)
