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
_WIDTHS = {ASKED: 1.0, USED: 5.0, WASTED: 5.0}


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

    def chart(width: int) -> Chart:
        x = alt.X("from:Q", title="time since its first access, ms", axis=alt.Axis(tickCount=4))
        y = alt.Y("begin:Q", title=unit, axis=alt.Axis(tickCount=4, format="~s"))
        colour = alt.Color(
            "kind:N",
            title=None,
            sort=kinds,
            scale=alt.Scale(domain=kinds, range=[LIGHT[_COLOURS[kind]] for kind in kinds]),
            legend=alt.Legend(
                orient="top", columnPadding=24, direction="vertical" if width == NARROW else "horizontal"
            ),
        )
        panels = [
            alt.layer(
                *(
                    alt.Chart(
                        alt.InlineData(values=[r for r in rows if (r["arm"], r["kind"]) == (arm, kind)])
                    )
                    .mark_rule(strokeWidth=_WIDTHS[kind], opacity=0.9)
                    .encode(x, y, alt.X2("until"), alt.Y2("end"), colour)
                    for kind in kinds
                ),
                title=alt.TitleParams(arm, anchor="start", fontSize=12),
            ).properties(width=width - 90, height=110)
            for arm in ARMS
        ]
        return alt.vconcat(*panels).resolve_scale(x="shared", y="shared", color="shared")

    return draw(name_of(number), _caption(example), _alternative(example, unit), chart)


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
    parts = [f"{example['asked']['of']} runs of accesses"]
    for arm in ARMS:
        fetched = example["fetched"][arm]
        total = sum(e - b for b, e in zip(fetched["begin"], fetched["end"], strict=True))
        wasted = total - sum(fetched["used"])
        shown = "" if fetched["of"] == len(fetched["ts"]) else f" (the first {len(fetched['ts'])})"
        parts.append(
            f"{arm} fetched {fetched['of']} pieces{shown} of {total} {unit} together, {wasted} for nothing"
        )
    return "; ".join(parts)
