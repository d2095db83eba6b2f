"""report.md: the page for a pull request or a terminal, without figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hindsight.pipeline.report import numbers
from hindsight.pipeline.report.page import exactly, plain

Report = Mapping[str, Any]


def markdown(report: Report) -> str:
    """The report as GitHub-flavoured Markdown."""
    verdict = report["verdict"]
    lines = [
        f"# {report['subsystem']}: {verdict['mode']}",
        "",
        f"**{verdict['line']}**",
        "",
        f"Mode: **{verdict['mode']}** ({verdict['mode_meaning']}).",
        "",
        *(f"- {reason['text']}" for reason in verdict["reasons"]),
        "",
        *(f"- {line}" for line in verdict["statements"]),
        "",
    ]
    for evaluation in report["evaluations"]:
        lines += _evaluation(evaluation, report)
    lines += _replay(report)
    if "realised" in report:
        lines += _realised(report["realised"], f"{report['confidence']:g} % interval")
    lines += ["## Limits", "", *(f"- {line}" for line in report["limits"]), ""]
    provenance = report["provenance"]
    if provenance:
        lines += ["## Provenance", "", *(f"- {k}: `{plain(v)}`" for k, v in provenance.items()), ""]
    return "\n".join(lines)


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    """A Markdown table; the first ``left`` columns are aligned to the left, the others to the right."""
    out = [f"| {' | '.join(header)} |"]
    out.append("|" + "|".join("---" if i < left else "---:" for i in range(len(header))) + "|")
    out += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return [*out, ""]


def _advice_cost(advice: Report | None) -> list[list[str]]:
    if not advice:
        return []
    net = advice["net_gain"]
    return [
        ["processor time of advice", f"{numbers.figure(advice['share'])} of what stock costs"],
        ["gain net of it", f"{numbers.gain(net)} ({numbers.interval(net)})"],
    ]


def _evaluation(evaluation: Report, report: Report) -> list[str]:
    name, harm, room = numbers.evaluation(evaluation["name"]), evaluation["harm"], evaluation["headroom"]
    confidence = f"{report['confidence']:g} % interval"
    tails = {tail["quantile"]: tail for tail in harm["tails"]}
    worst = harm["worst"]
    facts = [
        ["workloads significantly worse", f"{harm['workloads_worse']} of {harm['workloads']}"],
        [f"not shown to be within {harm['margin']:g} %", str(harm["workloads_at_risk"])],
        ["too few blocks to say", str(harm["workloads_unknown"])],
        ["worst workload", f"{worst['name']} {numbers.gain(worst['gain'])}" if worst else numbers.NONE],
        ["blocks made worse", f"{numbers.figure(harm['blocks_worse'])} of {harm['blocks']:,}"],
        *(
            [f"{quantile} relative change of a block", numbers.gain(tail["relative"]) if known else tail_note]
            for quantile, tail in tails.items()
            for known in [tail["relative"]["value"] is not None]
            for tail_note in [tail["relative"].get("note", numbers.NONE)]
        ),
        ["headroom to the proven bound", numbers.figure(room["proven"])],
        ["captured of it", f"{numbers.figure(room['captured'])} ({numbers.interval(room['captured'])})"],
        ["headroom to the best known policy", numbers.figure(room["best_known"])],
        *_advice_cost(evaluation["advice_cost"]),
    ]
    lines = [f"## {name.capitalize()}: {evaluation['question']}", "", *table(["", ""], facts)]
    lines += table(
        ["workload", "blocks", "gain", confidence, "label", "finding"],
        (
            [
                row["name"],
                f"{row['blocks']:,}",
                numbers.gain(row["gain"]),
                numbers.interval(row["gain"]),
                row["gain"]["label"],
                numbers.finding(row),
            ]
            for row in evaluation["workloads"]
        ),
    )
    cost = report["cost"]
    lines += table(
        ["arm", f"{cost['title']} ({cost['label']})", "gain", confidence, "finding", "blocks worse"],
        (
            [
                numbers.arm(arm["arm"]),
                numbers.figure(arm["totals"][cost["name"]]),
                *(
                    [
                        numbers.gain(arm["gain"]),
                        numbers.interval(arm["gain"]),
                        numbers.FINDINGS[arm["finding"]],
                        numbers.figure(arm["worse"]),
                    ]
                    if arm["finding"]
                    else [""] * 4
                ),
            ]
            for arm in evaluation["arms"]
        ),
    )
    return lines


def _replay(report: Report) -> list[str]:
    lines = ["## Replay", ""]
    fidelity, calibration = report["fidelity"], report["calibration"]
    if fidelity:
        total = exactly(fidelity["total"]["exact"])
        lines.append(
            f"- {total} of the recorded decisions are reproduced ({fidelity['threshold']:g} % needed)."
        )
    else:
        lines.append("- How faithful it is was not measured.")
    lines += [f"- No verdict for {c['capture']}: {c['reason']}." for c in report["excluded_captures"]]
    error = calibration["held_out_error"] if calibration else None
    if error and error["value"] is not None:
        lines.append(f"- The model of time is off by {numbers.figure(error)} (median of held-out captures).")
    else:
        lines.append("- The error of the model of time was not measured on held-out captures.")
    live = report["live_check"]
    if live:
        lines.append(
            f"- Predicted, then run live: sign right in {numbers.figure(live['sign_right'])} of "
            f"{live['pairs']} pairs in which something changed, median error "
            f"{numbers.figure(live['median_error'])}, p90 {numbers.figure(live['p90_error'])}."
        )
    return [*lines, ""]


def _realised(realised: Report, confidence: str) -> list[str]:
    def row(name: str, applied: int, entry: Report) -> list[str]:
        gains = [numbers.gain(entry["predicted"]), numbers.gain(entry["realised"])]
        return [name, f"{applied:,}", *gains, numbers.interval(entry["realised"])]

    lines = ["## Predicted, then realised", "", f"{realised['line']} (measured)", ""]
    lines += [f"- **{warning}**" for warning in realised["warnings"]]
    if realised["warnings"]:
        lines.append("")
    rows = [row(str(i + 1), b["n"], b) for i, b in enumerate(realised["bins"])]
    rows.append(row("all", realised["measured"], realised))
    header = ["by predicted gain", "applied", "predicted (modelled)", "realised (measured)", confidence]
    return lines + table(header, rows)
