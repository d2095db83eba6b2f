"""A program that makes a known number of a recorded system call: pread64 of one byte, at offset 0, 1, 2, …

So a recording shows which of the calls are in it. Usage: counted.py CALLS [EVERY PAUSE_S [CPU]]; it pauses
after every EVERY calls and stays on one processor, if asked to.
"""

from __future__ import annotations

import os
import sys
import time


def main(calls: int, every: int = 0, pause_s: float = 0.0, cpu: int | None = None) -> None:
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})
    descriptor = os.open("/dev/zero", os.O_RDONLY)
    pread = os.pread
    for number in range(calls):
        pread(descriptor, 1, number)
        if every and number % every == every - 1:
            time.sleep(pause_s)


if __name__ == "__main__":
    words = sys.argv[1:]
    main(
        int(words[0]),
        int(words[1]) if len(words) > 1 else 0,
        float(words[2]) if len(words) > 2 else 0.0,
        int(words[3]) if len(words) > 3 else None,
    )
