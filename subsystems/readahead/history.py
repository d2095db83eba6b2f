"""What a capture tells about its files: every call with its open file description, and that with its file.

An open records only a pointer to a path. What ties a descriptor to an inode are the ``mm_filemap_*`` rows
that happened inside calls on it: a get_pages row in a read, an added folio in a write or POSIX_FADV_WILLNEED,
a deleted one in POSIX_FADV_DONTNEED or ftruncate; and the look at open files when recording began.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hindsight.subsystems.readahead import calls as sc
from hindsight.subsystems.readahead import events
from hindsight.subsystems.readahead.calls import Calls, Tables, integers
from hindsight.subsystems.readahead.descriptors import Descriptions, Timeline, follow
from hindsight.subsystems.readahead.mappings import Mapped
from hindsight.subsystems.readahead.mappings import follow as follow_mappings
from hindsight.subsystems.readahead.pages import PAGE_SHIFT
from hindsight.subsystems.readahead.state import FADV_DONTNEED
from hindsight.subsystems.readahead.witnessed import merge

_BTREE_INODE = 1
"""BTRFS_BTREE_INODE_OBJECTID; files have numbers from 256 on (include/uapi/linux/btrfs_tree.h)."""
_O_DIRECT = {"x86_64": 0o40000, "aarch64": 0o200000, "armv7l": 0o200000}


_O_TRUNC, _O_NEW, _O_TMPFILE = 0o1000, 0o300, 0o20000000
"""Flags of open(2) after which a file is empty (O_CREAT together with O_EXCL)."""


class Files:
    """Ordinals of the files (device, inode) that occur in any table, in order of device and inode."""

    def __init__(self, tables: Tables) -> None:
        names = (*events.PAGE_TABLES, "descriptors", "files", "opens")
        present = {n: t for n in names if (t := events.columns_of(tables, n)) is not None}
        key_columns = ("s_dev_major", "s_dev_minor", "i_ino")
        parts = [np.stack([t[c].astype(np.uint64) for c in key_columns], axis=1) for t in present.values()]
        everything = np.concatenate([*parts, np.zeros((0, 3), np.uint64)])
        self.keys, ordinals = np.unique(everything, axis=0, return_inverse=True)
        bounds = np.cumsum([len(p) for p in parts])[:-1]
        split = np.split(np.asarray(ordinals).reshape(-1).astype(np.int64), bounds) if parts else []
        self.of_table = dict(zip(present, split, strict=True))

    def __len__(self) -> int:
        return len(self.keys)

    def places(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """Ordinals of files by (major, minor, inode), shape (K, 3); -1 for files that do not occur."""
        place_of = {tuple(key): i for i, key in enumerate(self.keys.tolist())}
        return np.array([place_of.get(tuple(key), -1) for key in keys.tolist()], np.int64)


class PageRows:
    """Rows of one ``mm_filemap_*`` table, each with the call that it happened in (-1 = none)."""

    def __init__(
        self, tables: Tables, name: str, files: Files, calls: Calls, pids: NDArray[np.int64]
    ) -> None:
        table = events.columns_of(tables, name) or {}
        none = np.zeros(0, np.int64)
        self.ts = integers(table["ts"]) if table else none
        self.task = np.searchsorted(pids, integers(table["pid"])).astype(np.int64) if table else none
        self.file = files.of_table.get(name, none)
        self.index = integers(table["index"]) if table else none
        self.order = integers(table["order"]) if "order" in table else np.zeros(len(self.ts), np.int64)
        self.last = integers(table["last_index"]) if "last_index" in table else none
        self.call = sc.span_of(self.task, self.ts, calls.task, calls.ts, calls.end)


class History:
    """Everything that the capture tells, in ordinals: threads, calls, open file descriptions, files, streams.

    A *stream* is an open file description of a page-cached file that was read or advised on and is not
    O_DIRECT; after these comes one stream for each file that was read through a mapping that is not known.
    """

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.pids = events.thread_ids(tables)
        self.last_ns = max(
            int(np.max(integers(t["ts"]))) for t in tables.values() if "ts" in t and len(t["ts"])
        )
        self.calls = calls = sc.collect(tables, self.pids, self.last_ns)
        self.files = Files(tables)
        walk, leader, self.names = events.build(tables, calls, self.pids)
        look = events.columns_of(tables, "descriptors") or {}
        found = (integers(look[c]) if look else np.zeros(0, np.int64) for c in ("fd", "pos", "flags"))
        self.descriptions: Descriptions
        followed, of, at = follow(walk, calls, leader, *found)
        told = merge(tables, calls, self.pids, self.names.first, followed, of)
        self.descriptions, self.of = told.descriptions, told.of
        self.told = self.files.places(told.files)
        """(D,) the file of each description as the kernel told it, -1 = it did not."""
        at = np.where(told.pos >= 0, told.pos, at)
        self.found_pos = integers(look["pos"]) if look else np.zeros(1, np.int64)

        self.met, self.added, self.deleted, self.faults, self.around = (
            PageRows(tables, name, self.files, calls, self.pids) for name in events.PAGE_TABLES
        )
        self.release = self.fact("captures", "kernel_release", "")
        code = calls.code
        self.is_read = np.isin(code, (sc.READ, sc.PREAD))
        self.is_advice = np.isin(code, (sc.FADVISE, sc.READAHEAD))
        self.is_dontneed = (code == sc.FADVISE) & (calls.c == FADV_DONTNEED)
        self.is_write = np.isin(code, (sc.WRITE, sc.PWRITE))
        self.told_size = told.size
        """(N,) bytes that the file of each call had when it began, -1 = not told."""
        self.truncated_to = np.append(self._truncated_to(), -1)
        """(N + 1,) bytes that each call cut its file to, -1 = it did not do that; last that of no call."""
        self.changes_file = self.is_write | (self.truncated_to[:-1] >= 0)
        self.write_pos = np.where(code == sc.WRITE, at, -1)
        self.is_transfer = np.isin(code, (sc.TRANSFER, sc.COPY))
        self.is_ring = code == sc.RING_READ
        self.is_reader = self.is_read | self.is_advice | self.is_transfer | self.is_ring
        self._tie_files()
        self._follow_mappings(walk, leader)
        calls = self.calls
        at_position = (code == sc.READ) | self.is_transfer
        by_offset = self.is_read | self.is_advice | self.is_ring
        self.pos = np.where(at_position, at, np.where(by_offset, calls.b, -1))
        asked = np.where(self.is_transfer, -1, calls.a)  # (a transfer has the other descriptor there)
        self.count = np.where(told.asked >= 0, told.asked, asked)
        self._count_vectors()
        self._choose_streams()

    def inside(self, rows: PageRows, which: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which rows happened inside a call of that sort on a known description."""
        call = np.maximum(rows.call, 0)
        if len(which) == 0:
            return np.zeros(len(call), np.bool_)
        return (rows.call >= 0) & which[call] & (self.of[call] >= 0)

    def inside_any(self, rows: PageRows, which: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which rows happened inside a call of that sort, on whatever description."""
        return (rows.call >= 0) & np.append(which, False)[rows.call]

    def _truncated_to(self) -> NDArray[np.int64]:
        """Bytes that a file has after each call (N,) that sets it, -1 of others."""
        calls = self.calls
        flags = np.where((calls.code == sc.OPEN) & (calls.ret >= 0) & (calls.a >= 0), calls.a, 0)
        fresh = (flags & _O_TRUNC != 0) | (flags & _O_NEW == _O_NEW) | (flags & _O_TMPFILE != 0)
        cut = (calls.code == sc.TRUNCATE) & (calls.ret == 0)
        return np.where(cut, calls.a, np.where(fresh, 0, -1))

    def fact(self, table: str, column: str, default: str) -> str:
        """A text of the first row of a table."""
        columns = events.columns_of(self.tables, table)
        return str(columns[column][0]) if columns is not None and column in columns else default

    def _tie_files(self) -> None:
        count = len(self.descriptions.from_ns)
        metadata = self._metadata()
        reads = self.is_read | self.is_transfer
        low = np.full(count, len(self.files), np.int64)
        high = np.full(count, -1, np.int64)
        look = self.files.of_table.get("descriptors")
        if look is not None:
            at = np.flatnonzero(self.descriptions.found >= 0)
            low[at] = high[at] = look[self.descriptions.found[at]]
        told = self.told >= 0
        for rows, which in (
            (self.met, reads),
            (self.added, self.is_advice | self.is_write | (reads & (len(self.met.ts) == 0))),
            (self.deleted, self.is_dontneed | (self.calls.code == sc.TRUNCATE)),
        ):
            use = self.inside(rows, which) & ~metadata[rows.file]
            use[use] = ~told[self.of[rows.call[use]]]
            of = self.of[rows.call[use]]
            np.minimum.at(low, of, rows.file[use])
            np.maximum.at(high, of, rows.file[use])
        low[told] = high[told] = self.told[told]
        self.file_of = high
        """(D,) ordinal of each description's file, -1 = none known."""
        self.ambiguous = (high >= 0) & (low != high)

    def _follow_mappings(self, walk: Timeline, leader: NDArray[np.int64]) -> None:
        """Tie faults to open files, and take MADV_WILLNEED for what it does: POSIX_FADV_WILLNEED."""
        faults, around, calls = self.faults, self.around, self.calls
        both = tuple(
            np.concatenate([getattr(r, c) for r in (faults, around)]) for c in ("ts", "task", "file", "index")
        )
        last = np.concatenate([faults.index, around.last])
        moments = (*both, last, self._addresses(both[1], both[0]))
        mapped, willneed = follow_mappings(walk, calls, self.of, self.file_of, leader, moments)
        # A fault inside of a call that reads: what it decided cannot be told from what the call did.
        reading = np.append(self.is_reader, False)[np.concatenate([faults.call, around.call])]
        mapped.of[reading] = -1
        split = len(faults.ts)
        self.faulted = Mapped(*(column[:split] for column in mapped))
        """The mapping of each fault."""
        self.went_around = Mapped(*(column[split:] for column in mapped))
        """The mapping of each fault-around."""
        self.fault_end, self.fault_again = self._fault_spans()
        needed = willneed[:, 0] >= 0
        self.of = np.where(needed, willneed[:, 0], self.of)
        self.is_advice = self.is_advice | needed
        self.is_reader = self.is_reader | needed
        self.calls = calls._replace(
            code=np.where(needed, sc.FADVISE, calls.code),
            a=np.where(needed, -(-calls.a >> PAGE_SHIFT) << PAGE_SHIFT, calls.a),
            b=np.where(needed, willneed[:, 1], calls.b),
        )

    def _addresses(self, task: NDArray[np.int64], ts: NDArray[np.int64]) -> NDArray[np.int64]:
        """The page of the address at which each thread faulted last, -1 where that is not recorded."""
        rows = events.columns_of(self.tables, events.ADDRESS_TABLE)
        if rows is None:
            return np.full(len(ts), -1, np.int64)
        pid = integers(rows["pid"])
        known = np.flatnonzero(np.isin(pid, self.pids))
        of, end = np.searchsorted(self.pids, pid[known]), np.full(len(known), self.last_ns)
        at = sc.span_of(task, ts, of, integers(rows["ts"])[known], end)
        address = np.append(integers(rows["address"])[known] >> PAGE_SHIFT, -1)
        return np.where(at >= 0, address[at], -1)

    def _fault_spans(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """When each fault was over at the latest, and whether it is the retry of the one before."""
        faults, around, calls = self.faults, self.around, self.calls
        task = np.concatenate([faults.task, around.task, calls.task, calls.task])
        ts = np.concatenate([faults.ts, around.ts, calls.ts, calls.end])
        order = np.lexsort((ts, task))
        count = len(faults.ts)
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        after = np.append(order, -1)[place[:count] + 1]
        same = (after >= 0) & (task[after] == faults.task)
        end = np.where(same, ts[after] - 1, self.last_ns)
        padded = np.concatenate([[-1, -1], order])
        one, two = padded[place[:count] + 1], padded[place[:count]]
        again = self._retries(one)
        # Fault-around, tried first, leaves out a page that carries the mark: it faults once more.
        is_around = (one >= count) & (one < count + len(around.ts))
        at = np.where(is_around, one - count, 0)
        if len(around.ts):
            is_around &= (around.task[at] == faults.task) & (around.file[at] == faults.file)
        again |= is_around & self._retries(two) & ~np.append(again, True)[np.where(two < count, two, count)]
        return np.maximum(end, faults.ts), again

    def _retries(self, earlier: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which faults are on the page, and by the thread, of these earlier faults (others: no fault)."""
        faults, count = self.faults, len(self.faults.ts)
        known = (earlier >= 0) & (earlier < count)
        at = np.where(known, earlier, 0)
        return (
            known & (faults.task[at] == faults.task) & (faults.file[at] == faults.file)
            & (faults.index[at] == faults.index)
        )  # fmt: skip

    def in_fault(self, rows: PageRows) -> NDArray[np.bool_]:
        """Which rows happened in a fault of a known mapping of the same file."""
        faults = self.faults
        at = sc.span_of(rows.task, rows.ts, faults.task, faults.ts, self.fault_end)
        found = np.maximum(at, 0)
        if len(faults.ts) == 0:
            return np.zeros(len(at), np.bool_)
        return (at >= 0) & (self.faulted.of[found] >= 0) & (faults.file[found] == rows.file)

    def _metadata(self) -> NDArray[np.bool_]:
        """Which files are none: btrfs keeps its trees in the page cache too, as inode 1."""
        table = events.columns_of(self.tables, "devices")
        of_tree = self.files.keys[:, 2] == _BTREE_INODE
        if table is None or not of_tree.any():
            return np.zeros(len(self.files), np.bool_)
        btrfs = table["fstype"] == "btrfs"
        numbers = {
            (int(major), int(minor))
            for major, minor in zip(table["dev_major"][btrfs], table["dev_minor"][btrfs], strict=True)
        }
        on_btrfs = [tuple(key) in numbers for key in self.files.keys[:, :2].tolist()]
        return of_tree & np.array(on_btrfs, np.bool_)

    def _count_vectors(self) -> None:
        """readv and preadv do not show how many bytes they ask for; a get_pages row does, in whole pages."""
        vector = self.is_read & (self.count < 0)
        self.count[vector] = np.maximum(self.calls.ret[vector], 0)
        use = self.inside(self.met, vector & (self.pos >= 0))
        call = self.met.call[use]
        np.maximum.at(self.count, call, ((self.met.last[use] + 1) << PAGE_SHIFT) - self.pos[call])

    def _choose_streams(self) -> None:
        flags = self.descriptions.flags
        bit = _O_DIRECT.get(self.fact("captures", "machine", "x86_64"), 0o40000)
        direct = (flags >= 0) & ((flags & bit) != 0)
        acts = np.zeros(len(flags), np.bool_)
        acts[self.of[self.is_reader & (self.of >= 0)]] = True
        acts[self.faulted.of[self.faulted.of >= 0]] = True
        chosen = np.flatnonzero(acts & (self.file_of >= 0) & ~direct)
        self.described = chosen[np.argsort(self.descriptions.from_ns[chosen], kind="stable")]
        """Description of each stream that has one."""
        stream_of = np.full(len(flags) + 1, -1, np.int64)
        stream_of[self.described] = np.arange(len(self.described))
        self.stream = stream_of[self.of]
        """(N,) stream of each call, -1 = none."""
        self.stream_of = stream_of
        """(D + 1,) stream of each description, -1 = none; last that of no description."""
        self.mapped_files = np.unique(self.faults.file[stream_of[self.faulted.of] < 0])
        """Files that were read through a mapping of which nothing is known."""
        self.used_files = np.unique(np.concatenate([self.file_of[self.described], self.mapped_files]))
        self.file_id = np.full(len(self.files) + 1, -1, np.int64)
        """Place of a file among those that streams read, -1 = no stream does."""
        self.file_id[self.used_files] = np.arange(len(self.used_files))
        self.stream_file = self.file_id[np.concatenate([self.file_of[self.described], self.mapped_files])]

    def file_of_calls(self, calls: NDArray[np.int64]) -> NDArray[np.int64]:
        """Place of the file of each of these calls, -1 = unknown or read by no stream."""
        of = self.of[calls]
        return np.where(of >= 0, self.file_id[self.file_of[np.maximum(of, 0)]], -1)
