"""Tables and quantities for a terminal: units, three significant digits, the width that there is."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

_TIMES = (
    (3_600_000_000_000, "h"),
    (60_000_000_000, "min"),
    (1_000_000_000, "s"),
    (1_000_000, "ms"),
    (1_000, "µs"),
)
_COUNTS = ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k"))


def quantity(value: int, unit: str) -> str:
    """``value`` with three significant digits: times with their unit, counts with a prefix."""
    if unit == "ns":
        return _scaled(value, _TIMES, "ns", " ")
    return _scaled(value, _COUNTS, "", "")


def _scaled(value: int, scales: Sequence[tuple[int, str]], smallest: str, gap: str) -> str:
    for size, name in scales:
        if abs(value) >= size:
            shown = value / size
            digits = 0 if abs(shown) >= 99.95 else 1 if abs(shown) >= 9.995 else 2
            return f"{shown:.{digits}f}{gap}{name}"
    return f"{value}{gap if value else ''}{smallest if value else ''}"


def share(value: float) -> str:
    """A fraction as per cent."""
    return f"{100 * value:.0f} %"


def render(header: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """Columns of the width that they need; the first ``left`` of them flush left, the others right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def text(cells: Sequence[str]) -> str:
        padded = [
            c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(padded).rstrip()

    rule = "  ".join("─" * width for width in widths)
    return "\n".join([bold(text(header)), rule, *map(text, rows)])


def bold(text: str) -> str:
    """Bold on a terminal, unless NO_COLOR is set."""
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else text


def shorten(text: str, width: int) -> str:
    """At most ``width`` characters; what is cut out is in the middle."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def wrapped(text: str) -> str:
    """Prose as wide as the terminal, 100 columns at most."""
    return textwrap.fill(text, min(100, shutil.get_terminal_size((100, 24)).columns))


def headroom(result: Mapping[str, Any], top: int) -> str:
    """The result of :func:`hindsight.pipeline.headroom.headroom` for people."""
    cost, *others = result["metrics"]
    header = [
        "device",
        "program",
        "file",
        *[_title(m) for m in (cost, *others)],
        "best static",
        "",
        "best known",
        "headroom",
        "",
    ]

    def row(entry: Mapping[str, Any], names: Sequence[str]) -> list[str]:
        stock, static, known = entry["stock"], entry["best_static"], entry["best_known"]
        return [
            *names,
            *[quantity(stock[m["name"]], m["unit"]) for m in (cost, *others)],
            static["action"],
            quantity(static[cost["name"]], cost["unit"]),
            quantity(known[cost["name"]], cost["unit"]),
            quantity(entry["headroom"], cost["unit"]),
            share(entry["headroom_share"]),
        ]

    lines, total = result["lines"], result["total"]
    rows = [
        row(e, [shorten(e["device"], 30), shorten(e["program"], 16), shorten(e["file"], 24)])
        for e in lines[:top]
    ]
    rows.append(row(total, ["total", "", f"{len(lines)} lines"]))
    shown = sum(entry["headroom"] for entry in lines[:top])
    every = sum(entry["headroom"] for entry in lines)
    text = [
        f"{result['subsystem']}: what stock cost, by {cost['meaning']}, in {result['captures']} captures",
        "",
        render(header, rows, 3),
        "",
    ]
    if len(lines) > top:
        rest = share(1 - shown / every) if every else "0 %"
        text.append(f"{len(lines) - top} more lines hold {rest} of the headroom (--top N, --json for all).")
    units = [
        f"{_title(m)} in {m['unit']}" for m in (cost, *others) if m["unit"] != "ns" and _title(m) != m["unit"]
    ]
    if units:
        text.append(f"Of stock: {', '.join(units)}.")
    modelled = [
        (c["modelled_ns"], c["recorded_ns"]) for c in result["calibration"].values() if c["recorded_ns"]
    ]
    if modelled:
        errors = sorted(abs(m - r) / r for m, r in modelled)
        text.append(
            f"Modelled time of stock against the record: off by {share(errors[len(errors) // 2])} at the "
            f"median of the captures, {share(errors[-1])} at most."
        )
    if total["bound"]:
        text.append(f"Proven: no policy goes below {quantity(total['bound'], cost['unit'])} in all.")
    for reason, entry in result["excluded_streams"].items():
        text.append(
            f"Left out: {entry['streams']} streams ({quantity(entry['recorded_ns'], 'ns')}): {reason}."
        )
    text.append(result["note"])
    return "\n".join([*text[:4], *(wrapped(part) for part in text[4:])])


def _title(metric: Mapping[str, Any]) -> str:
    name = str(metric["name"])
    # "pages_fetched" of unit "pages" is "fetched": the unit stands in the explanation below the table.
    return name.removesuffix("_ns").removeprefix(f"{metric['unit']}_").replace("_", " ")


def fidelity(result: Mapping[str, Any]) -> str:
    """The result of :func:`hindsight.pipeline.fidelity.compare_dataset` for people, the worst first."""
    header = ["capture", "exact", "recorded", "matched", "missing", "extra", "unattributed"]
    names = header[2:]

    def row(title: str, entry: Mapping[str, Any]) -> list[str]:
        exact = entry["exact_share"]
        return [title, "–" if exact is None else f"{100 * exact:.2f} %", *[str(entry[n]) for n in names]]

    captures = sorted(
        result["captures"].items(),
        key=lambda item: (item[1]["exact_share"] is None, item[1]["exact_share"], item[0]),
    )
    text = [render(header, [*[row(c, e) for c, e in captures], row("total", result["total"])], 1)]
    for name, entry in captures:
        if entry["first_divergence"]:
            facts = ", ".join(f"{k} {v}" for k, v in entry["first_divergence"].items())
            text.append(f"{name} diverges first at: {facts}")
            break
    if result["total"]["exact_share"] is None:
        text.append("No decision was recorded: the baseline is unverified.")
    return "\n".join(text)
