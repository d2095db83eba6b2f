"""Hindsight: evidence on whether a learned advisor would have made a kernel subsystem better."""

__version__ = "0.1.0"
