"""The comparison as one page: self-contained, without script and without an address outside the file."""

from __future__ import annotations

import re
from pathlib import Path

import jinja2

from hindsight.pipeline import report as report_package
from hindsight.pipeline.compare import wording
from hindsight.pipeline.compare.wording import Comparison
from hindsight.pipeline.report import charts, numbers, palette
from hindsight.pipeline.report.charts import Drawing

_CLASSES = {"better": "better", "worse": "worse", "~": "same", "not enough evidence": "unknown"}


def page(comparison: Comparison) -> str:
    """The page. The same comparison gives the same text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        evaluation=numbers.evaluation,
        figure=numbers.figure,
        gain=numbers.gain,
        interval=numbers.interval,
        finding_of=numbers.finding,
    )
    css = Path(report_package.__file__).parent / "report.css"
    text = environment.get_template("compare.html.j2").render(
        comparison=comparison,
        title=wording.title(comparison),
        sums=wording.sums(comparison),
        differences=wording.differences,
        method=wording.method,
        across=wording.ACROSS,
        drawings=_drawings(comparison),
        finding_class=_CLASSES,
        palette=palette.style(),
        css=css.read_text(encoding="utf-8"),
    )
    # A figure and its unit stay on one line.
    return re.sub(r"(?<=\d) (?=%|points)", "\u00a0", text)


def _drawings(comparison: Comparison) -> dict[tuple[str, str], Drawing]:
    """(evaluation, version) -> gain over the reference per workload."""
    out = {}
    reference = comparison["reference"]
    for evaluation in comparison["evaluations"]:
        for i, overall in enumerate(evaluation["overall"], start=1):
            version = overall["version"]
            rows = [row for row in evaluation["workloads"] if row["version"] == version]
            over, unit = reference, overall["gain"]["unit"]
            if evaluation["across_data"]:
                over = f"{reference} ({wording.ACROSS})"
            part = {**evaluation, "workloads": rows}
            drawing = charts.forest(part, comparison["margin"], over, unit, f"-{i}")
            if drawing:
                out[evaluation["name"], version] = drawing
    return out
