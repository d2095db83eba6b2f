"""The system calls that read through the page cache or tell it to read, and where their arguments are."""

from __future__ import annotations

from typing import NamedTuple

NOT_THERE = 15
POINTER = 8
VECTOR = 8


class ReadCall(NamedTuple):
    """A system call: its number on x86-64, and which of its arguments (from 0) are the descriptor that is
    read from, the bytes asked for and the position.

    :data:`NOT_THERE`: it has none. The bytes may be those of a vector, whose length it is (+ :data:`VECTOR`;
    the vector is the argument before). The position may be pointed to, by a pointer that may be NULL
    (+ :data:`POINTER`). Without a position, and for -1, it is that of the open file.
    """

    name: str
    number: int
    fd: int
    size: int = NOT_THERE
    pos: int = NOT_THERE


READ_CALLS = (
    ReadCall("read", 0, 0, 2),
    ReadCall("pread64", 17, 0, 2, 3),
    ReadCall("readv", 19, 0, 2 + VECTOR),
    ReadCall("preadv", 295, 0, 2 + VECTOR, 3),
    ReadCall("preadv2", 327, 0, 2 + VECTOR, 3),
    ReadCall("sendfile64", 40, 1, 3, 2 + POINTER),
    ReadCall("splice", 275, 0, 4, 1 + POINTER),
    ReadCall("copy_file_range", 326, 0, 4, 1 + POINTER),
    ReadCall("readahead", 187, 0, 2, 1),
    ReadCall("fadvise64", 221, 0, 2, 1),
    ReadCall("mmap", 9, 4, 1, 5),
)
"""In the order of their codes: ``call`` of the table ``file_reads`` is the place here, from 1."""
