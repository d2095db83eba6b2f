"""The data contract: every table that a capture can hold, and nothing else defines one.

Plain data; :func:`arrow_schema` imports pyarrow only when it is called. The data dictionary in
``docs/data-dictionary.md`` and the validation of datasets are generated from here.

A table named after a tracepoint has one row per event, with the tracepoint's own field names. Fields of type
``dev_t`` are split into ``<name>_major`` and ``<name>_minor``; user-space and kernel pointers and page frame
numbers are not kept. The first three columns of each are :data:`EVENT_COLUMNS`. Rows are sorted by
(ts, cpu, position in the ring buffer).

On disk: ``host=<pseudonym>/date=<YYYY-MM-DD>/<table>/<segment>.parquet``, where ``<segment>`` begins with the
capture's id. A table without rows has no file.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = 1
"""Raised when a column changes its meaning, its type or its name; stored in every file."""

METADATA_VERSION_KEY = "hindsight.schema_version"
METADATA_TABLE_KEY = "hindsight.table"


class Column(NamedTuple):
    """One column: ``dtype`` is one of u8 u16 u32 u64 i8 i16 i32 i64 bool str."""

    name: str
    dtype: str
    meaning: str
    unit: str = ""
    nullable: bool = False


class Table(NamedTuple):
    """One table. ``tracepoint`` is ``system/event`` for tables of events, else empty."""

    name: str
    columns: tuple[Column, ...]
    meaning: str
    tracepoint: str = ""

    def column(self, name: str) -> Column:
        """The column of that name; KeyError if there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"table {self.name} has no column {name}")


EVENT_COLUMNS = (
    Column("ts", "i64", "time of the event, CLOCK_MONOTONIC", "ns"),
    Column("cpu", "u16", "processor whose ring buffer held the event"),
    Column("pid", "i32", "thread that was running (the kernel's common_pid)"),
)

_INODE = (
    Column("i_ino", "u64", "inode number"),
    Column("s_dev_major", "u32", "device of the file system, major number"),
    Column("s_dev_minor", "u32", "device of the file system, minor number"),
)
_RA_STATE = (
    Column("index", "u64", "first page of the request", "pages"),
    Column("order", "u32", "order of the folios of the last window"),
    Column("size", "u32", "size of the last window (state before the event)", "pages"),
    Column("async_size", "u32", "pages of the window beyond its mark (state before the event)", "pages"),
    Column("ra_pages", "u32", "readahead limit of the open file", "pages"),
    Column("mmap_miss", "u32", "cache misses of mmap accesses"),
    Column("prev_pos", "i64", "byte after the previous read, -1 if none", "bytes"),
    Column("req_count", "u64", "pages asked for", "pages"),
)
_BLOCK = (
    Column("dev_major", "u32", "block device, major number"),
    Column("dev_minor", "u32", "block device, minor number"),
    Column("sector", "u64", "first sector", "512 bytes"),
    Column("nr_sector", "u32", "length", "512 bytes"),
)


def _event(system: str, name: str, meaning: str, *columns: Column) -> Table:
    return Table(name, EVENT_COLUMNS + columns, meaning, f"{system}/{name}")


