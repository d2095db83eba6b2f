"""Which open file a call acted on, and where."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hindsight.subsystems.readahead import demand as d
from hindsight.subsystems.readahead.calls import integers, span_of

PAGE = 4096
CLOEXEC = 0o2000000
FILES, VM, THREAD = 0x400, 0x100, 0x10000


def reads(tables):
    """(stream, position) of each read, in order."""
    ops = d.build(tables)["ops"]
    use = ops["kind"] == d.READ
    return list(zip(ops["stream"][use].tolist(), ops["pos"][use].tolist(), strict=True))


def test_reads_advance_the_position_and_preads_do_not(story):
    s = story()
    s.open(1, 3)
    s.read(1, 3, 9, 0, 10000)
    s.pread(1, 3, 9, 50 * PAGE)
    s.read(1, 3, 9, 10000, 100)
    s.call(1, "lseek", 70000, fd=3, offset=70000, whence=0)
    s.read(1, 3, 9, 70000, 5000, ret=1000)
    s.read(1, 3, 9, 71000, 5000)
    assert reads(s.tables()) == [(0, 0), (0, 50 * PAGE), (0, 10000), (0, 70000), (0, 71000)]


def test_a_failed_seek_or_read_moves_nothing(story):
    s = story()
    s.open(1, 3)
    s.read(1, 3, 9, 0)
    s.call(1, "lseek", -22, fd=3, offset=-5, whence=0)
    s.read(1, 3, 9, 0, ret=-4)
    s.read(1, 3, 9, PAGE)
    assert reads(s.tables()) == [(0, 0), (0, PAGE), (0, PAGE)]


def test_two_opens_are_two_streams_and_duplicates_are_one(story):
    s = story()
    s.open(1, 3)
    s.open(1, 4)
    s.call(1, "dup", 5, fildes=3)
    s.call(1, "dup2", 6, oldfd=4, newfd=6)
    s.call(1, "fcntl", 7, fd=3, cmd=1030, arg=0)
    for fd, at in ((3, 0), (4, 0), (5, PAGE), (6, PAGE), (7, 2 * PAGE)):
        s.read(1, fd, 9, at)
    assert reads(s.tables()) == [(0, 0), (1, 0), (0, PAGE), (1, PAGE), (0, 2 * PAGE)]


def test_dup2_replaces_what_was_there_and_a_reopened_number_is_a_new_stream(story):
    s = story()
    s.open(1, 3)
    s.open(1, 4)
    s.read(1, 4, 9, 0)
    s.call(1, "dup2", 4, oldfd=3, newfd=4)
    s.read(1, 4, 9, 0)
    s.call(1, "close", 0, fd=3)
    s.call(1, "close", 0, fd=4)
    s.open(1, 4)
    s.read(1, 4, 9, 0)
    out = d.build(s.tables())
    assert out["ops"]["stream"][out["ops"]["kind"] == d.READ].tolist() == [1, 0, 2]
    ends = out["streams"]["to_ns"]
    assert ends[1] < ends[0] < out["streams"]["from_ns"][2]


def test_a_fork_shares_positions_and_keeps_descriptors_apart(story):
    s = story()
    s.open(1, 3)
    s.read(1, 3, 9, 0)
    s.fork(1, 2)
    s.read(2, 3, 9, PAGE)
    s.call(2, "close", 0, fd=3)
    s.open(2, 3)
    s.read(2, 3, 9, 0)
    s.read(1, 3, 9, 2 * PAGE)
    assert reads(s.tables()) == [(0, 0), (0, PAGE), (1, 0), (0, 2 * PAGE)]


@pytest.mark.parametrize("flags", [FILES | VM | THREAD, FILES | VM])
def test_threads_share_the_table(story, flags):
    s = story()
    s.open(1, 3)
    s.fork(1, 2, flags)
    s.open(2, 4)
    s.read(1, 4, 9, 0)
    s.call(1, "close", 0, fd=4)
    s.open(1, 4)
    s.read(2, 4, 9, 0)
    assert reads(s.tables()) == [(0, 0), (1, 0)]


def test_threads_known_from_the_beginning_share_the_table_of_their_process(story):
    s = story()
    s.row("tasks", pid=1, tgid=1, comm="a")
    s.row("tasks", pid=2, tgid=1, comm="b")
    s.size(9, PAGE)
    s.open(2, 3)
    s.read(1, 3, 9, 0)
    out = d.build(s.tables())
    assert out["streams"]["eligible"].tolist() == [True]
    assert out["streams"]["program"].tolist() == ["a"]


def test_an_execution_closes_what_is_marked(story):
    s = story()
    s.open(1, 3, CLOEXEC)
    s.open(1, 4)
    s.open(1, 5)
    s.call(1, "fcntl", 0, fd=5, cmd=2, arg=1)
    for fd in (3, 4, 5):
        s.read(1, fd, 9, 0)
    s.row("sched_process_exec", pid=1, target_pid=1, old_pid=1)
    for fd in (3, 5):
        s.open(1, fd)
        s.read(1, fd, 9, 0)
    s.read(1, 4, 9, PAGE)
    assert reads(s.tables()) == [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (1, PAGE)]


def test_an_execution_in_a_child_that_shares_the_table_leaves_the_parent_alone(story):
    s = story()
    s.open(1, 3, CLOEXEC)
    s.fork(1, 2, FILES | VM)
    s.row("sched_process_exec", pid=2, target_pid=2, old_pid=2)
    s.open(2, 3)
    s.read(2, 3, 9, 0)
    s.read(1, 3, 9, 0)
    assert reads(s.tables()) == [(1, 0), (0, 0)]


def test_close_range(story):
    s = story()
    for fd in (3, 4, 5):
        s.open(1, fd)
        s.read(1, fd, 9, 0)
    s.call(1, "close_range", 0, fd=4, max_fd=4294967295, flags=0)
    s.open(1, 4)
    s.read(1, 4, 9, 0)
    s.read(1, 3, 9, PAGE)
    s.call(1, "close_range", 0, fd=3, max_fd=3, flags=4)
    s.row("sched_process_exec", pid=1, target_pid=1, old_pid=1)
    s.now += 1
    s.pread(1, 4, 9, PAGE)
    out = d.build(s.tables())
    assert out["streams"]["to_ns"][0] == s.now - 23 and out["streams"]["to_ns"][3] == s.now
    assert reads(s.tables())[3:-1] == [(3, 0), (0, PAGE)]
    assert out["streams"]["to_ns"][1] == out["streams"]["to_ns"][2] < out["streams"]["from_ns"][3]


def test_a_close_counts_from_its_entry(story):
    s = story()
    s.row("tasks", pid=2, tgid=1, comm="b")
    s.open(1, 3)
    s.read(1, 3, 9, 0)
    s.begin(1, "close", fd=3)
    s.open(2, 3)
    s.end(1, "close", 0)
    s.read(1, 3, 9, 0)
    assert reads(s.tables()) == [(0, 0), (1, 0)]


def test_the_program_is_that_of_the_process_that_reads_first(story):
    s = story()
    s.row("tasks", pid=1, tgid=1, comm="shell")
    s.open(1, 0)
    s.row("task_rename", pid=1, target_pid=1, oldcomm="shell", newcomm="cat")
    s.fork(1, 2, FILES | VM | THREAD)
    s.row("task_rename", pid=2, target_pid=2, oldcomm="cat", newcomm="worker")
    s.read(2, 0, 9, 0)
    s.now += 1
    s.row("task_rename", pid=1, target_pid=1, oldcomm="cat", newcomm="later")
    assert d.build(s.tables())["streams"]["program"].tolist() == ["cat"]
    s = story()
    s.open(1, 3)
    s.read(1, 3, 9, 0)
    assert d.build(s.tables())["streams"]["program"].tolist() == ["prog"]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_spans_are_found(data):
    spans = []
    for task in range(3):
        bounds = sorted(data.draw(st.sets(st.integers(0, 60), max_size=12)))
        spans += [(task, a, b) for a, b in zip(bounds[::2], bounds[1::2], strict=False)]
    keys = data.draw(st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 60)), max_size=30))
    task, ts, end = (np.array([s[i] for s in spans], np.int64) for i in range(3))
    found = span_of(
        np.array([k[0] for k in keys], np.int64), np.array([k[1] for k in keys], np.int64), task, ts, end
    )
    for (who, when), at in zip(keys, found.tolist(), strict=True):
        expected = [i for i, s in enumerate(spans) if s[0] == who and s[1] <= when <= s[2]]
        assert ([at] if at >= 0 else []) == expected


def test_nulls_become_the_missing_value():
    assert integers(np.array([3, None], object)).tolist() == [3, -1]
    assert integers(np.array([3.0, np.nan]), 0).tolist() == [3, 0]
    assert integers(np.ma.masked_array([3, 4], [False, True])).tolist() == [3, -1]
    assert integers(np.array([2**64 - 1], np.uint64)).tolist() == [-1]
