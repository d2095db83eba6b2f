"""Features: exact logarithms, documented ranges, nothing from the future."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hindsight.subsystems.readahead import device
from hindsight.subsystems.readahead import features as f
from hindsight.subsystems.readahead.simulation import ReadaheadSimulation

NAMES = [feature.name for feature in f.FEATURES]
PAGE = 4096


@settings(deadline=None)
@given(st.integers(0, 2**62))
@example(2**62)
@example(2**31 - 1)
def test_logarithms_are_exact_to_their_last_bit(value):
    exact = math.log2(value + 1) * 256
    assert exact - 1 - 1e-6 <= f.log2_q8(value) <= exact + 1e-6


@pytest.mark.parametrize("power", range(63))
def test_powers_of_two(power):
    assert f.log2_q8(2**power - 1) == power * 256


def observed(reads):
    s, d = np.zeros(f.N_STREAM, np.int64), np.zeros(device.N_STATE, np.int64)
    s[f.LAST_END] = f.NEVER
    f.begin_epoch(s, d, 0)
    for i, (page, pages) in enumerate(reads):
        f.observe_read(s, page * PAGE, pages * PAGE, i * 1_000_000)
    return s, d


def value(reads, name):
    s, d = observed(reads)
    out = np.zeros(len(NAMES), np.float32)
    f.compute(s, d, 1_000_000_000, 0, 1 << 30, 32, 0, 320, 1, out)
    return out[NAMES.index(name)]


def test_patterns_are_told_apart():
    sequential = [(i * 4, 4) for i in range(65)]
    stride = [(i * 16, 4) for i in range(65)]
    reverse = [(4000 - i * 4, 4) for i in range(65)]
    runs = [(i // 8 * 1000 + i % 8 * 4, 4) for i in range(65)]
    assert value(sequential, "sequential") > 0.98 and value(sequential, "run_length") > 8
    assert value(stride, "forward") > 0.98 and value(stride, "same_stride") > 0.98
    assert value(reverse, "backward") > 0.98 and value(reverse, "same_stride") > 0.98
    assert 0.8 < value(runs, "sequential") < 0.9 and 4.5 < value(runs, "run_length") < 5.1
    assert value(sequential, "read_bytes") == pytest.approx(14, abs=0.01)
    assert value(stride, "jump_distance") == pytest.approx(math.log2(13), abs=0.01)


def test_settings_show_as_they_are():
    assert value([(0, 1)], "ra_pages") == 5.0
    assert value([(0, 1)], "file_size") == pytest.approx(18, abs=0.01)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 2**40), min_size=f.N_STREAM, max_size=f.N_STREAM),
    st.lists(st.integers(0, 2**40), min_size=device.N_STATE, max_size=device.N_STATE),
    st.integers(0, 2**42), st.integers(0, 2**50), st.integers(0, 2**50),
    st.integers(0, 2**20), st.integers(0, 1), st.integers(0, 5000),
)  # fmt: skip
def test_ranges_hold(stream, counters, now, pos, size, pages, random, active):
    out = np.full(len(NAMES), np.nan, np.float32)
    s, d = np.array(stream, np.int64), np.array(counters, np.int64)
    f.compute(s, d, now, pos, size, pages, random, pages, active, out)
    for feature, x in zip(f.FEATURES, out, strict=True):
        assert feature.low <= x <= feature.high, feature.name


def at_decisions(simulation, count):
    found = []
    while len(found) < count and (stream := simulation.advance()) >= 0:
        out = np.zeros(len(NAMES), np.float32)
        simulation.features(out)
        found.append((stream, simulation.now, out.tobytes()))
    return found


@pytest.mark.parametrize("decision", [0, 2, 4])
def test_nothing_comes_from_the_future(busy, decision):
    """Whatever has not begun at a decision may be something else: the decision's features are the same."""
    simulation = busy.simulation()
    expected = at_decisions(simulation, decision + 1)
    assert len(expected) == decision + 1
    tables = busy.tables()
    ops, tasks = tables["ops"], simulation.live.tasks
    future = np.zeros(len(ops["ts"]), bool)
    for task, (_, following, page, *_) in enumerate(tasks.tolist()):
        # The deciding read is known by its position; so is a read that has begun.
        begun = simulation.world.ops[following, 0] if page >= 0 or task == simulation._task else None
        first = simulation.world.ops[following, 0] if begun is None else begun + 1
        future |= (ops["task"] == task) & (ops["ts"] >= first)
    assert future.any()
    ops["pos"] = np.where(future & (ops["kind"] == 0), ops["pos"] // 3 // PAGE * PAGE, ops["pos"])
    ops["ret"] = np.where(future & (ops["kind"] == 0), PAGE, ops["ret"])
    (name,) = tables["devices"]["name"]
    changed = ReadaheadSimulation(tables, {name: busy_parameters(busy)}, PARAMS)
    assert at_decisions(changed, decision + 1) == expected


MS = 1_000_000
PARAMS = {"epoch_ns": 250 * MS, "epoch_reads": 64, "advice_delay_ns": MS, "block_ns": 1000 * MS}


def busy_parameters(demand):
    return {
        "service_ns": 100_000, "page_ns": 1_000, "iops": demand.iops, "bps": demand.bps, "tick_ns": 4 * MS,
        "read_ns": 2_000, "copy_ns": 500, "fetch_ns": 100,
    }  # fmt: skip
