"""Single streams over time: what was asked for, what stock fetched and what the model had fetched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt

from hindsight.pipeline.report import numbers
from hindsight.pipeline.report.drawing import NARROW, Chart, Drawing, draw
from hindsight.pipeline.report.palette import LIGHT

ARMS = ("stock", "model")
ASKED, USED, WASTED = "asked for", "fetched", "fetched, not all used"
_COLOURS = {ASKED: "ink", USED: "known", WASTED: "worse"}
# Without colour, what was wasted is told by a wide line of dashes.
_WIDTHS = {ASKED: 1.0, USED: 5.0, WASTED: 9.0}
_DASHES = {ASKED: [1, 0], USED: [1, 0], WASTED: [2, 1.5]}
_SECONDS_FROM_MS = 2000.0


def drawings(report: Mapping[str, Any]) -> list[Drawing]:
    """A figure for each example of ``report["explanations"]`` that has anything to draw."""
    given = report.get("explanations") or {}
    drawn = [course(i, example, given["unit"]) for i, example in enumerate(given.get("examples") or ())]
    return [drawing for drawing in drawn if drawing is not None]


def name_of(number: int) -> str:
    """The name of the drawing of an example."""
    return f"course-{number}"


def course(number: int, example: Mapping[str, Any], unit: str) -> Drawing | None:
    """One stream under stock, and below it under the model."""
    asked = example["asked"]
    if not asked["ts"]:
        return None
    rows = [row for arm in ARMS for row in _rows(arm, asked, example["fetched"][arm])]
    kinds = [kind for kind in (USED, WASTED, ASKED) if any(row["kind"] == kind for row in rows)]

    ends = [row["until"] for row in rows]
    scale, time = (1e3, "s") if max(ends) >= _SECONDS_FROM_MS else (1.0, "ms")
    for row in rows:
        row["from"], row["until"] = row["from"] / scale, row["until"] / scale

    def chart(width: int) -> Chart:
        narrow = width == NARROW
        legend = alt.Legend(
            orient="top",
            columnPadding=24,
            symbolSize=400,
            symbolStrokeWidth=3,
            direction="vertical" if narrow else "horizontal",
        )

        def by_kind(values: Mapping[str, Any]) -> dict[str, Any]:
            domain = alt.Scale(domain=kinds, range=[values[kind] for kind in kinds])
            return {"title": None, "sort": kinds, "scale": domain, "legend": legend}

        colour = alt.Color("kind:N", **by_kind({kind: LIGHT[role] for kind, role in _COLOURS.items()}))
        dashes = alt.StrokeDash("kind:N", **by_kind(_DASHES))
        y_axis = alt.Axis(tickCount=4, tickMinStep=1, format="~s", labelExpr=_LABEL, titlePadding=10)
        y = alt.Y("begin:Q", title=unit, axis=y_axis)

        def panel(arm: str) -> alt.LayerChart | alt.FacetChart:
            # Both have the axis; its title stands below the last.
            title = f"time since its first access, {time}" if arm == ARMS[-1] else None
            x = alt.X("from:Q", title=title, axis=alt.Axis(tickCount=4), scale=domain)
            layers = [
                alt.Chart(alt.InlineData(values=[r for r in rows if (r["arm"], r["kind"]) == (arm, kind)]))
                .mark_rule(strokeWidth=_WIDTHS[kind], opacity=0.9)
                .encode(x, y, alt.X2("until"), alt.Y2("end"), colour, dashes)
                for kind in kinds
            ]
            head = alt.TitleParams(arm, anchor="start")
            return alt.layer(*layers, title=head).properties(width=width - _AXIS, height=110)

        # A stream may be a single access.
        domain = alt.Scale(domain=[0, max(row["until"] for row in rows) or 1], nice=True)
        return alt.vconcat(*map(panel, ARMS)).resolve_scale(x="shared", y="shared", color="shared")

    return draw(name_of(number), _caption(example), _alternative(example, unit), chart)


_AXIS = 50
"""Pixels left of a panel; the width of panels below each other cannot be fitted to that of the whole."""

_LABEL = "datum.value == 0 ? '0' : datum.label"


def _rows(arm: str, asked: Mapping[str, Any], fetched: Mapping[str, Any]) -> list[dict[str, Any]]:
    # What is drawn ends where the accesses that are drawn do.
    last = max(asked["until"]) if asked["of"] > len(asked["ts"]) else None
    rows = [
        {"arm": arm, "kind": ASKED, "from": ts / 1e6, "until": until / 1e6, "begin": begin, "end": end}
        for ts, until, begin, end in zip(
            asked["ts"], asked["until"], asked["begin"], asked["end"], strict=True
        )
    ]
    names = ("ts", "until", "begin", "end", "used")
    for ts, until, begin, end, used in zip(*(fetched[name] for name in names), strict=True):
        if last is None or ts <= last:
            kind = USED if used == end - begin else WASTED
            rows.append(
                {"arm": arm, "kind": kind, "from": ts / 1e6, "until": until / 1e6, "begin": begin, "end": end}
            )
    return rows


def _caption(example: Mapping[str, Any]) -> str:
    def cost(arm: str) -> str:
        return numbers.figure(example["costs"][arm])

    what = "helped" if example["helped"] else "hurt"
    return (
        f"A stream that the model {what}: {example['program']} in {example['workload']} on "
        f"{example['device']}: {cost('stock')} under stock, {cost('model')} with its advice."
    )


def _alternative(example: Mapping[str, Any], unit: str) -> str:
    asked = example["asked"]
    runs, span = asked["of"], numbers.quantity(max(asked["until"]), "ns")
    parts = [f"{runs:,} run{'' if runs == 1 else 's'} of accesses within {span}"]
    for arm in ARMS:
        fetched = example["fetched"][arm]
        total = sum(e - b for b, e in zip(fetched["begin"], fetched["end"], strict=True))
        wasted, pieces = total - sum(fetched["used"]), fetched["of"]
        shown = "" if pieces == len(fetched["ts"]) else f" (the first {len(fetched['ts']):,})"
        parts.append(
            f"{arm} fetched {pieces:,} piece{'' if pieces == 1 else 's'}{shown}, {total:,} {unit} together, "
            f"{wasted:,} for nothing"
        )
    return f"{_caption(example)} {'; '.join(parts)}."