_EVENTS = (
    _event("readahead", "page_cache_sync_ra", "a read found a page missing: synchronous readahead is asked for",
           *_INODE, *_RA_STATE),
    _event("readahead", "page_cache_async_ra", "a read met the readahead mark: the next window is asked for",
           *_INODE, *_RA_STATE),
    _event("readahead", "page_cache_ra_order", "the kernel decided on a window", *_INODE,
           Column("index", "u64", "first page demanded", "pages"),
           Column("order", "u32", "folio order asked for"),
           Column("size", "u32", "size of the window", "pages"),
           Column("async_size", "u32", "pages of the window beyond its mark", "pages"),
           Column("ra_pages", "u32", "readahead limit of the open file", "pages")),
    _event("readahead", "page_cache_ra_unbounded", "pages are read without a limit", *_INODE,
           Column("index", "u64", "first page", "pages"),
           Column("nr_to_read", "u64", "pages to read", "pages"),
           Column("lookahead_size", "u64", "distance of the mark from the end", "pages")),
    _event("filemap", "mm_filemap_get_pages", "a batch of cached folios was found for a buffered read", *_INODE,
           Column("index", "u64", "first page of the batch's request", "pages"),
           Column("last_index", "u64", "page after the request", "pages")),
    _event("filemap", "mm_filemap_add_to_page_cache", "a folio was added to the page cache", *_INODE,
           Column("index", "u64", "first page of the folio", "pages"),
           Column("order", "u8", "the folio holds 2^order pages")),
    _event("filemap", "mm_filemap_delete_from_page_cache", "a folio left the page cache", *_INODE,
           Column("index", "u64", "first page of the folio", "pages"),
           Column("order", "u8", "the folio holds 2^order pages")),
    _event("filemap", "mm_filemap_fault", "a page fault on a file mapping that fault-around did not serve", *_INODE,
           Column("index", "u64", "page", "pages")),
    _event("filemap", "mm_filemap_map_pages", "fault-around mapped cached pages", *_INODE,
           Column("index", "u64", "first page", "pages"),
           Column("last_index", "u64", "last page", "pages")),
    _event("block", "block_rq_issue", "a request went to the device driver", *_BLOCK,
           Column("bytes", "u32", "length", "bytes"),
           Column("ioprio", "u16", "I/O priority"),
           Column("rwbs", "str", "kind of operation, as blktrace writes it"),
           Column("comm", "str", "name of the thread (a keyed hash unless asked for)")),
    _event("block", "block_rq_complete", "a request was completed by the device driver", *_BLOCK,
           Column("error", "i32", "errno, 0 if none"),
           Column("ioprio", "u16", "I/O priority"),
           Column("rwbs", "str", "kind of operation, as blktrace writes it")),
    _event("task", "task_newtask", "a thread or process was created (pid = the creator)",
           Column("child_pid", "i32", "the new thread (field `pid` of the tracepoint)"),
           Column("comm", "str", "its name (a keyed hash unless asked for)"),
           Column("clone_flags", "u64", "flags of clone(2)"),
           Column("oom_score_adj", "i16", "its OOM score adjustment")),
    _event("task", "task_rename", "a thread changed its name",
           Column("target_pid", "i32", "the thread (field `pid` of the tracepoint)"),
           Column("oldcomm", "str", "old name (a keyed hash unless asked for)"),
           Column("newcomm", "str", "new name (a keyed hash unless asked for)"),
           Column("oom_score_adj", "i16", "its OOM score adjustment")),
    _event("sched", "sched_process_exec", "a process executed a program",
           Column("target_pid", "i32", "the process (field `pid` of the tracepoint)"),
           Column("old_pid", "i32", "the thread that called exec")),
    _event("sched", "sched_process_exit", "a thread ended",
           Column("comm", "str", "its name (a keyed hash unless asked for)"),
           Column("target_pid", "i32", "the thread (field `pid` of the tracepoint)"),
           Column("prio", "i32", "its priority"),
           Column("group_dead", "bool", "it was the last thread of its process")),
)

