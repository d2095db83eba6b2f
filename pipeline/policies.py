"""Policies: the model, the trivial rule, chance, and the greedy oracle that looks into the future."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hindsight.pipeline.rollouts import cheapest, costs
from hindsight.subsystems.contract import KEEP, Simulation, Subsystem

if TYPE_CHECKING:
    from hindsight.models.trees import Forest


def candidates(subsystem: Subsystem) -> NDArray[np.float32]:
    """One row per action, KEEP last: (n_actions + 1, n_features + n_encoding); the features are left 0."""
    encodings = np.array([a.encoding for a in subsystem.actions] + [subsystem.keep_encoding], np.float32)
    return np.hstack([np.zeros((len(encodings), len(subsystem.features)), np.float32), encodings])


class ModelPolicy:
    """The action of the smallest margin (expected relative change of the cost), from ``min_gain`` on."""

    def __init__(self, subsystem: Subsystem, forest: Forest, min_gain: float) -> None:
        self.forest = forest
        self.threshold = -np.float32(min_gain)
        self.n_features = len(subsystem.features)
        self.rows = candidates(subsystem)[:-1]

    def __call__(self, simulation: Simulation, features: NDArray[np.float32]) -> int:
        """Ties go to the action that is listed first."""
        from hindsight.models.trees import margins

        self.rows[:, : self.n_features] = features
        scores = margins(self.forest, self.rows)
        best = int(np.argmin(scores))
        return best if scores[best] < self.threshold else KEEP


class RulePolicy:
    """The trivial rule of the subsystem."""

    def __init__(self, subsystem: Subsystem) -> None:
        self.rule = subsystem.rule

    def __call__(self, simulation: Simulation, features: NDArray[np.float32]) -> int:
        """Two lines of code, in the subsystem."""
        return self.rule(features)


class RandomPolicy:
    """Any action or KEEP, each as likely as the other; the same for the same seed and capture."""

    def __init__(self, subsystem: Subsystem, seed: int, capture: str) -> None:
        self.generator = np.random.Generator(np.random.PCG64([seed, zlib.crc32(capture.encode())]))
        self.n_actions = len(subsystem.actions)

    def __call__(self, simulation: Simulation, features: NDArray[np.float32]) -> int:
        """KEEP is -1."""
        return int(self.generator.integers(-1, self.n_actions))


class OraclePolicy:
    """The action that is cheapest over the horizon if nobody is advised afterwards; KEEP on a tie.

    It knows the future, but only so far, and not what it will advise later: a good policy, not a bound.
    """

    def __init__(self, subsystem: Subsystem, horizon_ns: int) -> None:
        self.horizon_ns = horizon_ns
        self.n_actions = len(subsystem.actions)

    def __call__(self, simulation: Simulation, features: NDArray[np.float32]) -> int:
        """One rollout per action."""
        return cheapest(costs(simulation, self.n_actions, self.horizon_ns))
