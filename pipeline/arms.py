"""The arms of every comparison, always all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hindsight.pipeline.drive import Outcome, Policy, drive, keep
from hindsight.pipeline.policies import ModelPolicy, OraclePolicy, RandomPolicy, RulePolicy
from hindsight.subsystems.contract import KEEP, Simulation, Subsystem

if TYPE_CHECKING:
    from hindsight.models.trees import Forest


@dataclass(frozen=True)
class Arm:
    """A way to run a capture: a setting in force from the beginning, a policy at every epoch, or neither.

    ``policy`` makes a fresh policy for a capture (by its id).
    """

    name: str
    static: int = KEEP
    policy: Callable[[str], Policy] | None = None

    def run(self, subsystem: Subsystem, simulation: Simulation, capture: str) -> Outcome:
        """Drive the whole capture."""
        policy = self.policy(capture) if self.policy else keep
        return drive(simulation, policy, len(subsystem.features), len(subsystem.actions), self.static)


STOCK = Arm("stock")


def static_arms(subsystem: Subsystem) -> list[Arm]:
    """Every setting, in force for every stream from its opening."""
    return [Arm(f"static:{action.name}", static=i) for i, action in enumerate(subsystem.actions)]


def rule_arm(subsystem: Subsystem) -> Arm:
    """The trivial rule."""
    return Arm("rule", policy=lambda capture: RulePolicy(subsystem))


def random_arm(subsystem: Subsystem, seed: int) -> Arm:
    """Chance."""
    return Arm("random", policy=lambda capture: RandomPolicy(subsystem, seed, capture))


def best_known_arm(subsystem: Subsystem, horizon_ns: int) -> Arm:
    """The greedy oracle (see :class:`hindsight.pipeline.policies.OraclePolicy`)."""
    return Arm("best_known", policy=lambda capture: OraclePolicy(subsystem, horizon_ns))


def model_arm(name: str, subsystem: Subsystem, forest: Forest, decision: Mapping[str, Any]) -> Arm:
    """Trees in the loop; ``name`` is "model" or "null" (learned from shuffled labels)."""
    return Arm(name, policy=lambda capture: ModelPolicy(subsystem, forest, decision["min_gain"]))
