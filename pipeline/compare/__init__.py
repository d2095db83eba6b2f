"""Versions of a model, side by side: on the same blocks, by the rules of evidence."""

from hindsight.pipeline.compare.comparison import compare
from hindsight.pipeline.compare.page import page
from hindsight.pipeline.compare.source import find_version
from hindsight.pipeline.compare.text import markdown, terminal
from hindsight.pipeline.compare.version import Version, read_version

__all__ = ["Version", "compare", "find_version", "markdown", "page", "read_version", "terminal"]
