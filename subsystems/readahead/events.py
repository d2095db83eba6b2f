"""The events that change descriptors and names, in order of time, for :mod:`descriptors` to walk."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hindsight.subsystems.readahead.calls import CALL_TABLES, NO_RESULT, Calls, Tables, integers
from hindsight.subsystems.readahead.descriptors import (
    ENTER,
    EXEC,
    EXIT,
    FOUND_OPEN,
    NAMED,
    NEW_TASK,
    TASK_ENDS,
    Timeline,
)

TASK_TABLES = (
    "task_newtask",
    "task_rename",
    "sched_process_exec",
    "sched_process_exit",
    "tasks",
    "descriptors",
)
PAGE_TABLES = (
    "mm_filemap_get_pages",
    "mm_filemap_add_to_page_cache",
    "mm_filemap_delete_from_page_cache",
    "mm_filemap_fault",
    "mm_filemap_map_pages",
)
ADDRESS_TABLE = "page_fault_user"

# Where two events bear the same time: what was there before comes first, returns come before entries.
_RANK = {FOUND_OPEN: 0, NAMED: 1, NEW_TASK: 2, EXIT: 3, EXEC: 4, TASK_ENDS: 5, ENTER: 6}


def columns_of(tables: Tables, name: str) -> dict[str, NDArray[Any]] | None:
    """A table's columns, None if it is absent or has no rows."""
    table = tables.get(name)
    if table is None or len(next(iter(table.values()))) == 0:
        return None
    return dict(table)


def thread_ids(tables: Tables) -> NDArray[np.int64]:
    """Every thread id that occurs, sorted; the place of one is its ordinal."""
    seen = [np.zeros(0, np.int64)]
    for name in (*CALL_TABLES, *TASK_TABLES, *PAGE_TABLES):
        table = columns_of(tables, name)
        if table is not None:
            columns = ("pid", "child_pid", "target_pid", "old_pid", "tgid")
            seen += [integers(table[c]) for c in columns if c in table]
    return np.unique(np.concatenate(seen))


class Names(NamedTuple):
    """Names of programs: ``text`` sorted; ``first`` (T,) the first name known of each thread, -1 = none."""

    text: list[str]
    first: NDArray[np.int64]


def build(tables: Tables, calls: Calls, pids: NDArray[np.int64]) -> tuple[Timeline, NDArray[np.int64], Names]:
    """The timeline, the first thread of each thread's process as far as known, and the names."""

    def ordinals(column: NDArray[Any]) -> NDArray[np.int64]:
        return np.searchsorted(pids, integers(column)).astype(np.int64)

    def zeros(count: int) -> NDArray[np.int64]:
        return np.zeros(count, np.int64)

    returned = np.flatnonzero(calls.ret != NO_RESULT)
    count = len(calls.ts)
    rows: list[tuple[int, NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]] = [
        (ENTER, calls.ts, np.arange(count), zeros(count), zeros(count)),
        (EXIT, calls.end[returned], returned, zeros(len(returned)), zeros(len(returned))),
    ]
    named: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]] = []
    if (t := columns_of(tables, "task_newtask")) is not None:
        child = ordinals(t["child_pid"])
        rows.append((NEW_TASK, t["ts"], ordinals(t["pid"]), child, integers(t["clone_flags"])))
        named.append((t["ts"], child, t["comm"]))
    if (t := columns_of(tables, "task_rename")) is not None:
        named.append((t["ts"], ordinals(t["target_pid"]), t["newcomm"]))
    if (t := columns_of(tables, "sched_process_exec")) is not None:
        rows.append((EXEC, t["ts"], ordinals(t["old_pid"]), ordinals(t["target_pid"]), zeros(len(t["ts"]))))
    if (t := columns_of(tables, "sched_process_exit")) is not None:
        rows.append((TASK_ENDS, t["ts"], ordinals(t["target_pid"]), zeros(len(t["ts"])), zeros(len(t["ts"]))))
    leader = np.arange(len(pids), dtype=np.int64)
    if (t := columns_of(tables, "tasks")) is not None:
        leader[ordinals(t["pid"])] = ordinals(t["tgid"])
        named.append((t["ts"], ordinals(t["pid"]), t["comm"]))
    if (t := columns_of(tables, "descriptors")) is not None:
        rows.append((FOUND_OPEN, t["ts"], ordinals(t["pid"]), integers(t["fd"]), np.arange(len(t["ts"]))))

    text = sorted({str(name) for _, _, names in named for name in names})
    code = {name: i for i, name in enumerate(text)}
    first = np.full(len(pids), -1, np.int64)
    if named:
        when = np.concatenate([integers(ts) for ts, _, _ in named])
        who = np.concatenate([task for _, task, _ in named])
        name = np.array([code[str(n)] for _, _, names in named for n in names], np.int64)
        rows.append((NAMED, when, who, name, zeros(len(when))))
        latest_first = np.lexsort((name, when))[::-1]
        first[who[latest_first]] = name[latest_first]
    kind = np.concatenate([np.full(len(r[1]), r[0], np.int64) for r in rows])
    ts = np.concatenate([integers(r[1]) for r in rows])  # type: ignore[arg-type]
    a, b, c = (np.concatenate([integers(r[i]) for r in rows]) for i in (2, 3, 4))  # type: ignore[arg-type]
    rank = np.array([_RANK[k] for k in range(len(_RANK))], np.int64)[kind]
    order = np.lexsort((a, rank, ts))
    return Timeline(ts[order], kind[order], a[order], b[order], c[order]), leader, Names(text, first)
