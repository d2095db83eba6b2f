"""The replay of a recorded capture equals the record, and needs none of it."""

import numpy as np

from hindsight.subsystems.readahead import demand, fidelity, replay
from hindsight.subsystems.readahead.state import DECISION_TABLES


def packed(columns):
    return {k: v.tolist() if v.dtype == object else (v.dtype, v.tobytes()) for k, v in columns.items()}


def test_the_replay_equals_the_record(recorded):
    built = demand.build(recorded)
    emitted = replay.run(built)
    result = fidelity.compare(emitted, {k: recorded[k] for k in DECISION_TABLES}, built)
    assert result.recorded == sum(len(recorded[k]["ts"]) for k in DECISION_TABLES) > 500
    assert result.first_divergence is None
    assert result.matched == result.recorded == result.compared
    assert (result.missing, result.extra, result.unattributed) == (0, 0, 0)
    assert built["streams"]["eligible"].all() and len(built["streams"]["file"]) > 10


def test_what_was_decided_does_not_reach_the_replay(recorded):
    first = packed(replay.run(demand.build(recorded)))
    without = {k: v for k, v in recorded.items() if k not in DECISION_TABLES}
    assert packed(replay.run(demand.build(without))) == first
    altered = dict(recorded)
    for name in DECISION_TABLES:
        altered[name] = {k: v[::-1].copy() for k, v in recorded[name].items()}
        altered[name]["index"] += 7
    assert packed(replay.run(demand.build(altered))) == first


def test_the_folios_of_the_replay_are_those_that_were_added(recorded):
    """Not compared by the replay, so an independent witness: order and place of every folio."""
    built = demand.build(recorded)
    files, inserted = built["files"], replay.insertions(built)
    added = recorded["mm_filemap_add_to_page_cache"]
    rows = (files["i_ino"][inserted["file_id"]], inserted["index"], inserted["order"])
    emitted = list(zip(*(row.tolist() for row in rows), strict=True))
    mine = np.isin(added["i_ino"], files["i_ino"])
    expected = [tuple(int(added[c][i]) for c in ("i_ino", "index", "order")) for i in np.flatnonzero(mine)]
    assert emitted == expected
    assert max(order for _, _, order in expected) > 2


def test_emitted_rows_are_in_the_order_of_their_operations(recorded):
    emitted = replay.run(demand.build(recorded))
    assert (np.diff(emitted["op"].astype(np.int64)) >= 0).all()
    assert (np.diff(emitted["ts"]) >= 0).all()
    assert set(emitted["event"]) == set(DECISION_TABLES)


def test_a_capture_without_reads_emits_nothing(story):
    s = story()
    s.open(1, 3)
    built = demand.build(s.tables())
    emitted = replay.run(built)
    assert {len(v) for v in emitted.values()} == {0}
    result = fidelity.compare(emitted, {}, built)
    assert (result.recorded, result.compared, result.exact_share) == (0, 0, 1.0)


def test_a_read_that_was_not_seen_to_return_is_replayed_as_asked(story):
    s = story().size(9, 100 * 4096)
    s.open(1, 3)
    s.read(1, 3, 9, 0)
    s.begin(1, "pread64", fd=3, count=8192, pos=50 * 4096)
    s.touch(1, 9, 50 * 4096, 8192, 8192)
    emitted = replay.run(demand.build(s.tables()))
    assert emitted["index"].tolist() == [0, 0, 50, 50]
