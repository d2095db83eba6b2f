"""Render report.json for people: HTML, Markdown, terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hindsight.pipeline.report.summary import terminal

__all__ = ["render", "terminal"]


def render(report: Mapping[str, Any], out_dir: Path) -> dict[str, Path]:
    """Write report.json (canonical), report.html and report.md into ``out_dir``; name → path.

    Deterministic: the same report gives the same bytes. Raises the errors of
    :func:`hindsight.pipeline.store.writing` where ``out_dir`` cannot be written.
    """
    from hindsight.pipeline.report.markdown import markdown
    from hindsight.pipeline.report.page import html
    from hindsight.pipeline.store import canonical_json, write_bytes

    # The page comes last: it takes the longest, and where nothing can be written that shows at once.
    content: dict[str, Callable[[], bytes]] = {
        "report.json": lambda: canonical_json(report),
        "report.md": lambda: markdown(report).encode(),
        "report.html": lambda: html(report).encode(),
    }
    paths = {name: out_dir / name for name in content}
    for name, path in paths.items():
        write_bytes(path, content[name]())
    return paths
