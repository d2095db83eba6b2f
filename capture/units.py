"""Sizes, times, rates and shares as a user writes them on the command line."""

from __future__ import annotations

import re

from hindsight.capture.options import Duty, Pressure
from hindsight.errors import UsageError

_SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_TIMES = {"us": 1e-6, "ms": 1e-3, "": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_RATES = {"": 1.0, "k": 1e3, "m": 1e6}
_NUMBER = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s*([a-zA-Z]*)")
_MOST = 2**62


def _parse(text: str, units: dict[str, int] | dict[str, float], what: str, example: str) -> float:
    match = _NUMBER.fullmatch(text.strip())
    unit = match[2].lower() if match else ""
    if match is None or unit not in units:
        raise UsageError(f"{text!r} is not {what}", f"Write it like {example}.")
    value = float(match[1]) * units[unit]
    if not 0 < value < _MOST:
        raise UsageError(f"{text!r} is out of range for {what}", f"Write it like {example}.")
    return value


def size(text: str) -> int:
    """Bytes: ``4096``, ``256M``, ``1.5G``, also ``KiB``, ``MB`` … (all powers of 1024). Raises UsageError."""
    short = re.sub(r"(?i)(?<=[kmgt])i?b$|(?<=\d)b$", "", text.strip())
    value = int(_parse(short, _SIZES, "a size", "256M or 20G"))
    if value < 1:
        raise UsageError(f"{text!r} is out of range for a size", "Write it like 256M or 20G.")
    return value


def size_or_zero(text: str) -> int:
    """Like :func:`size`; 0 is a size as well. Raises UsageError."""
    return 0 if text.strip() == "0" else size(text)


def duration(text: str) -> float:
    """Seconds: ``30``, ``250ms``, ``30s``, ``10m``, ``2h``, ``1d``. Raises UsageError."""
    return _parse(text, _TIMES, "a time", "30s, 10m or 2h")


def rate(text: str) -> float:
    """Per second: ``200000``, ``200k``, ``1.5M``, also ``200k/s``. Raises UsageError."""
    return _parse(text.strip().removesuffix("/s"), _RATES, "a rate", "200k")


def percent(text: str) -> float:
    """Percent of one processor: ``5%``, ``2.5``; ``150%`` is one and a half. Raises UsageError."""
    value = _parse(text.strip().removesuffix("%"), {"": 1.0}, "a share of a processor", "5%")
    if value > 100_000:
        raise UsageError(f"{text!r} is out of range for a share of a processor", "Write it like 5%.")
    return value


def duty(text: str) -> Duty:
    """``ON/EVERY``, as ``30s/10m``: 30 seconds out of every 10 minutes. Raises UsageError."""
    on, slash, every = text.partition("/")
    if not slash:
        raise UsageError(f"{text!r} is not ON/EVERY", "Write it like 30s/10m.")
    found = Duty(duration(on), duration(every))
    if found.on_s > found.every_s:
        raise UsageError(f"{text!r}: on for longer than the whole period", "Write it like 30s/10m.")
    if found.on_s < 0.1:
        raise UsageError(f"{text!r}: on for less than 100 ms", "Write it like 30s/10m.")
    return found


def pressure(text: str) -> Pressure:
    """``RESOURCE:KIND:STALL/WINDOW``, as ``memory:some:150ms/1s``. Raises UsageError."""
    example = "Write it like memory:some:150ms/1s (resources cpu, memory, io; kinds some, full)."
    resource, _, rest = text.partition(":")
    kind, _, times = rest.partition(":")
    stall, slash, window = times.partition("/")
    if resource not in ("cpu", "memory", "io") or kind not in ("some", "full") or not slash:
        raise UsageError(f"{text!r} is not a threshold of pressure", example)
    found = Pressure(resource, kind, round(duration(stall) * 1e6), round(duration(window) * 1e6))
    if not 0 < found.stall_us <= found.window_us:
        raise UsageError(f"{text!r}: more stall than time", example)
    if not 500_000 <= found.window_us <= 10_000_000:
        raise UsageError(f"{text!r}: the kernel watches windows of 500 ms to 10 s", example)
    return found
