"""Tables of the events with which the kernel reclaims the page cache."""

from __future__ import annotations

from hindsight.capture.schema.table import Column, event

_NODE = Column("nid", "i32", "memory node")
_ORDER = Column("order", "i32", "order of the allocation that asks")
_GFP = Column("gfp_flags", "u64", "GFP_ flags of the allocation")
_RECLAIMED = Column("nr_reclaimed", "u64", "pages that were freed", "pages")
_FLAGS = Column("reclaim_flags", "i32", "which list, and whether it waits (RECLAIM_WB_ flags)")
_PRIORITY = Column("priority", "i32", "12 = a 4096th of the list is scanned, 0 = all of it")

EVENTS = (
    event("vmscan", "mm_vmscan_wakeup_kswapd", "an allocation wakes the reclaiming thread", _NODE,
          Column("zid", "i32", "memory zone"), _ORDER, _GFP),
    event("vmscan", "mm_vmscan_kswapd_wake", "the reclaiming thread begins", _NODE,
          Column("zid", "i32", "highest memory zone"), _ORDER),
    event("vmscan", "mm_vmscan_kswapd_sleep", "the reclaiming thread has done enough", _NODE),
    event("vmscan", "mm_vmscan_direct_reclaim_begin", "an allocation reclaims by itself", _ORDER, _GFP),
    event("vmscan", "mm_vmscan_direct_reclaim_end", "it is done", _RECLAIMED),
    event("vmscan", "mm_vmscan_memcg_reclaim_begin", "a memory cgroup is at its limit and reclaims", _ORDER, _GFP),
    event("vmscan", "mm_vmscan_memcg_reclaim_end", "it is done", _RECLAIMED),
    event("vmscan", "mm_vmscan_throttled", "a thread had to wait for reclaim", _NODE,
          Column("usec_timeout", "i32", "longest it would wait", "us"),
          Column("usec_delayed", "i32", "how long it waited", "us"),
          Column("reason", "i32", "bit: 1 writeback, 2 isolated, 4 no progress, 8 congested")),
    event("vmscan", "mm_vmscan_lru_isolate", "pages were taken off a list to be looked at",
          Column("highest_zoneidx", "i32", "highest memory zone that helps"), _ORDER,
          Column("nr_requested", "u64", "pages wanted", "pages"),
          Column("nr_scanned", "u64", "pages looked at", "pages"),
          Column("nr_skipped", "u64", "pages of too high a zone", "pages"),
          Column("nr_taken", "u64", "pages taken", "pages"),
          Column("lru", "i32", "list: 0 inactive anonymous, 1 active anonymous, 2 inactive file, 3 active file")),
    event("vmscan", "mm_vmscan_lru_shrink_inactive", "what became of pages of an inactive list", _NODE,
          Column("nr_scanned", "u64", "pages looked at", "pages"), _RECLAIMED,
          Column("nr_dirty", "u64", "pages that are dirty", "pages"),
          Column("nr_writeback", "u64", "pages being written", "pages"),
          Column("nr_congested", "u64", "pages of congested devices", "pages"),
          Column("nr_immediate", "u64", "pages to be freed once they are written", "pages"),
          Column("nr_activate0", "u32", "anonymous pages moved to the active list", "pages"),
          Column("nr_activate1", "u32", "file pages moved to the active list", "pages"),
          Column("nr_ref_keep", "u64", "pages kept because they were used", "pages"),
          Column("nr_unmap_fail", "u64", "pages that could not be unmapped", "pages"), _PRIORITY, _FLAGS),
    event("vmscan", "mm_vmscan_lru_shrink_active", "what became of pages of an active list", _NODE,
          Column("nr_taken", "u64", "pages looked at", "pages"),
          Column("nr_active", "u64", "pages put back on the active list", "pages"),
          Column("nr_deactivated", "u64", "pages moved to the inactive list", "pages"),
          Column("nr_referenced", "u64", "pages that had been used", "pages"), _PRIORITY, _FLAGS),
)  # fmt: skip
