"""The command line of ``hindsight capture``: one module of :mod:`hindsight.capture.commands` per verb."""

from __future__ import annotations

import argparse
import importlib

VERBS = ("doctor", "record", "status", "trigger", "clean", "install", "proxy", "convert", "info")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verbs."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in VERBS:
        importlib.import_module(f"hindsight.capture.commands.{verb}").configure(verbs)
