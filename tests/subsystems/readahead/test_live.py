"""Record real reads now, replay them, and find the kernel's decisions again."""

import pytest

from hindsight.capture import schema
from hindsight.pipeline.dataset import find_captures, read_tables
from hindsight.subsystems.readahead import demand, fidelity, replay
from hindsight.subsystems.readahead.state import DECISION_TABLES
from hindsight.subsystems.readahead.verdict import CACHED_BEFORE, RECLAIMED


def recorded_alone(scratch, directory, *what):
    """Tables and demand of a recording that nothing else disturbed: memory pressure on the host may take
    pages away, and another mount namespace may keep the file system, and so the cache, alive.
    """
    for attempt in range(4):
        (capture,) = find_captures(scratch.record(directory / str(attempt), *what))
        tables = read_tables(capture, schema.TABLES)
        built = demand.build(tables)
        if not set(built["streams"]["reason"].tolist()) & {RECLAIMED, CACHED_BEFORE}:
            break
    return tables, built


def check(scratch, directory, kind, seed, reads, read_ahead_kb):
    tables, built = recorded_alone(scratch, directory, kind, seed, reads, read_ahead_kb)
    emitted = replay.run(built)
    result = fidelity.compare(emitted, {k: tables[k] for k in DECISION_TABLES if k in tables}, built)
    assert built["streams"]["eligible"].all()
    assert result.compared > 0
    assert result.first_divergence is None
    assert result.matched == result.recorded == result.compared
    assert set(built["streams"]["ra_pages"].tolist()) == {read_ahead_kb // 4}


@pytest.mark.parametrize("read_ahead_kb,seed", [(64, 1), (128, 2), (8192, 3)])
def test_the_replay_of_a_process_reading_alone_is_exact(scratch, tmp_path, read_ahead_kb, seed):
    check(scratch, tmp_path, "all", seed, 60, read_ahead_kb)


@pytest.mark.slow
@pytest.mark.parametrize("read_ahead_kb", [64, 128, 8192])
@pytest.mark.parametrize(
    "kind",
    ["random", "sequential", "strided", "reverse", "local", "mixed", "several", "forks", "advised",
     "vectors", "whole"],
)  # fmt: skip
def test_every_kind_of_access_is_exact(scratch, tmp_path, kind, read_ahead_kb):
    check(scratch, tmp_path, kind, 5, 500, read_ahead_kb)
