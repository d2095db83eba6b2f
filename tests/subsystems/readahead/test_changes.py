"""What changed in the page cache other than by readahead, between which steps of the replay."""

import numpy as np
import pytest

from hindsight.subsystems.readahead import demand as d
from hindsight.subsystems.readahead import pages, pressure, replay
from hindsight.subsystems.readahead.kernel import read_batch
from hindsight.subsystems.readahead.recorded import ADDED, RECLAIMED, TRUNCATED
from hindsight.subsystems.readahead.state import new_log, open_files

PAGE = 4096
KSWAPD, PROGRAM = 77, 1
WRITABLE = 2


@pytest.fixture
def s(story):
    """File 9 of 1000 pages, open as descriptor 3 of process 1: operation 0."""
    s = story().size(9, 1000 * PAGE)
    s.open(1, 3)
    return s


def add(s, index, ino=9, order=0):
    s.now += 1
    s.page("mm_filemap_add_to_page_cache", 1, ino, index, order=order)


def leave(s, index, by=KSWAPD, ino=9, order=0):
    s.now += 1
    s.page("mm_filemap_delete_from_page_cache", by, ino, index, order=order)


def dontneed(s, *indexes, fd=3):
    s.begin(1, "fadvise64", fd=fd, offset=0, len=0, advice=4)
    for index in indexes:
        leave(s, index, PROGRAM)
    s.end(1, "fadvise64", 0)


class Reading:
    """A read of file 9 from page ``first`` on, in which things happen."""

    def __init__(self, s, first, count):
        self.s, self.first, self.count = s, first, count

    def __enter__(self):
        self.s.begin(1, "pread64", fd=3, count=self.count * PAGE, pos=self.first * PAGE)

    def __exit__(self, *_):
        last = self.first + self.count - 1
        self.s.now += 1
        self.s.page("mm_filemap_get_pages", 1, 9, self.first, last_index=last)
        self.s.end(1, "pread64", self.count * PAGE)


def rows_of(found, *columns):
    return list(zip(*(found["changes"][c].tolist() for c in columns), strict=True))


def missed(found):
    rows = replay.run(found)
    return rows["index"][rows["event"] == "page_cache_sync_ra"].tolist()


def in_the_end(found):
    """A cache to which all that is added comes at once, and from which all that leaves does."""
    cache = pages.page_cache(found["files"]["size"], found["files"]["max_order"], found["changes"])
    for file, index, order in zip(*replay.insertions(found).values(), strict=True):
        pages.insert(cache, np.uint64(file), int(index), int(order), 0)
    pressure.begin_operation(cache, len(found["ops"]["ts"]))
    return cache


def test_a_reclaimed_folio_is_missed_and_leaves_a_shadow(s):
    s.pread(1, 3, 9, 50 * PAGE)
    leave(s, 50)
    s.pread(1, 3, 9, 50 * PAGE)
    found = d.build(s.tables())
    assert rows_of(found, "op", "after", "index", "order", "how") == [(2, -1, 50, 0, 1)]
    assert missed(found) == [50, 50]
    cache = in_the_end(found)
    assert cache.start[50] == pages.ABSENT and cache.shadow[50] == 1 and cache.shadows[0] == 1


def test_a_folio_that_stays_is_not_missed(s):
    for _ in range(2):
        s.pread(1, 3, 9, 50 * PAGE)
    found = d.build(s.tables())
    assert rows_of(found, "op") == [] and missed(found) == [50]


def test_a_dropped_folio_is_missed_and_leaves_no_shadow(s):
    s.pread(1, 3, 9, 50 * PAGE)
    dontneed(s, 50)
    s.pread(1, 3, 9, 50 * PAGE)
    found = d.build(s.tables())
    assert rows_of(found, "op", "after", "index", "how") == [(2, -1, 50, 0)]
    assert missed(found) == [50, 50]
    cache = in_the_end(found)
    assert cache.start[50] == pages.ABSENT and cache.shadow[50] == 0 and cache.shadows[0] == 0


