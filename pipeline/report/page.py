"""report.html: one page, self-contained, without script and without an address outside the file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from hindsight.pipeline.report import charts, numbers, palette

_HERE = Path(__file__).parent
_CLASSES = {"better": "better", "worse": "worse", "~": "same", "not enough evidence": "unknown"}


def html(report: Mapping[str, Any]) -> str:
    """The page. The same report gives the same text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    titles = {metric["name"]: metric["title"] for metric in report["metrics"]}
    environment.filters.update(
        arm=numbers.arm,
        delay=numbers.delay,
        evaluation=numbers.evaluation,
        figure=numbers.figure,
        gain=numbers.gain,
        interval=numbers.interval,
        exactly=exactly,
        digits=digits,
        setting=numbers.setting,
        size=numbers.size,
        finding_of=numbers.finding,
        metric_title=titles.__getitem__,
        plain=plain,
    )
    margin = float(report["parameters"]["non_inferiority"]) * 100.0
    text = environment.get_template("report.html.j2").render(
        report=report,
        drawings=charts.all_of(report, margin),
        findings=numbers.FINDINGS,
        finding_class=_CLASSES,
        palette=palette.style(),
        css=(_HERE / "report.css").read_text(encoding="utf-8"),
    )
    # A figure and its unit stay on one line.
    return re.sub(r"(?<=\d) (?=%)", "\u00a0", text)


def exactly(entry: Mapping[str, Any]) -> str:
    """A share of exact decisions: cut, not rounded, so that no miss of a threshold looks like a hit."""
    value = entry["value"]
    return numbers.NONE if value is None else f"{int(value * 100 + 1e-6) / 100:.2f} %"


def digits(entry: Mapping[str, Any]) -> str:
    """A figure without its unit."""
    return numbers.NONE if entry["value"] is None else numbers.digits(entry["value"])


def plain(value: Any) -> str:
    """An input as one line of text."""
    if value is None:
        return numbers.NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{str(k).replace('_', ' ')} {plain(v)}" for k, v in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(plain(item) for item in value) or "none"
    return str(value)
