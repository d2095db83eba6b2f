"""Render report.json for people: HTML, Markdown, terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hindsight.pipeline.report.summary import metrics, terminal

__all__ = ["metrics", "render", "terminal"]


def render(report: Mapping[str, Any], out_dir: Path) -> dict[str, Path]:
    """Write report.json (canonical), report.html and report.md into ``out_dir``; name → path.

    Deterministic: the same report gives the same bytes. Raises the errors of
    :func:`hindsight.pipeline.store.writing` where ``out_dir`` cannot be written.
    """
    from hindsight.pipeline.report.markdown import markdown
    from hindsight.pipeline.report.page import html
    from hindsight.pipeline.store import canonical_json, write_bytes

    content = {
        "report.json": canonical_json(report),
        "report.md": markdown(report).encode(),
        "report.html": html(report).encode(),
    }
    paths = {}
    for name, data in content.items():
        paths[name] = out_dir / name
        write_bytes(paths[name], data)
    return paths
