from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from datasets import write_capture

from hindsight.pipeline import params
from hindsight.pipeline.arms import STOCK, best_known_arm, random_arm, static_arms
from hindsight.pipeline.dataset import find_captures
from hindsight.pipeline.demand import read_demand
from hindsight.pipeline.drive import keep
from hindsight.pipeline.labels import Labeller, relative
from hindsight.pipeline.policies import RandomPolicy, candidates
from hindsight.pipeline.rollouts import cheapest, costs
from hindsight.subsystems.contract import KEEP, Simulation, Subsystem

HORIZON = 2_000_000_000
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def simulation(toy: Subsystem, tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    dataset = tmp_path_factory.mktemp("one")
    write_capture(dataset, "c", "w", "p", 10**18, ("run", "jump", "phases"))
    demand = read_demand(toy, find_captures(dataset)[0])
    return toy.simulation(demand, toy.calibrate([demand]), params.load(ROOT / "params.yaml").decision)


def test_labels_are_what_the_capture_then_really_costs(toy: Subsystem, simulation: Simulation) -> None:
    """At the last epoch, a rollout to the end is the rest of the run."""
    end = 1 << 60
    for action in [KEEP, 0, 3]:
        simulation.reset()
        epochs = 0
        while simulation.advance() >= 0:
            epochs += 1
            simulation.act(KEEP)
        simulation.reset()
        for _ in range(epochs - 1):
            simulation.advance()
            simulation.act(KEEP)
        simulation.advance()
        before = int(simulation.account()[:, 0].sum())
        predicted = simulation.rollout(action, end)
        assert int(simulation.account()[:, 0].sum()) == before
        simulation.act(action)
        assert simulation.advance() == -1
        assert int(simulation.account()[:, 0].sum()) == before + predicted


def test_labelling_does_not_change_where_the_policy_goes(toy: Subsystem, simulation: Simulation) -> None:
    arm = random_arm(toy, 7)
    alone = arm.run(toy, simulation, "c")
    Labeller(toy, simulation, HORIZON).label(RandomPolicy(toy, 7, "c"))
    assert np.array_equal(simulation.account(), alone.blocks)


def test_shared_labels_are_those_that_would_be_found_alone(toy: Subsystem, simulation: Simulation) -> None:
    shared = Labeller(toy, simulation, HORIZON)
    shared.label(keep)
    for seed in range(3):
        policy = lambda: RandomPolicy(toy, seed, "c")  # noqa: B023, E731
        once, again = Labeller(toy, simulation, HORIZON).label(policy()), shared.label(policy())
        for field in ("epoch", "stream", "features", "costs"):
            assert np.array_equal(getattr(once, field), getattr(again, field))
    known = len(shared.known)
    shared.label(keep)
    assert len(shared.known) == known


def test_a_capture_without_a_decision_gives_empty_states(toy: Subsystem, tmp_path: Path) -> None:
    write_capture(tmp_path, "c", "w", "p", 10**18, ("run",), reads=20)
    demand = read_demand(toy, find_captures(tmp_path)[0])
    simulation = toy.simulation(demand, toy.calibrate([demand]), params.load(ROOT / "params.yaml").decision)
    states = Labeller(toy, simulation, HORIZON).label(keep)
    assert states.features.shape == (0, 3) and states.costs.shape == (0, 5)


def test_targets_are_relative_to_keep_and_clipped() -> None:
    values = np.array([[50, 400, 10_000, 100], [0, 0, 0, 0]], np.int64)
    target = relative(values, {"scale": 100, "clip": 2.0})
    assert target.dtype == np.float32
    assert target.tolist() == [[-0.25, 1.5, 2.0, 0.0], [0.0, 0.0, 0.0, 0.0]]


def test_the_cheapest_action_wins_and_ties_leave_the_kernel_alone() -> None:
    assert cheapest(np.array([5, 3, 9, 4])) == 1
    assert cheapest(np.array([5, 4, 9, 4])) == KEEP
    assert cheapest(np.array([5, 6, 9, 4])) == KEEP


def test_candidates_end_with_keep(toy: Subsystem) -> None:
    rows = candidates(toy)
    assert rows.shape == (5, 4)
    assert rows[:, 3].tolist() == [0.0, 2.0, 4.0, 6.0, -1.0]


def test_the_oracle_is_at_least_as_good_as_stock_and_statics_differ(
    toy: Subsystem, simulation: Simulation
) -> None:
    stock = STOCK.run(toy, simulation, "c")
    oracle = best_known_arm(toy, HORIZON).run(toy, simulation, "c")
    assert oracle.cost < stock.cost
    statics = {arm.run(toy, simulation, "c").cost for arm in static_arms(toy)}
    assert len(statics) == 4
    assert min(statics | {stock.cost, oracle.cost}) >= simulation.bound()
    assert int(oracle.taken.sum()) > 10


def test_chance_is_the_same_for_the_same_seed_and_capture(toy: Subsystem, simulation: Simulation) -> None:
    def taken(seed: int, capture: str) -> list[int]:
        return random_arm(toy, seed).run(toy, simulation, capture).taken.tolist()

    assert taken(1, "c") == taken(1, "c")
    assert taken(1, "c") != taken(2, "c")


def test_costs_end_with_keep(toy: Subsystem, simulation: Simulation) -> None:
    simulation.reset()
    simulation.advance()
    values = costs(simulation, 4, HORIZON)
    assert values.tolist() == [simulation.rollout(a, HORIZON) for a in (0, 1, 2, 3, KEEP)]
