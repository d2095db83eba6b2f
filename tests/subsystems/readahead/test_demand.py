"""The demand tables, and why a stream carries no verdict."""

import numpy as np
import pytest

from hindsight.errors import ConfigurationError
from hindsight.subsystems.readahead import demand as d
from hindsight.subsystems.readahead import replay, verdict
from hindsight.subsystems.readahead.state import DECISION_TABLES
from hindsight.subsystems.readahead.verdict import REASONS

PAGE = 4096
O_DIRECT = 0o40000


def reasons(tables):
    streams = d.build(tables)["streams"]
    assert (streams["eligible"] == (streams["reason"] == 0)).all()
    return [REASONS[r] for r in streams["reason"]]


@pytest.fixture
def s(story):
    """File 9 of 100 pages, read by process 1 through descriptor 3."""
    s = story().size(9, 100 * PAGE)
    s.open(1, 3)
    s.read(1, 3, 9, 0)
    return s


def test_a_plain_read_carries_a_verdict(s):
    out = d.build(s.tables())
    streams = {k: v.tolist() for k, v in out["streams"].items()}
    assert streams["eligible"] == [True]
    assert streams["file"] == ["7:1/9"] and streams["device"] == ["7:1"]
    assert streams["ra_pages"] == [32] and streams["io_pages"] == [320]
    assert streams["reads"] == [1] and streams["bytes"] == [PAGE] and streams["recorded_ns"] == [12]
    assert out["files"]["max_order"].tolist() == [9] and out["files"]["size_known"].tolist() == [True]


def test_a_throttled_device_says_so_in_its_name(story):
    s = story(device=False)
    s.row("devices", dev_major=7, dev_minor=1, fstype="vfat", read_ahead_kb=64, max_sectors_kb=512,
          throttle_read_iops=200, throttle_read_bps=1000)  # fmt: skip
    s.open(1, 3)
    s.read(1, 3, 9, 0, 10000, ret=5000)
    out = d.build(s.tables())
    assert out["devices"]["name"].tolist() == ["7:1/iops=200/bps=1000"]
    assert out["streams"]["ra_pages"].tolist() == [16]
    assert out["files"]["max_order"].tolist() == [0]


def large_reads(s):
    """Sequential reads that lead to large folios where there are any."""
    s.size(9, 100 * PAGE)
    s.open(1, 3)
    for i in range(10):
        s.read(1, 3, 9, i * 4 * PAGE, 4 * PAGE)
    return s


@pytest.mark.parametrize(
    "fstype,order,expected",
    [("ext4", 2, 9), ("ext3", 2, 9), ("ext4", 0, 0), ("other", 0, 0), ("other", 2, 9)],
)
def test_large_folios_are_known_by_their_being_there_or_not(story, fstype, order, expected):
    s = story(device=False)
    s.row("devices", dev_major=7, dev_minor=1, fstype=fstype, read_ahead_kb=128, max_sectors_kb=1280)
    s = large_reads(s)
    s.rows["mm_filemap_add_to_page_cache"][-1]["order"] = order
    assert d.build(s.tables())["files"]["max_order"].tolist() == [expected]


def test_the_size_of_a_file_is_where_a_read_ends_short(story):
    s = story()
    s.open(1, 3)
    s.read(1, 3, 9, 0, 10000, ret=5000)
    out = d.build(s.tables())
    assert out["files"]["size"].tolist() == [5000] and out["streams"]["eligible"].tolist() == [True]


def test_of_a_huge_file_only_what_can_matter_is_kept(story):
    s = story().size(9, 1 << 45)
    s.open(1, 3)
    s.pread(1, 3, 9, 6 << 30)
    assert d.build(s.tables())["files"]["size"].tolist() == [(6 << 30) + PAGE + (64 << 20)]
    assert reasons(s.tables()) == [""]


def test_an_unknown_size_gives_no_verdict(story):
    s = story()
    s.open(1, 3)
    s.read(1, 3, 9, 0)
    assert reasons(s.tables()) == ["size of the file unknown"]
    assert d.build(s.tables())["files"]["size"].tolist() == [PAGE]


def test_an_unknown_device_gives_no_verdict(story):
    s = story(device=False).size(9, PAGE)
    s.open(1, 3)
    s.read(1, 3, 9, 0)
    assert reasons(s.tables()) == ["device unknown"]


def test_what_is_not_read_through_the_page_cache_is_no_stream(s):
    s.open(1, 4, O_DIRECT)
    s.pread(1, 4, 9, 0)
    s.call(1, "read", 5, fd=77, count=10)  # a pipe: nothing of the page cache happens
    out = d.build(s.tables())
    assert len(out["streams"]["file"]) == 1
    assert len(out["others"]["ts"]) == 2


def test_setting_o_direct_later_counts_too(s):
    s.open(1, 4)
    s.call(1, "fcntl", 0, fd=4, cmd=4, arg=O_DIRECT)
    s.pread(1, 4, 9, 0)
    assert len(d.build(s.tables())["streams"]["file"]) == 1


