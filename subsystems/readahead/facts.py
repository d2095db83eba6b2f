"""Facts that a replay needs about files and devices: sizes, limits of readahead, largest requests and
folios.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.subsystems.readahead.calls import integers
from hindsight.subsystems.readahead.events import columns_of
from hindsight.subsystems.readahead.history import History
from hindsight.subsystems.readahead.pages import PAGE_SHIFT
from hindsight.subsystems.readahead.releases import EXT4_LARGE_FOLIOS, behaviours

LARGEST_FOLIO = 9
"""Largest folio order of the page cache with 4 KiB pages (MAX_PAGECACHE_ORDER of Linux 6.18 on x86-64)."""

LARGE_FOLIOS = ("ext2", "ext3", "ext4", "xfs")
"""File systems that are expected to use large folios (the first two through the driver of ext4); of others it
shows in the folios that were added."""

DEFAULT_RA_PAGES = 32
DEFAULT_IO_PAGES = 320

HUGE_BYTES = 4 << 30
REACH_BYTES = 64 << 20
"""A replay keeps six bytes a page: of files larger than HUGE_BYTES, only what can matter, which is what was
touched and REACH_BYTES after it (the largest window is a quarter of that)."""

Columns = dict[str, NDArray[Any]]


def devices(history: History) -> Columns:
    """Devices of the streams' files, in order of number; ``known`` tells which of them the capture describes.

    ``name`` is ``major:minor``, with ``/iops=…/bps=…`` where the traced command's reads were throttled.
    """
    keys = history.files.keys[history.used_files]
    numbers = np.unique(keys[:, :2], axis=0)
    table = columns_of(history.tables, "devices") or {}
    fact = {
        c: integers(table[c], 0) for c in table if c.startswith(("throttle_", "dev_")) or c.endswith("_kb")
    }
    columns: dict[str, list[Any]] = {k: [] for k in ("name", "fstype", "ra", "io", "iops", "bps", "known")}
    for major, minor in numbers.tolist():
        at: Any = np.flatnonzero((fact["dev_major"] == major) & (fact["dev_minor"] == minor)) if table else []
        row = int(at[0]) if len(at) else -1
        iops = int(fact["throttle_read_iops"][row]) if row >= 0 else 0
        bps = int(fact["throttle_read_bps"][row]) if row >= 0 else 0
        limits = f"/iops={iops}/bps={bps}" if iops or bps else ""
        columns["name"].append(f"{major}:{minor}{limits}")
        columns["fstype"].append(str(table["fstype"][row]) if row >= 0 else "")
        columns["ra"].append(int(fact["read_ahead_kb"][row]) >> 2 if row >= 0 else DEFAULT_RA_PAGES)
        columns["io"].append(int(fact["max_sectors_kb"][row]) >> 2 if row >= 0 else DEFAULT_IO_PAGES)
        columns["iops"].append(iops)
        columns["bps"].append(bps)
        columns["known"].append(row >= 0)
    return {
        "name": np.array(columns["name"], object),
        "dev_major": numbers[:, 0].astype(np.uint32),
        "dev_minor": numbers[:, 1].astype(np.uint32),
        "fstype": np.array(columns["fstype"], object),
        "known": np.array(columns["known"], np.bool_),
        "ra_pages": np.array(columns["ra"], np.uint32),
        "io_pages": np.array(columns["io"], np.uint32),
        "throttle_read_iops": np.array(columns["iops"], np.uint64),
        "throttle_read_bps": np.array(columns["bps"], np.uint64),
    }


def device_has_large_folios(history: History, device_table: Columns) -> NDArray[np.bool_]:
    """Devices on which a folio of several pages was added, shape (devices,)."""
    large = history.added.file[history.added.order > 0]
    numbers = {tuple(row) for row in history.files.keys[np.unique(large), :2].tolist()}
    pairs = zip(device_table["dev_major"].tolist(), device_table["dev_minor"].tolist(), strict=True)
    return np.array([pair in numbers for pair in pairs], np.bool_)


def files(history: History, device_table: Columns) -> Columns:
    """The streams' files: size in bytes as recorded, else where reads ended short (``size_known``), else as
    far as the file was touched.
    """
    keys = history.files.keys[history.used_files]
    count = len(keys)
    size = np.full(count, -1, np.int64)
    recorded = columns_of(history.tables, "files")
    if recorded is not None:
        at = history.file_id[history.files.of_table["files"]]
        size[at[at >= 0]] = integers(recorded["size"])[at >= 0]
    reads = np.flatnonzero(
        history.is_read & (history.stream >= 0) & (history.pos >= 0) & (history.calls.ret >= 0)
    )
    place = history.file_of_calls(reads)
    ret, end = history.calls.ret[reads], history.pos[reads] + history.calls.ret[reads]
    short = (ret > 0) & (ret < history.count[reads])
    ended = np.full(count, -1, np.int64)
    np.maximum.at(ended, place[short], end[short])
    touched = np.zeros(count, np.int64)
    np.maximum.at(touched, place, end)
    for rows in (history.added, history.faults):
        at = history.file_id[rows.file]
        last = (rows.index + (np.int64(1) << rows.order)) << PAGE_SHIFT
        np.maximum.at(touched, at[at >= 0], last[at >= 0])
    known = (size >= 0) | (ended >= 0)
    size = np.where(size > HUGE_BYTES, np.minimum(size, np.maximum(touched + REACH_BYTES, HUGE_BYTES)), size)
    size = np.where(size >= 0, size, np.where(ended >= 0, ended, touched))
    numbers = list(zip(device_table["dev_major"].tolist(), device_table["dev_minor"].tolist(), strict=True))
    place_of = {number: i for i, number in enumerate(numbers)}
    device = np.array([place_of[int(k[0]), int(k[1])] for k in keys], np.int64)
    expected = np.isin(device_table["fstype"], LARGE_FOLIOS)
    if not behaviours(history.release)[EXT4_LARGE_FOLIOS]:
        expected &= np.array([not str(name).startswith("ext") for name in device_table["fstype"]], np.bool_)
    large = device_has_large_folios(history, device_table) | expected
    largest = np.where(large, LARGEST_FOLIO, 0).astype(np.uint8)
    return {
        "s_dev_major": keys[:, 0].astype(np.uint32),
        "s_dev_minor": keys[:, 1].astype(np.uint32),
        "i_ino": keys[:, 2].astype(np.uint64),
        "device_id": device.astype(np.uint32),
        "size": size,
        "size_known": known,
        "max_order": largest[device] if count else np.zeros(0, np.uint8),
    }
