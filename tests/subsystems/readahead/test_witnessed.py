"""What the kernel tells of open files, in place of what follows from system calls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hindsight.subsystems.readahead import demand, replay
from hindsight.subsystems.readahead import operations as d
from hindsight.subsystems.readahead.state import NOT_DETERMINED

NONE = -1  # 2^64 - 1, as the columns of tests hold it
PAGE = 4096
CALLS = {
    "read": 1,
    "pread64": 2,
    "readv": 3,
    "preadv2": 5,
    "sendfile64": 6,
    "copy_file_range": 8,
    "io_uring": 12,
}


def met(s: Any, ordinal: int, ino: int, **state: int) -> None:
    columns = {"ordinal": ordinal, "origin": 0, "tgid": 1, "fd": 3, "s_dev_major": 7, "s_dev_minor": 1}
    s.row("opens", **columns, i_ino=ino, **{"flags": 0, "prev_pos": -1, "size": 0, "pos": 0} | state)


def told(s: Any, call: str, ordinal: int, pos: int, count: int, fd: int = 3) -> None:
    s.row("file_reads", pid=1, ordinal=ordinal, call=CALLS[call], fd=fd, pos=pos, count=count)


def transfer(s: Any, call: str, ordinal: int, pos: int, asked: int, moved: int, pages: bool = True) -> None:
    descriptors = {"out_fd": 9, "in_fd": 3} if call == "sendfile64" else {"fd_in": 3, "fd_out": 9}
    s.begin(1, call, **descriptors)
    told(s, call, ordinal, pos, asked)
    if pages:
        s.touch(1, 9, pos, asked, moved)
    s.end(1, call, moved)


def streams_of(s: Any) -> dict[str, Any]:
    return demand.build(s.tables())["streams"]


def test_a_descriptor_of_unknown_origin_is_an_open_file(story: Any) -> None:
    """It came in a message, say: system calls alone know neither which open file it is nor its position."""
    s = story().size(9, 100 * PAGE)
    s.begin(1, "read", fd=3, count=PAGE)
    s.touch(1, 9, 0, PAGE, PAGE)
    s.end(1, "read", PAGE)
    assert streams_of(s)["replayable"].tolist() == [False]
    met(s, 5, 9)
    s.now -= 15
    told(s, "read", 5, 0, PAGE)
    s.now += 15
    assert streams_of(s)["replayable"].tolist() == [True]
    assert streams_of(s)["eligible"].tolist() == [True]


def test_an_open_file_that_had_been_read_has_an_unknown_window(story: Any) -> None:
    s = story().size(9, 100 * PAGE)
    s.begin(1, "read", fd=3, count=PAGE)
    met(s, 5, 9, prev_pos=4096)
    told(s, "read", 5, 0, PAGE)
    s.touch(1, 9, 0, PAGE, PAGE)
    s.end(1, "read", PAGE)
    assert streams_of(s)["replayable"].tolist() == [False]


def test_two_open_files_under_one_number(story: Any) -> None:
    """The walk takes them for one: what the kernel says counts."""
    s = story().size(9, 100 * PAGE)
    s.open(1, 3)
    for ordinal in (1, 2):
        s.begin(1, "pread64", fd=3, count=PAGE, pos=0)
        met(s, ordinal, 9)
        told(s, "pread64", ordinal, 0, PAGE)
        s.touch(1, 9, 0, PAGE, PAGE)
        s.end(1, "pread64", PAGE)
    assert len(streams_of(s)["replayable"]) == 2


def test_a_transfer_is_a_read_of_one_pipe_after_another(story: Any) -> None:
    s = story().size(9, 1000 * PAGE)
    s.open(1, 3)
    met(s, 1, 9)
    transfer(s, "sendfile64", 1, 100, 40 * PAGE, 40 * PAGE)
    found = demand.build(s.tables())
    assert found["streams"]["replayable"].tolist() == [True]
    assert found["streams"]["eligible"].tolist() == [False], "what-if questions are not answered"
    (op,) = np.flatnonzero(found["ops"]["kind"] == d.TRANSFER)
    assert (found["ops"]["pos"][op], found["ops"]["count"][op]) == (100, 40 * PAGE)
    rows = replay.run(found)
    sync = rows["event"] == "page_cache_sync_ra"
    # 16 pages from byte 100: 17 of them are touched.
    assert (rows["index"][sync][0], rows["req"][sync][0]) == (0, 17)
    late = rows["event"] == "page_cache_async_ra"
    assert late.any() and (rows["prev_pos"][late] == NOT_DETERMINED).all()


@pytest.mark.parametrize("pages", [True, False])
def test_a_copy_asks_for_no_more_than_there_is_and_may_share_extents(story: Any, pages: bool) -> None:
    s = story().size(9, 10 * PAGE)
    s.open(1, 3)
    s.pread(1, 3, 9, 9 * PAGE)
    met(s, 1, 9)
    s.now -= 15
    told(s, "pread64", 1, 9 * PAGE, PAGE)
    s.now += 15
    transfer(s, "copy_file_range", 1, 0, 1 << 20, 10 * PAGE, pages)
    rows = replay.run(demand.build(s.tables()))
    sync = (rows["event"] == "page_cache_sync_ra") & (rows["index"] == 0)
    assert rows["req"][sync].tolist() == ([9 + 1] if pages else [])


def test_a_read_that_does_not_wait_starts_readahead_and_returns(story: Any) -> None:
    s = story().size(9, 100 * PAGE)
    s.open(1, 3)
    met(s, 1, 9)
    for result in (-11, PAGE):
        s.begin(1, "preadv2", fd=3, vlen=1, pos_l=50 * PAGE, flags=8)
        told(s, "preadv2", 1, 50 * PAGE, PAGE)
        if result > 0:
            s.touch(1, 9, 50 * PAGE, PAGE, PAGE)
        s.end(1, "preadv2", result)
    found = demand.build(s.tables())
    assert found["streams"]["replayable"].tolist() == [True]
    rows = replay.run(found)
    assert rows["event"].tolist() == ["page_cache_sync_ra", "page_cache_ra_unbounded"]
    assert rows["op"].tolist() == [1, 1], "the second one finds the page"


def test_reads_of_a_ring_are_operations_of_their_own(story: Any) -> None:
    s = story().size(9, 1000 * PAGE)
    s.open(1, 3)
    met(s, 1, 9)
    for begin in (0, 300):
        s.begin(1, "io_uring_enter", fd=7, to_submit=1)
        s.now += 2
        told(s, "io_uring", 1, begin * PAGE, PAGE)
        s.touch(1, 9, begin * PAGE, PAGE, PAGE)
        s.end(1, "io_uring_enter", 1)
    found = demand.build(s.tables())
    assert found["ops"]["pos"][found["ops"]["kind"] == d.RING_READ].tolist() == [0, 300 * PAGE]
    assert found["streams"]["replayable"].tolist() == [True]
    assert len(found["others"]["ts"]) == 0, "the calls that submitted them are told"


def test_several_reads_of_a_ring_at_once_are_counted_apart(story: Any) -> None:
    s = story().size(9, 1000 * PAGE)
    s.open(1, 3)
    met(s, 1, 9)
    s.begin(1, "io_uring_enter", fd=7, to_submit=2)
    for pos in (0, 10 * PAGE):
        s.now += 2
        told(s, "io_uring", 1, pos, PAGE)
        s.touch(1, 9, pos, PAGE, PAGE)
    s.end(1, "io_uring_enter", 2)
    found = demand.build(s.tables())
    assert len(set(found["ops"]["together"][found["ops"]["kind"] == d.RING_READ].tolist())) == 1
    assert found["streams"]["replayable"].tolist() == [False]