def test_mapped_files_are_streams_without_verdict(s):
    for ino in (9, 10):
        s.now += 1
        s.page("mm_filemap_fault", 1, ino, 0)
    assert reasons(s.tables()) == [REASONS[verdict.MAPPED]] * 3
    out = d.build(s.tables())
    faults = out["ops"]["kind"] == d.FAULT
    assert out["ops"]["stream"][faults].tolist() == [1, 2]
    assert out["streams"]["file"].tolist() == ["7:1/9", "7:1/9", "7:1/10"]


def test_a_written_file(s):
    s.call(1, "write", 100, fd=3, count=100)
    assert reasons(s.tables()) == [REASONS[verdict.WRITTEN]]


def test_a_file_written_through_another_descriptor_is_known_by_its_pages(s):
    s.open(1, 4, 1)
    s.begin(1, "write", fd=4, count=100)
    s.page("mm_filemap_add_to_page_cache", 1, 9, 50, order=0)
    s.end(1, "write", 100)
    assert reasons(s.tables()) == [REASONS[verdict.WRITTEN]]


def test_a_truncated_file(s):
    s.call(1, "ftruncate", 0, fd=3, length=10)
    assert reasons(s.tables()) == [REASONS[verdict.WRITTEN]]


def test_threads_that_read_at_the_same_time(s):
    s.fork(1, 2)
    s.pread(1, 3, 9, 0)
    s.pread(2, 3, 9, 0)
    assert reasons(s.tables()) == [""]
    s.begin(1, "pread64", fd=3, count=PAGE, pos=0)
    s.touch(1, 9, 0, PAGE, PAGE)
    s.pread(2, 3, 9, 0)
    s.end(1, "pread64", PAGE)
    assert reasons(s.tables()) == ["read by several threads, or for several requests, at the same time"]


def test_a_descriptor_that_reads_two_files(s):
    s.pread(1, 3, 10, 0)
    assert reasons(s.tables()) == ["its descriptor cannot be tied to one file"]


def test_a_position_that_the_pages_contradict(s):
    s.read(1, 3, 9, 50 * PAGE)
    assert reasons(s.tables()) == ["position or readahead state unknown"]


def test_a_descriptor_of_unknown_origin(story):
    s = story().size(9, 100 * PAGE)
    s.pread(1, 3, 9, 0)
    assert reasons(s.tables()) == ["position or readahead state unknown"]


@pytest.mark.parametrize("pos,expected", [(0, ""), (PAGE, "position or readahead state unknown")])
def test_a_file_that_was_open_when_recording_began(story, pos, expected):
    s = story().size(9, 100 * PAGE)
    s.row("descriptors", pid=1, fd=3, s_dev_major=7, s_dev_minor=1, i_ino=9, flags=0, pos=pos)
    s.read(1, 3, 9, pos)
    assert reasons(s.tables()) == [expected]
    assert d.build(s.tables())["ops"]["pos"].tolist() == [pos]


def test_pages_that_were_cached_before(s):
    s.pread(1, 3, 9, 50 * PAGE, add=False)
    assert reasons(s.tables()) == ["pages were cached before the recording"]


def reclaim(s, index, order=0):
    s.now += 1
    s.page("mm_filemap_delete_from_page_cache", 0, 9, index, order=order)


def test_reclaimed_pages_that_are_added_again(s):
    reclaim(s, 0)
    assert reasons(s.tables()) == [""]  # nobody read it again
    s.now += 1
    s.page("mm_filemap_add_to_page_cache", 1, 9, 0, order=0)
    s.pread(1, 3, 9, 5000 * PAGE)
    assert reasons(s.tables()) == ["pages were reclaimed while traced"]


@pytest.mark.parametrize("page,expected", [(300, "pages were reclaimed while traced"), (5000, "")])
def test_reclaimed_pages_that_are_counted_later(s, page, expected):
    """A read counts cached pages as far back as the largest window: 320 pages on this device."""
    reclaim(s, 0)
    s.pread(1, 3, 9, page * PAGE)
    assert reasons(s.tables()) == [expected]


def test_dropping_pages_on_request_is_no_reclaim(s):
    s.begin(1, "fadvise64", fd=3, offset=0, len=0, advice=4)
    s.now += 1
    s.page("mm_filemap_delete_from_page_cache", 1, 9, 0, order=0)
    s.end(1, "fadvise64", 0)
    s.cached.clear()
    s.pread(1, 3, 9, 0)
    assert reasons(s.tables()) == [""]


def test_advice_alone_ties_a_descriptor_to_its_file(s):
    s.open(1, 4)
    s.begin(1, "fadvise64", fd=4, offset=40 * PAGE, len=PAGE, advice=3)
    s.now += 1
    s.page("mm_filemap_add_to_page_cache", 1, 9, 40, order=0)
    s.end(1, "fadvise64", 0)
    out = d.build(s.tables())
    assert out["streams"]["file"].tolist() == ["7:1/9"] * 2
    row = out["ops"]["stream"] == 1
    assert out["ops"]["kind"][row].tolist() == [d.OPEN, d.FADVISE]
    assert out["ops"]["advice"][row].tolist() == [-1, 3]
    assert (out["ops"]["pos"][row][1], out["ops"]["count"][row][1]) == (40 * PAGE, PAGE)


