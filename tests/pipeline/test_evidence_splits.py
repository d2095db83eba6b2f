from __future__ import annotations

from typing import Any

import pytest

from hindsight.errors import ExitCode, VerificationError
from hindsight.pipeline.evidence import check_new_host, check_new_workload, check_tomorrow

SECOND = 1_000_000_000


def row(capture: str, start_s: int, end_s: int, **fields: Any) -> dict[str, Any]:
    given = {"workload": "scan", "program": "sqlite3", "host": "a"} | fields
    return {"capture": capture, "start_ns": start_s * SECOND, "end_ns": end_s * SECOND, **given}


def test_a_clean_cut_in_time_passes() -> None:
    train = [row("t1", 0, 10), row("t2", 20, 30, host="b")]
    # Host b goes on training while host a is tested already: each host has a clock of its own.
    check_tomorrow(train, [row("t3", 15, 20), row("t4", 35, 40, host="b")], 5 * SECOND)


@pytest.mark.parametrize(
    ("test", "purge_s", "named"),
    [
        ([row("late", 14, 20)], 5, "'late' starts 4000000000 ns after training capture 't1'"),
        ([row("during", 5, 20)], 0, "'during' starts -5000000000 ns"),
        ([row("before", -30, -20)], 5, "'before' starts"),
        ([row("t1", 15, 20)], 5, "'t1' stands in training and in test"),
        ([row("other", 15, 20, workload="points")], 5, "workload 'points'"),
        ([row("other", 15, 20, host="b")], 5, "host 'b'"),
        ([row("wrong", 20, 15)], 5, "ends before it starts"),
        ([{"capture": "bare"}], 5, "lacks workload, program, host, start_ns, end_ns"),
        ([], 5, "test side of the split is empty"),
    ],
    ids=["purge", "overlap", "earlier", "same", "workload", "host", "backwards", "bare", "empty"],
)
def test_a_leak_in_time_is_named(test: list[dict[str, Any]], purge_s: int, named: str) -> None:
    with pytest.raises(VerificationError, match="tomorrow") as error:
        check_tomorrow([row("t1", 0, 10)], test, purge_s * SECOND)
    assert named in str(error.value)
    assert error.value.exit_code is ExitCode.VERIFICATION


def test_the_gap_counts_from_the_last_training_capture_of_the_host() -> None:
    train = [row("long", 0, 100), row("short", 50, 60)]
    with pytest.raises(VerificationError, match="'long'"):
        check_tomorrow(train, [row("t", 102, 110)], 5 * SECOND)


def test_a_negative_gap_is_refused() -> None:
    with pytest.raises(VerificationError, match="negative"):
        check_tomorrow([row("a", 0, 1)], [row("b", 2, 3)], -1)


def test_programs_of_the_test_are_new() -> None:
    train = [row("t1", 0, 10), row("t2", 0, 10, program="tar", workload="archive")]
    check_new_workload(train, [row("t3", 0, 10, program="git", workload="log")])
    with pytest.raises(VerificationError, match="program 'tar' stands in training and in test"):
        check_new_workload(train, [row("t3", 20, 30, program="tar", workload="unpack")])
    with pytest.raises(VerificationError, match="workload 'scan'"):
        check_new_workload(train, [row("t3", 20, 30, program="sqlite4")])


def test_hosts_of_the_test_are_new() -> None:
    check_new_host([row("t1", 0, 10)], [row("t2", 0, 10, host="b")])
    with pytest.raises(VerificationError, match="host 'a'"):
        check_new_host([row("t1", 0, 10)], [row("t2", 0, 10, host="b"), row("t3", 0, 10)])
