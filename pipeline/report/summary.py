"""The report in a dozen lines for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from hindsight.pipeline.report import numbers

WIDTH = 96


def terminal(report: Mapping[str, Any], where: str = "") -> str:
    """Verdict, harm, gain, headroom, and ``where`` the page is. Plain text, no colour codes."""
    verdict = report["verdict"]
    lines = [
        *textwrap.wrap(verdict["line"], WIDTH),
        f"mode: {verdict['mode']} ({verdict['mode_meaning']})",
    ]
    for reason in verdict["reasons"]:
        lines += textwrap.wrap(reason["text"], WIDTH, initial_indent="  - ", subsequent_indent="    ")
    for evaluation in report["evaluations"]:
        harm, room = evaluation["harm"], evaluation["headroom"]
        gain = evaluation["model"]["gain"]
        worst = harm["worst"]
        proven = room["proven"]["value"] is not None
        whole = room["proven"] if proven else room["best_known"]
        part = room["captured"] if proven else room["captured_of_best_known"]
        name = numbers.evaluation(evaluation["name"])
        to = "proven bound" if proven else "best known policy"
        opponents = "".join(
            f"; {numbers.gain(c['gain'])}{' ~' if c['finding'] == '~' else ''} "
            f"against {numbers.arm(c['against'])}"
            for c in evaluation["comparisons"]
            if c["against"] in ("rule", "best_static")
        )
        lines += [
            "",
            f"{name} ({evaluation['question']}; {evaluation['blocks']:,} blocks)",
            f"  harm      {harm['workloads_worse']} of {harm['workloads']} workloads worse, "
            f"{harm['workloads_at_risk']} at risk; {numbers.figure(harm['blocks_worse'])} of the blocks worse"
            + (f"; worst {worst['name']} {numbers.gain(worst['gain'])}" if worst else ""),
            f"  gain      {numbers.gain(gain)} ({numbers.interval(gain)}, {gain['label']})" + opponents,
            f"  headroom  {numbers.figure(whole)} to the {to}, {numbers.figure(part)} of it captured",
        ]
    if where:
        lines += ["", f"report: {where}"]
    return "\n".join(lines) + "\n"
