"""Did the kernel take pages away from a recorded program while it ran?

On a machine with proactive reclaim (DAMON) that happens now and then, however much memory is free. What a
stream then read again cannot be told from the trace alone, so such a run is better recorded again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FIRST_INODE = 11
"""Inodes below are the file system's own (EXT4_GOOD_OLD_FIRST_INO, fs/ext4/ext4.h)."""


NEAR_PAGES = 512
"""How far from a read the kernel may look for cached pages: more than any window of a device of the lab."""

_DELETIONS = "mm_filemap_delete_from_page_cache"
_BATCHES = "mm_filemap_get_pages"
_FAULTS = "mm_filemap_fault"

Pages = NDArray[np.int64]
"""Columns time, first page, last page; sorted by time."""


def disturbed_share(dataset: Path, segment: str) -> float:
    """Share of the accesses in a capture that went to files which lost pages that still mattered.

    They matter if something within NEAR_PAGES of them is accessed later. ``dataset`` is a directory of
    Parquet tables, ``segment`` the name of the recording's directory; an access is a row of
    ``mm_filemap_get_pages`` or ``mm_filemap_fault``.
    """
    deleted = _pages(dataset, segment, _DELETIONS)
    accesses = _pages(dataset, segment, _BATCHES)
    for file, faults in _pages(dataset, segment, _FAULTS).items():
        both = np.concatenate([accesses[file], faults]) if file in accesses else faults
        accesses[file] = both[np.argsort(both[:, 0], kind="stable")]
    total = sum(len(pages) for pages in accesses.values())
    disturbed = sum(
        len(pages) for file, pages in accesses.items() if file in deleted and _mattered(deleted[file], pages)
    )
    return disturbed / total if total else 0.0


def _mattered(deleted: Pages, accesses: Pages) -> bool:
    for ts, first, last in deleted:
        later = accesses[np.searchsorted(accesses[:, 0], ts) :]
        if np.any((later[:, 2] >= first - NEAR_PAGES) & (later[:, 1] <= last + NEAR_PAGES)):
            return True
    return False


def _pages(dataset: Path, segment: str, table: str) -> dict[tuple[int, int, int], Pages]:
    """For each file (major, minor, inode) the page ranges of the table's events."""
    import pyarrow.parquet as pq

    found: dict[tuple[int, int, int], Pages] = {}
    for path in dataset.glob(f"host=*/date=*/{table}/{segment}.parquet"):
        rows = pq.read_table(path)
        column = {name: rows[name].to_numpy().astype(np.int64) for name in rows.column_names}
        last = column["index"]
        if table == _BATCHES:
            last = np.maximum(column["last_index"] - 1, last)
        elif table == _DELETIONS:
            last = last + (1 << column["order"]) - 1
        pages = np.stack([column["ts"], column["index"], last], axis=1)
        files = np.stack([column["s_dev_major"], column["s_dev_minor"], column["i_ino"]], axis=1)
        for file in np.unique(files[files[:, 2] >= FIRST_INODE], axis=0):
            found[int(file[0]), int(file[1]), int(file[2])] = pages[(files == file).all(axis=1)]
    return found


def discard(dataset: Path, segment: str) -> None:
    """Remove that capture from the dataset."""
    for path in dataset.glob(f"host=*/date=*/*/{segment}.parquet"):
        path.unlink()
