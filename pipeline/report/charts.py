"""The figures of the page, from the sealed report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from hindsight.pipeline.report import courses, numbers, realised
from hindsight.pipeline.report.drawing import NARROW, Chart, Drawing, draw
from hindsight.pipeline.report.palette import LIGHT

Report = Mapping[str, Any]
Rows = list[dict[str, Any]]


def forest(
    evaluation: Report, margin: float, over: str = "stock", unit: str = "%", suffix: str = ""
) -> Drawing | None:
    """Gain per workload over something, with its interval; ``suffix`` is that of its name."""
    rows: Rows = [
        {
            "workload": row["name"],
            "order": i,
            "gain": row["gain"]["value"],
            "low": row["gain"].get("low"),
            "high": row["gain"].get("high"),
            "finding": row["finding"],
        }
        for i, row in enumerate(evaluation["workloads"])
        if row["gain"]["value"] is not None
    ]
    if not rows:
        return None
    ends = [v for row in rows for v in (row["gain"], row["low"], row["high"]) if v is not None]
    low, high = max(-100.0, min(*ends, -2.0 * margin)), min(100.0, max(*ends, 2.0 * margin))
    for row in rows:
        for key in ("low", "high", "gain"):
            if row[key] is not None:
                row[key] = min(max(row[key], low), high)
    names = list(numbers.FINDINGS)

    def chart(width: int) -> Chart:
        narrow = width == NARROW
        order = [row["workload"] for row in rows]
        axis = None if narrow else alt.Axis(labelLimit=250, ticks=False, domain=False, labelPadding=10)
        bands = alt.Scale(domain=order, paddingOuter=0.6 if narrow else 0.3)
        y = alt.Y("workload:N", sort=order, title=None, axis=axis, scale=bands)
        domain = alt.Scale(domain=[low, high], nice=False, zero=False)
        x_axis = alt.Axis(
            format="+.0f", labelExpr=_LABEL, tickCount=4 if narrow else 8, orient="top", domain=False
        )
        x = alt.X("gain:Q", scale=domain, title=f"gain over {over}, {unit}", axis=x_axis)
        colour = alt.Color(
            "finding:N",
            legend=None,
            scale=alt.Scale(domain=names, range=[LIGHT[k] for k in ("better", "worse", "same", "unknown")]),
        )
        base = alt.Chart(alt.InlineData(values=rows))
        strip = alt.Chart(alt.InlineData(values=[{"a": low, "b": -margin}]))
        risk = strip.mark_rect(color=LIGHT["risk"], opacity=0.8).encode(
            alt.X("a:Q", scale=domain), alt.X2("b")
        )
        zero = (
            alt.Chart(alt.InlineData(values=[{"v": 0}]))
            .mark_rule(color=LIGHT["muted"], strokeWidth=1)
            .encode(alt.X("v:Q", scale=domain))
        )
        spans = base.mark_rule(strokeWidth=2).encode(y, alt.X("low:Q", scale=domain), alt.X2("high"), colour)
        points = base.mark_point(size=64, filled=True, opacity=1).encode(
            y,
            x,
            colour,
            alt.Shape(
                "finding:N",
                legend=None,
                scale=alt.Scale(domain=names, range=["triangle-up", "triangle-down", "circle", "square"]),
            ),
        )
        layers = [risk, zero, spans, points]
        if narrow:
            text = base.mark_text(align="left", dy=-13, fontSize=11, color=LIGHT["ink"])
            layers.append(text.encode(y, alt.Text("workload:N"), x=alt.value(0)))
        step = 36 if narrow else 25
        return alt.layer(*layers).properties(width=width, height=alt.Step(step))

    text = "; ".join(
        f"{row['name']} {numbers.gain(row['gain'])} ({numbers.interval(row['gain'])}), {row['finding']}"
        for row in evaluation["workloads"]
    )
    name = numbers.evaluation(evaluation["name"])
    return draw(
        f"forest-{evaluation['name'].replace('_', '-')}{suffix}",
        f"Gain over {over} per workload, {name}: point and interval. Left of the line is worse; in the "
        f"shaded area by more than {margin:g} {unit}. ▲ better, ▼ worse, ● no significant difference, "
        "■ too little data.",
        f"Gain over {over} per workload in the evaluation {name}. {text}.",
        chart,
    )


def distribution(evaluation: Report) -> Drawing | None:
    """Cumulative distribution of the gain per block, per arm."""
    styles = {
        "model": ("model", [1, 0]),
        "rule": ("rule", [6, 3]),
        "best_static": ("static", [2, 2]),
        "null": ("null", [8, 3, 2, 3]),
        "best_known": ("known", [4, 2, 1, 2]),
    }
    shown = [d for d in evaluation["distributions"] if d["arm"] in styles and d["gain"]["values"]]
    if not shown:
        return None
    low, high = -100.0, 100.0
    rows = [
        {"arm": numbers.arm(d["arm"]), "gain": min(max(v, low), high), "share": 100.0 * i / (len(values) - 1)}
        for d in shown
        for values in [d["gain"]["values"]]
        for i, v in enumerate(values)
    ]
    names = [numbers.arm(d["arm"]) for d in shown]
    colours = [LIGHT[styles[d["arm"]][0]] for d in shown]
    dashes = [styles[d["arm"]][1] for d in shown]

    def chart(width: int) -> Chart:
        narrow = width == NARROW
        legend = alt.Legend(orient="top", title=None, columns=2 if narrow else 0, symbolSize=400)
        x_axis = alt.Axis(format="+.0f", labelExpr=_LABEL, values=[-100, -50, 0, 50, 100])
        x = alt.X(
            "gain:Q", title="gain of a block over stock, %", axis=x_axis, scale=alt.Scale(domain=[low, high])
        )
        y = alt.Y(
            "share:Q",
            title="share of blocks below, %",
            axis=alt.Axis(values=[0, 25, 50, 75, 100]),
            scale=alt.Scale(domain=[0, 100]),
        )
        lines = (
            alt.Chart(alt.InlineData(values=rows))
            .mark_line(interpolate="step-after", strokeWidth=2)
            .encode(
                x,
                y,
                alt.Color("arm:N", legend=legend, scale=alt.Scale(domain=names, range=colours)),
                alt.StrokeDash("arm:N", legend=legend, scale=alt.Scale(domain=names, range=dashes)),
            )
        )
        zero = (
            alt.Chart(alt.InlineData(values=[{"v": 0}]))
            .mark_rule(color=LIGHT["muted"], strokeWidth=1)
            .encode(alt.X("v:Q"))
        )
        return alt.layer(zero, lines).properties(width=width, height=260)

    said = []
    for d in shown:
        values = d["gain"]["values"]
        q = [numbers.per_cent(values[round((len(values) - 1) * p)]) for p in (0.05, 0.25, 0.5, 0.75, 0.95)]
        said.append(
            f"{numbers.arm(d['arm'])}: 5th {q[0]}, 25th {q[1]}, median {q[2]}, 75th {q[3]}, 95th {q[4]}"
        )
    name = numbers.evaluation(evaluation["name"])
    return draw(
        f"distribution-{evaluation['name'].replace('_', '-')}",
        f"How the gain spreads over the time blocks, {name}. A line that meets zero at 30 % made 30 % of the "
        "blocks worse. What lies beyond ±100 % is drawn at the edge.",
        f"Distribution of the gain per block over stock in the evaluation {name}, percentiles. "
        + "; ".join(said)
        + ".",
        chart,
    )


def delay(report: Report) -> Drawing | None:
    """Gain against the delay of the advice."""
    rows = [
        {"arm": numbers.arm(row["arm"]), "delay": numbers.delay(row["delay"]), "gain": row["gain"]["value"]}
        for row in report["delay"]
        if row["gain"]["value"] is not None
    ]
    if not rows:
        return None
    order = [numbers.delay(ns) for ns in sorted({row["delay"] for row in report["delay"]})]
    names = sorted({row["arm"] for row in rows}, key=lambda n: (n != "model", n))
    palette = {"model": "model", "trivial rule": "rule", "null model": "null", "best known": "known"}
    colours = [LIGHT[palette.get(name, "static")] for name in names]

    def chart(width: int) -> Chart:
        legend = alt.Legend(orient="top", title=None, symbolSize=120)
        domain = alt.Scale(domain=names, range=colours)
        x = alt.X("delay:N", sort=order, title="delay from decision to effect", axis=alt.Axis(labelAngle=0))
        y = alt.Y("gain:Q", title="gain over stock, %", axis=alt.Axis(labelExpr=_LABEL, tickCount=5))
        base = alt.Chart(alt.InlineData(values=rows)).encode(x, y)
        lines = base.mark_line(strokeWidth=2).encode(alt.Color("arm:N", legend=legend, scale=domain))
        points = base.mark_point(filled=True, size=60, opacity=1).encode(
            alt.Color("arm:N", legend=legend, scale=domain),
            alt.Shape("arm:N", legend=legend, scale=alt.Scale(domain=names)),
        )
        zero = (
            alt.Chart(alt.InlineData(values=[{"v": 0}])).mark_rule(color=LIGHT["muted"]).encode(alt.Y("v:Q"))
        )
        return alt.layer(zero, lines, points).properties(width=width, height=220)

    text = "; ".join(f"{r['arm']} at {r['delay']}: {numbers.per_cent(r['gain'])}" for r in rows)
    caption = "Gain over stock against the delay of the advice: what is late is worth less."
    return draw("delay", caption, f"{caption} {text}.", chart)


def calibration(report: Report) -> Drawing | None:
    """Modelled against recorded time per capture."""
    given = report["calibration"]
    rows: Rows = [
        {
            "recorded": row["recorded"]["value"] / 1e9,
            "modelled": row["modelled"]["value"] / 1e9,
            "part": "held out" if row["held_out"] else "used to fit",
        }
        for row in (given or {}).get("captures", ())
        if row["recorded"]["value"] and row["modelled"]["value"]
    ]
    if not rows:
        return None
    ends = [v for row in rows for v in (row["recorded"], row["modelled"])]
    span = [min(ends) / 1.25, max(ends) * 1.25]
    diagonal = [{"recorded": v, "modelled": v} for v in span]
    parts = ["held out", "used to fit"]

    def chart(width: int) -> Chart:
        narrow = width == NARROW
        scale = alt.Scale(type="log", domain=span, nice=False)
        axis = alt.Axis(format="~r", tickCount=5, grid=False)
        x = alt.X("recorded:Q", title="recorded, s", scale=scale, axis=axis)
        y = alt.Y("modelled:Q", title="modelled, s", scale=scale, axis=axis)
        legend = alt.Legend(orient="top", title=None, symbolSize=80)
        line = (
            alt.Chart(alt.InlineData(values=diagonal))
            .mark_line(color=LIGHT["axis"], strokeDash=[4, 3], strokeWidth=1.5)
            .encode(x, y)
        )
        points = (
            alt.Chart(alt.InlineData(values=rows))
            .mark_point(size=60, filled=True, opacity=0.9)
            .encode(
                x,
                y,
                alt.Color(
                    "part:N",
                    legend=legend,
                    scale=alt.Scale(domain=parts, range=[LIGHT["model"], LIGHT["unknown"]]),
                ),
                alt.Shape("part:N", legend=legend, scale=alt.Scale(domain=parts, range=["circle", "cross"])),
            )
        )
        side = width if narrow else 440
        return alt.layer(line, points).properties(width=side, height=260 if narrow else 320)

    caption = (
        "Modelled against recorded time of each capture under the kernel's own decisions; on the dashed line "
        "they agree."
    )
    text = "; ".join(
        f"{row['capture']}: recorded {numbers.figure(row['recorded'])}, modelled "
        f"{numbers.figure(row['modelled'])} ({numbers.gain(row['off'])})"
        for row in given["captures"]
    )
    return draw("calibration", caption, f"{caption} {text}.", chart)


def live(report: Report) -> Drawing | None:
    """Predicted against measured differences of speed to stock, of settings that were run live."""
    points = (report["live_check"] or {}).get("points", ())
    rows: Rows = [
        {
            "measured": point["measured"]["value"],
            "predicted": point["predicted"]["value"],
            "device": point["device"],
        }
        for point in points
    ]
    if not rows:
        return None
    ends = [v for row in rows for v in (row["measured"], row["predicted"])]
    low, high = 1.1 * min(*ends, -_LINEAR), 1.1 * max(*ends, _LINEAR)
    devices = sorted({row["device"] for row in rows})
    marks = (-100, -50, -20, -5, 0, 5, 20, 50, 100, 200, 500, 1000, 2000, 5000)
    ticks = [v for v in marks if low <= v <= high]

    def chart(width: int) -> Chart:
        narrow = width == NARROW
        scale = alt.Scale(type="symlog", constant=_LINEAR, domain=[low, high], nice=False)
        axis = alt.Axis(format="+,.0f", labelExpr=_LABEL, values=ticks, grid=False)
        x = alt.X("measured:Q", title="measured difference to stock, %", scale=scale, axis=axis)
        y = alt.Y("predicted:Q", title="predicted, %", scale=scale, axis=axis)
        legend = alt.Legend(orient="top", title=None, symbolSize=80)
        line = (
            alt.Chart(alt.InlineData(values=[{"measured": v, "predicted": v} for v in (low, high)]))
            .mark_line(color=LIGHT["axis"], strokeDash=[4, 3], strokeWidth=1.5)
            .encode(x, y)
        )
        colours = [LIGHT[name] for name in ("model", "rule", "static", "known")]
        shown = (
            alt.Chart(alt.InlineData(values=rows))
            .mark_point(size=60, filled=True, opacity=0.8)
            .encode(
                x,
                y,
                alt.Color("device:N", legend=legend, scale=alt.Scale(domain=devices, range=colours)),
                alt.Shape("device:N", legend=legend, scale=alt.Scale(domain=devices)),
            )
        )
        side = width if narrow else 440
        return alt.layer(line, shown).properties(width=side, height=260 if narrow else 320)

    caption = (
        "Predicted against measured change of throughput, each point a workload on a device under a setting "
        "that was predicted first and run afterwards; on the dashed line they agree."
    )
    text = "; ".join(
        f"{p['device']} {p['workload']} {p['setting']}: predicted {numbers.gain(p['predicted'])}, measured "
        f"{numbers.gain(p['measured'])}"
        for p in points
    )
    return draw("live", caption, f"{caption} {text}.", chart)


_LINEAR = 5.0
"""Per cent up to which the axes of :func:`live` are linear; logarithmic beyond."""

# A true minus instead of a hyphen on signed axes, and no sign for zero.
_LABEL = "datum.value == 0 ? '0' : replace(datum.label, '-', '−')"


def all_of(report: Report, margin: float) -> dict[str, Drawing]:
    """Every figure that the report has data for, by name."""
    drawn: Sequence[Drawing | None] = [
        *(forest(evaluation, margin) for evaluation in report["evaluations"]),
        *(distribution(evaluation) for evaluation in report["evaluations"]),
        delay(report),
        calibration(report),
        live(report),
        realised.calibration(report),
        *courses.drawings(report),
    ]
    return {drawing.name: drawing for drawing in drawn if drawing is not None}