# Arguments of the system calls from which demand and open files are reconstructed; pointers are left out.
_FD = Column("fd", "i32", "descriptor")
_COUNT = Column("count", "u64", "bytes asked for", "bytes")
_VLEN = Column("vlen", "u64", "number of buffers")
_OFLAGS = Column("flags", "i32", "flags of open(2)")
_ENTER: dict[str, tuple[Column, ...]] = {
    "read": (_FD, _COUNT),
    "pread64": (_FD, _COUNT, Column("pos", "i64", "offset in the file", "bytes")),
    "readv": (_FD, _VLEN),
    "preadv": (_FD, _VLEN, Column("pos_l", "u64", "offset in the file", "bytes"),
               Column("pos_h", "u64", "upper half of the offset on 32-bit machines")),
    "preadv2": (_FD, _VLEN, Column("pos_l", "u64", "offset in the file", "bytes"),
                Column("pos_h", "u64", "upper half of the offset on 32-bit machines"),
                Column("flags", "i32", "RWF_ flags")),
    "write": (_FD, _COUNT),
    "pwrite64": (_FD, _COUNT, Column("pos", "i64", "offset in the file", "bytes")),
    "writev": (_FD, _VLEN),
    "open": (_OFLAGS,),
    "openat": (Column("dfd", "i32", "directory descriptor"), _OFLAGS),
    "openat2": (Column("dfd", "i32", "directory descriptor"),),
    "creat": (),
    "close": (_FD,),
    "close_range": (Column("fd", "u32", "first descriptor"), Column("max_fd", "u32", "last descriptor"),
                    Column("flags", "u32", "CLOSE_RANGE_ flags")),
    "dup": (Column("fildes", "i32", "descriptor"),),
    "dup2": (Column("oldfd", "i32", "descriptor"), Column("newfd", "i32", "its duplicate")),
    "dup3": (Column("oldfd", "i32", "descriptor"), Column("newfd", "i32", "its duplicate"),
             Column("flags", "i32", "O_CLOEXEC or 0")),
    "fcntl": (_FD, Column("cmd", "u32", "command"), Column("arg", "u64", "argument")),
    "lseek": (_FD, Column("offset", "i64", "offset", "bytes"), Column("whence", "u32", "SEEK_ constant")),
    "fadvise64": (_FD, Column("offset", "i64", "start", "bytes"), Column("len", "u64", "length, 0 = to the end", "bytes"),
                  Column("advice", "i32", "POSIX_FADV_ constant")),
    "readahead": (_FD, Column("offset", "i64", "start", "bytes"), _COUNT),
    "mmap": (Column("addr", "u64", "wanted user address"), Column("len", "u64", "length", "bytes"),
             Column("prot", "u64", "PROT_ flags"), Column("flags", "u64", "MAP_ flags"),
             Column("fd", "i32", "descriptor, -1 if anonymous"), Column("off", "u64", "offset in the file", "bytes")),
    "munmap": (Column("addr", "u64", "user address"), Column("len", "u64", "length", "bytes")),
    "madvise": (Column("start", "u64", "user address"), Column("len_in", "u64", "length", "bytes"),
                Column("behavior", "i32", "MADV_ constant")),
    "sendfile64": (Column("out_fd", "i32", "to"), Column("in_fd", "i32", "from"), _COUNT),
    "splice": (Column("fd_in", "i32", "from"), Column("fd_out", "i32", "to"), Column("len", "u64", "length", "bytes"),
               Column("flags", "u32", "SPLICE_F_ flags")),
    "copy_file_range": (Column("fd_in", "i32", "from"), Column("fd_out", "i32", "to"),
                        Column("len", "u64", "length", "bytes"), Column("flags", "u32", "flags")),
    "truncate": (Column("length", "i64", "new size", "bytes"),),
    "ftruncate": (_FD, Column("length", "i64", "new size", "bytes")),
    "clone": (Column("clone_flags", "u64", "flags of clone(2)"),),
    "clone3": (),
    "fork": (),
    "vfork": (),
    "execve": (),
    "io_uring_enter": (_FD, Column("to_submit", "u32", "entries to submit"),
                       Column("min_complete", "u32", "completions to wait for"), Column("flags", "u32", "IORING_ENTER_ flags")),
}
_SYSCALLS = tuple(
    table
    for name, columns in _ENTER.items()
    for table in (
        _event("syscalls", f"sys_enter_{name}", f"{name}(2) was called", *columns),
        _event("syscalls", f"sys_exit_{name}", f"{name}(2) returned", Column("ret", "i64", "its result, -errno on failure")),
    )
)

