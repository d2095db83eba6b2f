"""Is the throttle in force? Random 4 KiB reads at depth 1 by a process of the throttled group.

The reads are direct, so that each is one request of the device and none is served by the page cache. Run as
``python -m hindsight.lab.throttle_check FILE SECONDS SEED`` it is that process: it prints the number of reads
and the nanoseconds that they took.
"""

from __future__ import annotations

import mmap
import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass

from hindsight.errors import HindsightError
from hindsight.lab.device import LabDevice

BLOCK = 4096
SPAN = 16 << 20
"""Bytes of the file that is read; written, since unwritten extents read without I/O."""


@dataclass(frozen=True)
class ThrottleCheck:
    """Reads that were done, those that the device's own counter saw, and the rate."""

    reads: int
    device_reads: int
    elapsed_ns: int
    limit: int

    @property
    def iops(self) -> float:
        """Reads per second."""
        return self.reads * 1e9 / self.elapsed_ns

    @property
    def effective(self) -> bool:
        """At most a fifth above the limit (bursts), and the device saw the reads."""
        return self.iops <= 1.2 * self.limit and self.device_reads >= self.reads


def check_throttle(device: LabDevice, seconds: float = 1.0, seed: int = 1) -> ThrottleCheck:
    """Measure it on a file of its own, which is removed afterwards.

    Raises HindsightError if the reading process fails.
    """
    path = device.mount_point / ".throttle-check"
    try:
        with open(path, "wb") as file:
            chunk = b"\x5a" * (1 << 20)
            for _ in range(SPAN >> 20):
                file.write(chunk)
            os.fsync(file.fileno())
        before = device.completed_reads()
        argv = [sys.executable, "-m", "hindsight.lab.throttle_check", str(path), str(seconds), str(seed)]
        result = subprocess.run(device.throttle.command(argv), capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise HindsightError(f"the throttle check failed: {result.stderr.strip()}")
        reads, elapsed = map(int, result.stdout.split())
        return ThrottleCheck(reads, device.completed_reads() - before, elapsed, device.profile.read_iops)
    finally:
        path.unlink(missing_ok=True)


def read_randomly(path: str, seconds: float, seed: int) -> tuple[int, int]:
    """Random direct reads of 4 KiB for so long; returns (reads, nanoseconds)."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    buffer = mmap.mmap(-1, BLOCK)  # page-aligned, as direct I/O wants it
    rng = random.Random(seed)
    blocks = os.fstat(fd).st_size // BLOCK
    reads, begin, now = 0, time.monotonic_ns(), 0
    end = begin + int(seconds * 1e9)
    while now < end:
        os.preadv(fd, [buffer], rng.randrange(blocks) * BLOCK)
        reads += 1
        now = time.monotonic_ns()
    return reads, now - begin


if __name__ == "__main__":
    print(*read_randomly(sys.argv[1], float(sys.argv[2]), int(sys.argv[3])))
