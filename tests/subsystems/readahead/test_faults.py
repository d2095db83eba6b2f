"""Page faults on a mapped file, rule by rule."""

import numpy as np
import pytest

from hindsight.subsystems.readahead import faults, pages
from hindsight.subsystems.readahead.mappings import EXECUTABLE, HUGE, RAND_READ, SEQ_READ
from hindsight.subsystems.readahead.state import (
    ASYNC_RA,
    RA_ORDER,
    RA_UNBOUNDED,
    SYNC_RA,
    new_log,
    open_files,
)

PAGE = 4096
COLUMNS = ("kind", "index", "req", "order", "size", "async_size")
FILE = np.uint64(0)
FAR = 1 << 30
"""The end of a mapping beyond any window."""


class Machine:
    """One file, one stream that maps it."""

    def __init__(self, size=256 << 20, ra=32, max_order=9):
        self.cache = pages.page_cache(np.array([size], np.int64), np.array([max_order], np.uint8))
        self.files = open_files(np.zeros(1, np.uint32), np.array([ra], np.uint32), np.array([320], np.uint32))
        self.log = new_log(100_000, 100_000)
        self.mapped = np.zeros(len(self.cache.start), np.uint64)

    def fault(self, page, flags=0, beyond=FAR):
        """The decisions of a fault."""
        self.log.n[:] = 0
        faults.fault(self.cache, self.files, 0, page, flags, beyond, self.log)
        return [tuple(int(getattr(self.log, c)[i]) for c in COLUMNS) for i in range(int(self.log.n[0]))]

    def map(self, first, last, mapping=0):
        faults.map_pages(self.cache, self.files, self.mapped, 0, first, last, mapping)

    def misses(self, count):
        """Fault ``count`` times on pages that are far from each other."""
        for i in range(count):
            self.fault(1000 + 40 * i)

    @property
    def miss(self):
        return int(self.files.mmap_miss[0])

    def cached(self):
        return set(np.flatnonzero(self.cache.start != pages.ABSENT).tolist())

    def marks(self):
        return set(np.flatnonzero(self.cache.mark).tolist())


def test_a_miss_reads_around():
    m = Machine()
    assert m.fault(100) == [(RA_ORDER, 84, 0, 0, 32, 8)]
    assert m.cached() == set(range(84, 116)) and m.marks() == {108}
    assert set(m.cache.order.tolist()) == {0}
    assert (m.files.start[0], m.files.size[0], m.files.async_size[0]) == (84, 32, 8)
    assert m.miss == 1 and m.files.prev_pos[0] == -1


def test_only_pages_up_to_the_fault_are_waited_for():
    m = Machine()
    m.fault(100)
    assert m.log.add_index[:32].tolist() == list(range(84, 116))
    assert m.log.add_async[:32].tolist() == [0] * 17 + [1] * 15


def test_reading_around_begins_in_the_file():
    m = Machine()
    assert m.fault(3) == [(RA_ORDER, 0, 0, 0, 32, 8)]
    assert m.cached() == set(range(32)) and m.marks() == {24}


def test_reading_around_ends_with_the_file():
    m = Machine(size=110 * PAGE + 1)
    assert m.fault(110) == [(RA_ORDER, 94, 0, 0, 32, 8)]
    assert m.cached() == set(range(94, 111)) and m.marks() == set()


def test_a_window_of_an_odd_size_is_rounded_down():
    m = Machine(ra=7)
    assert m.fault(100) == [(RA_ORDER, 97, 0, 0, 7, 1)]


def test_without_large_folios_the_window_goes_page_by_page():
    m = Machine(max_order=0)
    assert m.fault(100) == [(RA_ORDER, 84, 0, 0, 32, 8), (RA_UNBOUNDED, 84, 32, 0, 0, 8)]
    assert m.cached() == set(range(84, 116)) and m.marks() == {108}


def test_reading_around_fills_the_gaps_of_what_is_cached():
    m = Machine()
    for page in (90, 99):
        pages.insert(m.cache, FILE, page, 0, 0)
    m.fault(100)
    assert m.cached() == set(range(84, 116)) and m.marks() == {108}


