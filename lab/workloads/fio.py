"""fio patterns with buffered pread64: what single patterns, several readers at once and phases ask for.

No advice is given (``fadvise_hint=0``): the kernel's own logic is what is looked at. Every job waits between
its reads (``thinktime``), as a program that does something with what it reads. Files exist beforehand.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hindsight.lab.workloads.run import run
from hindsight.lab.workloads.workload import Budget, FileSet, Workload

FILE_BYTES = 256 << 20
THINK_MICROSECONDS = 400
_FILES = ("a", "b", "c")


def _prepare(directory: Path, seed: int) -> None:
    # Written, not just allocated: unwritten extents would be read without I/O.
    directory.mkdir(parents=True)
    run(
        "fio", "--output=/dev/null", f"--directory={directory}", "--rw=write", "--bs=1m", "--ioengine=psync",
        f"--size={FILE_BYTES}", "--end_fsync=1", "--fallocate=none", f"--randseed={seed}",
        *(option for name in _FILES for option in (f"--name=fill-{name}", f"--filename={name}")),
    )  # fmt: skip


FILES = FileSet("fio", "three files of 256 MiB", ("fio",), _prepare)

Job = tuple[str, tuple[str, ...]]
"""A job's file and its options."""


def _fio(name: str, meaning: str, jobs: Callable[[Budget], tuple[Job, ...]], sample: bool = True) -> Workload:
    def command(directory: Path, seed: int, budget: Budget) -> list[str]:
        argv = [
            "fio", "--output=/dev/null", f"--directory={directory}", "--ioengine=psync", "--fadvise_hint=0",
            "--invalidate=0", "--norandommap=1", f"--size={FILE_BYTES}", f"--randseed={seed}",
            f"--thinktime={THINK_MICROSECONDS}",
        ]  # fmt: skip
        if not budget.whole:
            argv.append(f"--runtime={budget.seconds:g}")
        for number, (file, options) in enumerate(jobs(budget)):
            argv += [f"--name=job{number}", f"--filename={file}", *options]
        return argv

    return Workload(f"fio-{name}", "fio", FILES, meaning, command, sample)


def _sequential(file: str, block_kb: int, budget: Budget, share: float = 1.0) -> Job:
    size = int(budget.stream_bytes * share)
    return file, (
        "--rw=read",
        f"--bs={block_kb}k",
        f"--io_size={size // (block_kb << 10) * (block_kb << 10)}",
    )


def _counted(file: str, rw: str, block_kb: int, reads: int, *options: str) -> Job:
    return file, (
        f"--rw={rw}",
        f"--bs={block_kb}k",
        f"--number_ios={max(1, reads)}",
        *options,
    )


def _several(budget: Budget) -> tuple[Job, ...]:
    reads = budget.random_reads
    return (
        _sequential("a", 64, budget, 0.4),
        _counted("b", "randread", 4, reads // 3),
        _counted("c", "randread:32", 16, reads // 3),
    )


def _readers(budget: Budget) -> tuple[Job, ...]:
    # A bulk reader and a small one: what big windows do to the neighbour.
    return (
        _sequential("a", 256, budget, 0.7),
        _counted("b", "read", 8, budget.random_reads, "--thinktime=500"),
    )


def _phases(budget: Budget) -> tuple[Job, ...]:
    file, options = _sequential("a", 32, budget, 0.3)
    reads = budget.random_reads
    return (
        (file, options),
        _counted("a", "randread", 16, reads // 3, "--stonewall"),
        _counted("a", "randread:48", 16, reads // 2, "--stonewall", "--offset=128m", "--size=128m"),
    )


WORKLOADS = (
    _fio("sequential", "one reader, 64 KiB a read", lambda budget: (_sequential("a", 64, budget),)),
    _fio("random-4k", "random 4 KiB", lambda budget: (_counted("a", "randread", 4, budget.random_reads),)),
    _fio("random-64k", "random 64 KiB", lambda budget: (_counted("a", "randread", 64, budget.random_reads),),
         sample=False),
    _fio("stride", "16 KiB of every 64 KiB",
         lambda budget: (_counted("a", "read:48k", 16, budget.random_reads),)),
    _fio("reverse", "backwards, 16 KiB a read",
         lambda budget: (_counted("a", "read:-32k", 16, budget.random_reads * 3 // 4),)),
    _fio("runs", "runs of 512 KiB at random places, 16 KiB a read",
         lambda budget: (_counted("a", "randread:32", 16, budget.random_reads * 3 // 2),)),
    _fio("several", "a sequential, a random and a run reader at once", _several),
    _fio("readers", "a bulk and a small sequential reader at once", _readers),
    _fio("phases", "a scan, random reads, runs: one after the other", _phases, sample=False),
)  # fmt: skip
