"""Figures of efficiency of a readahead policy, and what kind of number each is.

Only streams that carry a verdict are simulated and counted: one task reads their file, nothing evicts its
pages, nobody writes it. Their reads keep their order whatever the policy, and pages that readahead inserts
depend on that order alone. So pages fetched, pages wasted and bios are exact for a setting that is in force
from the opening. Under a policy that decides on the way, the model of time says which read is the first that
an advice reaches; from there on the figures are exact as well. Whether a page came in time depends on the
model of time.
"""

from __future__ import annotations

from hindsight.subsystems.contract import Label, Metric

STALL_NS, PAGES_FETCHED, PAGES_WASTED, PAGES_MISSED, REQUESTS, READS = range(6)

METRICS = (
    Metric(
        "stall_ns", "ns", Label.MODELLED, "time that reads took beyond what they take from the page cache"
    ),
    Metric("pages_fetched", "pages", Label.EXACT, "pages read from the device"),
    Metric("pages_wasted", "pages", Label.EXACT, "pages fetched and never read until the end of the capture"),
    Metric(
        "pages_missed",
        "pages",
        Label.MODELLED,
        "pages that were not ready when the read that wanted them began",
    ),
    Metric("requests", "bios", Label.EXACT, "bios submitted, before the device splits or merges them"),
    Metric("reads", "reads", Label.EXACT, "reads of the streams that carry a verdict", lower_is_better=False),
)
"""In the order of the columns of ``Simulation.account()``."""

N_METRICS = len(METRICS)
