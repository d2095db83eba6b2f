"""What a workload is: a program, the files that it reads, and its command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MAX_READS = 3500
"""Reads of a workload that asks for each separately: about nine recorded events each."""


@dataclass(frozen=True)
class Budget:
    """How long a workload should run on a device of that many reads per second."""

    seconds: float
    read_iops: int
    whole: bool = False
    """Do all of it, however long it takes: for runs that are compared must ask for the same."""

    @property
    def random_reads(self) -> int:
        """Reads that each cost a request of the device: what fits in the time, at most MAX_READS."""
        return max(1, min(MAX_READS, int(self.seconds * self.read_iops)))

    @property
    def stream_bytes(self) -> int:
        """Bytes that a sequential reader gets in the time at 128 KiB a request: 1 … 256 MiB."""
        wanted = int(self.seconds * min(self.read_iops * (128 << 10), 120 << 20))
        return max(1 << 20, min(256 << 20, wanted))


@dataclass(frozen=True)
class FileSet:
    """Files that workloads read; ``prepare(directory, seed)`` writes them, the same for the same seed.

    ``programs`` are those that it needs.
    """

    name: str
    meaning: str
    programs: tuple[str, ...]
    prepare: Callable[[Path, int], None]


@dataclass(frozen=True)
class Workload:
    """One run of a real program; ``command(directory, seed, budget)`` is its argv, and writes nothing."""

    name: str
    program: str
    files: FileSet
    meaning: str
    command: Callable[[Path, int, Budget], list[str]]
    in_sample: bool = True
    ok_statuses: tuple[int, ...] = (0,)
