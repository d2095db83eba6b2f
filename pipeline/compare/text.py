"""A comparison for a terminal, and as Markdown for a pull request."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from hindsight.pipeline.compare import wording
from hindsight.pipeline.compare.wording import ACROSS, Comparison, Row
from hindsight.pipeline.report import numbers
from hindsight.pipeline.report.markdown import table

WIDTH = 96


def terminal(comparison: Comparison) -> str:
    """Plain text, regressions first. Across data, every line begins with words that say so."""
    lines = [wording.title(comparison), ""]
    for version in comparison["versions"]:
        lines += textwrap.wrap(
            f"{version['label']} ({version['mode']}): {version['line']}", WIDTH, subsequent_indent="    "
        )
    for evaluation in comparison["evaluations"]:
        lines += ["", f"{numbers.evaluation(evaluation['name'])} ({evaluation['question']})"]
        lines += textwrap.wrap(
            wording.method(comparison, evaluation), WIDTH, initial_indent="  ", subsequent_indent="  "
        )
        for overall in evaluation["overall"]:
            lines += _of_a_version(overall, evaluation)
    for entry in comparison["differences"]:
        changes = wording.differences(entry)
        lines += ["", f"{entry['version']}: {len(changes) or 'no'} differences of features and parameters"]
        lines += [f"  {line}" for line in changes]
    for note in comparison["notes"]:
        lines += ["", *textwrap.wrap(note, WIDTH)]
    mark = f"[{ACROSS}] " if comparison["across_data"] else ""
    return "".join(f"{mark}{line}\n" if line else "\n" for line in lines)


def _of_a_version(overall: Row, evaluation: Row) -> list[str]:
    rows = [row for row in evaluation["workloads"] if row["version"] == overall["version"]]
    shown = [row for row in rows if row["finding"] in ("worse", "better") or row["not_inferior"] is False]
    names = max((len(row["name"]) for row in shown), default=0)
    lines = [f"  {overall['version']}  {_cells(overall)}"]
    lines += [f"    {row['name']:<{names}}  {_cells(row)}" for row in shown]
    for finding, text in (("~", "~ no significant difference"), ("not enough evidence", "? too little data")):
        rest = sum(row["finding"] == finding for row in rows if row not in shown)
        lines += [f"    {text}: {rest} workloads"] if rest else []
    return lines


def _cells(row: Row) -> str:
    return f"{numbers.finding(row)}  {numbers.gain(row['gain'])} ({numbers.interval(row['gain'])})"


def markdown(comparison: Comparison) -> str:
    """GitHub-flavoured Markdown: what changed is in sight, the complete tables are folded."""
    across = comparison["across_data"]
    mark = f" [{ACROSS}]" if across else ""
    confidence = f"{comparison['confidence']:g} % interval"
    lines = [f"## {wording.title(comparison)}{mark}", ""]
    lines += [*(f"- {line}{mark}" for line in wording.sums(comparison)), ""]
    modes = [[v["label"], v["mode"], v["line"]] for v in comparison["versions"]]
    lines += table(*_marked(["version", "mode", "verdict"], modes, across), left=4)
    for evaluation in comparison["evaluations"]:
        name = numbers.evaluation(evaluation["name"]).capitalize()
        rows = evaluation["workloads"]
        shown = [row for row in rows if row["finding"] in ("worse", "better") or row["not_inferior"] is False]
        head = ["workload", "version", "blocks", "gain", confidence, "label", "finding"]
        lines += [
            f"### {name}: {evaluation['question']}{mark}",
            "",
            wording.method(comparison, evaluation),
            "",
        ]
        overall = [_row("all", row) for row in evaluation["overall"]]
        lines += table(*_marked(head, [*overall, *(_row(row["name"], row) for row in shown)], across), left=2)
        folded = [_row(row["name"], row) for row in rows if row not in shown]
        if folded:
            lines += ["<details>", f"<summary>{len(folded)} workloads without a finding{mark}</summary>", ""]
            lines += [*table(*_marked(head, folded, across), left=2), "</details>", ""]
        if evaluation["only_in_some"]:
            lines += [f"Only in some of the versions{mark}: {', '.join(evaluation['only_in_some'])}.", ""]
    for entry in comparison["differences"]:
        changes = wording.differences(entry) or ["neither features nor parameters differ"]
        lines += [
            f"### {entry['version']} was made otherwise{mark}",
            "",
            *(f"- {c}{mark}" for c in changes),
            "",
        ]
    lines += [f"- {note}{mark}" for note in comparison["notes"]]
    return "\n".join(lines).rstrip("\n") + "\n"


def _row(name: str, row: Row) -> list[str]:
    return [
        name,
        row["version"],
        f"{row['blocks']:,}",
        numbers.gain(row["gain"]),
        numbers.interval(row["gain"]),
        row["gain"]["label"],
        numbers.finding(row),
    ]


def _marked(head: list[str], rows: Iterable[list[str]], across: bool) -> tuple[list[str], list[list[str]]]:
    """The table with a column that says what the rows rest on, where it is not the same data."""
    if not across:
        return head, list(rows)
    return [*head, "data"], [[*row, ACROSS] for row in rows]
