"""The stock logic, rule by rule."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hindsight.subsystems.readahead import fadvise, pages
from hindsight.subsystems.readahead import kernel as k
from hindsight.subsystems.readahead.state import new_log

PAGE = 4096
COLUMNS = ("kind", "index", "req", "order", "size", "async_size", "prev_pos")


class Machine:
    """One file, one stream."""

    def __init__(self, size=64 << 20, ra=32, io=320, max_order=9, room=100_000):
        self.cache = pages.page_cache(np.array([size], np.int64), np.array([max_order], np.uint8))
        self.files = k.open_files(
            np.zeros(1, np.uint32), np.array([ra], np.uint32), np.array([io], np.uint32)
        )
        self.log = new_log(room, room)
        self.size = size

    def read(self, pos, count):
        end = min(pos + count, self.size)
        index = pos // PAGE
        while pos < end and index < -(-end // PAGE):
            index = k.read_batch(self.cache, self.files, 0, index, -(-(pos + count) // PAGE), self.log)
        k.finish_read(self.cache, self.files, 0, pos, max(end - pos, 0))

    def advise(self, advice, offset=0, length=0, device=32):
        fadvise.advise(self.cache, self.files, 0, advice, offset, length, device, self.log)

    def decisions(self):
        """Decisions since the last look, without the fields that are of no interest."""
        rows = [tuple(int(getattr(self.log, c)[i]) for c in COLUMNS) for i in range(int(self.log.n[0]))]
        self.log.n[:] = 0
        return rows

    def cached(self):
        return set(np.flatnonzero(self.cache.start != pages.ABSENT).tolist())


def shapes(rows):
    return [(kind, index, req, size, ahead) for kind, index, req, _, size, ahead, _ in rows]


def test_a_sequential_stream_opens_its_window_and_doubles_it():
    m = Machine()
    for i in range(8):
        m.read(i * 16384, 16384)
    assert m.decisions() == [
        (k.SYNC_RA, 0, 4, 0, 0, 0, -1),
        (k.RA_ORDER, 0, 0, 0, 8, 4, 0),
        (k.ASYNC_RA, 4, 4, 0, 8, 4, 16384),
        (k.RA_ORDER, 8, 0, 2, 16, 16, 0),
        (k.ASYNC_RA, 8, 4, 2, 16, 16, 32768),
        (k.RA_ORDER, 24, 0, 4, 24, 24, 0),
        (k.ASYNC_RA, 24, 4, 4, 24, 24, 98304),
        (k.RA_ORDER, 48, 0, 6, 16, 16, 0),
    ]


def test_a_lone_read_gets_exactly_what_it_asks_for():
    m = Machine()
    m.read(1000 * PAGE, 3 * PAGE)
    assert shapes(m.decisions()) == [(k.SYNC_RA, 1000, 3, 0, 0), (k.RA_UNBOUNDED, 1000, 3, 0, 0)]
    assert m.cached() == {1000, 1001, 1002}
    assert m.files.size[0] == 0


def test_the_byte_where_the_previous_read_ended_decides():
    for count, kind in ((4096, k.RA_ORDER), (4000, k.RA_UNBOUNDED)):
        m = Machine()
        m.read(5000 * PAGE, count)
        m.decisions()
        m.read(5002 * PAGE, PAGE)
        assert m.decisions()[-1][0] == kind


def test_pages_before_a_miss_make_a_window():
    m = Machine(max_order=0)
    for i in range(100, 120):
        m.read(i * PAGE, PAGE)
    m.read(5000 * PAGE, PAGE)
    m.decisions()
    # Single pages, so the walk counts truly: more are cached before this page than the two asked for.
    first = max(m.cached() & set(range(100, 200))) + 1
    m.read(first * PAGE, 2 * PAGE)
    rows = shapes(m.decisions())
    assert rows[1] == (k.RA_ORDER, first, 0, min(first - 100 + 2, 32), 1)


def test_a_stream_from_the_start_of_the_file_gets_twice_the_pages_before_it():
    m = Machine(ra=64, max_order=0)
    m.read(0, 4 * PAGE)
    last = max(m.cached())
    m.read(5000 * PAGE, PAGE)
    m.decisions()
    m.read((last + 1) * PAGE, PAGE)
    assert shapes(m.decisions())[1] == (k.RA_ORDER, last + 1, 0, 2 * (last + 1) + 1, 1)


def test_reads_larger_than_the_window_are_limited_by_the_request_size_of_the_device():
    m = Machine(ra=32, io=320)
    m.read(100 * PAGE, 400 * PAGE)
    rows = shapes(m.decisions())
    assert rows[:2] == [(k.SYNC_RA, 100, 400, 0, 0), (k.RA_ORDER, 100, 0, 320, 160)]
    m = Machine(ra=32, io=16)
    m.read(100 * PAGE, 400 * PAGE)
    assert shapes(m.decisions())[1] == (k.RA_ORDER, 100, 0, 32, 16)


def test_random_reads_exactly_in_chunks_and_leaves_the_state_alone():
    m = Machine(ra=2048)
    m.advise(fadvise.FADV_RANDOM)
    m.read(0, 1100 * PAGE)
    assert shapes(m.decisions())[1:] == [
        (k.RA_UNBOUNDED, 0, 512, 0, 0),
        (k.RA_UNBOUNDED, 512, 512, 0, 0),
        (k.RA_UNBOUNDED, 1024, 76, 0, 0),
    ]
    assert len(m.cached()) == 1100 and m.files.start[0] == m.files.size[0] == 0


def test_advice_changes_the_limit():
    m = Machine(ra=8)
    m.advise(fadvise.FADV_RANDOM)
    m.advise(fadvise.FADV_SEQUENTIAL, device=100)
    assert (m.files.ra_pages[0], m.files.random[0]) == (200, 0)
    m.advise(fadvise.FADV_RANDOM)
    m.advise(fadvise.FADV_NORMAL, device=50)
    assert (m.files.ra_pages[0], m.files.random[0]) == (50, 0)
    fadvise.set_ra(m.files, 0, 16, 1)
    assert (m.files.ra_pages[0], m.files.random[0]) == (16, 1)


def test_willneed_is_capped():
    m = Machine(ra=32, io=320)
    m.advise(fadvise.FADV_WILLNEED, 10 * PAGE + 5, 32 << 20)
    assert shapes(m.decisions()) == [(k.RA_UNBOUNDED, 10, 320, 0, 0)]
    assert m.log.add_async[:1].tolist() == [1]
    m.advise(fadvise.FADV_WILLNEED, 4000 * PAGE, 1)
    assert shapes(m.decisions()) == [(k.RA_UNBOUNDED, 4000, 1, 0, 0)]


@pytest.mark.parametrize(
    "offset,length,left",
    [
        (0, 0, set()),
        (1, 0, {0}),
        (0, 4 * PAGE, {4, 5, 6, 7}),
        (0, 4 * PAGE + 1, {4, 5, 6, 7}),
        (PAGE + 1, 2 * PAGE, {0, 1, 3, 4, 5, 6, 7}),
        (0, 7 * PAGE + 100, set()),
        (7 * PAGE, 99, {0, 1, 2, 3, 4, 5, 6, 7}),
    ],
)
def test_dontneed_drops_the_pages_that_it_covers(offset, length, left):
    m = Machine(size=7 * PAGE + 100, max_order=0)
    m.read(0, 8 * PAGE)
    assert m.cached() == set(range(8))
    m.advise(fadvise.FADV_DONTNEED, offset, length)
    assert m.cached() == left


def test_nothing_is_read_beyond_the_end_of_the_file():
    m = Machine(size=10 * PAGE + 1)
    m.read(9 * PAGE, 1 << 20)
    rows = shapes(m.decisions())
    assert rows[0][:3] == (k.SYNC_RA, 9, 256)
    assert max(m.cached()) == 10
    assert m.files.prev_pos[0] == 10 * PAGE + 1
    m.read(11 * PAGE, PAGE)
    assert m.decisions() == [] and m.files.prev_pos[0] == 10 * PAGE + 1


def test_without_readahead_one_page_is_read_at_a_time():
    m = Machine(ra=0)
    m.read(0, 3 * PAGE)
    assert shapes(m.decisions()) == [
        row for i in range(3) for row in ((k.SYNC_RA, i, 3 - i, 0, 0), (k.RA_UNBOUNDED, i, 1, 0, 0))
    ]


def test_a_file_system_without_large_folios_gets_single_pages():
    m = Machine(max_order=0)
    for i in range(32):
        m.read(i * 16384, 16384)
    assert set(m.cache.order.tolist()) == {0}
    rows = m.decisions()
    assert {r[3] for r in rows if r[0] == k.ASYNC_RA} == {0}
    assert any(r[0] == k.RA_UNBOUNDED for r in rows)


def test_a_full_log_counts_and_keeps_its_bounds():
    m, small = Machine(), Machine(room=3)
    for machine in (m, small):
        for i in range(20):
            machine.read(i * 16384, 16384)
    assert (small.log.n == m.log.n).all() and small.log.n[0] > 3
    assert small.log.index.tolist() == m.log.index[:3].tolist()
    assert (small.cache.start == m.cache.start).all()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3 << 20), st.integers(1, 1 << 20)), min_size=1, max_size=60),
    st.sampled_from([0, 4, 16, 32, 48, 2048]),
    st.sampled_from([0, 2, 9]),
    st.booleans(),
)
def test_whatever_is_read_is_cached_and_the_log_tells_it_all(reads, ra, max_order, random):
    m = Machine(size=(3 << 20) + 77, ra=ra, max_order=max_order)
    if random:
        m.advise(fadvise.FADV_RANDOM)
    for pos, count in reads:
        m.read(pos, count)
        end = min(pos + count, m.size)
        assert set(range(pos // PAGE, -(-end // PAGE))) <= m.cached() or pos >= m.size
    inserted = {}
    for i in range(int(m.log.n[1])):
        start, order = int(m.log.add_index[i]), int(m.log.add_order[i])
        assert order <= max_order and start % (1 << order) == 0
        for page in range(start, start + (1 << order)):
            assert inserted.setdefault(page, start) == start
    assert inserted.keys() == m.cached()
    assert all(m.cache.start[p] == s for p, s in inserted.items())
    marks = np.flatnonzero(m.cache.mark)
    assert (m.cache.start[marks] == marks).all()
