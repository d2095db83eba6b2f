"""Tables that are no events: what is known about a capture and its host, and what is sampled."""

from __future__ import annotations

from hindsight.capture.schema.table import Column, Table

NOT_IN_KERNEL = "not in this kernel"
"""Cause of the losses of an event that the recorded kernel has no tracepoint of, nor anything in its place."""
_CAPTURE = Column("capture", "str", "id of the capture")
FACTS = (
    Table(
        "captures",
        (
            _CAPTURE,
            Column("host", "str", "keyed pseudonym of the host"),
            Column("boot_id", "str", "keyed pseudonym of the boot"),
            Column("kernel_release", "str", "uname -r"),
            Column("machine", "str", "uname -m"),
            Column("page_size", "u32", "size of a page", "bytes"),
            Column("cpus", "u32", "processors that were recorded"),
            Column("clock", "str", "trace clock"),
            Column("profile", "str", "recording profile"),
            Column("label", "str", "the user's name for what was recorded, e.g. the workload"),
            Column("program", "str", "base name of the traced command, empty for a whole host"),
            Column("start_ns", "i64", "recording began, CLOCK_MONOTONIC", "ns"),
            Column("end_ns", "i64", "recording ended, CLOCK_MONOTONIC", "ns"),
            Column("realtime_start_ns", "i64", "recording began, CLOCK_REALTIME", "ns"),
            Column("buffer_kb", "u32", "ring buffer per CPU", "KiB"),
            Column("config_sha256", "str", "hash of the recording configuration"),
            Column("formats_sha256", "str", "hash of the tracepoint formats"),
            Column("tool_version", "str", "version of hindsight"),
        ),
        "one row per capture",
    ),
    Table(
        "clock_anchors",
        (
            Column("ts", "i64", "CLOCK_MONOTONIC", "ns"),
            Column("realtime_ns", "i64", "CLOCK_REALTIME at the same moment", "ns"),
            Column("boottime_ns", "i64", "CLOCK_BOOTTIME at the same moment", "ns"),
            Column("bracket_ns", "i64", "width of the bracket in which the three were read", "ns"),
        ),
        "clocks read together, at the beginning, at rotations and at the end",
    ),
    Table(
        "losses",
        (
            Column("cpu", "u16", "processor, null = all", nullable=True),
            Column("event", "str", "tracepoint, null = any", nullable=True),
            Column("from_ns", "i64", "the interval in which events were or may have been lost", "ns"),
            Column("to_ns", "i64", "its end", "ns"),
            Column("count_lower", "u64", "at least so many events"),
            Column("count_upper", "u64", "at most so many events, null = unknown", nullable=True),
            Column(
                "cause",
                "str",
                "ring overrun, ring full, budget shed, paused, truncated, recorder died, decode error, perf source, not in this kernel; some are followed by `: ` and what they were due to",
            ),
        ),
        "every interval in which events were or may have been lost",
    ),
    Table(
        "recorder",
        (
            Column("segment", "u32", "number of the segment within the capture"),
            Column("from_ns", "i64", "the segment was opened, CLOCK_MONOTONIC", "ns"),
            Column("to_ns", "i64", "the segment was closed, CLOCK_MONOTONIC", "ns"),
            Column("cpu_ns", "u64", "processor time of the recorder meanwhile", "ns"),
            Column("raw_bytes", "u64", "raw trace in the segment", "bytes"),
            Column("peak_rss_bytes", "u64", "largest resident memory of the recorder so far", "bytes"),
            Column("out_dev_major", "u32", "device of the output directory, major number"),
            Column("out_dev_minor", "u32", "device of the output directory, minor number"),
            Column("own_events", "u64", "recorded events of the recorder's own threads"),
            Column(
                "writeback_events",
                "u64",
                "recorded block events that write to the disk of the output directory: "
                "at most so many are due to the recording itself",
            ),
        ),
        "what recording itself cost, and what of it is in the trace; one row per segment",
    ),
    Table(
        "devices",
        (
            Column("dev_major", "u32", "block device, major number"),
            Column("dev_minor", "u32", "block device, minor number"),
            Column(
                "fstype",
                "str",
                "file system mounted on it, empty if none; with `,data=journal` where data goes through the journal: there are no large folios then",
            ),
            Column("read_ahead_kb", "u32", "readahead limit of the device when recording began", "KiB"),
            Column("max_sectors_kb", "u32", "largest request", "KiB"),
            Column("optimal_io_size", "u32", "the device's own optimum", "bytes"),
            Column("rotational", "bool", "the device says that it rotates"),
            Column("scheduler", "str", "I/O scheduler"),
            Column("nr_requests", "u32", "depth of the queue"),
            Column(
                "throttle_read_iops",
                "u64",
                "block cgroup limit of the traced command, null = none",
                "1/s",
                True,
            ),
            Column(
                "throttle_read_bps",
                "u64",
                "block cgroup limit of the traced command, null = none",
                "bytes/s",
                True,
            ),
        ),
        "block devices with a mounted file system, when recording began",
    ),
    Table(
        "files",
        (
            Column("s_dev_major", "u32", "device of the file system, major number"),
            Column("s_dev_minor", "u32", "device of the file system, minor number"),
            Column("i_ino", "u64", "inode number"),
            Column("size", "u64", "size when the segment was sealed", "bytes"),
            Column("mtime_ns", "i64", "last modification, CLOCK_REALTIME", "ns"),
            Column(
                "cached_at_start",
                "bool",
                "null = unknown: pages of it may have been cached when recording began",
                "",
                True,
            ),
            Column("path", "str", "only when asked for", nullable=True),
        ),
        "files on which readahead was seen, when the segment was sealed",
    ),
    Table(
        "descriptors",
        (
            Column("ts", "i64", "time of the look, CLOCK_MONOTONIC", "ns"),
            Column("pid", "i32", "process"),
            Column("fd", "i32", "descriptor"),
            Column("s_dev_major", "u32", "device of the file system, major number"),
            Column("s_dev_minor", "u32", "device of the file system, minor number"),
            Column("i_ino", "u64", "inode number"),
            Column("flags", "i32", "flags of open(2)"),
            Column("pos", "i64", "position", "bytes"),
        ),
        "regular files that the traced processes had open when recording began",
    ),
    Table(
        "counters",
        (
            Column("ts", "i64", "time of the sample, CLOCK_MONOTONIC", "ns"),
            Column("source", "str", "where the kernel says it: vmstat, psi, diskstats, …"),
            Column("scope", "str", "what it counts for: a device, a cgroup, a processor; empty = the host"),
            Column("name", "str", "the kernel's own name of the counter"),
            Column("value", "i64", "its value; what the kernel counts goes on counting"),
            Column("unit", "str", "unit of the value"),
            Column(
                "total",
                "bool",
                "it only grows, and counts since the host (or the counted object) began; else a level",
            ),
            Column("reset", "bool", "a total that fell since the sample before: it counts anew from 0"),
        ),
        "counters that were sampled at intervals beside the trace",
    ),
    Table(
        "tasks",
        (
            Column("ts", "i64", "time of the look, CLOCK_MONOTONIC", "ns"),
            Column("pid", "i32", "thread"),
            Column("tgid", "i32", "its process"),
            Column("comm", "str", "its name (a keyed hash unless asked for)"),
            Column(
                "cgroup", "u64", "its control group as the kernel numbers it, null = not known", nullable=True
            ),
            Column(
                "cgroup_hierarchy",
                "str",
                "in which hierarchy: empty = version 2, else a controller of version 1; null = not known",
                nullable=True,
            ),
            Column(
                "container",
                "str",
                "id of its container (a keyed hash unless paths are asked for), null = in none "
                "that is recognised",
                nullable=True,
            ),
        ),
        "threads that were seen when recording began, while it went on, and when it ended",
    ),
)
