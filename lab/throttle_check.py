"""Is the throttle in force? Random reads at depth 1 by a process of the throttled group.

They have 4 KiB each for the limit of requests, 1 MiB each for the limit of bytes.

The reads are direct, so that each is a request of the device and none is served by the page cache. Run as
``python -m hindsight.lab.throttle_check FILE SECONDS SEED BLOCK`` it is that process: it prints the number of
reads and the nanoseconds that they took.
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
LARGE = 1 << 20
"""Bytes of a read that is slow because of its length: one request (a loop device takes up to 1,280 KiB)."""
SECTOR = 512
BURST_NS = 250_000_000
"""Throttles give the allowance of a slice (1/10 s) when it begins (DFL_THROTL_SLICE, block/blk-throttle.c):
that of the first and the last slice of a check may come early. Measured: up to 0.18 s."""
SPAN = 16 << 20
"""Bytes of the file that is read; written, since unwritten extents read without I/O."""


@dataclass(frozen=True)
class ThrottleCheck:
    """Reads that were done, those that the device's own counters saw, and the rate.

    ``limit`` is the profile's, of requests per second; of bytes where ``block`` is :data:`LARGE`; 0 = none.
    """

    reads: int
    device_reads: int
    elapsed_ns: int
    limit: int
    block: int = BLOCK
    device_bytes: int = 0

    @property
    def iops(self) -> float:
        """Reads per second."""
        return self.reads * 1e9 / self.elapsed_ns

    @property
    def rate(self) -> float:
        """What is limited, per second: reads, or bytes."""
        return self.iops * self._unit

    @property
    def _unit(self) -> int:
        """What a read counts for in the limit."""
        return 1 if self.block == BLOCK else self.block

    @property
    def effective(self) -> bool:
        """At most what the limit allows in the time and :data:`BURST_NS`, and the device saw the reads."""
        seen = self.device_reads >= self.reads and self.device_bytes >= self.reads * self.block
        allowed = self.limit * (self.elapsed_ns + BURST_NS) // 1_000_000_000 + self._unit
        return (self.limit == 0 or self.reads * self._unit <= allowed) and seen

    @property
    def reached(self) -> bool:
        """At least seven tenths of the limit: it is the throttle that limits, not what is below."""
        return self.limit == 0 or self.rate >= 0.7 * self.limit


def check_throttle(
    device: LabDevice, seconds: float = 1.0, seed: int = 1, block: int = BLOCK
) -> ThrottleCheck:
    """Measure it on a file of its own, which is removed afterwards; ``block`` is BLOCK or LARGE.

    Raises HindsightError if the reading process fails.
    """
    path = device.mount_point / ".throttle-check"
    try:
        with open(path, "wb") as file:
            chunk = b"\x5a" * (1 << 20)
            for _ in range(SPAN >> 20):
                file.write(chunk)
            os.fsync(file.fileno())
        before, sectors = device.read_counters()
        argv = [
            sys.executable, "-m", "hindsight.lab.throttle_check",
            str(path), str(seconds), str(seed), str(block),
        ]  # fmt: skip
        result = subprocess.run(device.command(argv), capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise HindsightError(f"the throttle check failed: {result.stderr.strip()}")
        reads, elapsed = map(int, result.stdout.split())
        after, sectors_after = device.read_counters()
        limit = device.profile.read_iops if block == BLOCK else device.profile.read_bps
        return ThrottleCheck(reads, after - before, elapsed, limit, block, (sectors_after - sectors) * SECTOR)
    finally:
        path.unlink(missing_ok=True)


def read_randomly(path: str, seconds: float, seed: int, block: int = BLOCK) -> tuple[int, int]:
    """Random direct reads of ``block`` bytes for so long; returns (reads, nanoseconds)."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    buffer = mmap.mmap(-1, block)  # page-aligned, as direct I/O wants it
    rng = random.Random(seed)
    blocks = os.fstat(fd).st_size // block
    reads, begin, now = 0, time.monotonic_ns(), 0
    end = begin + int(seconds * 1e9)
    while now < end:
        os.preadv(fd, [buffer], rng.randrange(blocks) * block)
        reads += 1
        now = time.monotonic_ns()
    return reads, now - begin


if __name__ == "__main__":
    print(*read_randomly(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
