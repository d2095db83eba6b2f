"""The command line of ``hindsight capture``: one module of :mod:`hindsight.capture.commands` per verb."""

from __future__ import annotations

import argparse
import importlib

VERBS = (
    "doctor", "record", "status", "trigger", "clean", "install", "proxy", "convert", "import", "info",
)  # fmt: skip


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verbs."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in VERBS:
        # `import` is a word of the language.
        module = "import_" if verb == "import" else verb
        importlib.import_module(f"hindsight.capture.commands.{module}").configure(verbs)
