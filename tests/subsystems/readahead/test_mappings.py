"""Which open file, and which advice, a fault on a mapped file acted on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hindsight.subsystems.readahead import calls as sc
from hindsight.subsystems.readahead import demand as d
from hindsight.subsystems.readahead import mappings as m
from hindsight.subsystems.readahead import replay
from hindsight.subsystems.readahead.descriptors import ENTER, Timeline
from hindsight.subsystems.readahead.history import History

PAGE = 4096
AT, ELSEWHERE = 0x10000, 0x90000  # addresses in pages
READABLE, RUNNABLE = 1, 5
UNKNOWN = (-1, -1)
EINVAL = 22
CLONE_VM, CLONE_THREAD = 0x100, 0x10000


@pytest.fixture
def s(story):
    """File 9 of 1000 pages; process 1 read it through descriptors 3 and 4: descriptions 0 and 1."""
    s = story().size(9, 1000 * PAGE)
    for fd in (3, 4):
        s.open(1, fd)
        s.pread(1, fd, 9, 0)
    return s


def mmap(s, fd, at, pages, page=0, pid=1, prot=READABLE):
    s.call(pid, "mmap", at * PAGE, addr=0, len=pages * PAGE, prot=prot, flags=2, fd=fd, off=page * PAGE)


def munmap(s, at, pages, pid=1):
    s.call(pid, "munmap", 0, addr=at * PAGE, len=pages * PAGE)


def madvise(s, at, pages, advice, ret=0):
    s.call(1, "madvise", ret, start=at * PAGE, len_in=pages * PAGE, behavior=advice)


def fault(s, page, address=None, pid=1):
    s.now += 10
    if address is not None:
        s.row("page_fault_user", pid=pid, address=address * PAGE + 123)
        s.now += 1
    s.page("mm_filemap_fault", pid, 9, page)


def go_around(s, first, last):
    s.now += 10
    s.page("mm_filemap_map_pages", 1, 9, first, last_index=last)


def execute(s, pid):
    s.now += 10
    s.row("sched_process_exec", pid=pid, old_pid=pid, target_pid=pid)


def faulted(s):
    """Description and flags of each fault."""
    found = History(s.tables()).faulted
    return list(zip(found.of.tolist(), found.flags.tolist(), strict=True))


def test_a_fault_belongs_to_the_mapping_that_holds_its_page(s):
    mmap(s, 3, AT, 10, page=100)
    mmap(s, 4, ELSEWHERE, 10, page=500)
    for page in (99, 100, 109, 110, 505):
        fault(s, page)
    found = History(s.tables()).faulted
    assert found.of.tolist() == [-1, 0, 0, -1, 1]
    assert found.first.tolist() == [-1, 100, 100, -1, 500]
    assert found.beyond.tolist() == [-1, 110, 110, -1, 510]
    assert found.mapping[1] == found.mapping[2] != found.mapping[4]


def test_a_fault_is_an_operation_of_the_open_file_that_was_mapped(s):
    mmap(s, 4, AT, 10, page=100, prot=RUNNABLE)
    fault(s, 103)
    ops = d.build(s.tables())["ops"]
    (at,) = np.flatnonzero(ops["kind"] == d.FAULT)
    assert {c: int(ops[c][at]) for c in ("stream", "pos", "count", "advice")} == {
        "stream": 1, "pos": 103 * PAGE, "count": 7 * PAGE, "advice": m.EXECUTABLE,
    }  # fmt: skip


def test_faults_before_a_mapping_are_not_its_own(s):
    fault(s, 5)
    mmap(s, 3, AT, 10)
    fault(s, 5)
    assert faulted(s) == [UNKNOWN, (0, 0)]


def test_a_mapping_outlives_its_descriptor(s):
    mmap(s, 3, AT, 10)
    s.call(1, "close", 0, fd=3)
    fault(s, 5)
    assert faulted(s) == [(0, 0)]


def test_what_the_kernel_tells_ties_a_mapping_of_a_file_that_nobody_read(story):
    s = story().size(9, 1000 * PAGE)
    s.open(1, 3)
    s.begin(1, "mmap", addr=0, len=10 * PAGE, prot=READABLE, flags=2, fd=3, off=0)
    s.row("opens", ordinal=1, origin=0, tgid=1, fd=3, s_dev_major=7, s_dev_minor=1, i_ino=9, prev_pos=-1)
    s.row("file_reads", pid=1, ordinal=1, call=11, fd=3, pos=0, count=10 * PAGE, prev_pos=-1)
    s.end(1, "mmap", AT * PAGE)
    fault(s, 5)
    assert faulted(s) == [(0, 0)]


def test_two_mappings_of_a_file_are_told_apart_by_the_address_only(s):
    mmap(s, 3, AT, 10)
    mmap(s, 4, ELSEWHERE, 10)
    fault(s, 5)
    fault(s, 5, AT + 5)
    fault(s, 5, ELSEWHERE + 5)
    assert faulted(s) == [UNKNOWN, (0, 0), (1, 0)]


def test_an_address_that_holds_another_page_is_not_that_of_the_fault(s):
    mmap(s, 3, AT, 10)
    mmap(s, 4, ELSEWHERE, 10)
    fault(s, 5, AT + 6)
    assert faulted(s) == [UNKNOWN]


def test_two_mappings_through_one_descriptor_are_not_ambiguous(s):
    mmap(s, 4, AT, 10)
    mmap(s, 4, ELSEWHERE, 10)
    fault(s, 5)
    mmap(s, 3, ELSEWHERE + 10, 10)
    mmap(s, 3, ELSEWHERE + 20, 10)
    fault(s, 5)
    assert faulted(s) == [(1, 0), UNKNOWN], "but with those of another"


def test_the_address_of_a_fault_around_is_of_any_of_its_pages(s):
    mmap(s, 3, AT, 32)
    mmap(s, 4, ELSEWHERE, 32)
    fault(s, 21, ELSEWHERE + 21)
    go_around(s, 16, 31)
    go_around(s, 0, 15)  # (not with that address)
    assert History(s.tables()).went_around.of.tolist() == [1, -1]
    ops = d.build(s.tables())["ops"]
    (at,) = np.flatnonzero(ops["kind"] == d.MAP)
    assert (ops["stream"][at], ops["pos"][at], ops["count"][at]) == (1, 16 * PAGE, 16 * PAGE)


def test_munmap_of_the_middle_splits(s):
    mmap(s, 3, AT, 30, page=100)
    munmap(s, AT + 10, 10)
    for page in (109, 110, 119, 120):
        fault(s, page)
    found = History(s.tables()).faulted
    assert found.of.tolist() == [0, -1, -1, 0]
    assert found.first.tolist() == [100, -1, -1, 120] and found.beyond.tolist() == [110, -1, -1, 130]
    assert found.mapping[0] == found.mapping[3], "one mmap(2) made both"


def test_a_mapping_at_the_same_place_replaces_a_part(s):
    mmap(s, 3, AT, 30)
    mmap(s, 4, AT + 10, 10, page=500)
    for page in (9, 10, 19, 20, 500, 509):
        fault(s, page)
    assert faulted(s) == [(0, 0), UNKNOWN, UNKNOWN, (0, 0), (1, 0), (1, 0)]


def test_advice_changes_what_its_part_is(s):
    mmap(s, 3, AT, 40)
    madvise(s, AT + 10, 20, m.MADV_RANDOM)
    madvise(s, AT + 20, 20, m.MADV_SEQUENTIAL)
    madvise(s, AT + 35, 5, m.MADV_NORMAL)
    madvise(s, AT, 40, m.MADV_RANDOM, ret=-EINVAL)
    for page in (9, 10, 19, 20, 34, 35):
        fault(s, page)
    assert [flags for _, flags in faulted(s)] == [0, m.RAND_READ, m.RAND_READ, m.SEQ_READ, m.SEQ_READ, 0]


def test_advice_leaves_the_rest_of_what_a_mapping_is(s):
    mmap(s, 3, AT, 10, prot=RUNNABLE)
    madvise(s, AT, 10, m.MADV_HUGEPAGE)
    for advice in (m.MADV_RANDOM, m.MADV_NORMAL, m.MADV_NOHUGEPAGE):
        madvise(s, AT, 10, advice)
        fault(s, 5)
    runs = m.EXECUTABLE
    assert [f for _, f in faulted(s)] == [runs | m.HUGE | m.RAND_READ, runs | m.HUGE, runs]


def test_an_execution_forgets(s):
    mmap(s, 3, AT, 10)
    s.fork(1, 2)
    execute(s, 2)
    fault(s, 5, pid=2)
    fault(s, 5)
    execute(s, 1)
    fault(s, 5)
    assert faulted(s) == [UNKNOWN, (0, 0), UNKNOWN]


def test_an_execution_after_vfork_leaves_the_parent_what_it_has(s):
    mmap(s, 3, AT, 10)
    s.fork(1, 2, CLONE_VM)
    execute(s, 2)
    fault(s, 5, pid=2)
    fault(s, 5)
    assert faulted(s) == [UNKNOWN, (0, 0)]


@pytest.mark.parametrize("flags,shared", [(0, False), (CLONE_VM | CLONE_THREAD, True)])
def test_a_fork_copies_and_a_thread_shares(s, flags, shared):
    mmap(s, 3, AT, 10)
    s.fork(1, 2, flags)
    fault(s, 5, pid=2)
    munmap(s, AT, 10, pid=2)
    fault(s, 6, pid=2)
    fault(s, 5)
    mmap(s, 4, AT, 10, page=500)
    fault(s, 505, pid=2)
    assert faulted(s) == [(0, 0), UNKNOWN, UNKNOWN if shared else (0, 0), (1, 0) if shared else UNKNOWN]


def test_willneed_reads_the_bytes_that_it_maps(s):
    mmap(s, 4, AT, 100, page=300)
    s.call(1, "madvise", 0, start=(AT + 20) * PAGE, len_in=7 * PAGE + 1, behavior=m.MADV_WILLNEED)
    found = d.build(s.tables())
    ops = found["ops"]
    (at,) = np.flatnonzero(ops["kind"] == d.FADVISE)
    assert {c: int(ops[c][at]) for c in ("stream", "pos", "count", "advice")} == {
        "stream": 1, "pos": 320 * PAGE, "count": 8 * PAGE, "advice": 3,
    }  # fmt: skip
    rows = replay.run(found)
    mine = rows["op"] == at
    assert rows["event"][mine].tolist() == ["page_cache_ra_unbounded"]
    assert (rows["index"][mine].tolist(), rows["req"][mine].tolist()) == ([320], [8])


@pytest.mark.parametrize("at,ret", [(AT + 95, 0), (ELSEWHERE, 0), (AT, -EINVAL)])
def test_willneed_beyond_a_mapping_or_that_failed_is_no_operation(s, at, ret):
    mmap(s, 4, AT, 100, page=300)
    madvise(s, at, 10, m.MADV_WILLNEED, ret=ret)
    assert d.FADVISE not in d.build(s.tables())["ops"]["kind"]


LOW, ROOM = 7, 24  # the addresses in pages that the changes below meet in
FILE_OF = np.array([0, 0, 1], np.int64)  # descriptions 0 and 1 are of one file
span = st.tuples(st.integers(LOW, LOW + ROOM - 1), st.integers(1, 12))
change = st.one_of(
    st.tuples(st.just(sc.MMAP), span, st.integers(-1, 2), st.integers(0, 15), st.sampled_from([1, 5])),
    st.tuples(st.just(sc.MUNMAP), span, st.just(-1), st.just(0), st.just(-1)),
    st.tuples(st.just(sc.MADVISE), span, st.just(-1), st.just(0), st.sampled_from([0, 1, 2, 3, 14, 15])),
)
ADVICE = {0: (0, 3), 1: (1, 2), 2: (2, 1), 14: (8, 0), 15: (0, 8)}  # flags set, and cleared


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(change, st.integers(0, PAGE - 1), st.booleans()), min_size=1, max_size=14))
def test_the_table_agrees_with_a_map_of_pages(changes):
    model, rows, asked, expected = {}, [], [], []
    for i, ((code, (begin, pages), of, page, c), spare, failed) in enumerate(changes):
        failed &= spare % 4 == 0
        b = page * PAGE if code == sc.MMAP else begin * PAGE
        ret = -EINVAL if failed else begin * PAGE if code == sc.MMAP else 0
        rows.append((10 * i, 10 * i + 1, 0, code, of, pages * PAGE - spare, b, c, ret))
        for at in range(begin, begin + pages) if not failed else ():
            if code == sc.MADVISE and at in model:
                on, off = ADVICE.get(c, (0, 0))
                held = model[at]
                model[at] = (*held[:2], (held[2] | on) & ~off, held[3])
            elif code != sc.MADVISE:
                model.pop(at, None)
                if code == sc.MMAP and of >= 0:
                    model[at] = (of, page + at - begin, m.EXECUTABLE if c & 4 else 0, i)
        for at, held in model.items():
            asked.append((10 * i + 5, 0, FILE_OF[held[0]], held[1], held[1], at))
            expected.append((dict(model), at, {held}))
        for file in (0, 1):
            for page in range(28):
                asked.append((10 * i + 5, 0, file, page, page, -1))
                holds = {h for h in model.values() if FILE_OF[h[0]] == file and h[1] == page}
                expected.append((dict(model), -1, holds))
    calls = sc.Calls(*(np.array(column, np.int64) for column in zip(*rows, strict=True)))
    n = np.arange(len(rows))
    timeline = Timeline(calls.ts, n * 0 + ENTER, n, n * 0, n * 0)
    moments = tuple(np.array(column, np.int64) for column in zip(*asked, strict=True))
    mapped, _ = m.follow(timeline, calls, calls.fd, FILE_OF, np.zeros(1, np.int64), moments)
    for of, flags, call, first, beyond, page, (model, at, holds) in zip(
        *(column.tolist() for column in mapped), moments[3].tolist(), expected, strict=True
    ):
        if len({(h[0], h[2]) for h in holds}) != 1:
            assert (of, flags) == UNKNOWN
            continue
        assert (of, page, flags, call) in holds and first <= page < beyond
        if at >= 0:
            assert all(model[at + p - page] == (of, p, flags, call) for p in range(first, beyond))


def test_children_have_all_the_pieces(s):
    mmap(s, 3, AT, 100)
    for i in range(20):
        madvise(s, AT + 5 * i + 1, 2, m.MADV_RANDOM)
    for child in range(100, 120):
        s.fork(1, child)
    for child in range(100, 120):
        fault(s, 99, AT + 99, pid=child)
    assert faulted(s) == [(0, 0)] * 20


def test_a_number_that_is_used_again_is_another_process(s):
    mmap(s, 3, AT, 10)
    s.fork(1, 2)
    s.now += 1
    s.row("sched_process_exit", pid=2, target_pid=2)
    munmap(s, AT, 10)
    s.fork(1, 2)
    fault(s, 5, pid=2)
    assert faulted(s) == [UNKNOWN]


def test_the_address_of_a_thread_that_nothing_else_is_known_of(s):
    s.fork(1, 3, 0x10100)
    mmap(s, 3, AT, 10)
    mmap(s, 4, ELSEWHERE, 10)
    s.now += 5
    s.row("page_fault_user", pid=3, address=(AT + 5) * PAGE)
    s.row("page_fault_user", pid=2, address=(ELSEWHERE + 5) * PAGE)
    s.now += 1
    s.page("mm_filemap_fault", 3, 9, 5)
    assert faulted(s) == [(0, 0)]


def test_advice_with_holes_is_taken_for_what_is_mapped(s):
    mmap(s, 3, AT, 10)
    madvise(s, AT, 20, m.MADV_RANDOM, ret=-12)
    fault(s, 5)
    assert faulted(s) == [(0, m.RAND_READ)]


def test_a_child_maps_the_pages_anew(s):
    mmap(s, 3, AT, 10)
    s.fork(1, 2)
    go_around(s, 0, 0)
    s.now += 5
    s.page("mm_filemap_map_pages", 2, 9, 0, last_index=0)
    first, second = History(s.tables()).went_around.mapping
    assert first != second
