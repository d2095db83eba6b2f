"""Files that change while they are recorded, and how large they are when they are read."""

import numpy as np
import pytest

from hindsight.subsystems.readahead import demand as d
from hindsight.subsystems.readahead import replay, verdict

PAGE = 4096
READ_WRITE, O_APPEND, O_CREAT, O_EXCL, O_TRUNC = 2, 0o2000, 0o100, 0o200, 0o1000


@pytest.fixture
def s(story):
    """File 9 of 100 pages when recording ends, open as descriptor 3 of process 1, and 4 to write."""
    s = story().size(9, 100 * PAGE)
    s.open(1, 3)
    s.open(1, 4, READ_WRITE)
    return s


def write(s, fd, pos, count, name="pwrite64"):
    s.begin(1, name, fd=fd, count=count, **({"pos": pos} if name == "pwrite64" else {}))
    for page in range(pos // PAGE, -(-(pos + count) // PAGE)):
        s.cached.add((9, page))
        s.page("mm_filemap_add_to_page_cache", 1, 9, page, order=0)
    s.end(1, name, count)


def reads(found):
    """(size, whether the replay is exact) at each read of the first stream."""
    (replayable,) = found["streams"]["replayable"][:1]
    return found["ops"]["size"][found["ops"]["kind"] == d.READ].tolist(), bool(replayable)


def test_a_file_that_does_not_change_has_no_sizes_but_its_own(s):
    s.pread(1, 3, 9, 50 * PAGE)
    found = d.build(s.tables())
    assert reads(found) == ([-1], True) and found["streams"]["reason"].tolist() == [verdict.ELIGIBLE]


def test_a_write_inside_a_file_leaves_its_size(s):
    s.pread(1, 3, 9, 50 * PAGE)
    write(s, 4, 10 * PAGE, PAGE)
    s.pread(1, 3, 9, 60 * PAGE)
    found = d.build(s.tables())
    assert reads(found) == ([100 * PAGE] * 2, True)
    assert found["streams"]["reason"].tolist() == [verdict.WRITTEN] and not found["streams"]["eligible"].any()


def test_a_write_that_reached_the_end_leaves_it_open_what_was_there_before(s):
    s.pread(1, 3, 9, 50 * PAGE)
    write(s, 4, 99 * PAGE, PAGE)
    s.pread(1, 3, 9, 60 * PAGE)
    assert reads(d.build(s.tables())) == ([-1, -1], False)


def test_truncations_set_the_size_and_writes_move_it(s):
    s.call(1, "ftruncate", 0, fd=4, length=0)
    write(s, 4, 0, 10 * PAGE)
    s.pread(1, 3, 9, 0)
    s.call(1, "ftruncate", 0, fd=4, length=5000)
    s.pread(1, 3, 9, PAGE, count=100)
    s.call(1, "ftruncate", -1, fd=4, length=7)  # (refused)
    s.pread(1, 3, 9, PAGE, count=100)
    assert reads(d.build(s.tables())) == ([10 * PAGE, 5000, 5000], True)


@pytest.mark.parametrize(
    ("flags", "empty"), [(O_TRUNC, True), (O_CREAT | O_EXCL, True), (O_CREAT, False), (O_EXCL, False)]
)
def test_what_an_open_empties_is_empty(s, flags, empty):
    s.open(1, 5, READ_WRITE | flags)
    write(s, 5, 0, 100 * PAGE, name="write")
    s.pread(1, 5, 9, 0)
    expected = 100 * PAGE if empty else -1
    assert reads(d.build(s.tables())) == ([expected], empty)


def test_what_is_appended_leaves_the_size_unknown(s):
    s.open(1, 5, READ_WRITE | O_APPEND)
    s.call(1, "ftruncate", 0, fd=4, length=10 * PAGE)
    write(s, 4, 0, PAGE)
    s.pread(1, 3, 9, 0)
    write(s, 5, 10 * PAGE, PAGE, name="write")
    s.pread(1, 3, 9, 0)
    assert reads(d.build(s.tables())) == ([10 * PAGE, -1], False)


def told(s, size, name="pread64", call=2, **arguments):
    """A read of which the kernel tells how large its file is."""
    s.begin(1, name, fd=3, **arguments)
    s.row(
        "file_reads", pid=1, ordinal=1, call=call, fd=3, pos=arguments["pos"], count=arguments["count"],
        prev_pos=-1, i_size=size,
    )  # fmt: skip
    s.touch(1, 9, arguments["pos"], arguments["count"], arguments["count"])
    s.end(1, name, arguments["count"])


def test_the_kernels_word_counts_whatever_else_is_known(s):
    s.row("opens", pid=1, ordinal=1, fd=3, s_dev_major=7, s_dev_minor=1, i_ino=9, prev_pos=-1)
    told(s, 30 * PAGE, pos=0, count=PAGE)
    write(s, 4, 99 * PAGE, PAGE)
    told(s, 100 * PAGE, pos=PAGE, count=PAGE)
    s.call(1, "ftruncate", 0, fd=4, length=40 * PAGE)
    told(s, 41 * PAGE, pos=2 * PAGE, count=PAGE)
    assert reads(d.build(s.tables())) == ([30 * PAGE, 100 * PAGE, 41 * PAGE], True)


def test_windows_end_where_the_file_ends_at_the_time(s):
    s.call(1, "ftruncate", 0, fd=4, length=3 * PAGE)
    write(s, 4, 0, PAGE)
    s.page("mm_filemap_delete_from_page_cache", 1, 9, 0, order=0)
    s.cached.clear()
    s.pread(1, 3, 9, PAGE, count=PAGE)
    s.call(1, "ftruncate", 0, fd=4, length=100 * PAGE)
    s.pread(1, 3, 9, 20 * PAGE, count=PAGE)
    found = d.build(s.tables())
    files = replay.insertions(found)
    assert int(files["index"][files["index"] < 20].max()) <= 2
    assert found["files"]["size"].tolist() == [100 * PAGE]


def test_a_change_that_no_call_shows_is_told_by_the_time_of_modification(s):
    s.row("clock_anchors", realtime_ns=10**18)
    s.pread(1, 3, 9, 50 * PAGE)
    for late, reason in (
        (-20_000_000, verdict.ELIGIBLE),
        (-9_000_000, verdict.WRITTEN),
        (1, verdict.WRITTEN),
    ):
        tables = s.tables()
        tables["files"]["mtime_ns"] = np.array([10**18 + late])
        assert d.build(tables)["streams"]["reason"].tolist() == [reason]
