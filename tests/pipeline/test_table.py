from __future__ import annotations

import pytest

from hindsight.pipeline.table import quantity, render, shorten


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0, "ns", "0"),
        (999, "ns", "999 ns"),
        (1500, "ns", "1.50 µs"),
        (99_960_000, "ns", "100 ms"),
        (12_340_000_000, "ns", "12.3 s"),
        (90_000_000_000, "ns", "1.50 min"),
        (-2_500_000_000, "ns", "-2.50 s"),
        (0, "pages", "0"),
        (999, "pages", "999"),
        (1234, "pages", "1.23k"),
        (12_345_678, "pages", "12.3M"),
    ],
)
def test_quantities_have_three_digits_and_their_unit(value: int, unit: str, shown: str) -> None:
    assert quantity(value, unit) == shown


def test_columns_line_up() -> None:
    text = render(["name", "n"], [["a", "1"], ["long name", "1000"]], 1)
    assert text.splitlines() == [
        "name          n",
        "─────────  ────",
        "a             1",
        "long name  1000",
    ]


def test_long_names_lose_their_middle() -> None:
    assert shorten("abcdefgh", 5) == "ab…gh"
    assert shorten("abc", 5) == "abc"
