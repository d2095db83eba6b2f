"""Read a file through io_uring, one request at a time: ``uring.py FILE BYTES COUNT [FORCE_ASYNC]``.

Reads COUNT pieces of BYTES from the beginning, through the page cache; prints how many bytes were read.
Standard library only. Layouts: include/uapi/linux/io_uring.h of Linux 6.18.
"""

import ctypes
import mmap
import os
import struct
import sys

SETUP, ENTER = 425, 426  # the same on every architecture
OP_READ = 22
ASYNC = 1 << 4  # IOSQE_ASYNC: always by a worker thread
GETEVENTS = 1
OFF_SQ, OFF_CQ, OFF_SQES = 0, 0x8000000, 0x10000000
libc = ctypes.CDLL(None, use_errno=True)


def call(number: int, *arguments: object) -> int:
    result = libc.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def main(path: str, size: int, count: int, flags: int = 0) -> int:
    parameters = ctypes.create_string_buffer(120)
    ring = call(SETUP, 1, parameters)
    entries, cq_entries = struct.unpack_from("<2I", parameters.raw, 0)
    # head, tail, ring_mask, ring_entries, flags, dropped, array
    # head, tail, ring_mask, ring_entries, overflow, cqes
    sq = struct.unpack_from("<7I", parameters.raw, 40)
    cq = struct.unpack_from("<6I", parameters.raw, 80)
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    sq_ring = mmap.mmap(ring, sq[6] + 4 * entries, mmap.MAP_SHARED, protection, offset=OFF_SQ)
    cq_ring = mmap.mmap(ring, cq[5] + 16 * cq_entries, mmap.MAP_SHARED, protection, offset=OFF_CQ)
    sqes = mmap.mmap(ring, 64 * entries, mmap.MAP_SHARED, protection, offset=OFF_SQES)
    file = os.open(path, os.O_RDONLY)
    buffer = ctypes.create_string_buffer(size)
    address = ctypes.addressof(buffer)
    total = 0
    for number in range(count):
        sqe = struct.pack("<BBHiQQIIQ", OP_READ, flags, 0, file, number * size, address, size, 0, number)
        sqes[:64] = sqe.ljust(64, b"\0")
        struct.pack_into("<I", sq_ring, sq[6], 0)
        (tail,) = struct.unpack_from("<I", sq_ring, sq[1])
        struct.pack_into("<I", sq_ring, sq[1], tail + 1)
        call(ENTER, ring, 1, 1, GETEVENTS, None, 0)
        (head,) = struct.unpack_from("<I", cq_ring, cq[0])
        (mask,) = struct.unpack_from("<I", cq_ring, cq[2])
        user, result, _ = struct.unpack_from("<QiI", cq_ring, cq[5] + 16 * (head & mask))
        assert user == number, (user, number)
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        struct.pack_into("<I", cq_ring, cq[0], head + 1)
        total += result
    return total


if __name__ == "__main__":
    words = sys.argv[1:]
    print(main(words[0], int(words[1]), int(words[2]), ASYNC if len(words) > 3 else 0))