def test_a_large_folio_leaves_as_a_whole():
    cache = pages.page_cache(
        np.array([1 << 20], np.int64),
        np.array([9], np.uint8),
        {"op": [1], "after": [-1], "file": [0], "index": [8], "order": [2], "how": [1]},
    )
    for page in (4, 8, 12):
        pages.insert(cache, np.uint64(0), page, 2, 0)
    pressure.begin_operation(cache, 0)
    assert cache.start[8] == 8
    pressure.begin_operation(cache, 1)
    assert np.flatnonzero(cache.start != pages.ABSENT).tolist() == [4, 5, 6, 7, 12, 13, 14, 15]
    assert cache.shadow[4:16].tolist() == [0] * 4 + [3] * 4 + [0] * 4


@pytest.mark.parametrize("after", [0, 1, 2])
def test_what_left_during_a_read_is_placed_by_what_was_added(s, after):
    """So the read meets it, or finds it gone: page 52 is read, then 50 to 52."""
    s.pread(1, 3, 9, 52 * PAGE)
    with Reading(s, 50, 3):
        for i in range(3):
            if i == after:
                leave(s, 52)
            add(s, 50 + i)
    s.pread(1, 3, 9, 50 * PAGE)
    found = d.build(s.tables())
    assert rows_of(found, "op", "after", "index", "how") == [(2, after, 52, 1)]
    assert replay.insertions(found)["index"].tolist() == [52, 50, 51, 52]


def test_what_others_reclaim_during_a_read_is_missed_where_the_read_comes_later(s):
    """Pages 100 to 139 are cached and read; while the first batch of 31 is copied, page 135 is reclaimed."""
    with Reading(s, 100, 40):
        for page in range(100, 140):
            add(s, page)
    s.begin(1, "pread64", fd=3, count=40 * PAGE, pos=100 * PAGE)
    for batch in (100, 131, 135):
        if batch == 131:
            leave(s, 135)
        if batch == 135:
            add(s, 135)
        s.now += 1
        s.page("mm_filemap_get_pages", 1, 9, batch, last_index=139)
    s.end(1, "pread64", 40 * PAGE)
    found = d.build(s.tables())
    assert rows_of(found, "op", "after", "reach", "index") == [(2, 0, 131, 135)]
    assert missed(found) == [100, 135]


def test_what_there_was_room_for_in_a_later_batch_is_not_added_before(s):
    """Four pages are wanted, there is room for two; the third is missed, and there is room for one more."""
    s.pread(1, 3, 9, 500 * PAGE)
    s.begin(1, "pread64", fd=3, count=3 * PAGE, pos=0)
    leave(s, 500, PROGRAM)
    for batch, pages_added in ((0, (0, 1)), (2, (2,))):
        for page in pages_added:
            add(s, page)
        s.now += 1
        s.page("mm_filemap_get_pages", 1, 9, batch, last_index=2)
    s.end(1, "pread64", 3 * PAGE)
    found = d.build(s.tables())
    assert found["admitted"]["since"].tolist() == [-1, -1, 0]
    assert missed(found) == [500, 0, 2]
    assert replay.insertions(found)["index"].tolist() == [500, 0, 1, 2]


def test_a_folio_stays_until_as_many_are_added():
    """Page 0 leaves after two others were added: it is still in the way of the second, but not of the
    third.
    """
    leaving = {"op": [0], "after": [2], "file": [0], "index": [0], "order": [0], "how": [1]}
    cache = pages.page_cache(np.array([1 << 20], np.int64), np.zeros(1, np.uint8), leaving)
    files = open_files(np.zeros(1, np.uint32), np.array([32], np.uint32), np.array([320], np.uint32))
    files.random[0] = 1
    log = new_log(100, 100)
    pages.insert(cache, np.uint64(0), 0, 0, 0)
    pressure.begin_operation(cache, 0)
    for page, there in ((10, True), (11, True), (12, False)):
        read_batch(cache, files, 0, page, page + 1, log)
        assert pages.is_cached(cache, np.uint64(0), 0) == there


