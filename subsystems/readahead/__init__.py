"""Readahead: how many pages to read ahead of a file that is read."""

from __future__ import annotations

from hindsight.subsystems.readahead.subsystem import Readahead

SUBSYSTEM = Readahead()

__all__ = ["SUBSYSTEM", "Readahead"]
