"""What is counted while the events of a segment pass by: traces of the recorder itself, files of interest."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hindsight.capture.compiled import compiled
from hindsight.capture.conversion.columns import Text, distinct_rows
from hindsight.capture.profiles import DESCRIBING, FOLLOWING

_DESCRIBING = tuple(event.partition("/")[2] for event in DESCRIBING)
INODE = ("s_dev_major", "s_dev_minor", "i_ino")

Columns = Mapping[str, np.ndarray]
Watch = Callable[[Columns, Mapping[str, Text]], None]


@compiled
def count_members(values: Any, members: Any) -> int:
    """How many of ``values`` (i32) are among the few ``members`` (i32)."""
    count = 0
    for i in range(values.size):
        for j in range(members.size):
            if values[i] == members[j]:
                count += 1
                break
    return count


class Census:
    """Counts over the events of one segment. Thread-safe.

    ``inodes``: (major, minor, inode) of the facts' files on which readahead is decided.
    """

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self._recorder = facts["recorder"]
        self._segment = facts["segment"]
        self._threads = np.array(self._recorder["threads"], np.int32)
        self._known = {tuple(row[name] for name in INODE) for row in facts["tables"]["files"]}
        self._lock = threading.Lock()
        self._own = self._writeback = 0
        self.inodes: set[tuple[int, ...]] = set()

    def watch(self, instance: str, table: str) -> list[Watch]:
        """What is to be counted in a table's rows: functions of the columns of some rows."""
        watches: list[Watch] = []
        if instance in FOLLOWING and len(self._threads):
            watches.append(self._count_own)
        if table == "block_rq_issue":
            watches.append(self._count_writeback)
        if table in _DESCRIBING and self._known:
            watches.append(self._note_inodes)
        return watches

    def _count_own(self, columns: Columns, _: Any) -> None:
        count = count_members(columns["pid"], self._threads)
        with self._lock:
            self._own += count

    def _count_writeback(self, columns: Columns, texts: Mapping[str, Text]) -> None:
        codes, values = texts["rwbs"].codes, texts["rwbs"].values
        # Block requests carry the number of the whole disk.
        major, minor = self._recorder.get("out_disk", self._recorder["out_device"])
        writes = np.array([b"W" in value for value in values], np.bool_)[codes]
        count = int((writes & (columns["dev_major"] == major) & (columns["dev_minor"] == minor)).sum())
        with self._lock:
            self._writeback += count

    def _note_inodes(self, columns: Columns, _: Any) -> None:
        stacked = np.stack([columns[name].astype(np.uint64) for name in INODE], axis=1)
        first, _codes = distinct_rows(stacked)
        seen = {tuple(row) for row in stacked[first].tolist()}
        with self._lock:
            self.inodes |= seen & self._known

    def recorder_row(self) -> dict[str, Any]:
        """The row of the table ``recorder``."""
        own = self._recorder
        return {
            "segment": self._segment,
            **{k: own[k] for k in ("from_ns", "to_ns", "cpu_ns", "raw_bytes", "peak_rss_bytes")},
            "out_dev_major": own["out_device"][0],
            "out_dev_minor": own["out_device"][1],
            "own_events": self._own,
            "writeback_events": self._writeback,
        }
