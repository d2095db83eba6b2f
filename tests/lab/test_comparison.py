from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hindsight.lab.comparison import Pair, differences, noise, predicted_difference, quantile, summarise
from hindsight.lab.order import shuffled


def pair(
    predicted: float, measured: float, metric: str = "pages_fetched", setting: str = "device:64"
) -> Pair:
    return Pair("P1", "w", setting, metric, "exact", predicted, measured, 0.0, 10)


def test_differences_are_paired_by_round_and_in_parts_of_stock() -> None:
    stock = [{"requests": 100}, {"requests": 200}, {"requests": 50}]
    treated = [{"requests": 110}, {"requests": 100}, {"requests": 50}]
    assert differences("requests", stock, treated) == [0.1, -0.5, 0.0]
    with pytest.raises(ValueError):
        differences("requests", stock, treated[:2])
    with pytest.raises(ValueError, match="requests of a stock run is 0"):
        differences("requests", [{"requests": 0}], [{"requests": 1}])


def test_waste_is_in_parts_of_what_stock_fetched() -> None:
    stock, treated = {"pages_fetched": 200, "pages_wasted": 0}, {"pages_fetched": 250, "pages_wasted": 50}
    assert differences("pages_wasted", [stock], [treated]) == [0.25]
    assert predicted_difference("pages_wasted", stock, treated) == 0.25


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 3), (0.9, 5), (0.8, 4), (0.81, 5), (0.01, 1), (1.0, 5)]
)
def test_quantiles_are_nearest_ranks(share: float, expected: float) -> None:
    assert quantile([5, 1, 4, 2, 3], share) == expected


def test_noise_is_half_the_distance_of_the_quartiles() -> None:
    # Ranks of eight values: the second and the sixth.
    assert noise([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.9, 1.0]) == pytest.approx(0.2)


def test_a_pair() -> None:
    one = pair(0.11, 0.10)
    assert one.sensitive and one.right_sign and one.outlier
    assert one.distance == pytest.approx(0.01) and one.error == pytest.approx(0.1)
    assert pair(0.05, 0.05).sensitive and not pair(0.05, 0.0499).sensitive
    assert not pair(0.0, 0.1).right_sign, "to predict nothing where something changed is wrong"
    assert pair(0.0, 0.1).outlier and pair(-0.1, 0.1).outlier
    assert not pair(9.0, 0.01).outlier, "an insensitive pair stands apart"
    assert pair(0.3, 0.0).error == math.inf
    assert not pair(0.57, 0.5, "throughput").outlier and pair(0.58, 0.5, "throughput").outlier


def test_statistics_by_hand() -> None:
    # Errors 0.1, 0, 0.5, 2 (wrong sign): median (0.1 + 0.5) / 2; 90th percentile: rank ceil(3.6) = 4.
    changed = [pair(0.11, 0.10), pair(-0.2, -0.2), pair(0.75, 0.5), pair(0.1, -0.1)]
    # Distances 0.01, 0, 0.25, 0.2.
    same = [pair(0.02, 0.01), pair(0.06, 0.02), pair(0.0, 0.0)]
    got = summarise([*changed, *same])
    assert got == {
        "pairs": 7,
        "changed": 4,
        "right_sign": 3,
        "right_sign_share": 0.75,
        "error_median": pytest.approx(0.3),
        "error_p90": pytest.approx(2.0),
        "distance_median": pytest.approx(0.105),
        "distance_p90": pytest.approx(0.25),
        "unchanged": 3,
        "unchanged_distance_median": pytest.approx(0.01),
        "unchanged_distance_max": pytest.approx(0.04),
        "unchanged_but_predicted": 1,
        "outliers": 3,
    }


def test_nothing_gives_no_figure() -> None:
    got = summarise([])
    assert got["pairs"] == got["changed"] == got["unchanged"] == got["outliers"] == 0
    assert {got[k] for k in ("right_sign_share", "error_median", "error_p90", "unchanged_distance_max")} == {
        None
    }


finite = st.floats(-10, 10)


@given(st.lists(st.tuples(finite, finite), max_size=30))
def test_every_pair_is_counted_once_and_no_figure_is_out_of_range(values: list[tuple[float, float]]) -> None:
    got: dict[str, Any] = summarise([pair(*value) for value in values])
    assert got["changed"] + got["unchanged"] == got["pairs"] == len(values)
    assert 0 <= got["right_sign"] <= got["changed"]
    assert got["changed"] - got["right_sign"] <= got["outliers"] <= got["changed"]
    if got["changed"]:
        assert got["error_median"] <= got["error_p90"] * (1 + 1e-5) or got["changed"] < 10


def test_the_order_depends_on_the_seed_alone() -> None:
    items = [f"setting{n}" for n in range(8)]
    first = shuffled(items, 1, 2, "P1", "w")
    assert sorted(first) == sorted(items) and items == [f"setting{n}" for n in range(8)]
    assert first == shuffled(items, 1, 2, "P1", "w")
    # Fixed here, so that a journal is resumed in the same order by any later release.
    assert shuffled(["a", "b", "c", "d", "e"], 1, 2, "P1", "w") == ["c", "a", "b", "d", "e"]
    others = {tuple(shuffled(items, 1, number, "P1", "w")) for number in range(50)}
    assert len(others) > 40, "rounds differ in their order"


def test_every_place_is_taken_by_every_setting() -> None:
    items = ("stock", "a", "b", "c")
    places: dict[str, set[int]] = {item: set() for item in items}
    for number in range(60):
        for place, item in enumerate(shuffled(items, 3, number)):
            places[item].add(place)
    assert all(seen == {0, 1, 2, 3} for seen in places.values())