def test_what_left_between_operations_left_before_the_next_one(s):
    s.pread(1, 3, 9, 50 * PAGE)
    s.pread(1, 3, 9, 70 * PAGE)
    leave(s, 50)
    add(s, 300)  # (not of the next one either)
    s.pread(1, 3, 9, 90 * PAGE)
    assert rows_of(d.build(s.tables()), "op", "after", "index") == [(3, -1, 50)]


@pytest.mark.parametrize("again", [False, True])
def test_what_left_after_the_last_operation_on_its_file_is_not_told(s, again):
    s.size(10, 1000 * PAGE)
    s.open(1, 4)
    s.pread(1, 4, 10, 50 * PAGE)
    s.pread(1, 3, 9, 50 * PAGE)
    leave(s, 50, ino=10)
    leave(s, 50, ino=9)
    s.pread(1, 3, 9, 70 * PAGE)
    leave(s, 70, ino=9)
    s.pread(1, 3, 9, 70 * PAGE) if again else s.open(1, 5)
    found = d.build(s.tables())
    expected = [(4, 0, 50), (5, 0, 70)] if again else [(4, 0, 50)]
    assert rows_of(found, "op", "file", "index") == expected, "file 9 is the first one"


def test_what_left_waits_for_an_operation_on_its_own_file(s):
    """The operations on other files, which may be in progress, do not matter."""
    s.size(10, 1000 * PAGE)
    s.open(1, 4)
    s.pread(1, 4, 10, 50 * PAGE)
    with Reading(s, 50, 1):
        add(s, 50)
        leave(s, 50, ino=10)
    s.pread(1, 3, 9, 70 * PAGE)
    s.pread(1, 4, 10, 50 * PAGE)
    found = d.build(s.tables())
    assert rows_of(found, "op", "after", "file", "index") == [(5, -1, 1, 50)]
    assert missed(found) == [50, 50, 70, 50]


def test_what_left_before_the_first_operation_on_its_file(s):
    s.size(10, 1000 * PAGE)
    leave(s, 50, ino=10)
    s.pread(1, 3, 9, 50 * PAGE)
    s.open(1, 4)
    s.pread(1, 4, 10, 70 * PAGE)
    found = d.build(s.tables())
    assert rows_of(found, "op", "after", "file", "index", "how") == [
        (2, -1, 1, 50, ADDED),  # (it was there before the recording)
        (2, -1, 1, 50, RECLAIMED),
    ]


def test_files_that_nobody_reads_do_not_matter(s):
    s.pread(1, 3, 9, 50 * PAGE)
    leave(s, 50, ino=11)
    s.pread(1, 3, 9, 70 * PAGE)
    assert rows_of(d.build(s.tables()), "op") == []


def test_rows_come_in_the_order_of_the_replay(s):
    """What is dropped goes before what leaves by itself during the same operation, whenever it was."""
    for page in range(50, 100, 10):
        s.pread(1, 3, 9, page * PAGE)
    s.begin(1, "fadvise64", fd=3, offset=0, len=0, advice=4)
    leave(s, 60)
    leave(s, 50, PROGRAM)
    s.end(1, "fadvise64", 0)
    with Reading(s, 200, 2):
        leave(s, 70)
        add(s, 200)
        leave(s, 90)
        leave(s, 80)
        add(s, 201)
    found = d.build(s.tables())
    assert rows_of(found, "op", "after", "index", "how") == [
        (6, -1, 50, 0), (6, 0, 60, 1), (7, 0, 70, 1), (7, 1, 90, 1), (7, 1, 80, 1),
    ]  # fmt: skip


def read_with_little_memory(s, by):
    """A read of page 0, which the kernel makes a window of four pages, adds only two."""
    s.pread(1, 3, 9, 500 * PAGE)
    with Reading(s, 0, 1):
        if by is not None:
            leave(s, 500, by)
        for page in range(2):
            add(s, page)
    return d.build(s.tables())


def test_an_operation_that_reclaims_adds_no_more_than_it_did(s):
    found = read_with_little_memory(s, PROGRAM)
    told = {name: column.tolist() for name, column in found["admitted"].items()}
    assert told == {
        "op": [2, 2], "index": [0, 1], "order": [0, 0], "since": [-1, -1], "limited": [0, 0, 1]
    }  # fmt: skip
    assert replay.insertions(found)["index"].tolist() == [500, 0, 1]
    rows = replay.run(found)
    size = rows["size"][(rows["event"] == "page_cache_ra_order") & (rows["op"] == 2)]
    assert size.tolist() == [4], "as much was decided"


