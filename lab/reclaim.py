"""Did the kernel take pages away from a recorded program while it ran?

On a machine with proactive reclaim (DAMON) that happens now and then, however much memory is free. What a
stream then read again cannot be told from the trace alone, so such a run is better recorded again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

FIRST_INODE = 11
"""Inodes below are the file system's own (EXT4_GOOD_OLD_FIRST_INO, fs/ext4/ext4.h)."""


_ACCESSES = ("mm_filemap_get_pages", "mm_filemap_fault", "mm_filemap_map_pages")


def reclaimed_files(dataset: Path, segment: str) -> int:
    """How many files lost pages in the capture ``segment`` and were read again later, if only elsewhere.

    ``dataset`` is a directory of Parquet tables, ``segment`` the name of the recording's directory. Pages of
    a file that nobody reads any more change nothing.
    """
    deleted = _extreme(dataset, segment, ("mm_filemap_delete_from_page_cache",), min)
    accessed = _extreme(dataset, segment, _ACCESSES, max)
    return sum(1 for file, ts in deleted.items() if file[2] >= FIRST_INODE and ts < accessed.get(file, ts))


def _extreme(
    dataset: Path, segment: str, tables: Iterable[str], choose: Callable[[int, int], int]
) -> dict[tuple[int, int, int], int]:
    """For each file (major, minor, inode) the first or last event of it in these tables."""
    import pyarrow.parquet as pq

    found: dict[tuple[int, int, int], int] = {}
    for table in tables:
        for path in dataset.glob(f"host=*/date=*/{table}/{segment}.parquet"):
            columns = pq.read_table(path, columns=["s_dev_major", "s_dev_minor", "i_ino", "ts"])
            for *file, ts in zip(*(column.to_pylist() for column in columns.columns), strict=True):
                key = (file[0], file[1], file[2])
                found[key] = choose(found.get(key, ts), ts)
    return found


def discard(dataset: Path, segment: str) -> None:
    """Remove that capture from the dataset."""
    for path in dataset.glob(f"host=*/date=*/*/{segment}.parquet"):
        path.unlink()
