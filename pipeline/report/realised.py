"""The calibration plot of live advice: realised against predicted gain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt

from hindsight.pipeline.report import numbers
from hindsight.pipeline.report.drawing import NARROW, Chart, Drawing, draw
from hindsight.pipeline.report.palette import LIGHT

# A true minus instead of a hyphen on signed axes, and no sign for zero.
_LABEL = "datum.value == 0 ? '0' : replace(datum.label, '-', '−')"


def calibration(report: Mapping[str, Any]) -> Drawing | None:
    """One point per bin of the predicted gain, with the interval of what was realised."""
    found = [b for b in report.get("realised", {}).get("bins", ()) if b["realised"]["value"] is not None]
    rows = [
        {
            "predicted": b["predicted"]["value"],
            "realised": b["realised"]["value"],
            "low": b["realised"].get("low", b["realised"]["value"]),
            "high": b["realised"].get("high", b["realised"]["value"]),
            "n": b["n"],
        }
        for b in found
    ]
    if not rows:
        return None
    ends = [row[key] for row in rows for key in ("predicted", "realised", "low", "high")]
    # A gain is never above 100 %; what lies below -100 % is drawn at the edge.
    low, high = max(min(*ends, -5.0) * 1.05, -100.0), min(max(*ends, 5.0) * 1.05, 100.0)
    for row in rows:
        for key in ("predicted", "realised", "low", "high"):
            row[key] = min(max(row[key], low), high)

    def chart(width: int) -> Chart:
        narrow = width == NARROW
        scale = alt.Scale(domain=[low, high], nice=False, zero=False)
        axis = alt.Axis(format="+.0f", labelExpr=_LABEL, tickCount=5, grid=False)
        x = alt.X("predicted:Q", title="predicted gain, %", scale=scale, axis=axis)
        y = alt.Y("realised:Q", title="realised gain, %", scale=scale, axis=axis)
        line = (
            alt.Chart(alt.InlineData(values=[{"predicted": v, "realised": v} for v in (low, high)]))
            .mark_line(color=LIGHT["axis"], strokeDash=[4, 3], strokeWidth=1.5)
            .encode(x, y)
        )
        zero = (
            alt.Chart(alt.InlineData(values=[{"realised": 0}]))
            .mark_rule(color=LIGHT["muted"], strokeWidth=1)
            .encode(alt.Y("realised:Q", scale=scale))
        )
        base = alt.Chart(alt.InlineData(values=rows))
        spans = base.mark_rule(strokeWidth=2, color=LIGHT["model"]).encode(
            x, alt.Y("low:Q", scale=scale), alt.Y2("high")
        )
        points = base.mark_point(size=64, filled=True, opacity=1, color=LIGHT["model"]).encode(x, y)
        side = width if narrow else 440
        return alt.layer(zero, line, spans, points).properties(width=side, height=260 if narrow else 320)

    caption = (
        "Realised against predicted gain of applied recommendations, by predicted gain, with intervals; on "
        "the dashed line the predictions come true, below it less was gained."
    )
    text = "; ".join(
        f"predicted {numbers.gain(b['predicted'])}, realised {numbers.gain(b['realised'])} "
        f"({numbers.interval(b['realised'])}), {b['n']} applied"
        for b in found
    )
    return draw("realised", caption, f"{caption} {text}.", chart)
