from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hindsight.errors import VerificationError
from hindsight.pipeline.evidence.splits import check_new_host, check_new_workload, check_tomorrow
from hindsight.pipeline.split import Split, hosts, programs, split, tomorrow, without_host, without_program

PURGE = 10


def facts(capture: str, workload: str, start: int, length: int = 5, **changed: str) -> dict[str, Any]:
    return {
        "capture": capture,
        "host": "h",
        "workload": workload,
        "program": workload.split("-")[0],
        "device": "d",
        "start_ns": start,
        "end_ns": start + length,
        **changed,
    }


TWO_PASSES = [
    facts(f"{w}{p}", w, 1000 * p + 20 * i) for p in (0, 1) for i, w in enumerate(("a", "b-1", "b-2"))
]

captures = st.lists(
    st.tuples(
        st.sampled_from(["a", "b-1", "b-2", "c"]),
        st.integers(0, 300),
        st.integers(0, 30),
        st.sampled_from(["h", "i"]),
        st.sampled_from(["d", "e"]),
    ),
    min_size=1,
    max_size=24,
).map(
    lambda rows: [
        facts(f"c{i}", w, start, length, host=host, device=device)
        for i, (w, start, length, host, device) in enumerate(rows)
    ]
)


def test_two_passes_are_cut_between_them() -> None:
    division = split(TWO_PASSES, PURGE)
    assert division == Split(("a0", "b-10", "b-20"), ("a1", "b-11", "b-21"), ())


def test_what_lies_in_the_gap_is_dropped() -> None:
    long = facts("long", "a", 50, 945)
    division = split([*TWO_PASSES, long], PURGE)
    assert division.dropped == ("long",)
    assert split([*TWO_PASSES, long], 5).dropped == ()


def test_workloads_recorded_once_can_be_learned_from_but_give_no_tomorrow() -> None:
    once = [facts("a", "a", 0), facts("b", "b", 100)]
    division = split(once, PURGE)
    assert division == Split(("a", "b"), (), ())
    assert tomorrow(once, division)[1] == []
    train, test = without_program(once, division, "a")
    assert [f["capture"] for f in train] == ["b"] and [f["capture"] for f in test] == ["a"]


@given(captures)
def test_every_split_passes_its_checkers(rows: list[dict[str, Any]]) -> None:
    division = split(rows, PURGE)
    assert sorted([*division.earlier, *division.later, *division.dropped]) == sorted(
        f["capture"] for f in rows
    )
    train, test = tomorrow(rows, division)
    if test:
        check_tomorrow(train, test, PURGE)
    for program in programs(rows):
        train, test = without_program(rows, division, program)
        if train and test:
            check_new_workload(train, test)


@given(captures, st.randoms())
def test_the_order_of_the_captures_does_not_matter(rows: list[dict[str, Any]], random: Any) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert split(rows, PURGE) == split(shuffled, PURGE)


def test_a_split_that_shuffles_time_is_refused() -> None:
    leaky = Split(("a0", "b-11"), ("a1", "b-10"), ())
    train, _ = tomorrow(TWO_PASSES, leaky)
    with pytest.raises(VerificationError):
        check_tomorrow(train, [f for f in TWO_PASSES if f["capture"] in leaky.later], PURGE)


def test_a_program_under_another_workload_does_not_stay_in_training() -> None:
    division = split(TWO_PASSES, PURGE)
    train, test = without_program(TWO_PASSES, division, "b")
    assert [f["capture"] for f in train] == ["a0"]
    assert [f["capture"] for f in test] == ["b-11", "b-21"]


def test_a_workload_shared_with_another_program_does_not_stay_in_training() -> None:
    rows = [
        facts(f"{program}{p}", workload, 1000 * p + 20 * i, program=program)
        for p in (0, 1)
        for i, (workload, program) in enumerate((("w", "p"), ("w", "q"), ("v", "r")))
    ]
    train, test = without_program(rows, split(rows, PURGE), "p")
    assert [f["capture"] for f in train] == ["r0"]
    assert [f["capture"] for f in test] == ["p1"]


@given(captures)
def test_no_host_that_is_left_out_is_learned_from(rows: list[dict[str, Any]]) -> None:
    division = split(rows, PURGE)
    for host in hosts(rows):
        train, test = without_host(rows, division, host)
        assert {f["host"] for f in test} <= {host}
        if train and test:
            check_new_host(train, test)
            assert not {f["capture"] for f in [*train, *test]} & set(division.dropped)
