"""Did the kernel take pages away from a recorded program while it ran?

On a machine with proactive reclaim (DAMON) that happens now and then, however much memory is free. What a
stream then read again cannot be told from the trace alone, so such a run is better recorded again.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

FIRST_INODE = 11
"""Inodes below are the file system's own (EXT4_GOOD_OLD_FIRST_INO, fs/ext4/ext4.h)."""


File = tuple[int, int, int]
"""Device (major, minor) and inode."""

_ACCESSES = ("mm_filemap_get_pages", "mm_filemap_fault", "mm_filemap_map_pages")


def disturbed_share(dataset: Path, segment: str) -> float:
    """Share of the accesses in the capture ``segment`` that went to files which lost pages in between.

    ``dataset`` is a directory of Parquet tables, ``segment`` the name of the recording's directory. An access
    is an event of the page cache. Pages of a file that nobody reads any more change nothing.
    """
    deleted = _events(dataset, segment, ("mm_filemap_delete_from_page_cache",))
    accesses = {file: times for file, times in _events(dataset, segment, _ACCESSES).items() if _is_file(file)}
    total = sum(len(times) for times in accesses.values())
    disturbed = sum(
        len(times) for file, times in accesses.items() if file in deleted and min(deleted[file]) < max(times)
    )
    return disturbed / total if total else 0.0


def _is_file(file: File) -> bool:
    return file[2] >= FIRST_INODE


def _events(dataset: Path, segment: str, tables: Iterable[str]) -> dict[File, list[int]]:
    """For each file the times of its events in these tables."""
    import pyarrow.parquet as pq

    found: dict[File, list[int]] = {}
    for table in tables:
        for path in dataset.glob(f"host=*/date=*/{table}/{segment}.parquet"):
            columns = pq.read_table(path, columns=["s_dev_major", "s_dev_minor", "i_ino", "ts"])
            for *file, ts in zip(*(column.to_pylist() for column in columns.columns), strict=True):
                found.setdefault((file[0], file[1], file[2]), []).append(ts)
    return found


def discard(dataset: Path, segment: str) -> None:
    """Remove that capture from the dataset."""
    for path in dataset.glob(f"host=*/date=*/*/{segment}.parquet"):
        path.unlink()
