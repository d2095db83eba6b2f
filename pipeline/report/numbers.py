"""Figures of report.json as text for people: units, signs, no more digits than they carry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NONE = "–"
_SCALES: dict[str, tuple[tuple[float, str], ...]] = {
    "ns": ((3600e9, "h"), (60e9, "min"), (1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns")),
    "bytes": ((2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B")),
}
_SHARES = ("%", "points")
"""Units of shares; a difference of two shares in per cent is in points."""

Figure = Mapping[str, Any]


def digits(value: float) -> str:
    """Three significant digits, a comma between thousands, a true minus."""
    size = abs(value)
    if size >= 999.5 or value == 0.0:
        text = f"{size:,.0f}"
    elif size >= 99.95:
        text = f"{size:.0f}"
    elif size >= 9.995:
        text = f"{size:.1f}"
    elif size >= 0.9995:
        text = f"{size:.2f}"
    else:
        text = f"{size:.2g}"
    return f"−{text}" if value < 0 else text


def per_cent(value: float | None, sign: bool = True) -> str:
    """A share such as "+12.3 %": one decimal, none from 100 %, one significant digit near zero."""
    if value is None:
        return NONE
    size = abs(value)
    text = (
        f"{size:,.0f}" if size >= 99.95 else f"{size:.1f}" if size >= 0.05 or size == 0.0 else f"{size:.1g}"
    )
    mark = "" if not sign or value == 0.0 else "+" if value > 0 else "−"
    return f"{mark if sign or value >= 0 else '−'}{text} %"


def quantity(value: float | int | None, unit: str, sign: bool = False) -> str:
    """A value in the handiest multiple of its unit: "1.23 s", "45.6 MiB", "1,234 pages"."""
    if value is None:
        return NONE
    if unit in _SHARES:
        return per_cent(float(value), sign).removesuffix("%") + unit
    mark = "+" if sign and value > 0 else ""
    for scale, name in _SCALES.get(unit, ()):
        if abs(value) >= scale * 0.9995:
            return f"{mark}{digits(value / scale)} {name}"
    if isinstance(value, int) and abs(value) < 1_000_000:
        return f"{mark}{'−' if value < 0 else ''}{abs(value):,} {unit}".rstrip()
    for scale, name in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if abs(value) >= scale:
            return f"{mark}{digits(value / scale)} {name} {unit}".rstrip()
    return f"{mark}{digits(float(value))} {unit}".rstrip()


def figure(entry: Figure | None, sign: bool = False) -> str:
    """The value of a figure."""
    return NONE if entry is None else quantity(entry["value"], entry["unit"], sign)


def gain(entry: Figure | None) -> str:
    """The value of a figure with its sign."""
    return figure(entry, sign=True)


def interval(entry: Figure | None) -> str:
    """Such as "+1.0 to +2.0 %"; a dash where there is none."""
    if entry is None or entry.get("low") is None or entry.get("high") is None:
        return NONE
    low = quantity(entry["low"], entry["unit"], sign=True)
    high = quantity(entry["high"], entry["unit"], sign=True)
    if entry["unit"] in _SHARES:
        low = low.removesuffix(f" {entry['unit']}")
    return f"{low} to {high}"


def delay(nanoseconds: int) -> str:
    """A delay on an axis."""
    return "0" if nanoseconds == 0 else quantity(nanoseconds, "ns").replace(".00", "").replace(".0 ", " ")


def size(entry: Figure | None) -> str:
    """The interval of a figure that has no direction: "42.2 to 57.0 %"."""
    return interval(entry).replace("+", "")


def finding(row: Mapping[str, Any]) -> str:
    """The finding of a workload, with a word of caution where "no worse" is not shown."""
    text = FINDINGS[row["finding"]]
    return f"{text}, at risk" if row["not_inferior"] is False and row["finding"] != "worse" else text


FINDINGS = {"better": "▲ better", "worse": "▼ worse", "~": "~", "not enough evidence": "? too little data"}
"""A finding as it stands in a table: a sign besides the colour."""

ARMS = {
    "stock": "stock",
    "rule": "trivial rule",
    "null": "null model",
    "random": "random",
    "model": "model",
    "best_known": "best known",
    "best_static": "best single static",
    "best_static_each": "best static per workload",
}

EVALUATIONS = {"tomorrow": "tomorrow", "new_workload": "new workload", "new_host": "new host"}


def arm(name: str) -> str:
    """An arm's name for people."""
    if name.startswith("static:"):
        return f"static {name.removeprefix('static:')}"
    return ARMS.get(name, name)


def setting(name: str) -> str:
    """A static setting where the heading already says that it is one."""
    return arm(name).removeprefix("static ")


def evaluation(name: str) -> str:
    """An evaluation's name for people."""
    return EVALUATIONS.get(name, name.replace("_", " "))
