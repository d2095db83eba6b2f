"""System calls of a capture as one list: each call with its entry, its exit, its arguments and its result.

The recorded tables hold entries and exits apart, one pair of tables per system call. Here they are paired by
thread, coded, and put in order, so that the history of descriptors can be followed by compiled code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Columns = Mapping[str, NDArray[Any]]
Tables = Mapping[str, Columns]

(
    READ, PREAD, WRITE, PWRITE, OPEN, CLOSE, CLOSE_RANGE, DUP, DUP2, FCNTL, SEEK, FADVISE, READAHEAD,
    TRUNCATE, TRANSFER, UNSHARE, RING, COPY, RING_READ, MMAP, MUNMAP, MADVISE,
) = range(22)  # fmt: skip

UNKNOWN = np.int64(-1)
"""An argument, a result or a position that is not known."""
NO_RESULT = np.int64(-(1 << 62))
"""Result of a call whose return was not recorded."""


CODES = 22
RING_READ_CALL = 12
"""``call`` of the rows of ``file_reads`` that are reads of an io_uring."""


class _Layout(NamedTuple):
    code: int
    fd: str = ""
    a: str = ""
    b: str = ""
    c: str = ""


# What each call's arguments mean here: fd, then a, b, c in the columns of Calls.
_LAYOUTS: dict[str, _Layout] = {
    "read": _Layout(READ, "fd", "count"),
    "readv": _Layout(READ, "fd"),
    "pread64": _Layout(PREAD, "fd", "count", "pos"),
    "preadv": _Layout(PREAD, "fd", "", "pos_l"),
    "preadv2": _Layout(PREAD, "fd", "", "pos_l", "flags"),
    "write": _Layout(WRITE, "fd", "count"),
    "writev": _Layout(WRITE, "fd"),
    "pwrite64": _Layout(PWRITE, "fd", "count", "pos"),
    "open": _Layout(OPEN, "", "flags"),
    "openat": _Layout(OPEN, "", "flags"),
    "openat2": _Layout(OPEN),
    "creat": _Layout(OPEN),
    "close": _Layout(CLOSE, "fd"),
    "close_range": _Layout(CLOSE_RANGE, "fd", "max_fd", "flags"),
    "dup": _Layout(DUP, "fildes"),
    "dup2": _Layout(DUP2, "oldfd", "newfd"),
    "dup3": _Layout(DUP2, "oldfd", "newfd", "flags"),
    "fcntl": _Layout(FCNTL, "fd", "cmd", "arg"),
    "lseek": _Layout(SEEK, "fd", "offset", "whence"),
    "fadvise64": _Layout(FADVISE, "fd", "len", "offset", "advice"),
    "readahead": _Layout(READAHEAD, "fd", "count", "offset"),
    "ftruncate": _Layout(TRUNCATE, "fd", "length"),
    "sendfile64": _Layout(TRANSFER, "in_fd", "out_fd"),
    "splice": _Layout(TRANSFER, "fd_in", "fd_out"),
    "copy_file_range": _Layout(COPY, "fd_in", "fd_out"),
    "unshare": _Layout(UNSHARE, "", "unshare_flags"),
    "io_uring_enter": _Layout(RING, "fd"),
    "mmap": _Layout(MMAP, "fd", "len", "off", "prot"),
    "munmap": _Layout(MUNMAP, "", "len", "addr"),
    "madvise": _Layout(MADVISE, "", "len_in", "start", "behavior"),
}

CALL_TABLES = tuple(f"sys_{side}_{name}" for name in _LAYOUTS for side in ("enter", "exit"))
"""Tables that are read here."""


class Calls(NamedTuple):
    """Calls sorted by (ts, task); arrays of shape (N,)."""

    ts: NDArray[np.int64]
    """Entry, ns."""
    end: NDArray[np.int64]
    """Exit, ns; the last moment of the capture where no exit was recorded."""
    task: NDArray[np.int64]
    """Ordinal of the thread."""
    code: NDArray[np.int64]
    fd: NDArray[np.int64]
    a: NDArray[np.int64]
    """Bytes asked for, or mapped; flags of open and unshare; cmd of fcntl; second descriptor; or UNKNOWN."""
    b: NDArray[np.int64]
    """Offset in bytes; address of munmap and madvise; argument of fcntl; flags of dup3 and close_range; or
    UNKNOWN.
    """
    c: NDArray[np.int64]
    """Advice; flags of preadv2; protection of mmap; or UNKNOWN."""
    ret: NDArray[np.int64]
    """Result; NO_RESULT where none was recorded."""


def integers(column: NDArray[Any], missing: int = -1) -> NDArray[np.int64]:
    """A column as int64, with ``missing`` where it is null (None, NaN or masked); u64 wraps as in C."""
    if isinstance(column, np.ma.MaskedArray):
        column = column.filled(missing)
    if column.dtype.kind == "O":
        return np.array([missing if v is None or v != v else int(v) for v in column], np.int64)
    if column.dtype.kind == "f":
        return np.where(np.isnan(column), missing, column).astype(np.int64)
    return column.astype(np.int64)


def span_of(
    key_task: NDArray[np.int64],
    key_ts: NDArray[np.int64],
    task: NDArray[np.int64],
    ts: NDArray[np.int64],
    end: NDArray[np.int64],
) -> NDArray[np.int64]:
    """For each moment of a thread, the span of that thread that contains it (ordinal), -1 if none does.

    Spans of one thread must not overlap. Shapes: (K,), (K,) and (N,), (N,), (N,); result (K,) int64.
    """
    if len(ts) == 0 or len(key_ts) == 0:
        return np.full(len(key_ts), -1, np.int64)
    order = np.lexsort((ts, task))
    origin = min(int(ts.min()), int(key_ts.min()))
    bits = int(max(int(ts.max()), int(key_ts.max())) - origin).bit_length()
    if bits + int(max(task.max(), key_task.max())).bit_length() > 62:
        raise OverflowError("the capture is too long for its number of threads")
    keys = (task[order] << bits) | (ts[order] - origin)
    wanted = (np.maximum(key_task, 0) << bits) | (key_ts - origin)
    at = np.searchsorted(keys, wanted, side="right") - 1
    found = order[np.maximum(at, 0)]
    hit = (at >= 0) & (key_task >= 0) & (task[found] == key_task) & (end[found] >= key_ts)
    return np.where(hit, found, -1)


def _side(tables: Tables, side: str) -> dict[str, NDArray[np.int64]]:
    parts: dict[str, list[NDArray[np.int64]]] = {
        k: [] for k in ("ts", "pid", "name", "fd", "a", "b", "c", "ret")
    }
    for ordinal, (name, layout) in enumerate(_LAYOUTS.items()):
        table = tables.get(f"sys_{side}_{name}")
        if table is None or len(table["ts"]) == 0:
            continue
        count = len(table["ts"])
        parts["ts"].append(integers(table["ts"]))
        parts["pid"].append(integers(table["pid"]))
        parts["name"].append(np.full(count, ordinal, np.int64))
        for column in ("fd", "a", "b", "c"):
            field = getattr(layout, column) if side == "enter" else ""
            parts[column].append(integers(table[field]) if field else np.full(count, UNKNOWN))
        parts["ret"].append(integers(table["ret"]) if side == "exit" else np.full(count, NO_RESULT))
    return {k: np.concatenate(v) if v else np.zeros(0, np.int64) for k, v in parts.items()}


def collect(tables: Tables, pids: NDArray[np.int64], last_ns: int) -> Calls:
    """All calls of a capture. ``pids``: sorted thread ids (T,), whose places are the ordinals; ``last_ns``:
    the end of a call that was not seen to return.
    """
    enter, leave = _side(tables, "enter"), _side(tables, "exit")
    count = len(enter["ts"])
    merged = {k: np.concatenate([enter[k], leave[k]]) for k in enter}
    is_exit = np.concatenate([np.zeros(count, np.bool_), np.ones(len(leave["ts"]), np.bool_)])
    order = np.lexsort((is_exit, merged["ts"], merged["pid"]))
    # An entry belongs to the exit that follows it in its thread, if that is of the same call.
    first, second = order[:-1], order[1:]
    paired = (
        ~is_exit[first]
        & is_exit[second]
        & (merged["pid"][first] == merged["pid"][second])
        & (merged["name"][first] == merged["name"][second])
    )
    end = np.full(count, last_ns, np.int64)
    ret = np.full(count, NO_RESULT, np.int64)
    # A call that did not return ends at the latest with the next call of its thread.
    follows = ~is_exit[first] & (merged["pid"][first] == merged["pid"][second])
    end[first[follows]] = merged["ts"][second[follows]]
    end[first[paired]] = merged["ts"][second[paired]]
    ret[first[paired]] = merged["ret"][second[paired]]
    task = np.searchsorted(pids, enter["pid"]).astype(np.int64)
    codes = np.array([layout.code for layout in _LAYOUTS.values()], np.int64)
    code = codes[enter["name"]]
    # preadv2 at offset -1 reads at the file position.
    code = np.where((code == PREAD) & (enter["b"] == -1), READ, code)
    columns = (enter["ts"], end, task, code, enter["fd"], enter["a"], enter["b"], enter["c"], ret)
    return _sorted(_with_ring_reads(_sorted(Calls(*columns)), tables, pids))


def _sorted(calls: Calls) -> Calls:
    order = np.lexsort((calls.task, calls.ts))
    return Calls(*(np.ascontiguousarray(column[order]) for column in calls))


def _with_ring_reads(calls: Calls, tables: Tables, pids: NDArray[np.int64]) -> Calls:
    """Reads that were submitted to an io_uring (``file_reads``), in place of the io_uring_enter(2) that did.

    The first one lasts from the entry to the second, the last one to the return. ``c``: the ordinal of the
    io_uring_enter within the capture. Reads that a kernel thread submitted are left out.
    """
    rows = tables.get("file_reads")
    if rows is None or len(rows["ts"]) == 0:
        return calls
    use = (integers(rows["call"]) == RING_READ_CALL) & (integers(rows["fd"]) >= 0)
    use &= np.isin(integers(rows["pid"]), pids)
    ts, pid, fd, pos, count = (integers(rows[c])[use] for c in ("ts", "pid", "fd", "pos", "count"))
    task = np.searchsorted(pids, pid).astype(np.int64)
    rings = np.flatnonzero(calls.code == RING)
    inside = span_of(task, ts, calls.task[rings], calls.ts[rings], calls.end[rings])
    known = inside >= 0
    enter = rings[np.maximum(inside, 0)][known] if len(rings) else np.zeros(0, np.int64)
    ts, task, fd, pos, count = (x[known] for x in (ts, task, fd, pos, count))
    order = np.lexsort((ts, enter))
    ts, task, fd, pos, count, enter = (x[order] for x in (ts, task, fd, pos, count, enter))
    last = np.append(enter[1:] != enter[:-1], True) if len(enter) else np.zeros(0, np.bool_)
    begin = np.where(np.append(True, last[:-1]) if len(enter) else last, calls.ts[enter], ts)
    end = np.where(last, calls.end[enter], np.append(begin[1:], 0) - 1)
    code = np.full(len(ts), RING_READ)
    kept = np.ones(len(calls.ts), np.bool_)
    kept[enter] = False
    reads = Calls(begin, end, task, code, fd, count, pos, enter, count)
    return Calls(*(np.concatenate([old[kept], new]) for old, new in zip(calls, reads, strict=True)))
