"""Tables of DAMON's events: regions of memory and how often they were found to be accessed."""

from __future__ import annotations

from hindsight.capture.schema.table import Column, event

_REGION = (
    Column(
        "start",
        "u64",
        "first byte: address in the process, or physical where DAMON watches the host",
        "bytes",
    ),
    Column("end", "u64", "byte after the last", "bytes"),
    Column("nr_accesses", "u32", "samples of the aggregation interval in which it was accessed"),
    Column("age", "u32", "aggregation intervals for which it was like that"),
)

EVENTS = (
    event("damon", "damon_aggregated", "a region, at the end of an aggregation interval",
          Column("target_id", "u64", "ordinal of the monitored target"),
          Column("nr_regions", "u32", "regions of the target"), *_REGION),
    event("damon", "damon_monitor_intervals_tune", "the sampling interval was tuned",
          Column("sample_us", "u64", "from now on", "us")),
    event("damon", "damos_before_apply", "a scheme is going to act on a region",
          Column("context_idx", "u32", "ordinal of the context"),
          Column("scheme_idx", "u32", "ordinal of the scheme"),
          Column("target_idx", "u64", "ordinal of the monitored target"), *_REGION,
          Column("nr_regions", "u32", "regions of the target")),
    event("damon", "damos_esz", "the size to which a quota limits a scheme",
          Column("context_idx", "u32", "ordinal of the context"),
          Column("scheme_idx", "u32", "ordinal of the scheme"),
          Column("esz", "u64", "at most so much in an interval", "bytes")),
)  # fmt: skip
