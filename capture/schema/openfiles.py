"""Tables of what BPF programs tell of open files (``hindsight capture record --open-files``)."""

from __future__ import annotations

from hindsight.capture.schema.table import INODE, Column, event

_ORDINAL = Column("ordinal", "u32", "number of the open file within the capture, 0 = not known")
_OPEN_FILE = (
    Column("flags", "i32", "flags of open(2), as they are now"),
    Column("mode", "u16", "the kernel's f_mode, lower half; 0x1000: POSIX_FADV_RANDOM is in force"),
    Column("ra_pages", "u32", "readahead limit of the open file", "pages"),
)
FILE_READ_CALLS = (
    "read", "pread64", "readv", "preadv", "preadv2", "sendfile64", "splice", "copy_file_range", "readahead",
    "fadvise64", "mmap", "io_uring",
)  # fmt: skip
"""The system calls (and io_uring) that have rows in ``file_reads``; ``call`` is the place here, from 1."""
READAHEAD_KINDS = ("page_cache_sync_ra", "page_cache_async_ra", "page_cache_ra_order")
"""The events that have rows in ``file_readahead``; ``kind`` is the place here, from 0."""
OPENED_AT_USE, OPENED_AT_START, OPENED_AGAIN = range(3)
"""``origin`` of ``opens``."""
EVENTS = (
    event(
        "open_files",
        "opens",
        "an open file was met for the first time (with --open-files); state before the event",
        _ORDINAL,
        Column(
            "origin",
            "u8",
            "why: 0 it was used, 1 it was open when recording began, 2 again: a new segment began",
        ),
        Column("tgid", "i32", "process that used it or has it open"),
        Column("fd", "i32", "its descriptor, -1 if the kernel used it without one"),
        *INODE,
        Column("pos", "i64", "position", "bytes"),
        *_OPEN_FILE,
        Column("start", "u64", "first page of the last window", "pages"),
        Column("size", "u32", "size of the last window", "pages"),
        Column("async_size", "u32", "pages of the window beyond its mark", "pages"),
        Column("prev_pos", "i64", "byte after the previous read, -1 if none", "bytes"),
    ),
    event(
        "open_files",
        "file_releases",
        "an open file was released: its last descriptor and mapping are gone (with --open-files)",
        _ORDINAL,
    ),
    event(
        "open_files",
        "file_reads",
        "a call that reads a file, or tells the kernel to, began (with --open-files); state before it",
        _ORDINAL,
        Column(
            "call",
            "u8",
            "1 read, 2 pread64, 3 readv, 4 preadv, 5 preadv2, 6 sendfile64, 7 splice, "
            "8 copy_file_range, 9 readahead, 10 fadvise64, 11 mmap, 12 io_uring (of a registered file or a read by a worker the row is of its completion, `fd` is -1 and `count` are the bytes read)",
        ),
        Column("fd", "i32", "descriptor"),
        Column("pos", "i64", "where in the file", "bytes"),
        Column(
            "count",
            "u64",
            "bytes asked for, 2^64 - 1 where that is not known: vectors of more than 64 pieces",
            "bytes",
        ),
        *_OPEN_FILE,
        Column("prev_pos", "i64", "byte after the previous read, -1 if none", "bytes"),
        Column("i_size", "i64", "size of the file; null = recorded by an earlier release", "bytes", True),
    ),
    event(
        "open_files",
        "file_readahead",
        "a readahead decision, by open file (with --open-files); state before it",
        _ORDINAL,
        Column("kind", "u8", "0 page_cache_sync_ra, 1 page_cache_async_ra, 2 page_cache_ra_order"),
        *INODE,
        Column("index", "u64", "first page of the request", "pages"),
        Column("pos", "i64", "position of the open file", "bytes"),
        *_OPEN_FILE,
    ),
)
