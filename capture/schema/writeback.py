"""Tables of the events with which dirty pages get to the device, and with which those who dirty them wait."""

from __future__ import annotations

from hindsight.capture.schema.table import Column, Table, event

_NAME = Column("name", "str", "backing device: major:minor of a disk, or the file system's own name")
_BDI = Column("bdi", "str", "backing device: major:minor of a disk, or the file system's own name")
_INO = Column("ino", "u64", "inode number")
_STATE = Column("state", "u64", "I_DIRTY_… and other states of the inode")
_CGROUP = Column("cgroup_ino", "u64", "control group that pays, as the kernel numbers it")
_WHEN = Column("dirtied_when", "u64", "when the inode became dirty, in the kernel's ticks", "jiffies")
_RATE = "pages/s times the page size in KiB"
_WORK = (
    _NAME,
    Column("nr_pages", "i64", "pages to write", "pages"),
    Column(
        "sb_dev_major", "u32", "device of the one file system that is meant, 0:0 = all of the backing device"
    ),
    Column("sb_dev_minor", "u32", "the same, minor number"),
    Column("sync_mode", "i32", "1 = wait for it (sync)"),
    Column("for_kupdate", "i32", "because of age"),
    Column("range_cyclic", "i32", "go on where the last one ended"),
    Column("for_background", "i32", "because there are too many dirty pages"),
    Column("reason", "i32", "enum wb_reason: 0 background, 1 vmscan, 2 sync, 3 periodic, 4 fs_free_space, …"),
    _CGROUP,
)
_INODE = (
    _NAME, _INO, _STATE, _WHEN,
    Column("writeback_index", "u64", "page at which it goes on", "pages"),
    Column("nr_to_write", "i64", "pages that may still be written", "pages"),
    Column("wrote", "u64", "pages that were written", "pages"),
    _CGROUP,
)  # fmt: skip


def _work(name: str, meaning: str) -> Table:
    return event("writeback", name, meaning, *_WORK)


EVENTS = (
    event("writeback", "writeback_dirty_folio", "a folio became dirty", _NAME, _INO,
          Column("index", "u64", "its first page", "pages")),
    event("writeback", "folio_wait_writeback", "a thread waits until a folio is written", _NAME, _INO,
          Column("index", "u64", "its first page", "pages")),
    event("writeback", "writeback_dirty_inode", "an inode becomes dirty", _NAME, _INO, _STATE,
          Column("flags", "u64", "I_DIRTY_… flags that are set")),
    _work("writeback_queue", "work was given to the flusher thread"),
    _work("writeback_exec", "the flusher thread takes work"),
    _work("writeback_start", "a pass begins"),
    _work("writeback_written", "a pass has ended"),
    event("writeback", "writeback_queue_io", "inodes were put up for writing", _NAME,
          Column("older", "u64", "those that became dirty before", "jiffies"),
          Column("age", "i64", "their age", "ms"),
          Column("moved", "i32", "inodes that were"),
          Column("reason", "i32", "enum wb_reason"), _CGROUP),
    event("writeback", "writeback_single_inode_start", "pages of an inode are going to be written", *_INODE),
    event("writeback", "writeback_single_inode", "pages of an inode were written", *_INODE),
    event("writeback", "writeback_pages_written", "what a run of the flusher thread wrote",
          Column("pages", "i64", "pages", "pages")),
    event("writeback", "writeback_wake_background", "the flusher thread is woken: too many dirty pages", _NAME, _CGROUP),
    event("writeback", "global_dirty_state", "dirty pages of the host against their limits",
          Column("nr_dirty", "u64", "dirty", "pages"),
          Column("nr_writeback", "u64", "being written", "pages"),
          Column("background_thresh", "u64", "above, the flusher thread writes", "pages"),
          Column("dirty_thresh", "u64", "above, those who dirty pages wait", "pages"),
          Column("dirty_limit", "u64", "the limit that is in force", "pages"),
          Column("nr_dirtied", "u64", "pages ever dirtied", "pages"),
          Column("nr_written", "u64", "pages ever written", "pages")),
    event("writeback", "bdi_dirty_ratelimit", "the rate at which threads may dirty pages was estimated", _BDI,
          Column("write_bw", "u64", "bandwidth of writing", _RATE),
          Column("avg_write_bw", "u64", "its average", _RATE),
          Column("dirty_rate", "u64", "rate at which pages become dirty", _RATE),
          Column("dirty_ratelimit", "u64", "rate allowed for a thread", _RATE),
          Column("task_ratelimit", "u64", "the same at this moment", _RATE),
          Column("balanced_dirty_ratelimit", "u64", "where it is going", _RATE), _CGROUP),
    event("writeback", "balance_dirty_pages", "a thread that dirties pages is held back, or would be", _BDI,
          Column("limit", "u64", "limit of dirty pages", "pages"),
          Column("setpoint", "u64", "aim", "pages"),
          Column("dirty", "u64", "dirty pages", "pages"),
          Column("dirty_ratelimit", "u64", "rate allowed for a thread", _RATE),
          Column("task_ratelimit", "u64", "the same at this moment", _RATE),
          Column("dirtied", "u32", "pages dirtied since the last pause", "pages"),
          Column("dirtied_pause", "u32", "pages until the next one", "pages"),
          Column("paused", "u64", "paused already", "ms"),
          Column("pause", "i64", "pause now, negative or 0 = none", "ms"),
          Column("period", "u64", "planned time for these pages", "ms"),
          Column("think", "i64", "time since the last pause", "ms"), _CGROUP),
)  # fmt: skip