@pytest.mark.parametrize("by", [None, KSWAPD])
def test_where_the_reader_does_not_reclaim_there_is_room_for_all(s, by):
    found = read_with_little_memory(s, by)
    assert {name: len(column) for name, column in found["admitted"].items()} == dict.fromkeys(
        ("op", "index", "order", "since", "limited"), 0
    )
    assert replay.insertions(found)["index"].tolist() == [500, 0, 1, 2, 3]


def test_dropping_on_request_is_no_lack_of_memory(s):
    s.pread(1, 3, 9, 50 * PAGE)
    dontneed(s, 50)
    s.pread(1, 3, 9, 50 * PAGE)
    assert len(d.build(s.tables())["admitted"]["limited"]) == 0


def test_what_no_call_reclaimed_does_not_limit_a_fault(s):
    s.pread(1, 3, 9, 50 * PAGE)
    s.call(1, "mmap", 1 << 20, addr=0, len=100 * PAGE, prot=1, flags=2, fd=3, off=0)
    s.now += 10
    s.page("mm_filemap_fault", 1, 9, 7)
    leave(s, 50)
    found = d.build(s.tables())
    assert found["ops"]["kind"].tolist()[-1] == d.FAULT
    assert len(found["admitted"]["limited"]) == 0
    assert replay.insertions(found)["index"].tolist() == [50, *range(32)]


def test_the_operations_after_one_that_reclaims_have_room(s):
    read_with_little_memory(s, PROGRAM)
    s.pread(1, 3, 9, 700 * PAGE, 3 * PAGE)
    found = d.build(s.tables())
    assert found["admitted"]["limited"].tolist() == [0, 0, 1, 0]
    assert replay.insertions(found)["index"].tolist() == [500, 0, 1, 700, 701, 702]


def test_a_folio_of_another_size_is_not_the_one_that_was_added():
    columns = {"op": [0, 1, 1, 1], "index": [3, 4, 8, 9], "order": [0, 2, 0, 0], "limited": [1, 1, 0]}
    cache = pages.page_cache(np.array([1 << 20], np.int64), np.array([9], np.uint8), None, columns)
    pressure.begin_operation(cache, 1)  # (operation 0 did not use what it had)
    assert not pressure.there_is_room(cache, 4, 0) and not pressure.there_is_room(cache, 8, 2)
    for page, order in ((4, 2), (8, 0), (9, 0)):
        assert pressure.there_is_room(cache, page, order)
        pressure.take_room(cache)
        assert not pressure.there_is_room(cache, page, order)
    assert not pressure.there_is_room(cache, 10, 0), "that was all"
    pressure.begin_operation(cache, 2)
    assert pressure.there_is_room(cache, 10, 0)


def test_what_a_read_adds_of_other_files_does_not_limit_it(story):
    """A block of the extent tree, which the device's own inode has."""
    s = story().size(9, 1000 * PAGE)
    s.open(1, 3)
    s.pread(1, 3, 9, 500 * PAGE)
    with Reading(s, 0, 1):
        leave(s, 500, 1)
        add(s, 12345, ino=99)
        for page in range(4):
            add(s, page)
    found = d.build(s.tables())
    assert replay.insertions(found)["index"].tolist() == [500, 0, 1, 2, 3]


def test_what_leaves_during_the_longer_of_two_reads(story):
    s = story().size(9, 1000 * PAGE)
    s.open(1, 3)
    s.fork(1, 2, 0x10F00)
    s.pread(1, 3, 9, 500 * PAGE)
    s.begin(1, "pread64", fd=3, count=8 * PAGE, pos=50 * PAGE)
    add(s, 50)
    s.pread(2, 3, 9, 700 * PAGE)
    leave(s, 500)
    for page in range(51, 58):
        add(s, page)
    s.page("mm_filemap_get_pages", 1, 9, 50, last_index=57)
    s.end(1, "pread64", 8 * PAGE)
    assert rows_of(d.build(s.tables()), "op", "after", "index") == [(2, 2, 500)]


