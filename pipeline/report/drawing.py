"""A chart as inline SVG, in a wide and a narrow drawing, with a text alternative."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import dataclass

import altair as alt
import vl_convert

from hindsight.pipeline.report.palette import LIGHT

WIDE, NARROW = 960, 340
FONT = "Liberation Sans"
"""The font that text is measured with; vl-convert brings it along: the same bytes anywhere."""

Chart = alt.LayerChart | alt.FacetChart | alt.VConcatChart


@dataclass(frozen=True)
class Drawing:
    """One figure: two SVGs, a caption, and what a reader who cannot see it is told."""

    name: str
    caption: str
    alternative: str
    wide: str
    narrow: str


def draw(name: str, caption: str, alternative: str, chart: Callable[[int], Chart]) -> Drawing:
    """Draw ``chart(width)`` at both widths. Deterministic: the ids in the SVG come from ``name``."""
    wide, narrow = (
        _svg(chart(width), f"{name}-{suffix}", alternative)
        for width, suffix in ((WIDE, "wide"), (NARROW, "narrow"))
    )
    return Drawing(name, caption, alternative, wide, narrow)


def _svg(chart: Chart, prefix: str, alternative: str) -> str:
    themed = chart.properties(
        background="transparent", padding=2, autosize=alt.AutoSizeParams(type="fit-x", contains="padding")
    ).configure(
        font=FONT,
        view=alt.ViewConfig(stroke=None),
        axis=alt.AxisConfig(
            labelColor=LIGHT["muted"],
            titleColor=LIGHT["muted"],
            titleFontWeight="normal",
            titleFontSize=12,
            labelFontSize=12,
            gridColor=LIGHT["grid"],
            domainColor=LIGHT["axis"],
            tickColor=LIGHT["axis"],
        ),
        axisY=alt.AxisConfig(labelColor=LIGHT["ink"]),
        title=alt.TitleConfig(color=LIGHT["ink"], fontSize=12),
        legend=alt.LegendConfig(labelColor=LIGHT["ink"], labelFontSize=12, labelLimit=220),
    )
    svg = vl_convert.vegalite_to_svg(themed.to_dict(), show_warnings=False)
    return _embed(svg, prefix, alternative)


def _embed(svg: str, prefix: str, alternative: str) -> str:
    """The SVG as a part of a page: ids of its own, a title, no name spaces (HTML knows them)."""
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)
    # What Vega tells assistive technology mark by mark is noise next to the text alternative.
    svg = re.sub(r' (aria-[a-z]+|role)="[^"]*"', "", svg)
    size = re.search(r'<svg[^>]*? width="([\d.]+)" height="([\d.]+)"', svg)
    assert size is not None
    head = re.sub(r' (width|height)="[^"]*"', "", svg[: svg.index(">")])
    title = f'<title id="{prefix}-title">{html.escape(alternative)}</title>'
    return (
        f'{head} role="img" aria-labelledby="{prefix}-title" style="max-width:{size[1]}px">'
        f"{title}{svg[svg.index('>') + 1 :]}"
    )
