"""Tables of what idle processors do."""

from __future__ import annotations

from hindsight.capture.schema.table import Column, event

EVENTS = (
    event("power", "cpu_idle", "a processor enters an idle state, or leaves it",
          Column("state", "u32", "idle state, 4294967295 = it leaves the state"),
          Column("cpu_id", "u32", "the processor")),
    event("power", "cpu_idle_miss", "the idle state turned out not to be the one that fits",
          Column("cpu_id", "u32", "the processor"),
          Column("state", "u32", "idle state"),
          Column("below", "bool", "it was too shallow; else too deep")),
    event("power", "cpu_frequency", "the frequency of a processor changed",
          Column("state", "u32", "new frequency", "kHz"),
          Column("cpu_id", "u32", "the processor")),
    event("power", "guest_halt_poll_ns", "how long a guest polls before it halts was changed (haltpoll)",
          Column("grow", "bool", "it became longer"),
          Column("new", "u32", "from now on", "ns"),
          Column("old", "u32", "until now", "ns")),
    event("timer", "tick_stop", "an idle processor stops its tick, or cannot",
          Column("success", "i32", "1 = stopped"),
          Column("dependency", "i32", "what needs the tick (TICK_DEP_MASK_ bits), 0 = nothing")),
)  # fmt: skip
