"""RocksDB's db_bench over a loaded database: point reads, long and short scans, with and without mmap.

By default RocksDB advises FADV_RANDOM on its table files, and its iterators call readahead(2). The *plain*
variants do neither and leave all to the kernel; both are here, since the advice decides what a window may do.

One thread opens the tables. RocksDB guesses how much it needs of a table's end from those that it opened
before: with its sixteen threads, the pages that a run reads depend on which of them is first.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hindsight.lab.workloads.run import run
from hindsight.lab.workloads.workload import Budget, FileSet, Workload

ENTRIES = 200_000
VALUE = 1000
BLOCK = 16384


def _prepare(directory: Path, seed: int) -> None:
    # About a dozen tables; no compaction runs behind the load.
    run(
        "db_bench", f"--db={directory}", "--benchmarks=fillseq", f"--num={ENTRIES}", f"--value_size={VALUE}",
        f"--block_size={BLOCK}", "--write_buffer_size=16777216", "--compression_type=none", "--disable_wal=1",
        "--disable_auto_compactions=1", f"--seed={seed}",
    )  # fmt: skip


FILES = FileSet("rocksdb", "a RocksDB database of 200 MB, blocks of 16 KiB", ("db_bench",), _prepare)


def _bench(
    name: str,
    meaning: str,
    benchmark: str,
    operations: Callable[[Budget], int],
    *options: str,
    sample: bool = True,
) -> Workload:
    def command(directory: Path, seed: int, budget: Budget) -> list[str]:
        return [
            "db_bench", f"--db={directory}", f"--benchmarks={benchmark}", f"--num={ENTRIES}",
            f"--reads={max(1, min(ENTRIES, operations(budget)))}", "--use_existing_db=1", "--readonly=1",
            f"--value_size={VALUE}", f"--block_size={BLOCK}", "--compression_type=none",
            "--cache_size=1048576", "--file_opening_threads=1", f"--seed={seed}", *options,
        ]  # fmt: skip

    return Workload(f"db_bench-{name}", "db_bench", FILES, meaning, command, sample)


def _points(budget: Budget) -> int:
    return budget.random_reads * 4 // 5


def _scans(budget: Budget) -> int:
    # 256 entries are 16 blocks in a row, which take several requests.
    return max(1, budget.random_reads // 10)


def _entries(budget: Budget) -> int:
    return budget.stream_bytes // VALUE


_PLAIN = ("--advise_random_on_open=false", "--initial_auto_readahead_size=0")
_MAPPED = "--mmap_read=1"

WORKLOADS = (
    _bench("readrandom", "point reads, FADV_RANDOM by the program", "readrandom", _points),
    _bench("readrandom-plain", "point reads, no advice", "readrandom", _points, *_PLAIN, sample=False),
    _bench("readseq", "a scan with FADV_RANDOM and the program's own readahead(2)", "readseq",
           lambda budget: _entries(budget) * 2 // 5),
    _bench("readseq-plain", "a scan, no advice", "readseq", _entries, *_PLAIN),
    _bench("readreverse", "a backward scan, no advice", "readreverse",
           lambda budget: budget.random_reads * (BLOCK // VALUE), *_PLAIN, sample=False),
    _bench("scans", "scans of 256 entries from random keys, no advice", "seekrandom", _scans,
           *_PLAIN, "--seek_nexts=256"),
    # Through a mapping the default advice means a request per page, here five for a point read.
    _bench("readrandom-mmap", "point reads through a mapping, MADV_RANDOM by the program", "readrandom",
           lambda budget: _points(budget) // 5, _MAPPED),
    _bench("readseq-mmap", "a scan through a mapping, no advice", "readseq",
           lambda budget: _entries(budget) // 2, _MAPPED, *_PLAIN),
)  # fmt: skip
