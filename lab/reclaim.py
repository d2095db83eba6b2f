"""Did the kernel take pages away from a recorded program while it ran?

On a machine with proactive reclaim (DAMON) that happens now and then, however much memory is free. What a
stream then read again cannot be told from the trace alone, so such a run is better recorded again.
"""

from __future__ import annotations

from pathlib import Path

FIRST_INODE = 11
"""Inodes below are the file system's own (EXT4_GOOD_OLD_FIRST_INO, fs/ext4/ext4.h)."""


def reclaimed_files(dataset: Path, segment: str) -> int:
    """How many files that readahead was seen on lost pages during the capture in ``segment``.

    ``dataset`` is a directory of Parquet tables, ``segment`` the name of the recording's directory.
    """
    import pyarrow.parquet as pq

    def inodes(table: str) -> set[tuple[int, int, int]]:
        rows: set[tuple[int, int, int]] = set()
        for path in dataset.glob(f"host=*/date=*/{table}/{segment}.parquet"):
            columns = pq.read_table(path, columns=["s_dev_major", "s_dev_minor", "i_ino"])
            rows.update(zip(*(column.to_pylist() for column in columns.columns), strict=True))
        return {row for row in rows if row[2] >= FIRST_INODE}

    return len(inodes("mm_filemap_delete_from_page_cache") & inodes("files"))


def discard(dataset: Path, segment: str) -> None:
    """Remove that capture from the dataset."""
    for path in dataset.glob(f"host=*/date=*/*/{segment}.parquet"):
        path.unlink()
