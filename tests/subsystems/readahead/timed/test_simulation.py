"""The timed replay: times worked out on paper, the untimed replay's decisions, rollouts without trace."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hindsight.errors import ConfigurationError, HindsightError
from hindsight.subsystems.contract import KEEP
from hindsight.subsystems.readahead import demand as demands
from hindsight.subsystems.readahead import replay
from hindsight.subsystems.readahead.actions import ACTIONS, EXACT, index_of_limit
from hindsight.subsystems.readahead.calibration import START
from hindsight.subsystems.readahead.metrics import (
    PAGES_FETCHED,
    PAGES_MISSED,
    PAGES_WASTED,
    READS,
    REQUESTS,
    STALL_NS,
)
from hindsight.subsystems.readahead.simulation import ANY_DEVICE, ReadaheadSimulation
from hindsight.subsystems.readahead.state import new_log
from hindsight.subsystems.readahead.world import DUE

MS = 1_000_000
SECOND = 1_000_000_000
FETCH, SERVICE, PAGE_NS, READ_NS, COPY = 100, 100_000, 1_000, 2_000, 500
FADV_NORMAL, FADV_RANDOM, FADV_SEQUENTIAL, FADV_WILLNEED, FADV_DONTNEED = range(5)
FOREVER = 1 << 60
PARAMS = {"epoch_ns": 250 * MS, "epoch_reads": 64, "advice_delay_ns": MS, "block_ns": SECOND}


def wait(pages):
    """Time to fetch pages in one request on an idle device, processor time included."""
    return pages * (FETCH + PAGE_NS) + SERVICE


def total(simulation):
    account = simulation.account().sum(axis=0)
    assert (simulation.stream_account().sum(axis=0) == account).all()
    return account


def test_one_page(make, drive):
    simulation = make([1]).read(1000, 0).simulation()
    drive(simulation)
    assert total(simulation).tolist() == [wait(1), 1, 0, 1, 1, 1]
    assert simulation.bound() == SERVICE + PAGE_NS + FETCH


def test_a_window_is_fetched_and_awaited_as_one_bio(make, drive):
    """A read of 16 pages at the beginning: a window of 32 pages with a mark on page 16."""
    simulation = make([64]).read(1000, 0, 16).simulation()
    drive(simulation)
    assert total(simulation).tolist() == [wait(32), 32, 16, 16, 1, 1]


def test_asynchronous_readahead_hides_the_wait_behind_thinking(make, drive):
    demand = make([64]).read(1000, 0, 16).read(10 * MS, 16, 16).read(20 * MS, 32, 16)
    simulation = demand.simulation()
    drive(simulation)
    # The second read meets the mark and pays for fetching 32 pages, not for their way; so does the third,
    # where only the end of the file is left: pages 32 to 63 are the last.
    assert total(simulation).tolist() == [wait(32) + 32 * FETCH, 64, 16, 16, 2, 3]


def test_without_thinking_the_next_window_is_awaited(make, drive):
    demand = make([64]).read(1000, 0, 16, took=1).read(1001, 16, 16, took=1).read(1002, 32, 16, took=1)
    simulation = demand.simulation()
    drive(simulation)
    way = 32 * PAGE_NS + SERVICE - (16 * COPY + READ_NS)
    assert total(simulation)[STALL_NS] == wait(32) + 32 * FETCH + way


def test_two_tasks_share_the_device(make, drive):
    demand = make([1, 1]).read(1000, 0, task=0, stream=0).read(1000, 0, task=1, stream=1)
    simulation = demand.simulation()
    drive(simulation)
    first = wait(1)
    assert simulation.stream_account()[:, STALL_NS].tolist() == [first, first + SERVICE + PAGE_NS]


def test_thinking_is_kept_and_reads_belong_to_their_recorded_block(make, drive):
    demand = make([1, 1], iops=1).read(0, 0, stream=0).read(3 * SECOND, 0, stream=1)
    simulation = demand.simulation()
    drive(simulation)
    account = simulation.account()
    assert account.shape[0] == 4 and account[:, READS].tolist() == [1, 0, 0, 1]
    assert simulation.live.tasks[0, 0] == np.iinfo(np.int64).max


def test_a_short_read_and_one_beyond_the_end(make, drive):
    simulation = make([3]).read(1000, 2, 4).read(9 * MS, 3, 1).simulation()
    drive(simulation)
    assert total(simulation)[[PAGES_FETCHED, READS]].tolist() == [1, 2]


@pytest.mark.parametrize("action", range(len(ACTIONS)))
def test_a_static_setting_is_in_force_from_the_opening(make, drive, action):
    demand = make([8192])
    for i in range(512):
        demand.read(1000 + i * 100_000, i * 8, 8)
    simulation = demand.simulation()
    simulation.reset(action)
    drive(simulation)
    account = total(simulation)
    if action == EXACT:
        assert account[[PAGES_FETCHED, PAGES_WASTED, REQUESTS]].tolist() == [4096, 0, 512]
    else:
        pages = int(ACTIONS[action].name.split("=")[1])
        assert 4096 <= account[PAGES_FETCHED] <= 4096 + 2 * pages
        assert account[REQUESTS] <= 1 + 4096 // min(max(pages // 2, 8), 1024) * 2


def test_advice_of_the_application_acts_on_a_static_setting(make, drive):
    """RANDOM makes reads exact; NORMAL then takes the static limit; SEQUENTIAL twice that."""
    for advice, limit, random in ((FADV_NORMAL, 256, 0), (FADV_SEQUENTIAL, 512, 0), (FADV_RANDOM, 256, 1)):
        simulation = make([64]).advise(1000, FADV_RANDOM).advise(2000, advice).read(3000, 9).simulation()
        simulation.reset(index_of_limit(256))
        drive(simulation)
        files = simulation.live.files
        assert (files.ra_pages[0], files.random[0]) == (limit, random)


def test_willneed_fetches_without_a_read_that_waits(make, drive):
    demand = make([64]).advise(1000, FADV_WILLNEED).read(50 * MS, 0, 16)
    simulation = demand.simulation()
    drive(simulation)
    assert total(simulation)[[STALL_NS, PAGES_FETCHED, PAGES_MISSED]].tolist() == [0, 64, 0]


def test_dontneed_makes_the_next_read_fetch_again(make, drive):
    demand = make([1]).read(1000, 0).advise(10 * MS, FADV_DONTNEED).read(20 * MS, 0)
    simulation = demand.simulation()
    drive(simulation)
    assert total(simulation).tolist() == [2 * wait(1), 2, 0, 2, 2, 2]


def test_the_log_shows_what_the_untimed_replay_decides(recorded):
    """On a recorded capture; order within each stream, as tasks on different files overtake each other."""
    built = demands.build(recorded)
    expected = replay.run(built)
    params = {"epoch_ns": FOREVER, "epoch_reads": FOREVER, "advice_delay_ns": 0, "block_ns": SECOND}
    simulation = ReadaheadSimulation(
        built, {ANY_DEVICE: START}, params, log_decisions=len(expected["op"]) + 9
    )
    assert simulation.advance() == -1
    log, rows = simulation.log, int(simulation.log.n[0])
    assert rows == len(expected["op"]) > 500
    mine, theirs = (np.argsort(s, kind="stable") for s in (log.stream[:rows], expected["stream"]))
    for name in ("stream", "kind", "index", "req", "order", "size", "async_size", "ra_pages", "prev_pos"):
        np.testing.assert_array_equal(getattr(log, name)[:rows][mine], expected[name][theirs], name)


def test_rollouts_leave_no_trace(busy, drive):
    def with_rollouts(simulation, stream):
        for action in range(KEEP, len(ACTIONS)):
            simulation.rollout(action, 700 * MS)
        return (stream + 3) % len(ACTIONS)

    def without(simulation, stream):
        return (stream + 3) % len(ACTIONS)

    first, second = busy.simulation(), busy.simulation()
    assert drive(first, with_rollouts) == drive(second, without)
    assert len({stream for _, stream, _ in drive(busy.simulation(), without)}) == 3
    np.testing.assert_array_equal(first.account(), second.account())
    np.testing.assert_array_equal(first.live.cache.start, second.live.cache.start)
    np.testing.assert_array_equal(first.live.ready, second.live.ready)
    np.testing.assert_array_equal(first.live.devices.state, second.live.devices.state)


def test_a_rollout_tells_what_happens(busy, drive):
    """To the end of the demand, every action of every decision of the stock run."""
    simulation, checked = busy.simulation(), 0
    points = len(drive(busy.simulation()))
    for at in range(0, points, 3):
        for action in (KEEP, 0, index_of_limit(512), EXACT):
            simulation.reset()
            for _ in range(at + 1):
                simulation.advance()
            before = total(simulation)[STALL_NS]
            predicted = simulation.rollout(action, FOREVER)
            simulation.act(action)
            drive(simulation)
            assert total(simulation)[STALL_NS] - before == predicted
            checked += 1
    assert checked >= 12


def test_the_horizon_limits_the_demand_that_counts(busy):
    simulation = busy.simulation()
    simulation.advance()
    costs = [simulation.rollout(EXACT, h * MS) for h in (0, 1, 100, 400, 4000, 8000)]
    assert costs[0] == 0 and costs == sorted(costs) and costs[1] < costs[-2]
    assert costs[-1] == simulation.rollout(EXACT, FOREVER)


def test_advice_arrives_after_its_delay(make):
    demand = make([4000], iops=20)
    for i in range(1000):
        demand.read(1000 + i * MS, i * 4, 4)
    for delay, changed in ((0, True), (1000 * SECOND, False)):
        simulation = demand.simulation(params={**PARAMS, "advice_delay_ns": delay})
        simulation.advance()
        stock, more = (simulation.rollout(a, FOREVER) for a in (KEEP, index_of_limit(512)))
        assert (more < stock) == changed


def test_delays_are_drawn_alike_for_every_policy(make, drive):
    demand = make([40_000])
    for i in range(9000):
        demand.read(1000 + i * MS, i * 4, 4)
    delays = [0, MS, 7 * MS, 30 * MS]
    simulation = demand.simulation(params={**PARAMS, "advice_delay_ns": delays})
    given: dict[int, list[tuple[int, int]]] = {}
    for action in (index_of_limit(64), index_of_limit(512)):
        simulation.reset()
        while simulation.advance() >= 0:
            simulation.act(action)
            due = int(simulation.live.streams[0, DUE]) - simulation.now
            given.setdefault(action, []).append((simulation.recorded_ts, due))
    one, other = (dict(rows) for rows in given.values())
    common = one.keys() & other.keys()
    assert len(common) > 20 and all(one[ts] == other[ts] for ts in common)
    drawn = [due for rows in given.values() for _, due in rows]
    assert set(drawn) == set(delays)
    # Each as likely: of some 70 none comes more than twice as often as it should.
    assert max(drawn.count(delay) for delay in delays) < len(drawn) / 2


def test_later_advice_of_the_application_overrides(make, drive):
    demand = make([9000])
    for i in range(600):
        demand.read(1000 + i * MS, i * 4, 4)
    demand.advise(500 * MS, FADV_RANDOM)
    simulation = demand.simulation()
    drive(simulation, lambda s, _: index_of_limit(64) if s.now < 400 * MS else KEEP)
    assert (simulation.live.files.ra_pages[0], simulation.live.files.random[0]) == (64, 1)


def test_epochs_need_time_and_reads(make, drive):
    quick, slow = make([9000]), make([9000])
    for i in range(1000):
        quick.read(1000 + i * 100_000, i, 1)
        slow.read(1000 + i * 40 * MS, i, 1)
    assert drive(quick.simulation()) == []
    times = [t for t, _, _ in drive(slow.simulation())]
    assert len(times) == 1000 // 64 and min(np.diff(times)) >= 64 * 40 * MS


def test_streams_without_a_verdict_take_their_recorded_time(make, drive):
    demand = make([100, 100], ineligible=(1,))
    demand.read(1000, 0, 4, stream=0).read(MS, 0, 4, stream=1, took=50 * MS).read(60 * MS, 4, 4, stream=0)
    simulation = demand.simulation()
    drive(simulation)
    assert total(simulation)[READS] == 2
    assert simulation.world.ops[:, 8].tolist() == [0, 60 * MS - 2000]


def test_tasks_on_one_file_keep_their_order(make, drive):
    """A slow device: the second task's reads wait for the first one's, then for the recorded 5 ms."""
    demand = make([64], file_of=[0, 0], iops=1).read(0, 40, task=0, stream=0)
    demand.read(10 * MS, 50, task=0, stream=0).read(15 * MS + 1000, 60, task=1, stream=1)
    simulation = demand.simulation()
    drive(simulation)
    ended = simulation.live.ended.tolist()
    assert ended[1] > SECOND
    assert simulation.live.tasks[1, 3] == ended[1] + 5 * MS
    assert ended[2] > ended[1] + SECOND / 2


def test_two_runs_are_equal(busy, drive):
    def run():
        simulation = busy.simulation()
        made = drive(simulation, lambda s, _: int(np.argmin([s.rollout(a, SECOND) for a in range(10)])))
        return made, simulation.account().tobytes(), simulation.bound()

    assert run() == run()


def test_a_log_that_is_too_small_is_an_error(make):
    simulation = make([4096]).read(1000, 0, 64).simulation()
    simulation.log = new_log(0, 8)
    with pytest.raises(HindsightError, match="more folios"):
        simulation.advance()


def test_a_device_without_calibration_is_an_error(make):
    with pytest.raises(ConfigurationError, match="7:0 has no calibration"):
        ReadaheadSimulation(make([1]).read(0, 0).tables(), {}, PARAMS)


def test_nothing_to_replay(make):
    simulation = make([10], ineligible=(0,)).read(1000, 0).simulation()
    assert simulation.advance() == -1
    assert simulation.account().shape == (0, 6) and simulation.bound() == 0
    with pytest.raises(RuntimeError):
        simulation.act(0)


reads = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.integers(0, 2),
        st.integers(0, 700),
        st.integers(1, 200),
        st.integers(0, 20 * MS),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=25, deadline=None)
@given(reads, st.sampled_from([0, 20, 400]), st.sampled_from([0, 4 << 20]))
def test_no_arm_is_below_the_bound(make_demand, load, iops, bps):
    demand = make_demand([700, 300, 90], iops=iops, bps=bps)
    clock = [0, 0]
    for task, stream, page, pages, pause in load:
        clock[task] += pause
        demand.read(clock[task], page % demand.pages[stream], pages, task=task, stream=stream)
        clock[task] += 1000
    simulation = demand.simulation()
    bound = simulation.bound()
    assert bound >= 0
    for action in range(KEEP, len(ACTIONS)):
        simulation.reset(action)
        assert simulation.advance() == -1
        assert simulation.account()[:, STALL_NS].sum() >= bound


def test_the_bound_is_reached_where_nothing_can_be_hidden(make, drive):
    """Small files, read once: each costs one request, whatever the policy."""
    demand = make([1] * 30)
    for i in range(30):
        demand.read(1000 + i * MS, 0, stream=i)
    simulation = demand.simulation()
    drive(simulation)
    assert simulation.bound() == total(simulation)[STALL_NS]
