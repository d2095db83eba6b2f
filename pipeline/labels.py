"""What each choice would have cost, at each state that a policy reaches, by counterfactual replay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.pipeline.drive import Policy, drive
from hindsight.pipeline.rollouts import costs
from hindsight.subsystems.contract import Simulation, Subsystem


@dataclass(frozen=True)
class States:
    """Labelled states in the order in which they were reached.

    epoch (n,) i32: ordinal of the decision in its capture; stream (n,) i32; features (n, n_features) f32;
    costs (n, n_actions + 1) i64: over the horizon, of every action, and of KEEP (last); fresh (n,) bool: no
    policy that was labelled before had reached the state.
    """

    epoch: NDArray[np.int32]
    stream: NDArray[np.int32]
    features: NDArray[np.float32]
    costs: NDArray[np.int64]
    fresh: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.epoch)

    def where(self, rows: NDArray[np.bool_]) -> States:
        """The states at which ``rows`` is true."""
        return States(
            self.epoch[rows], self.stream[rows], self.features[rows], self.costs[rows], self.fresh[rows]
        )


@dataclass
class Labeller:
    """Labels the states of one capture; a state that was reached before, by the same advice, costs nothing.

    A simulation is deterministic, so that the advice given so far determines the state. Not thread-safe.
    """

    subsystem: Subsystem
    simulation: Simulation
    horizon_ns: int
    known: dict[tuple[int, ...], tuple[NDArray[np.float32], NDArray[np.int64]]] = field(default_factory=dict)

    def label(self, policy: Policy) -> States:
        """Drive the capture with ``policy`` and label every state on the way."""
        reached: list[tuple[int, bool, NDArray[np.float32], NDArray[np.int64]]] = []
        history: list[int] = []
        n_actions = len(self.subsystem.actions)

        def visit(stream: int, features: NDArray[np.float32]) -> None:
            key = tuple(history)
            fresh = key not in self.known
            if fresh:
                self.known[key] = (features.copy(), costs(self.simulation, n_actions, self.horizon_ns))
            reached.append((stream, fresh, *self.known[key]))

        def recorded(simulation: Simulation, features: NDArray[np.float32]) -> int:
            action = policy(simulation, features)
            history.append(action)
            return action

        drive(self.simulation, recorded, len(self.subsystem.features), n_actions, visit=visit)
        return States(
            np.arange(len(reached), dtype=np.int32),
            np.array([stream for stream, *_ in reached], np.int32),
            _stack([features for *_, features, _ in reached], len(self.subsystem.features), np.float32),
            _stack([costs for *_, costs in reached], n_actions + 1, np.int64),
            np.array([fresh for _, fresh, *_ in reached], np.bool_),
        )


def _stack(rows: list[NDArray[Any]], width: int, dtype: type) -> NDArray[Any]:
    return np.array(rows, dtype).reshape(len(rows), width)


def join(parts: list[States]) -> States:
    """States of several captures or rounds, in that order; at least one part."""
    return States(
        np.concatenate([p.epoch for p in parts]),
        np.concatenate([p.stream for p in parts]),
        np.concatenate([p.features for p in parts]),
        np.concatenate([p.costs for p in parts]),
        np.concatenate([p.fresh for p in parts]),
    )


def relative(values: NDArray[np.int64], labels: Mapping[str, Any]) -> NDArray[np.float32]:
    """Change of the cost by each action relative to KEEP: (n, n_actions + 1) f32, negative = gain, KEEP = 0.

    (cost - cost of KEEP) / (cost of KEEP + ``scale``), at most ``clip``; float64 division of integers, then
    rounded once: the same on every machine.
    """
    kept = values[:, -1:]
    change = (values - kept) / (kept + int(labels["scale"]))
    return np.minimum(change, float(labels["clip"])).astype(np.float32)


def names(subsystem: Subsystem) -> list[str]:
    """Names of the columns of ``costs``."""
    return [f"cost:{action.name}" for action in subsystem.actions] + ["cost:keep"]
