"""Units on the command line."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hindsight.capture import units
from hindsight.capture.options import Duty, Pressure
from hindsight.errors import UsageError


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (units.size, "4096", 4096), (units.size, "256M", 256 << 20), (units.size, "1.5g", 3 << 29),
        (units.size, "20GiB", 20 << 30), (units.size, "64kb", 65536), (units.size, "7b", 7),
        (units.size_or_zero, "0", 0), (units.size_or_zero, "1k", 1024),
        (units.duration, "30", 30.0), (units.duration, "250ms", 0.25), (units.duration, "10m", 600.0),
        (units.duration, "2h", 7200.0), (units.duration, "1d", 86400.0), (units.duration, " 5 s ", 5.0),
        (units.rate, "200k", 200e3), (units.rate, "1.5M/s", 1.5e6), (units.rate, "50/s", 50.0),
        (units.percent, "5%", 5.0), (units.percent, "2.5", 2.5), (units.percent, "150 %", 150.0),
        (units.duty, "30s/10m", Duty(30.0, 600.0)), (units.duty, "1/1", Duty(1.0, 1.0)),
        (units.pressure, "memory:some:150ms/1s", Pressure("memory", "some", 150_000, 1_000_000)),
        (units.pressure, "io:full:0.5s/10s", Pressure("io", "full", 500_000, 10_000_000)),
    ],
)  # fmt: skip
def test_value(parse: Callable[[str], object], text: str, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        *[(units.size, text) for text in ("", "0", "M", "-1", "1x", "1e9", "0x10", "nan", "1 2", "9" * 30)],
        *[(units.duration, text) for text in ("", "0", "0s", "1y", "inf", "-3", "1:30")],
        *[(units.rate, text) for text in ("", "k", "0", "5/h")],
        *[(units.percent, text) for text in ("", "%", "0", "five", "1000000")],
        *[(units.duty, text) for text in ("", "30s", "10m/30s", "/", "0/1", "1ms/1s")],
        *[(units.pressure, text) for text in ("", "memory", "disk:some:1ms/1s", "cpu:none:1ms/1s",
                                              "cpu:some:2s/1s", "cpu:some:1ms/100ms", "cpu:some:1ms/1m",
                                              "cpu:some:1ms")],
    ],
)  # fmt: skip
def test_refused(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert caught.value.remedy