def test_the_order_of_an_earlier_window_is_forgotten():
    m = Machine()
    m.files.order[0] = 4
    assert m.fault(100) == [(RA_ORDER, 84, 0, 0, 32, 8)]
    assert m.files.order[0] == 0


def with_mark():
    """A machine with a folio of pages 64 to 67 that carries the mark of the window [48, 80)."""
    m = Machine()
    pages.insert(m.cache, FILE, 64, 2, 1)
    m.files.start[0], m.files.size[0], m.files.async_size[0] = 48, 32, 16
    return m


def test_a_hit_on_a_marked_folio_asks_at_the_faulting_page():
    """Not at the folio's first page, as a read does; so the window goes on where the two are one."""
    m = with_mark()
    rows = m.fault(66)
    assert rows[0] == (ASYNC_RA, 66, 32, 0, 32, 16)
    assert m.marks().isdisjoint(range(64, 68)) and rows[1][0] == RA_ORDER
    assert 68 <= rows[1][1] < 80, "not the window after [48, 80)"
    m = with_mark()
    rows = m.fault(64)
    assert rows[0] == (ASYNC_RA, 64, 32, 0, 32, 16)
    assert rows[1][:2] == (RA_ORDER, 80)


def test_a_mark_is_met_once():
    m = with_mark()
    assert m.fault(65) != []
    assert m.fault(65) == m.fault(64) == []


def test_hits_count_against_misses():
    m = Machine()
    m.misses(3)
    for expected in (2, 1, 0, 0):
        assert m.fault(1001) == []
        assert m.miss == expected
    assert m.fault(5000) != [] and m.miss == 1


def test_a_random_mapping_adds_exactly_one_page():
    m = Machine()
    assert m.fault(100, RAND_READ) == []
    assert m.cached() == {100} and m.marks() == set()
    assert m.log.n[1] == 1 and m.log.add_async[0] == 0
    assert m.miss == 0 and m.files.size[0] == 0


def test_a_random_mapping_leaves_marks_and_the_count_alone():
    m = with_mark()
    m.files.mmap_miss[0] = 5
    assert m.fault(64, RAND_READ) == []
    assert m.marks() == {64} and m.cached() == set(range(64, 68)) and m.miss == 5


def test_a_sequential_mapping_reads_as_a_read_of_a_whole_window():
    m = Machine()
    assert m.fault(100, SEQ_READ) == [(SYNC_RA, 100, 32, 0, 0, 0), (RA_UNBOUNDED, 100, 32, 0, 0, 0)]
    assert m.cached() == set(range(100, 132))
    assert m.miss == 0, "that is not counted"
    m = Machine()
    assert m.fault(0, SEQ_READ) == [(SYNC_RA, 0, 32, 0, 0, 0), (RA_ORDER, 0, 0, 0, 32, 16)]


@pytest.mark.parametrize("flags", [0, SEQ_READ, EXECUTABLE, RAND_READ])
def test_without_readahead_a_fault_adds_its_page(flags):
    m = Machine(ra=0)
    assert m.fault(100, flags) == []
    assert m.cached() == {100} and m.miss == 0


def test_without_readahead_a_hit_does_nothing():
    m = with_mark()
    m.files.ra_pages[0], m.files.mmap_miss[0] = 0, 5
    assert m.fault(64) == []
    assert m.marks() == {64} and m.miss == 5


def test_an_executable_mapping_reads_from_the_fault_to_its_own_end():
    m = Machine()
    assert m.fault(100, EXECUTABLE, beyond=110) == [(RA_ORDER, 100, 0, 0, 10, 0)]
    assert m.cached() == set(range(100, 110)) and m.marks() == set()
    assert m.fault(200, EXECUTABLE) == [(RA_ORDER, 200, 0, 0, 32, 0)]
    assert m.cached() == set(range(100, 110)) | set(range(200, 232)) and m.miss == 2


def test_an_executable_mapping_reads_ahead_although_it_is_random():
    assert Machine().fault(100, EXECUTABLE | RAND_READ) == [(RA_ORDER, 100, 0, 0, 32, 0)]


