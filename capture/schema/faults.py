"""Tables of the events of the processor's exceptions."""

from __future__ import annotations

from hindsight.capture.schema.table import Column, event

EVENTS = (
    event("exceptions", "page_fault_user", "a program touched a page that is not mapped for it as it wants",
          Column("address", "u64", "user address"),
          Column("error_code", "u64", "bits of the processor: 1 the page is there, 2 a write, 16 an instruction")),
)  # fmt: skip
