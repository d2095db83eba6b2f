"""The model of a device: what was measured on a throttled loop device, and what must hold of any load."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hindsight.subsystems.readahead import device as d

MS = 1_000_000
SECOND = 1_000_000_000


def a_device(iops=0, bps=0, service=100_000, page=1_000, split=320, tick=4 * MS):
    row = [service, page, iops, bps, tick, SECOND // 10 // tick, split]
    return d.make(np.array([row], np.int64))


def test_an_idle_device_serves_at_once():
    assert d.submit(a_device(), 0, 5_000, 32) == 5_000 + 100_000 + 32 * 1_000


def test_a_bio_is_complete_with_its_last_request():
    assert d.submit(a_device(split=320), 0, 0, 700) == 3 * 100_000 + 700 * 1_000


def test_first_come_first_served():
    device = a_device()
    first = d.submit(device, 0, 0, 10)
    assert d.submit(device, 0, 50, 1) == first + 101_000


def test_requests_beyond_the_allowance_wait_for_the_next_slice():
    """200 requests/s: twenty at once, and twenty more in every tenth of a second."""
    device = a_device(iops=200)
    time, times = 400 * MS, []
    for _ in range(60):
        time = d.submit(device, 0, time, 1)
        times.append((time - 400 * MS) // (100 * MS))
    assert [times.count(slice_) for slice_ in range(3)] == [20, 20, 20]


def test_large_bios_wait_as_measured():
    """8 MiB bios after 6 MiB at 100 MiB/s: let go 144, 224 and 224 ms after the first (250 ticks/s)."""
    device = a_device(iops=200, bps=100 << 20, service=0, page=0)
    begin = 9_688 * MS
    d.submit(device, 0, begin, 512)
    d.submit(device, 0, begin + 4 * MS, 1024)
    go = [d.submit(device, 0, begin + at * MS, 2048) - begin for at in (6, 8, 151)]
    assert go == [pytest.approx(t * MS, abs=4 * MS) for t in (144, 224, 224)]


def test_each_request_of_a_split_bio_is_charged():
    """20 requests/s and bios of 7 requests: eight bios need 56 requests."""
    device = a_device(iops=20, service=0, page=0, split=320)
    done = [d.submit(device, 0, 0, 2048) for _ in range(8)]
    assert done[-1] >= (8 * 7 - 2) * SECOND // 20 - 100 * MS


def test_what_has_not_ended_is_not_known():
    device = a_device()
    end = d.submit(device, 0, 0, 10)
    d.observe(device, 0, end - 1)
    assert device.state[0, [d.N_BIOS, d.N_PAGES, d.N_COMPLETE, d.LATENCY_NS]].tolist() == [1, 10, 0, 0]
    d.observe(device, 0, end)
    assert device.state[0, [d.N_COMPLETE, d.LATENCY_NS, d.BUSY_NS]].tolist() == [1, end, end]


def test_the_ring_of_what_is_outstanding_overflows_into_the_counters():
    device = a_device()
    for _ in range(d.OUTSTANDING + 3):
        d.submit(device, 0, 0, 1)
    assert device.state[0, d.N_COMPLETE] == 3
    d.observe(device, 0, SECOND)
    assert device.state[0, d.N_COMPLETE] == d.OUTSTANDING + 3


loads = st.lists(st.tuples(st.integers(0, 150 * MS), st.integers(1, 2100)), min_size=1, max_size=60)
limits = st.tuples(st.sampled_from([0, 20, 200, 3000]), st.sampled_from([0, 1 << 20, 100 << 20]))


@settings(max_examples=60, deadline=None)
@given(loads, limits, st.sampled_from([1 * MS, 4 * MS, 10 * MS]))
def test_no_bio_ends_before_its_service_or_overtakes(load, limit, tick):
    device = a_device(*limit, tick=tick)
    at = last = 0
    for gap, pages in load:
        at += gap
        done = d.submit(device, 0, at, pages)
        assert done >= max(at, last) + -(-pages // 320) * 100_000 + pages * 1_000
        last = done


@settings(max_examples=60, deadline=None)
@given(loads, limits)
def test_the_throttle_holds_its_limits(load, limit):
    """Within any window: what the limit gives in that time, and at most three slices and a tick of burst."""
    iops, bps = limit
    device = a_device(iops, bps, service=0, page=0, split=1 << 40)
    at, gone = 0, []
    for gap, pages in load:
        at += gap
        gone.append((d.submit(device, 0, at, pages), pages))
    for i in range(len(gone)):
        for j in range(i + 1, len(gone)):
            elapsed = gone[j][0] - gone[i][0] + 300 * MS + 4 * MS
            if iops:
                assert (j - i) * SECOND <= iops * elapsed
            if bps:
                assert sum(p for _, p in gone[i + 1 : j + 1]) * d.PAGE_BYTES * SECOND <= bps * elapsed


@settings(max_examples=60, deadline=None)
@given(loads, st.integers(0, 59), st.integers(1, 500))
def test_more_load_is_never_faster_without_a_throttle(load, where, extra):
    """(A throttle may be faster: an earlier bio begins its window earlier.)"""
    where = min(where, len(load) - 1)
    plain, loaded = a_device(), a_device()
    at = 0
    for i, (gap, pages) in enumerate(load):
        at += gap
        if i == where:
            d.submit(loaded, 0, at, extra)
        assert d.submit(loaded, 0, at, pages) >= d.submit(plain, 0, at, pages)


@settings(max_examples=100, deadline=None)
@given(loads, limits, st.sampled_from([1 * MS, 4 * MS, 10 * MS]), st.integers(0, 200 * MS))
def test_nothing_is_faster_than_the_least_time(load, limit, tick, begin):
    device = a_device(*limit, tick=tick)
    at, total = begin, 0
    for i, (gap, pages) in enumerate(load):
        at += gap if i else 0
        total += pages
        assert d.submit(device, 0, at, pages) - begin >= d.least_time(device.params[0], total)
