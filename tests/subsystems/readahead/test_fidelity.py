"""Comparing emitted with recorded decisions: strict, and told apart by where the decisions come from."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hindsight.subsystems.readahead import demand, fidelity, replay
from hindsight.subsystems.readahead.state import DECISION_TABLES


@pytest.fixture(scope="module")
def case(recorded):
    built = demand.build(recorded)
    return replay.run(built), {k: recorded[k] for k in DECISION_TABLES}, built


def altered(tables, picks, change):
    """The tables with the rows ``picks`` (places in all four, one after the other) changed."""
    result, at = {}, 0
    for name in DECISION_TABLES:
        columns = {k: v.copy() for k, v in tables[name].items()}
        rows = [p - at for p in picks if at <= p < at + len(columns["ts"])]
        change(columns, np.array(rows, np.int64))
        result[name] = columns
        at += len(tables[name]["ts"])
    return result


CHANGES = {
    "index": "index",
    "ra_pages": "ra_pages",
    "size": "size",
    "async_size": "async_size",
    "order": "order",
    "req_count": "req_count",
    "prev_pos": "prev_pos",
    "nr_to_read": "nr_to_read",
    "lookahead_size": "lookahead_size",
}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_changing_k_decisions_lowers_matched_by_k(case, data):
    emitted, tables, built = case
    total = sum(len(t["ts"]) for t in tables.values())
    picks = data.draw(st.sets(st.integers(0, total - 1), max_size=40))
    seed = data.draw(st.integers(0, 2**32))
    rng = np.random.default_rng(seed)

    def change(columns, rows):
        for row in rows:
            field = rng.choice(sorted(CHANGES.keys() & columns.keys()))
            columns[field][row] += 1_000_003

    result = fidelity.compare(emitted, altered(tables, picks, change), built)
    assert result.matched == total - len(picks)
    assert (result.recorded, result.compared) == (total, total)
    assert result.missing == result.extra == len(picks)
    assert (result.first_divergence is None) == (not picks)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_missing_decision_costs_only_itself(case, data):
    emitted, tables, built = case
    total = sum(len(t["ts"]) for t in tables.values())
    picks = data.draw(st.sets(st.integers(0, total - 1), max_size=40))

    def remove(columns, rows):
        keep = np.ones(len(columns["ts"]), np.bool_)
        keep[rows] = False
        for name in columns:
            columns[name] = columns[name][keep]

    result = fidelity.compare(emitted, altered(tables, picks, remove), built)
    assert result.recorded == result.matched == total - len(picks)
    assert (result.missing, result.extra) == (0, len(picks))


def test_single_steps_begin_with_the_recorded_state(case):
    """One request that shows another window before it than the logic came to."""
    emitted, tables, built = case
    assert fidelity.compare(emitted, tables, built).one_step == sum(len(t["ts"]) for t in tables.values())
    asks = tables["page_cache_async_ra"]
    changed = {name: {k: v.copy() for k, v in t.items()} for name, t in tables.items()}
    at = len(asks["ts"]) // 2
    changed["page_cache_async_ra"]["size"][at] += 3
    found = fidelity.compare(emitted, changed, built)
    # The request itself is as recorded now; what it leads to need not be.
    assert found.matched == found.recorded - 1
    assert found.recorded - 40 < found.one_step <= found.recorded


def test_the_first_divergence_shows_both_rows(case):
    emitted, tables, built = case
    changed = {name: {k: v.copy() for k, v in t.items()} for name, t in tables.items()}
    changed["page_cache_sync_ra"]["req_count"][3] += 1
    found = fidelity.compare(emitted, changed, built).first_divergence
    assert found["recorded"]["event"] == found["emitted"]["event"] == "page_cache_sync_ra"
    assert found["recorded"]["req"] == found["emitted"]["req"] + 1
    assert found["ts"] <= found["recorded"]["ts"]
    assert found["file"] == built["streams"]["file"][found["stream"]]


def test_an_empty_record_matches_nothing(case):
    emitted, _, built = case
    result = fidelity.compare(emitted, {}, built)
    assert (result.recorded, result.matched, result.extra) == (0, 0, len(emitted["ts"]))


def decision(s, pid, ino, index, table="page_cache_ra_unbounded"):
    s.now += 1
    s.page(table, pid, ino, index, nr_to_read=1)


def told(s):
    built = demand.build(s.tables())
    tables = s.tables()
    return fidelity.compare(replay.run(built), {k: tables[k] for k in DECISION_TABLES if k in tables}, built)


def test_reads_that_belong_to_no_stream_count_as_not_matched(story):
    s = story()
    s.begin(1, "read", fd=3, count=10)
    decision(s, 1, 9, 0)
    s.end(1, "read", 10)
    result = told(s)
    assert (result.recorded, result.matched, result.unattributed) == (1, 0, 1)
    assert result.exact_share == 0


def test_readers_whose_calls_were_not_recorded_count_as_not_matched(story):
    s = story()
    s.open(1, 3)
    decision(s, 77, 9, 0)
    assert (told(s).recorded, told(s).unattributed) == (1, 1)


def test_decisions_outside_of_reads_are_counted_apart(story):
    s = story()
    s.open(1, 3)
    decision(s, 1, 9, 0)
    result = told(s)
    assert (result.recorded, result.unattributed) == (0, 0)
    assert result.per_stream == ({"stream": None, "reason": "not caused by a read call", "recorded": 1},)


def test_decisions_of_page_faults_belong_to_the_mapping(story):
    s = story()
    s.open(1, 3)
    decision(s, 1, 9, 0)
    s.page("mm_filemap_fault", 1, 9, 0)
    result = told(s)
    assert (result.recorded, result.unattributed) == (0, 0)
    (stream,) = result.per_stream
    assert (stream["stream"], stream["reason"], stream["recorded"]) == (0, "read through a mapping", 1)


def test_streams_without_verdict_are_counted_apart(story):
    s = story().size(9, 4096 * 10)
    s.open(1, 3)
    s.open(1, 4, 0o2002)  # O_APPEND: how large the file is then is not known
    s.read(1, 3, 9, 0)
    s.begin(1, "write", fd=4, count=10)
    s.page("mm_filemap_add_to_page_cache", 1, 9, 9, order=0)
    s.end(1, "write", 10)
    s.begin(1, "pread64", fd=3, count=4096, pos=8 * 4096)
    decision(s, 1, 9, 8)
    s.touch(1, 9, 8 * 4096, 4096, 4096)
    s.end(1, "pread64", 4096)
    result = told(s)
    assert (result.recorded, result.compared, result.unattributed) == (0, 0, 0)
    (stream,) = result.per_stream
    assert stream["reason"] == "written or truncated while traced"
    assert (stream["recorded"], stream["matched"]) == (1, 1)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=12), st.lists(st.integers(0, 3), max_size=12))
def test_the_alignment_is_a_longest_common_subsequence(a, b):
    best = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i in range(len(a)):
        for j in range(len(b)):
            best[i + 1][j + 1] = best[i][j] + 1 if a[i] == b[j] else max(best[i][j + 1], best[i + 1][j])
    left, right = (np.array(x, np.int64).reshape(-1, 1) for x in (a, b))
    hit_a, hit_b = np.zeros(len(a), np.bool_), np.zeros(len(b), np.bool_)
    fidelity._align(left, right, 0, len(a), 0, len(b), hit_a, hit_b)
    assert left[hit_a].tolist() == right[hit_b].tolist()
    assert hit_a.sum() == best[-1][-1]
