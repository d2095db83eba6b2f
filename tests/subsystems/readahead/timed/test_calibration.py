"""Parameters of the model of time: found again where they are known."""

import numpy as np
import pytest

from hindsight.subsystems.readahead.calibration import calibrate, calibration_error, only_device
from hindsight.subsystems.readahead.simulation import ANY_DEVICE, PARAMETERS, find_parameters

MS = 1_000_000
TRUTH = {
    "service_ns": 250_000, "page_ns": 3_000, "tick_ns": 4 * MS,
    "read_ns": 4_000, "copy_ns": 900, "fetch_ns": 700,
}  # fmt: skip


def planted(make, seed, reads=600, **limits):
    """A capture whose recorded durations are those of a device with parameters TRUTH, give or take 5 %."""
    rng = np.random.default_rng(seed)
    demand = make([20_000, 20_000], **limits)
    for i in range(reads):
        demand.read(1000 + i * 3 * MS, i * 8, 8, stream=0)
        demand.read(1000 + i * 3 * MS + 2 * MS, int(rng.integers(0, 19_990)), 2, stream=1)
    simulation = demand.simulation({**TRUTH, "iops": 0, "bps": 0})
    took = simulation.read_times()
    noise = rng.integers(950, 1050, len(took))
    tables = demand.tables()
    tables["ops"]["end"] = tables["ops"]["ts"] + took * noise // 1000
    return tables


@pytest.fixture(scope="module")
def captures(make_demand):
    return [planted(make_demand, seed) for seed in (1, 2)]


def test_known_parameters_are_found_again(captures):
    found = calibrate(captures)
    assert set(found) == {"7:0", ANY_DEVICE}
    assert set(found["7:0"]) == set(PARAMETERS)
    assert all(type(v) is int for v in found["7:0"].values())
    for tables in captures:
        modelled, recorded = calibration_error(tables, found)
        assert abs(modelled - recorded) / recorded < 0.05
    assert found["7:0"]["service_ns"] == pytest.approx(TRUTH["service_ns"], rel=0.3)


def test_another_capture_of_the_device_is_explained(make_demand, captures):
    modelled, recorded = calibration_error(planted(make_demand, 3, reads=300), calibrate(captures))
    assert abs(modelled - recorded) / recorded < 0.10


def test_the_order_of_the_calls_does_not_matter(captures):
    assert calibrate(captures) == calibrate(captures)


def test_what_the_capture_knows_is_not_fitted(make_demand):
    tables = planted(make_demand, 4, reads=200, iops=500, bps=100 << 20)
    found = calibrate([tables])
    name = "7:0/iops=500/bps=104857600"
    assert (found[name]["iops"], found[name]["bps"]) == (500, 100 << 20)
    assert (found[ANY_DEVICE]["iops"], found[ANY_DEVICE]["bps"]) == (0, 0)


def test_a_device_is_known_by_its_name_its_limits_or_as_any(make_demand):
    any_ = dict.fromkeys(PARAMETERS, 1)
    calibration = {"7:9/iops=5/bps=0": {**any_, "iops": 5}, "8:0": {**any_, "page_ns": 8}, ANY_DEVICE: any_}
    throttled = make_demand([1], iops=5).tables()
    assert find_parameters(throttled, 0, calibration) is calibration["7:9/iops=5/bps=0"]
    other = make_demand([1], iops=7).tables()
    assert find_parameters(other, 0, calibration) == {**any_, "iops": 7, "bps": 0}
    plain = make_demand([1]).tables()
    assert find_parameters(plain, 0, calibration) == {**any_, "iops": 0, "bps": 0}


def test_one_device_alone(make_demand):
    tables = make_demand([1, 1]).tables()
    tables["streams"]["device_id"][1] = 1
    assert only_device(tables, 1)["streams"]["eligible"].tolist() == [False, True]
    assert tables["streams"]["eligible"].all()


def test_no_captures():
    assert set(calibrate([])) == {ANY_DEVICE}
