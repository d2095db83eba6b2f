"""The exogenous demand of one capture: what was asked of which open file, independent of what the kernel
decided.

It comes from the system calls; ``mm_filemap_*`` rows serve to tie a descriptor to its inode (:mod:`history`)
and to find the streams whose history is not complete (:mod:`verdict`). No table of readahead decisions is
read here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.errors import ConfigurationError
from hindsight.subsystems.readahead import calls as sc
from hindsight.subsystems.readahead import events, facts, replay, verdict
from hindsight.subsystems.readahead.changes import admitted, changes
from hindsight.subsystems.readahead.history import History
from hindsight.subsystems.readahead.operations import (
    CLOSE,
    FADVISE,
    FAULT,
    FAULT_AGAIN,
    KIND_OF_CALL,
    MAP,
    NO_RESULT,
    OPEN,
    READ,
    READAHEAD,
    TRUNCATE,
    WRITE,
)
from hindsight.subsystems.readahead.ordering import choose, hypotheses
from hindsight.subsystems.readahead.pages import PAGE_SHIFT
from hindsight.subsystems.readahead.sizes import sizes

TABLES = (
    *sc.CALL_TABLES,
    *events.TASK_TABLES,
    *events.PAGE_TABLES,
    events.ADDRESS_TABLE,
    "captures",
    "devices",
    "files",
    "clock_anchors",
    "losses",
    "opens",
    "file_reads",
    "file_releases",
)
"""Tables from which the demand comes; none of them holds a decision."""

_WITH_FLAGS = (sc.FADVISE, sc.READ, sc.PREAD)

Columns = dict[str, NDArray[Any]]


def build(tables: sc.Tables) -> dict[str, Columns]:
    """The demand of one capture.

    - ``ops``: one row per operation on a stream, sorted by (ts, task): ts, end (ns), task, stream, kind, pos,
      count, ret (bytes; count of a FAULT: to the end of its mapping, ret: whether it is a retry; of a MAP, a
      fault-around: its mapping), advice (of a READ: its RWF_ flags, of a FAULT: what its mapping is, or -1),
      together (a number that the reads of one io_uring_enter(2) have in common, -1 of others), size (bytes
      that its file has when it begins, -1 = as ``files`` says, or unknown);
    - ``streams``: one row per open file description that read a file through the page cache or advised on
      one, in order of opening, then one per file that was read through a mapping;
    - ``files``, ``devices``, ``tasks``, ``captures``: facts, by the ordinals that the others use;
    - ``changes``: folios that came into the page cache, or left it, by no readahead (:mod:`changes`);
    - ``steps``: of reads of one file at the same time, in which order they went on (:mod:`interleaving`);
    - ``admitted``: folios that operations added while they had to reclaim others;
    - ``others``: (ts, end, task) of calls that may have read a file and belong to no stream.

    Raises ConfigurationError if the tables hold no system calls.
    """
    if not any(events.columns_of(tables, name) for name in sc.CALL_TABLES):
        raise ConfigurationError(
            "the capture holds no system calls, so its demand cannot be told from the kernel's decisions",
            "record with the readahead profile, which traces the system calls of the command",
        )
    history = History({name: tables[name] for name in TABLES if name in tables})
    devices = facts.devices(history)
    files = facts.files(history, devices)
    use, ops = _ops(history)
    known = sizes(history, ops, history.stream_file, files["size"])
    ops["size"] = known.of_ops
    files["size"] = np.maximum(files["size"], known.largest)
    demand = {
        "ops": ops,
        "streams": _streams(history, ops, files, devices, known.known),
        "files": files,
        "devices": devices,
        "tasks": _tasks(history),
        "others": _others(history),
        "captures": {"kernel_release": np.array([history.release], object)},
        "changes": changes(history, ops, use, history.stream_file),
        "admitted": admitted(history, ops, use, history.stream_file),
    }
    orders = hypotheses(history, ops, use)
    demand["steps"] = orders[0]
    _refute_large_folios(history, demand)
    demand["steps"] = choose(demand, orders)
    return demand


def _refute_large_folios(history: History, demand: dict[str, Columns]) -> None:
    """Where large folios are expected of a file system but none was added, although the reads would have led
    to some: it has none (an older kernel, or ext4 with data=journal).
    """
    files, streams = demand["files"], demand["streams"]
    seen = facts.device_has_large_folios(history, demand["devices"])
    doubtful = (files["max_order"] > 0) & ~seen[files["device_id"].astype(np.int64)]
    judged = np.unique(streams["file_id"][streams["replayable"]])
    if not doubtful[judged].any():
        return
    expected = np.zeros(len(doubtful), np.bool_)
    expected[judged] = (replay.largest_folios(demand) > 0)[judged] & doubtful[judged]
    refuted = np.unique(files["device_id"][expected])
    files["max_order"][np.isin(files["device_id"], refuted)] = 0


def _program(history: History, names: NDArray[np.int64]) -> NDArray[Any]:
    default = history.fact("captures", "program", "")
    return np.array([history.names.text[i] if i >= 0 else default for i in names.tolist()], object)


def _tasks(history: History) -> Columns:
    """Threads in order of id; ``calls``: how many of its calls were recorded."""
    return {
        "pid": history.pids.astype(np.int32),
        "program": _program(history, history.names.first),
        "calls": np.bincount(history.calls.task, minlength=len(history.pids)).astype(np.uint64),
    }


def _others(history: History) -> Columns:
    use = (history.is_reader | (history.calls.code == sc.RING)) & (history.stream < 0)
    calls = history.calls
    return {"ts": calls.ts[use], "end": calls.end[use], "task": calls.task[use].astype(np.uint32)}


def _ops(history: History) -> tuple[NDArray[np.int64], Columns]:
    """The call of each operation (-1 = a fault), and the operations."""
    kind_of = np.full(sc.CODES, -1, np.int64)
    for code, kind in KIND_OF_CALL.items():
        kind_of[code] = kind
    calls, faults = history.calls, history.faults
    use = np.flatnonzero((history.stream >= 0) & (kind_of[calls.code] >= 0))
    zeros, faulted = np.zeros(len(faults.ts), np.int64), history.faulted
    unknown = len(history.described) + np.searchsorted(history.mapped_files, faults.file)
    of_faults = np.where(faulted.of >= 0, history.stream_of[faulted.of], unknown)
    went = np.flatnonzero(history.stream_of[history.went_around.of] >= 0)
    around = history.around
    numbers = np.unique(history.went_around.mapping[went], return_inverse=True)[1]
    mapping = np.asarray(numbers).reshape(-1).astype(np.int64)
    left = np.where(faulted.of >= 0, faulted.beyond - faults.index, 1)
    parts = {
        "ts": (calls.ts[use], faults.ts, around.ts[went]),
        "end": (calls.end[use], history.fault_end, around.ts[went]),
        "task": (calls.task[use], faults.task, around.task[went]),
        "stream": (history.stream[use], of_faults, history.stream_of[history.went_around.of[went]]),
        "kind": (kind_of[calls.code[use]], zeros + FAULT, np.full(len(went), MAP)),
        "pos": (history.pos[use], faults.index << PAGE_SHIFT, around.index[went] << PAGE_SHIFT),
        "count": (
            history.count[use], left << PAGE_SHIFT, (around.last - around.index + 1)[went] << PAGE_SHIFT
        ),
        "ret": (_moved(history)[use], np.where(history.fault_again, FAULT_AGAIN, zeros), mapping),
        "together": (np.where(calls.code[use] == sc.RING_READ, calls.c[use], -1), zeros - 1, mapping * 0 - 1),
        "advice": (
            np.where(np.isin(calls.code[use], _WITH_FLAGS), calls.c[use], -1), faulted.flags, mapping * 0 - 1
        ),
    }  # fmt: skip
    joined = {name: np.concatenate(columns) for name, columns in parts.items()}
    order = np.lexsort((joined["kind"], joined["task"], joined["ts"]))
    call = np.concatenate([use, zeros - 1, mapping * 0 - 1])[order]
    dtypes: dict[str, Any] = {"task": np.uint32, "stream": np.uint32, "kind": np.uint8, "advice": np.int32}
    return call, {name: column[order].astype(dtypes.get(name, np.int64)) for name, column in joined.items()}


def _moved(history: History) -> NDArray[np.int64]:
    """Result of each call (N,), 0 of a copy that read nothing: extents were shared (FICLONE), not copied."""
    calls = history.calls
    met = np.zeros(len(calls.ts), np.bool_)
    met[history.met.call[history.met.call >= 0]] = True
    return np.where((calls.code == sc.COPY) & ~met, np.minimum(calls.ret, 0), calls.ret)


def _streams(
    history: History, ops: Columns, files: Columns, devices: Columns, sized: NDArray[np.bool_]
) -> Columns:
    d, chosen = history.descriptions, history.described
    file, mapped = history.stream_file, len(history.mapped_files)
    count = len(file)
    stream = ops["stream"].astype(np.int64)
    from_ns = np.full(count, history.last_ns, np.int64)
    np.minimum.at(from_ns, stream, ops["ts"])
    from_ns[: len(chosen)] = d.from_ns[chosen]
    to_ns = from_ns.copy()
    np.maximum.at(to_ns, stream, ops["end"])
    closed = np.where(d.to_ns[chosen] >= 0, d.to_ns[chosen], history.last_ns)
    to_ns[: len(chosen)] = np.maximum(to_ns[: len(chosen)], closed)

    reads = ops["kind"] == READ
    duration, moved = np.zeros(count, np.int64), np.zeros(count, np.int64)
    np.add.at(duration, stream[reads], (ops["end"] - ops["ts"])[reads])
    np.add.at(moved, stream[reads], np.maximum(ops["ret"][reads], 0))

    first_fault = np.zeros(mapped, np.int64)
    faults = history.faults
    backwards = np.argsort(faults.ts, kind="stable")[::-1]
    backwards = backwards[np.isin(faults.file[backwards], history.mapped_files)]
    place = np.searchsorted(history.mapped_files, faults.file[backwards])
    first_fault[place] = faults.task[backwards]
    owner = np.concatenate([d.process[chosen], first_fault])
    name = np.concatenate([d.name[chosen], np.full(mapped, -1, np.int64)])
    name = np.where(name >= 0, name, history.names.first[owner])

    device = files["device_id"][file].astype(np.int64)
    numbers = [files[c][file].tolist() for c in ("s_dev_major", "s_dev_minor", "i_ino")]
    reason, replayable = verdict.reasons(history, files, devices, sized, from_ns, to_ns)
    return {
        "device": devices["name"][device],
        "program": _program(history, name),
        "file": np.array(
            [f"{major}:{minor}/{ino}" for major, minor, ino in zip(*numbers, strict=True)], object
        ),
        "eligible": reason == verdict.ELIGIBLE,
        "reason": reason.astype(np.uint8),
        "replayable": replayable,
        "recorded_ns": duration,
        "file_id": file.astype(np.uint32),
        "device_id": device.astype(np.uint32),
        "flags": np.concatenate([d.flags[chosen], np.zeros(mapped, np.int64)]).astype(np.int32),
        "ra_pages": devices["ra_pages"][device],
        "io_pages": devices["io_pages"][device],
        "from_ns": from_ns,
        "to_ns": to_ns,
        "reads": np.bincount(stream[reads], minlength=count).astype(np.uint64),
        "bytes": moved.astype(np.uint64),
    }


__all__ = [
    "CLOSE",
    "FADVISE",
    "FAULT",
    "NO_RESULT",
    "OPEN",
    "READ",
    "READAHEAD",
    "TABLES",
    "TRUNCATE",
    "WRITE",
    "build",
]