@pytest.mark.parametrize(
    "event,count,expected",
    [
        (None, None, "events were lost"),
        ("sys_enter_read", 1, "events were lost"),
        ("mm_filemap_get_pages", None, "events were lost"),
        ("block_rq_issue", 5, ""),
        (None, 0, ""),
    ],
)
def test_losses(s, event, count, expected):
    s.row("losses", event=event, from_ns=0, to_ns=10_000, count_upper=count)
    assert reasons(s.tables()) == [expected]


def test_without_decisions_in_the_kernel_the_baseline_is_unverified(story):
    s = story().size(9, 10 * PAGE)
    s.open(1, 3)
    s.pread(1, 3, 9, 0)
    assert reasons(s.tables()) == [""]
    known = {"from_ns": 0, "to_ns": 10_000, "count_lower": 0, "cause": "not in this kernel"}
    s.row("losses", event="filemap/mm_filemap_map_pages", **known)
    assert reasons(s.tables()) == [""], "the replay does not need it"
    s.row("losses", event="readahead/page_cache_async_ra", **known)
    (told,) = reasons(s.tables())
    assert told.startswith("baseline unverified")


def test_an_event_of_pages_that_the_kernel_lacks_is_a_loss(story):
    s = story().size(9, 10 * PAGE)
    s.open(1, 3)
    s.pread(1, 3, 9, 0)
    event = "filemap/mm_filemap_add_to_page_cache"
    s.row("losses", event=event, from_ns=0, to_ns=10_000, cause="not in this kernel")
    assert reasons(s.tables()) == ["events were lost"]


def test_only_what_fadvise_dropped_is_gone(story):
    """Pages under I/O stay: the read of the one finds it, that of the other does not."""
    s = story().size(9, 100 * PAGE)
    s.open(1, 3)
    for page in (50, 70):
        s.pread(1, 3, 9, page * PAGE)
    s.begin(1, "fadvise64", fd=3, offset=0, len=0, advice=4)
    s.page("mm_filemap_delete_from_page_cache", 1, 9, 50, order=0)
    s.end(1, "fadvise64", 0)
    for page in (50, 70):
        s.pread(1, 3, 9, page * PAGE, add=False)
    found = d.build(s.tables())
    assert [found["changes"][c].tolist() for c in ("index", "order", "how")] == [[50], [0], [0]]
    rows = replay.run(found)
    sync = rows["event"] == "page_cache_sync_ra"
    assert rows["index"][sync].tolist() == [50, 70, 50]


def test_other_ways_to_read(s):
    s.begin(1, "sendfile64", out_fd=9, in_fd=3, count=PAGE)
    s.touch(1, 9, PAGE, PAGE, PAGE)
    s.end(1, "sendfile64", PAGE)
    assert reasons(s.tables()) == ["read by other means than read and pread"]


def test_pages_met_outside_of_any_call(s):
    s.now += 5
    s.touch(5, 9, 60 * PAGE, PAGE, PAGE)
    assert reasons(s.tables()) == ["read by other means than read and pread"]


def test_vectors_take_their_length_from_the_pages(s):
    s.begin(1, "preadv", fd=3, vlen=2, pos_l=10 * PAGE + 7)
    s.touch(1, 9, 10 * PAGE + 7, 3 * PAGE, 3 * PAGE)
    s.end(1, "preadv", 3 * PAGE)
    s.begin(1, "preadv2", fd=3, vlen=1, pos_l=2**64 - 1)
    s.touch(1, 9, PAGE, 100, 100)
    s.end(1, "preadv2", 100)
    out = d.build(s.tables())
    use = out["ops"]["kind"] == d.READ
    assert out["ops"]["pos"][use].tolist() == [0, 10 * PAGE + 7, PAGE]
    assert out["ops"]["count"][use].tolist() == [PAGE, 4 * PAGE - 7, PAGE]
    assert out["streams"]["eligible"].tolist() == [True]


def test_a_capture_without_system_calls_is_refused(s):
    tables = {k: v for k, v in s.tables().items() if not k.startswith("sys_")}
    with pytest.raises(ConfigurationError, match="no system calls"):
        d.build(tables)
    with pytest.raises(ConfigurationError):
        d.build({})


def test_decision_tables_do_not_matter(recorded):
    without = {k: v for k, v in recorded.items() if k not in DECISION_TABLES}
    assert len(without) < len(recorded)
    first, second = d.build(recorded), d.build(without)
    for name, table in first.items():
        for column, values in table.items():
            assert np.array_equal(values, second[name][column]), (name, column)
            assert values.dtype == second[name][column].dtype


def test_no_decision_table_is_asked_for():
    assert not set(d.TABLES) & set(DECISION_TABLES)
