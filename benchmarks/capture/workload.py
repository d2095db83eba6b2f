#!/usr/bin/env python3
"""What is recorded: buffered reads of cached pages, then reads that go to the disk, with their readahead.

    workload.py FILE CACHED COLD       prints how many ns the cached and the cold reads took, each

CACHED preads of 4 KiB of pages that are in the page cache; COLD sequential reads of 64 KiB after the file was
dropped from it. Uses the standard library alone; all its events happen in one thread.
"""

import os
import sys
import time


def main(path: str, cached: int, cold: int) -> None:
    fd = os.open(path, os.O_RDONLY)
    for at in range(0, 1 << 20, 4096):
        os.pread(fd, 4096, at)
    pread = os.pread
    begin = time.monotonic_ns()
    for number in range(cached):
        pread(fd, 4096, (number & 255) << 12)
    middle = time.monotonic_ns()
    size = os.fstat(fd).st_size
    for number in range(cold):
        at = (number << 16) % size
        if at == 0:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        pread(fd, 1 << 16, at)
    end = time.monotonic_ns()
    print(middle - begin, end - middle, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
