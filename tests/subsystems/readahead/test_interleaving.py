"""Reads of one file at the same time: which belong together, and in which order they go on."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hindsight.subsystems.readahead import demand as d
from hindsight.subsystems.readahead import interleaving, replay, verdict
from hindsight.subsystems.readahead.demand import TABLES
from hindsight.subsystems.readahead.history import History

PAGE = 4096
span = st.tuples(st.integers(0, 3), st.integers(0, 50), st.integers(1, 12))


@settings(max_examples=300, deadline=None)
@given(st.lists(span, max_size=30))
def test_what_overlaps_is_in_one_group(spans):
    file, ts, length = (np.array(column, np.int64) for column in zip(*spans, strict=True)) if spans else (
        np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64)
    )  # fmt: skip
    group = interleaving.groups(file, ts, ts + length)
    # The least equivalence in which overlapping spans of one file are equal.
    parent = list(range(len(spans)))

    def root(i):
        while parent[i] != i:
            i = parent[i]
        return i

    for i in range(len(spans)):
        for j in range(i):
            if file[i] == file[j] and ts[i] < ts[j] + length[j] and ts[j] < ts[i] + length[i]:
                parent[root(i)] = root(j)
    for i in range(len(spans)):
        others = [j for j in range(len(spans)) if j != i and root(j) == root(i)]
        assert (group[i] >= 0) == bool(others)
        assert all(group[i] == group[j] for j in others)
    assert len({group[i] for i in range(len(spans)) if group[i] >= 0}) == len(
        {root(i) for i in range(len(spans)) if group[i] >= 0}
    )


def two_reads(story, first, second):
    """Two tasks read pages 500 to 503, each through a descriptor of its own: ``first`` adds them."""
    s = story().size(9, 1000 * PAGE)
    s.open(1, 3)
    s.fork(1, 2)
    s.open(2, 4)
    s.pread(1, 3, 9, 100 * PAGE)
    s.pread(2, 4, 9, 200 * PAGE)
    for pid, fd in ((1, 3), (2, 4)):
        s.begin(pid, "pread64", fd=fd, count=4 * PAGE, pos=500 * PAGE)
    s.now += 20_000
    for page in range(500, 504):
        s.now += 1000
        s.page("mm_filemap_add_to_page_cache", first, 9, page, order=0)
    s.now += 10_000
    for pid in (first, second):
        s.page("mm_filemap_get_pages", pid, 9, 500, last_index=503)
        s.end(pid, "pread64", 4 * PAGE)
    return d.build(s.tables())


def test_who_added_a_page_is_who_missed_it(story):
    for first, second in ((1, 2), (2, 1)):
        found = two_reads(story, first, second)
        rows = replay.run(found)
        missed = [int(p) for p, i in zip(rows["pid"], rows["index"], strict=True) if i == 500]
        assert set(missed) == {first}, "the other one found it"
        assert found["streams"]["replayable"].all()
        assert {verdict.REASONS[r] for r in found["streams"]["reason"]} == {verdict.REASONS[verdict.SHARED]}


def test_an_advice_in_the_middle_of_a_read_is_not_replayed(story):
    s = story().size(9, 1000 * PAGE)
    s.open(1, 3)
    s.fork(1, 2, 0x10F00)
    s.begin(1, "pread64", fd=3, count=PAGE, pos=500 * PAGE)
    s.page("mm_filemap_add_to_page_cache", 1, 9, 500, order=0)
    s.begin(2, "fadvise64", fd=3, offset=0, len=0, advice=1)
    s.end(2, "fadvise64", 0)
    s.page("mm_filemap_get_pages", 1, 9, 500, last_index=500)
    s.end(1, "pread64", PAGE)
    found = d.build(s.tables())
    assert not found["streams"]["replayable"].any()
    assert len(found["steps"]["op"]) == 0


def test_the_pace_comes_from_rows_before_and_after_what_no_row_tells(story):
    s = story().size(9, 1000 * 4096)
    s.open(1, 3)
    for n in range(8):
        # A miss: 300 ns to the folio, 500 more to the batch, and 40 + n to the return.
        s.begin(1, "pread64", fd=3, count=4096, pos=n * 40960)
        s.now += 300
        s.page("mm_filemap_add_to_page_cache", 1, 9, n * 10, order=0)
        s.now += 500
        s.page("mm_filemap_get_pages", 1, 9, n * 10, last_index=n * 10)
        s.now += 30 + n
        s.end(1, "pread64", 4096)
        # The same page again: 120 ns to the batch.
        s.begin(1, "pread64", fd=3, count=4096, pos=n * 40960)
        s.now += 120
        s.page("mm_filemap_get_pages", 1, 9, n * 10, last_index=n * 10)
        s.now += 50
        s.end(1, "pread64", 4096)
    tables = s.tables()
    paced = interleaving.pace(History({name: tables[name] for name in TABLES if name in tables}))
    assert paced == (120, 180, 40, False)


def test_without_reads_the_pace_is_that_of_a_slow_machine(story):
    s = story().size(9, 1000 * 4096)
    s.open(1, 3)
    s.pread(1, 3, 9, 0)
    tables = s.tables()
    paced = interleaving.pace(History({name: tables[name] for name in TABLES if name in tables}))
    assert paced[:3] == (interleaving.BEGUN_NS, interleaving.BEFORE_NS, interleaving.NOTED_NS)