@pytest.mark.parametrize("flags,size", [(HUGE, 1024), (HUGE | RAND_READ, 512)])
def test_a_mapping_of_huge_pages_reads_huge_pages(flags, size):
    """With readahead disabled, too; and where the last window began is as before."""
    for ra in (32, 0):
        m = Machine(ra=ra)
        m.files.start[0] = 7
        assert m.fault(1500, flags) == [(RA_ORDER, 1024, 0, 9, size, 512)]
        assert m.cached() == set(range(1024, 1024 + size)) and set(m.cache.order[1024:1536]) == {9}
        assert m.files.start[0] == 7 and m.miss == 0


def test_many_misses_stop_reading_around():
    m = Machine()
    m.misses(100)
    assert m.miss == 100 and len(m.cached()) == 100 * 32
    assert m.fault(20_000) == [] and m.miss == 101
    assert m.cached() & set(range(19_000, 21_000)) == {20_000}
    assert m.fault(20_040, EXECUTABLE) == [] and m.miss == 102
    assert m.fault(20_080, SEQ_READ) != [] and m.miss == 102, "sequential advice is not asked"


def test_a_hit_brings_reading_around_back():
    m = Machine()
    m.misses(101)
    m.fault(1000)
    assert m.miss == 100 and m.fault(20_000) == [], "as this one is the 101st again"
    m.fault(1000)
    m.fault(1000)
    assert m.fault(20_040) == [(RA_ORDER, 20_024, 0, 0, 32, 8)] and m.miss == 100


def test_misses_are_counted_to_a_thousand():
    m = Machine()
    m.misses(999)
    assert m.miss == 999
    m.fault(50_000)
    m.fault(50_100)
    assert m.miss == 1000


def test_pages_that_are_mapped_around_a_fault_bring_reading_around_back():
    m = Machine()
    m.misses(120)
    assert m.miss == 120 and m.fault(20_000) == []
    m.map(984, 999)
    assert m.miss == 121 - 16
    m.map(1000, 1007)
    assert m.fault(20_040) == [(RA_ORDER, 20_024, 0, 0, 32, 8)] and m.miss == 98


def test_each_page_is_counted_once_per_mapping():
    m = Machine()
    m.fault(100)
    m.files.mmap_miss[0] = 100
    for first, last, mapping, expected in (
        (85, 94, 0, 90),
        (85, 94, 0, 90),  # again
        (85, 95, 0, 89),  # one more
        (85, 94, 7, 79),  # another mapping
        (80, 84, 7, 78),  # of these one is cached
        (85, 94, 0, 78),  # the first one still has them
    ):
        m.map(first, last, mapping)
        assert m.miss == expected


def test_pages_that_are_not_cached_are_not_mapped():
    m = Machine()
    m.misses(2)
    m.map(0, 15)
    assert m.miss == 2
    pages.insert(m.cache, FILE, 4, 0, 0)
    m.map(0, 15)
    assert m.miss == 1, "the page counts when it is there"


def test_there_are_no_fewer_misses_than_none():
    m = Machine()
    m.fault(100)
    m.map(84, 99)
    assert m.miss == 0


def test_fault_around_ends_with_the_file():
    m = Machine(size=5 * PAGE)
    m.fault(0)
    m.files.mmap_miss[0] = 50
    m.map(0, 15)
    assert m.miss == 45


@pytest.mark.parametrize("page", [10, 11, 1000])
@pytest.mark.parametrize("flags", [0, SEQ_READ, RAND_READ, HUGE])
def test_beyond_the_end_of_the_file_nothing_happens(page, flags):
    m = Machine(size=9 * PAGE + 1)
    assert m.fault(page, flags) == []
    assert m.cached() == set() and m.log.n[1] == 0 and m.miss == 0


def test_fault_around_leaves_marked_folios_out():
    machine = Machine()
    machine.fault(100)
    machine.files.mmap_miss[0] = 50
    machine.map(104, 111)  # 108 is marked
    assert machine.miss == 43
