"""Tables of the system calls from which demand and open files are reconstructed; pointers are left out."""

from __future__ import annotations

from hindsight.capture.schema.table import Column, event

_FD = Column("fd", "i32", "descriptor")
_COUNT = Column("count", "u64", "bytes asked for", "bytes")
_VLEN = Column("vlen", "u64", "number of buffers")
_OFLAGS = Column("flags", "i32", "flags of open(2)")
_ENTER: dict[str, tuple[Column, ...]] = {
    "read": (_FD, _COUNT),
    "pread64": (_FD, _COUNT, Column("pos", "i64", "offset in the file", "bytes")),
    "readv": (_FD, _VLEN),
    "preadv": (
        _FD,
        _VLEN,
        Column("pos_l", "u64", "offset in the file", "bytes"),
        Column("pos_h", "u64", "upper half of the offset on 32-bit machines"),
    ),
    "preadv2": (
        _FD,
        _VLEN,
        Column("pos_l", "u64", "offset in the file", "bytes"),
        Column("pos_h", "u64", "upper half of the offset on 32-bit machines"),
        Column("flags", "i32", "RWF_ flags"),
    ),
    "write": (_FD, _COUNT),
    "pwrite64": (_FD, _COUNT, Column("pos", "i64", "offset in the file", "bytes")),
    "writev": (_FD, _VLEN),
    "open": (_OFLAGS,),
    "openat": (Column("dfd", "i32", "directory descriptor"), _OFLAGS),
    "openat2": (Column("dfd", "i32", "directory descriptor"),),
    "creat": (),
    "close": (_FD,),
    "close_range": (
        Column("fd", "u32", "first descriptor"),
        Column("max_fd", "u32", "last descriptor"),
        Column("flags", "u32", "CLOSE_RANGE_ flags"),
    ),
    "dup": (Column("fildes", "i32", "descriptor"),),
    "dup2": (Column("oldfd", "i32", "descriptor"), Column("newfd", "i32", "its duplicate")),
    "dup3": (
        Column("oldfd", "i32", "descriptor"),
        Column("newfd", "i32", "its duplicate"),
        Column("flags", "i32", "O_CLOEXEC or 0"),
    ),
    "fcntl": (_FD, Column("cmd", "u32", "command"), Column("arg", "u64", "argument")),
    "lseek": (_FD, Column("offset", "i64", "offset", "bytes"), Column("whence", "u32", "SEEK_ constant")),
    "fadvise64": (
        _FD,
        Column("offset", "i64", "start", "bytes"),
        Column("len", "u64", "length, 0 = to the end", "bytes"),
        Column("advice", "i32", "POSIX_FADV_ constant"),
    ),
    "readahead": (_FD, Column("offset", "i64", "start", "bytes"), _COUNT),
    "mmap": (
        Column("addr", "u64", "wanted user address"),
        Column("len", "u64", "length", "bytes"),
        Column("prot", "u64", "PROT_ flags"),
        Column("flags", "u64", "MAP_ flags"),
        Column("fd", "i32", "descriptor, -1 if anonymous"),
        Column("off", "u64", "offset in the file", "bytes"),
    ),
    "munmap": (Column("addr", "u64", "user address"), Column("len", "u64", "length", "bytes")),
    "madvise": (
        Column("start", "u64", "user address"),
        Column("len_in", "u64", "length", "bytes"),
        Column("behavior", "i32", "MADV_ constant"),
    ),
    "sendfile64": (Column("out_fd", "i32", "to"), Column("in_fd", "i32", "from"), _COUNT),
    "splice": (
        Column("fd_in", "i32", "from"),
        Column("fd_out", "i32", "to"),
        Column("len", "u64", "length", "bytes"),
        Column("flags", "u32", "SPLICE_F_ flags"),
    ),
    "copy_file_range": (
        Column("fd_in", "i32", "from"),
        Column("fd_out", "i32", "to"),
        Column("len", "u64", "length", "bytes"),
        Column("flags", "u32", "flags"),
    ),
    "truncate": (Column("length", "i64", "new size", "bytes"),),
    "ftruncate": (_FD, Column("length", "i64", "new size", "bytes")),
    "clone": (Column("clone_flags", "u64", "flags of clone(2)"),),
    "clone3": (),
    "fork": (),
    "vfork": (),
    "execve": (),
    "unshare": (Column("unshare_flags", "u64", "flags of unshare(2)"),),
    "io_uring_enter": (
        _FD,
        Column("to_submit", "u32", "entries to submit"),
        Column("min_complete", "u32", "completions to wait for"),
        Column("flags", "u32", "IORING_ENTER_ flags"),
    ),
}
EVENTS = tuple(
    table
    for name, columns in _ENTER.items()
    for table in (
        event("syscalls", f"sys_enter_{name}", f"{name}(2) was called", *columns),
        event(
            "syscalls",
            f"sys_exit_{name}",
            f"{name}(2) returned",
            Column("ret", "i64", "its result, -errno on failure"),
        ),
    )
)
