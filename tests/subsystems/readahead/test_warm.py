"""Pages that were cached before the recording began."""

import pytest

from hindsight.subsystems.readahead import demand as d
from hindsight.subsystems.readahead import replay, verdict
from hindsight.subsystems.readahead.recorded import ADDED

PAGE = 4096


@pytest.fixture
def s(story):
    s = story().size(9, 1000 * PAGE)
    s.open(1, 3)
    return s


def rows(found, *columns):
    return list(zip(*(found["changes"][c].tolist() for c in columns), strict=True))


def missed(found):
    emitted = replay.run(found)
    return emitted["index"][emitted["event"] == "page_cache_sync_ra"].tolist()


def test_what_is_read_and_was_not_added_was_there(s):
    s.pread(1, 3, 9, 10 * PAGE)
    s.pread(1, 3, 9, 50 * PAGE, count=3 * PAGE, add=False)
    found = d.build(s.tables())
    assert rows(found, "op", "after", "index", "order", "how") == [(0, -1, i, 0, ADDED) for i in (50, 51, 52)]
    assert missed(found) == [10]
    assert found["streams"]["reason"].tolist() == [verdict.CACHED_BEFORE]
    assert found["streams"]["replayable"].all() and not found["streams"]["eligible"].any()


def test_it_counts_for_windows(s):
    """A read after a run of cached pages that is longer than what it asks for opens a window."""
    s.pread(1, 3, 9, 10 * PAGE)
    s.pread(1, 3, 9, 50 * PAGE, count=8 * PAGE, add=False)
    s.pread(1, 3, 9, 10 * PAGE, add=False)
    s.pread(1, 3, 9, 58 * PAGE)
    emitted = replay.run(d.build(s.tables()))
    assert emitted["event"].tolist()[-2:] == ["page_cache_sync_ra", "page_cache_ra_order"]
    assert (emitted["index"][-1], emitted["size"][-1]) == (58, 9)


def test_what_was_added_was_not_there(s):
    for _ in range(2):
        s.pread(1, 3, 9, 10 * PAGE)
    found = d.build(s.tables())
    assert rows(found, "op") == [] and found["streams"]["reason"].tolist() == [verdict.ELIGIBLE]


def test_what_left_after_it_was_added_was_not_there_before(s):
    """Also where a read still got it, before it left."""
    s.pread(1, 3, 9, 10 * PAGE)
    s.begin(1, "pread64", fd=3, count=PAGE, pos=10 * PAGE)
    s.now += 1
    s.page("mm_filemap_get_pages", 1, 9, 10, last_index=10)
    s.now += 1
    s.page("mm_filemap_delete_from_page_cache", 77, 9, 10, order=0)
    s.end(1, "pread64", PAGE)
    s.pread(1, 3, 9, 90 * PAGE)
    found = d.build(s.tables())
    assert [how for (how,) in rows(found, "how")] != [ADDED] and len(rows(found, "op")) == 1
    assert verdict.CACHED_BEFORE not in found["streams"]["reason"] and found["streams"]["replayable"].all()


def test_the_order_of_what_left_is_known(s):
    s.pread(1, 3, 9, 10 * PAGE)
    s.now += 1
    s.page("mm_filemap_delete_from_page_cache", 77, 9, 64, order=4)
    s.pread(1, 3, 9, 90 * PAGE)
    found = d.build(s.tables())
    assert rows(found, "op", "index", "order", "how")[0] == (0, 64, 4, ADDED)
    assert verdict.CACHED_BEFORE not in found["streams"]["reason"]