def test_what_a_write_adds_is_cached(s):
    s.open(1, 4, WRITABLE)
    s.pread(1, 3, 9, 50 * PAGE)
    s.begin(1, "pwrite64", fd=4, count=4 * PAGE, pos=60 * PAGE)
    add(s, 60, order=2)
    s.end(1, "pwrite64", 4 * PAGE)
    s.pread(1, 3, 9, 62 * PAGE, add=False)
    found = d.build(s.tables())
    assert rows_of(found, "op", "after", "index", "order", "how") == [(2, -1, 60, 2, ADDED)]
    assert missed(found) == [50]


def test_what_a_write_adds_is_not_there_before(s):
    s.open(1, 4, WRITABLE)
    s.pread(1, 3, 9, 60 * PAGE)
    leave(s, 60)
    s.pread(1, 3, 9, 60 * PAGE, add=False)  # (the row of its addition is told by the write)
    s.begin(1, "pwrite64", fd=4, count=PAGE, pos=70 * PAGE)
    add(s, 70)
    s.end(1, "pwrite64", PAGE)
    s.pread(1, 3, 9, 70 * PAGE, add=False)
    assert missed(d.build(s.tables())) == [60, 60]


def test_a_truncated_folio_leaves_no_shadow_and_what_is_kept_of_it_is_in_pieces(s):
    """Eight pages from 48 on, of which the file keeps those before byte 100 of page 53."""
    s.pread(1, 3, 9, 10 * PAGE)
    s.begin(1, "pwrite64", fd=3, count=8 * PAGE, pos=48 * PAGE)
    add(s, 48, order=3)
    s.end(1, "pwrite64", 8 * PAGE)
    s.begin(1, "ftruncate", fd=3, length=53 * PAGE + 100)
    leave(s, 54, PROGRAM, order=1)
    s.end(1, "ftruncate", 0)
    s.pread(1, 3, 9, 50 * PAGE, add=False)
    found = d.build(s.tables())
    assert rows_of(found, "index", "how", "split") == [(48, ADDED, -1), (54, TRUNCATED, 53)]
    cache = in_the_end(found)
    assert cache.start[48:57].tolist() == [48, 48, 48, 48, 52, 53, *[pages.ABSENT] * 3]
    assert cache.order[48:54].tolist() == [2, 2, 2, 2, 0, 0]
    assert not cache.shadow.any() and cache.shadows[0] == 0


def test_an_open_that_truncates_drops_all(s):
    s.pread(1, 3, 9, 10 * PAGE)
    s.begin(1, "openat", dfd=-100, flags=WRITABLE | 0o1000)
    leave(s, 10, PROGRAM)
    s.end(1, "openat", 4)
    s.begin(1, "pwrite64", fd=4, count=PAGE, pos=0)
    add(s, 0)
    s.end(1, "pwrite64", PAGE)
    s.pread(1, 3, 9, 0, count=100, add=False)
    found = d.build(s.tables())
    assert rows_of(found, "index", "how") == [(10, TRUNCATED), (0, ADDED)]
    assert missed(found) == [10]


@pytest.mark.parametrize("page", range(16))
def test_a_split_halves_the_folio_down_to_a_page(page):
    cache = pages.page_cache(np.array([1 << 20], np.int64), np.array([9], np.uint8))
    pages.insert(cache, np.uint64(0), 16, 4, 1)
    pages.split(cache, np.uint64(0), 16 + page)
    folios = sorted({(int(cache.start[i]), int(cache.order[i])) for i in range(16, 32)})
    assert [begin for begin, _ in folios] == [16, *[b + (1 << o) for b, o in folios][:-1]]
    assert all(begin % (1 << order) == 0 for begin, order in folios)
    assert sorted(order for _, order in folios) == [0, 0, 1, 2, 3] and (16 + page, 0) in folios
    assert np.flatnonzero(cache.mark).tolist() == [16]
