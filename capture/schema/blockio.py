"""Tables of what happens to block I/O before, beside and after its issue to the device driver."""

from __future__ import annotations

from hindsight.capture.schema.table import BLOCK, Column, event

_RWBS = Column("rwbs", "str", "kind of operation, as blktrace writes it")
_BYTES = Column("bytes", "u32", "length", "bytes")
_IOPRIO = Column("ioprio", "u16", "I/O priority, 0 where the kernel does not show it")
_ERROR = Column("error", "i32", "errno, 0 if none")

EVENTS = (
    event("block", "block_bio_queue", "an I/O was asked for (after the throttle of a cgroup, where there is one)",
          *BLOCK, _RWBS),
    event("block", "block_bio_backmerge", "it was appended to a request that waits", *BLOCK, _RWBS),
    event("block", "block_bio_frontmerge", "it was put before a request that waits", *BLOCK, _RWBS),
    event("block", "block_split", "an I/O was too large and was split", *BLOCK[:3],
          Column("new_sector", "u64", "first sector of the second part", "512 bytes"), _RWBS),
    event("block", "block_bio_remap", "an I/O to a partition or a mapped device became one to what is below", *BLOCK,
          Column("old_dev_major", "u32", "device asked for, major number"),
          Column("old_dev_minor", "u32", "device asked for, minor number"),
          Column("old_sector", "u64", "first sector there", "512 bytes"), _RWBS),
    event("block", "block_rq_insert", "a request waits in the I/O scheduler", *BLOCK, _BYTES, _IOPRIO, _RWBS),
    event("block", "block_rq_merge", "a request was merged into the one before it", *BLOCK, _BYTES, _IOPRIO, _RWBS),
    event("block", "block_rq_requeue", "the driver gave a request back: the device is busy", *BLOCK, _IOPRIO, _RWBS),
    event("block", "block_rq_error", "part of a request failed", *BLOCK, _ERROR, _IOPRIO, _RWBS),
)  # fmt: skip
