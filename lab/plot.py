"""Predicted against measured differences to stock, one panel a metric, as an SVG that stands alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hindsight.lab.comparison import Pair

_PANEL = 300
_TITLES = {
    "pages_fetched": "pages fetched",
    "requests": "requests",
    "throughput": "throughput",
}
_SYMLOG = 5
"""Per cent up to which the axes are linear; logarithmic beyond."""


def predicted_measured(pairs: Sequence[Pair]) -> str:
    """The SVG; a point on the diagonal was predicted right. Deterministic."""
    import altair as alt
    import vl_convert

    from hindsight.pipeline.report.palette import LIGHT

    ticks = [-100, -50, -20, -5, 0, 5, 20, 50, 100, 200, 500, 1000, 2000, 5000]

    def panel(metric: str, title: str) -> Any:
        rows: list[dict[str, Any]] = [
            {
                "measured": round(100 * p.measured, 3),
                "predicted": round(100 * p.predicted, 3),
                "setting": p.setting.partition(":")[0],
                "device": p.profile,
            }
            for p in pairs
            if p.metric == metric
        ]
        ends = [v for row in rows for v in (row["measured"], row["predicted"])] or [0.0]
        low, high = float(min(*ends, -5.0)) * 1.1, float(max(*ends, 5.0)) * 1.1
        scale = alt.Scale(type="symlog", constant=_SYMLOG, domain=[low, high], nice=False)
        axis = alt.Axis(format="+,.0f", values=[t for t in ticks if low <= t <= high])
        diagonal = (
            alt.Chart(alt.InlineData(values=[{"a": low, "b": high}]))
            .mark_rule(color=LIGHT["axis"])
            .encode(alt.X("a:Q", scale=scale), alt.X2("b"), alt.Y("a:Q", scale=scale), alt.Y2("b"))
        )
        points = (
            alt.Chart(alt.InlineData(values=rows))
            .mark_point(size=50, filled=True, opacity=0.75, aria=False)
            .encode(
                alt.X("measured:Q", scale=scale, axis=axis, title="measured, %"),
                alt.Y("predicted:Q", scale=scale, axis=axis, title="predicted, %"),
                alt.Color(
                    "device:N",
                    scale=alt.Scale(domain=["P1", "P2"], range=[LIGHT["model"], LIGHT["rule"]]),
                ),
                alt.Shape(
                    "setting:N",
                    scale=alt.Scale(
                        domain=["device", "file", "model"], range=["circle", "triangle-up", "square"]
                    ),
                ),
            )
        )
        return alt.layer(diagonal, points).properties(
            width=_PANEL, height=_PANEL, title=f"{title}: difference to stock"
        )

    chart = alt.hconcat(*(panel(metric, title) for metric, title in _TITLES.items())).configure(
        font="Liberation Sans", background=LIGHT["surface"]
    )
    return str(vl_convert.vegalite_to_svg(chart.to_dict(), show_warnings=False))
