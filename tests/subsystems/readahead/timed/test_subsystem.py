"""The subsystem as the engine sees it, on a recorded capture."""

import os
import subprocess
import sys

import numpy as np
import pytest

from hindsight.subsystems import contract
from hindsight.subsystems.readahead import SUBSYSTEM
from hindsight.subsystems.readahead.state import DECISION_TABLES

PARAMS = {"epoch_ns": 10_000_000, "epoch_reads": 8, "advice_delay_ns": 1_000_000, "block_ns": 1_000_000_000}


def test_it_is_found_by_name_and_complete():
    assert "readahead" in contract.names()
    subsystem = contract.load("readahead")
    assert subsystem is SUBSYSTEM
    for name in contract.Subsystem.__annotations__:
        assert getattr(subsystem, name), name
    assert not set(subsystem.tables) & set(subsystem.decision_tables)
    assert subsystem.reasons[0] == ""
    assert len({m.name for m in subsystem.metrics}) == len(subsystem.metrics)
    assert len({f.name for f in subsystem.features}) == len(subsystem.features)


def test_a_recorded_capture_from_tables_to_costs(recorded):
    demand = SUBSYSTEM.demand({k: v for k, v in recorded.items() if k in SUBSYSTEM.tables})
    fidelity = SUBSYSTEM.compare(SUBSYSTEM.replay(demand), {k: recorded[k] for k in DECISION_TABLES}, demand)
    assert fidelity.exact_share == 1.0
    calibration = SUBSYSTEM.calibrate([demand])
    modelled, recorded_ns = SUBSYSTEM.calibration_error(demand, calibration)
    eligible = demand["streams"]["eligible"]
    assert recorded_ns == demand["streams"]["recorded_ns"][eligible].sum()
    assert recorded_ns / 2 < modelled < recorded_ns * 2
    simulation = SUBSYSTEM.simulation(demand, calibration, PARAMS)
    out, epochs = np.zeros(len(SUBSYSTEM.features), np.float32), 0
    while (stream := simulation.advance()) >= 0:
        assert eligible[stream]
        simulation.features(out)
        for feature, value in zip(SUBSYSTEM.features, out, strict=True):
            assert feature.low <= value <= feature.high, feature.name
        costs = [simulation.rollout(a, 500_000_000) for a in range(-1, len(SUBSYSTEM.actions))]
        assert min(costs) >= 0
        simulation.act(SUBSYSTEM.rule(out))
        epochs += 1
    assert epochs > 0
    account = simulation.account().sum(axis=0)
    reads = demand["streams"]["reads"][eligible].sum()
    assert account[[m.name for m in SUBSYSTEM.metrics].index("reads")] == reads
    assert 0 < simulation.bound() <= account[0]


@pytest.mark.slow
def test_no_array_is_left_with_bounds_checking_on(tmp_path):
    """The whole of these tests again with numba's bounds checks, compiled anew."""
    environment = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    here = os.path.dirname(__file__)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow", "-p", "no:cacheprovider", here]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:]