_CAPTURE = Column("capture", "str", "id of the capture")
_FACTS = (
    Table("captures", (
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
    ), "one row per capture"),
    Table("clock_anchors", (
        Column("ts", "i64", "CLOCK_MONOTONIC", "ns"),
        Column("realtime_ns", "i64", "CLOCK_REALTIME at the same moment", "ns"),
        Column("boottime_ns", "i64", "CLOCK_BOOTTIME at the same moment", "ns"),
        Column("bracket_ns", "i64", "width of the bracket in which the three were read", "ns"),
    ), "clocks read together, at the beginning, at rotations and at the end"),
    Table("losses", (
        Column("cpu", "u16", "processor, null = all", nullable=True),
        Column("event", "str", "tracepoint, null = any", nullable=True),
        Column("from_ns", "i64", "the interval in which events were or may have been lost", "ns"),
        Column("to_ns", "i64", "its end", "ns"),
        Column("count_lower", "u64", "at least so many events"),
        Column("count_upper", "u64", "at most so many events, null = unknown", nullable=True),
        Column("cause", "str", "ring overrun, ring full, budget shed, paused, truncated, recorder died, decode error, perf source; some are followed by `: ` and what they were due to"),
    ), "every interval in which events were or may have been lost"),
    Table("recorder", (
        Column("segment", "u32", "number of the segment within the capture"),
        Column("from_ns", "i64", "the segment was opened, CLOCK_MONOTONIC", "ns"),
        Column("to_ns", "i64", "the segment was closed, CLOCK_MONOTONIC", "ns"),
        Column("cpu_ns", "u64", "processor time of the recorder meanwhile", "ns"),
        Column("raw_bytes", "u64", "raw trace in the segment", "bytes"),
        Column("peak_rss_bytes", "u64", "largest resident memory of the recorder so far", "bytes"),
        Column("out_dev_major", "u32", "device of the output directory, major number"),
        Column("out_dev_minor", "u32", "device of the output directory, minor number"),
        Column("own_events", "u64", "recorded events of the recorder's own threads"),
        Column("writeback_events", "u64", "recorded block events that write to the disk of the output directory: "
               "at most so many are due to the recording itself"),
    ), "what recording itself cost, and what of it is in the trace; one row per segment"),
    Table("devices", (
        Column("dev_major", "u32", "block device, major number"),
        Column("dev_minor", "u32", "block device, minor number"),
        Column("fstype", "str", "file system mounted on it, empty if none"),
        Column("read_ahead_kb", "u32", "readahead limit of the device when recording began", "KiB"),
        Column("max_sectors_kb", "u32", "largest request", "KiB"),
        Column("optimal_io_size", "u32", "the device's own optimum", "bytes"),
        Column("rotational", "bool", "the device says that it rotates"),
        Column("scheduler", "str", "I/O scheduler"),
        Column("nr_requests", "u32", "depth of the queue"),
        Column("throttle_read_iops", "u64", "block cgroup limit of the traced command, null = none", "1/s", True),
        Column("throttle_read_bps", "u64", "block cgroup limit of the traced command, null = none", "bytes/s", True),
    ), "block devices with a mounted file system, when recording began"),
    Table("files", (
        Column("s_dev_major", "u32", "device of the file system, major number"),
        Column("s_dev_minor", "u32", "device of the file system, minor number"),
        Column("i_ino", "u64", "inode number"),
        Column("size", "u64", "size when the segment was sealed", "bytes"),
        Column("mtime_ns", "i64", "last modification, CLOCK_REALTIME", "ns"),
        Column("cached_at_start", "bool", "null = unknown: pages of it may have been cached when recording began", "", True),
        Column("path", "str", "only when asked for", nullable=True),
    ), "files on which readahead was seen, when the segment was sealed"),
    Table("descriptors", (
        Column("ts", "i64", "time of the look, CLOCK_MONOTONIC", "ns"),
        Column("pid", "i32", "process"),
        Column("fd", "i32", "descriptor"),
        Column("s_dev_major", "u32", "device of the file system, major number"),
        Column("s_dev_minor", "u32", "device of the file system, minor number"),
        Column("i_ino", "u64", "inode number"),
        Column("flags", "i32", "flags of open(2)"),
        Column("pos", "i64", "position", "bytes"),
    ), "regular files that the traced processes had open when recording began"),
    Table("counters", (
        Column("ts", "i64", "time of the sample, CLOCK_MONOTONIC", "ns"),
        Column("source", "str", "where the kernel says it: vmstat, psi, diskstats, …"),
        Column("scope", "str", "what it counts for: a device, a cgroup, a processor; empty = the host"),
        Column("name", "str", "the kernel's own name of the counter"),
        Column("value", "i64", "its value; what the kernel counts goes on counting"),
        Column("unit", "str", "unit of the value"),
    ), "counters that were sampled at intervals beside the trace"),
    Table("proxy_snapshots", (
        Column("ts", "i64", "the recorder had the snapshot, CLOCK_MONOTONIC", "ns"),
        Column("proxy", "str", "id of the proxy"),
        Column("subsystem", "str", "subsystem that it speaks for"),
        Column("boot_id", "str", "keyed pseudonym; changes when sequence and counters begin again"),
        Column("sequence", "u64", "number of the snapshot: rises by one with each that the proxy makes"),
        Column("mono_ns", "i64", "the proxy made the snapshot, CLOCK_MONOTONIC", "ns"),
        Column("read_ns", "u64", "how long reading it took", "ns"),
        Column("mode", "str", "unknown, emergency, learning, collaboration or recommendation"),
        Column("dataset_type", "str", "empty, value, structure or stream"),
        Column("dataset_state", "str", "how far the proxy's dataset is"),
        Column("dataset_offset", "u64", "where the part that can be read begins", "bytes"),
        Column("dataset_size", "u64", "how much of it can be read", "bytes"),
    ), "snapshots of proxies, in the order in which they were read; their values are in `proxy_values`"),
    Table("proxy_values", (
        Column("ts", "i64", "that of the snapshot", "ns"),
        Column("proxy", "str", "that of the snapshot"),
        Column("sequence", "u64", "that of the snapshot"),
        Column("kind", "str", "state, actuator or lost"),
        Column("name", "str", "name of the value; its unit is in `proxy_quantities`"),
        Column("value", "i64", "the value; of an actuator: where it stands"),
        Column("min", "i64", "of an actuator: the smallest value that is accepted", "", True),
        Column("max", "i64", "of an actuator: the largest value that is accepted", "", True),
        Column("scope", "str", "of an actuator: what a change reaches", "", True),
    ), "the values of the snapshots, by snapshot, kind (state, actuator, lost) and name"),
    Table("proxy_quantities", (
        Column("proxy", "str", "id of the proxy"),
        Column("subsystem", "str", "subsystem that it speaks for"),
        Column("name", "str", "name of a value of kind `state`"),
        Column("dtype", "str", "its type in the kernel"),
        Column("unit", "str", "its unit, empty = a number"),
        Column("meaning", "str", "what it is"),
        Column("counter", "bool", "it only rises as long as boot_id stays"),
    ), "what is known of the values of a proxy whose subsystem is known; once a recording"),
    Table("tasks", (
        Column("ts", "i64", "time of the look, CLOCK_MONOTONIC", "ns"),
        Column("pid", "i32", "thread"),
        Column("tgid", "i32", "its process"),
        Column("comm", "str", "its name (a keyed hash unless asked for)"),
    ), "threads that ran when recording began or ended"),
)

TABLES: dict[str, Table] = {table.name: table for table in (*_EVENTS, *_SYSCALLS, *_FACTS)}

_DTYPES = {
    "u8": "uint8", "u16": "uint16", "u32": "uint32", "u64": "uint64",
    "i8": "int8", "i16": "int16", "i32": "int32", "i64": "int64",
    "bool": "bool_", "str": "string",
}  # fmt: skip


def numpy_dtype(column: Column) -> str:
    """The numpy dtype name of a column (``object`` for strings)."""
    return {"str": "object", "bool": "bool"}.get(column.dtype, _DTYPES[column.dtype])


@cache
def arrow_schema(table: str) -> pa.Schema:
    """The pyarrow schema of a table; its metadata holds the table's name and the schema version.

    Raises KeyError for a table that is not defined here.
    """
    import pyarrow as pa

    fields = [pa.field(c.name, getattr(pa, _DTYPES[c.dtype])(), c.nullable) for c in TABLES[table].columns]
    return pa.schema(
        fields, {METADATA_TABLE_KEY: table, METADATA_VERSION_KEY: str(SCHEMA_VERSION)}
    )
