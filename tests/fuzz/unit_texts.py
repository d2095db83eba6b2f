"""Sizes, times, rates, shares, duty cycles and thresholds of pressure, as users type them.

Oracle: exact arithmetic on the number and the unit that the text consists of.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import mutation
from target import Failed, source

from hindsight.capture import units
from hindsight.errors import UsageError

POWERS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
SIZES = {"": 1, "b": 1} | {
    p + end: value for p, value in POWERS.items() for end in ("", "b", "ib")
}  # fmt: skip
TIMES = {
    "": Fraction(1), "us": Fraction(1, 10**6), "ms": Fraction(1, 1000), "s": Fraction(1), "m": Fraction(60),
    "min": Fraction(60), "h": Fraction(3600), "d": Fraction(86400),
}  # fmt: skip
RATES = {"": 1, "k": 1000, "m": 10**6, "/s": 1, "k/s": 1000, "m/s": 10**6}
SHARES = {"": 1, "%": 1}
PARSERS: dict[Callable[[str], Any], dict[str, Any]] = {
    units.size: SIZES, units.duration: TIMES, units.rate: RATES, units.percent: SHARES,
}  # fmt: skip
WORDS = (
    "k", "M", "G", "T", "KiB", "MB", "b", "ms", "us", "s", "min", "h", "d", "%", "/s", "/", ":", ".", "-",
    "+", "e9", "inf",
    "nan", "0x10", "1_000", " ", "memory", "io", "cpu", "some", "full", "0", "9" * 15, "",
)  # fmt: skip
EXAMPLES = ("256M", "1.5GiB", "20g", "4096", "30s", "250ms", "10m", "1d", "200k", "1.5M/s", "5%", "30s/10m",
            "memory:some:150ms/1s", "io:full:1s/2s")  # fmt: skip


def exact(text: str, known: dict[str, Any]) -> Fraction | None:
    """The value of a text: number and unit; None when it is none."""
    text = text.strip().lower()
    end = len(text)
    while end and not (text[end - 1].isdecimal() or text[end - 1] == "."):
        end -= 1
    unit = "".join(text[end:].split())
    try:
        return Fraction(text[:end]) * Fraction(known[unit])
    except (ValueError, KeyError, ZeroDivisionError):
        return None


class Units:
    """The parsers of :mod:`hindsight.capture.units`."""

    name = "units"
    cases = 50_000
    batch = 2000
    seconds = 30.0

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    def check(self, seed: int, first: int, count: int) -> None:
        """One text for each case, given to every parser."""
        for case in range(first, first + count):
            text = self._text(source(self.name, seed, case))
            try:
                self._parse(text)
            except Exception as error:
                kept = {"text": text.encode("utf-8", "surrogatepass")}
                raise Failed(case, f"{text[:100]!r}: {type(error).__name__}: {error}", kept) from error

    def _text(self, rng: random.Random) -> str:
        text = rng.choice(EXAMPLES)
        return mutation.text(rng, text, WORDS) if rng.randrange(10) else text

    def _parse(self, text: str) -> None:
        for parser, known in PARSERS.items():
            try:
                value = parser(text)
            except UsageError:
                self.seen["refused"] += 1
                continue
            self.seen["accepted"] += 1
            expected = exact(text, known)
            assert expected is not None and value > 0, f"{parser.__name__} read {value}"
            off = abs(Fraction(value) - expected)
            assert off <= max(expected * Fraction(1, 10**9), Fraction(parser is units.size)), (
                f"{parser.__name__} read {value}"
            )
        for compound in (units.duty, units.pressure):
            try:
                found = compound(text)
            except UsageError:
                continue
            self.seen["accepted"] += 1
            times = text.rpartition(":")[2].split("/")
            stated = [exact(time, TIMES) for time in times]
            scale, told = 1, tuple(found)
            if compound is units.pressure:
                scale, told = 10**6, told[2:]
            for one, value in zip(stated, told, strict=True):
                assert one is not None and abs(one * scale - Fraction(value)) <= Fraction(1, 2) + one / 10**9
