"""Why a stream carries no verdict: what its file's history or its own lacks for an exact replay.

Each reason is a property of the record, found from the system calls and the ``mm_filemap_*`` rows, never from
a readahead decision.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hindsight.capture.schema.facts import NOT_IN_KERNEL
from hindsight.subsystems.readahead import calls as sc
from hindsight.subsystems.readahead.calls import integers
from hindsight.subsystems.readahead.descriptors import certain
from hindsight.subsystems.readahead.events import PAGE_TABLES, TASK_TABLES, columns_of
from hindsight.subsystems.readahead.history import History, PageRows
from hindsight.subsystems.readahead.interleaving import groups
from hindsight.subsystems.readahead.pages import PAGE_SHIFT
from hindsight.subsystems.readahead.sizes import changed
from hindsight.subsystems.readahead.state import DECISION_TABLES
from hindsight.subsystems.readahead.warm import cached_before

REASONS = (
    "",
    "baseline unverified: the recorded kernel does not show what it decided",
    "read through a mapping",
    "written or truncated while traced",
    "read by several threads, or for several requests, at the same time",
    "its descriptor cannot be tied to one file",
    "size of the file unknown",
    "position or readahead state unknown",
    "pages were cached before the recording",
    "pages were reclaimed while traced",
    "events were lost",
    "read by other means than read and pread",
    "device unknown",
    "read by sendfile, splice, copy_file_range or io_uring",
    "read through a mapping that is not known",
    "read by several threads at the same time, and not by read calls alone",
    "written or truncated while traced, and its size at some read is not known",
)
"""Index = the ``reason`` of a stream; where several apply, the lowest."""

(
    ELIGIBLE, UNVERIFIED, MAPPED, WRITTEN, SHARED, AMBIGUOUS, UNKNOWN_SIZE, UNKNOWN_STATE, CACHED_BEFORE,
    RECLAIMED, LOST, OTHER_MEANS, UNKNOWN_DEVICE, TRANSFERRED, UNKNOWN_MAPPING, ENTANGLED, UNKNOWN_CHANGE,
) = range(len(REASONS))  # fmt: skip

REPLAYED = frozenset({MAPPED, WRITTEN, CACHED_BEFORE, SHARED, TRANSFERRED, RECLAIMED})
"""Reasons that keep a stream from what-if questions, not from the replay of what happened."""

Flags = NDArray[np.bool_]
Columns = dict[str, NDArray[Any]]
_KNOWN_FLAGS = 1 | 8  # RWF_HIPRI, RWF_NOWAIT (include/uapi/linux/fs.h)
_ADDED, _DELETED, _MET = range(3)


def reasons(
    history: History,
    files: Columns,
    devices: Columns,
    sized: Flags,
    from_ns: NDArray[np.int64],
    to_ns: NDArray[np.int64],
) -> tuple[NDArray[np.int64], Flags]:
    """The reason of each stream (S,), and whether what happened can be replayed exactly all the same (S,).

    ``sized`` (F,): the size of the file is known whenever it matters; ``from_ns`` and ``to_ns``: how long
    each stream was open.
    """
    shared, entangled = _shared(history)
    by_file = {
        MAPPED: np.isin(history.used_files, history.faults.file),
        UNKNOWN_MAPPING: np.isin(history.used_files, history.mapped_files),
        WRITTEN: changed(history),
        UNKNOWN_CHANGE: ~sized,
        SHARED: shared,
        ENTANGLED: entangled,
        UNKNOWN_SIZE: ~files["size_known"],
        CACHED_BEFORE: _cached_before(history),
        RECLAIMED: _reclaimed(history, files, devices),
        OTHER_MEANS: _other_means(history),
        TRANSFERRED: _mark(history, history.file_of_calls(_transfers(history))),
        UNKNOWN_DEVICE: ~devices["known"][files["device_id"].astype(np.int64)],
    }
    applies = {reason: flags[history.stream_file] for reason, flags in by_file.items()}
    described = len(history.described)
    for reason, flags in (
        (AMBIGUOUS, history.ambiguous[history.described]),
        (UNKNOWN_STATE, _unknown_state(history)),
    ):
        applies[reason] = np.zeros(len(from_ns), np.bool_)
        applies[reason][:described] = flags
    unverified = _unverified(history)
    applies[LOST] = _lost(history, from_ns, to_ns, unverified)
    applies[UNVERIFIED] = np.full(len(from_ns), unverified)
    replayable = np.ones(len(from_ns), np.bool_)
    for reason, flags in applies.items():
        if reason not in REPLAYED:
            replayable &= ~flags
    result = np.zeros(len(from_ns), np.int64)
    for reason in sorted(applies, reverse=True):
        result[applies[reason]] = reason
    return result, replayable


def _mark(history: History, places: NDArray[np.int64]) -> Flags:
    """Flags of files, given their places (-1 = none)."""
    flags = np.zeros(len(history.used_files) + 1, np.bool_)
    flags[places] = True
    return flags[:-1]


def _shared(history: History) -> tuple[Flags, Flags]:
    """Files on which several calls or faults were in progress at once; those where not all of them were
    reads that wait, or where one io_uring_enter(2) submitted several.
    """
    ret = history.calls.ret
    acts = (history.is_read & ((ret > 0) | (ret == sc.NO_RESULT))) | (history.is_advice & (ret == 0))
    acts &= history.stream >= 0
    calls = np.flatnonzero(acts | (history.changes_file & (ret >= 0)))
    calls = calls[history.file_of_calls(calls) >= 0]
    known = np.flatnonzero(history.faulted.of >= 0)
    file = np.concatenate([history.file_of_calls(calls), history.file_id[history.faults.file[known]]])
    ts = np.concatenate([history.calls.ts[calls], history.faults.ts[known]])
    end = np.concatenate([history.calls.end[calls], history.fault_end[known]])
    group = groups(file, ts, end)
    waits = np.zeros(len(group), np.bool_)
    waits[: len(calls)] = history.is_read[calls] & (history.calls.c[calls] <= 0)
    mixed = np.zeros(group.max(initial=0) + 2, np.bool_)
    mixed[group[~waits]] = True
    rings = np.flatnonzero(history.is_ring & (history.stream >= 0))
    _, number, size = np.unique(history.calls.c[rings], return_inverse=True, return_counts=True)
    several = _mark(history, history.file_of_calls(rings[size[np.asarray(number).reshape(-1)] > 1]))
    at_once = _mark(history, file[group >= 0])
    return at_once | several, several | _mark(history, file[(group >= 0) & mixed[group]])


def _unknown_state(history: History) -> Flags:
    d, chosen = history.descriptions, history.described
    found = d.found[chosen]
    earlier = (found == -2) | ((found >= 0) & (history.found_pos[np.maximum(found, 0)] != 0))
    reads = history.is_read & (history.stream >= 0) & (history.calls.ret > 0)
    flags = np.maximum(history.calls.c, 0) * np.isin(history.calls.code, (sc.READ, sc.PREAD))
    wrong = reads & ((history.pos < 0) | ((flags & ~_KNOWN_FLAGS) != 0))
    # Every batch of a read lies in it and shows its last page (counts of vectors come from there).
    use = np.flatnonzero(history.inside(history.met, reads))
    call = history.met.call[use]
    pos, last = history.pos[call], history.met.last[use]
    page_after = (pos + history.count[call] + (1 << PAGE_SHIFT) - 1) >> PAGE_SHIFT
    wrong[call[(history.met.index[use] < pos >> PAGE_SHIFT) | (last + 1 != page_after)]] = True
    flags = np.zeros(len(chosen) + 1, np.bool_)
    flags[history.stream[wrong]] = True
    result: Flags = earlier | flags[:-1] | _may_be_shared(history)
    return result


def _may_be_shared(history: History) -> Flags:
    """Streams of files of which some descriptor may name an open file that another one names as well: what is
    read through the one moves the position and the window of the other.
    """
    sure = certain(history.descriptions, history.files.of_table.get("descriptors")) | (history.told >= 0)
    doubtful = np.zeros(len(history.files) + 1, np.bool_)
    doubtful[history.file_of[~sure]] = True
    doubtful[-1] = False  # no file is known
    result: Flags = doubtful[history.file_of[history.described]]
    return result


def _cached_before(history: History) -> Flags:
    """Files of which a read met pages that nobody was seen to put into the cache."""
    warm = cached_before(history)
    return _mark(history, warm.file[warm.read])


def _reclaimed(history: History, files: Columns, devices: Columns) -> Flags:
    """Files whose replay a loss of pages other than by POSIX_FADV_DONTNEED may change.

    A page that was reclaimed matters only if the kernel looks at it again: to serve a read or to fill a
    window, which adds it again, or to count cached pages around a read, no further away than the largest
    window.
    """
    gone = ~history.inside(history.deleted, history.is_dontneed)
    everything = np.ones(1, np.bool_)
    parts: list[tuple[NDArray[np.int64], ...]] = []
    for rows, kind, which in (
        (history.added, _ADDED, everything),
        (history.deleted, _DELETED, gone),
        (history.met, _MET, everything),
    ):
        place = history.file_id[rows.file]
        last = rows.last if kind == _MET else rows.index + (np.int64(1) << rows.order) - 1
        columns = (np.full(len(place), kind), rows.ts, place, rows.index, np.maximum(last, rows.index))
        use = (place >= 0) & which
        parts.append(tuple(column[use] for column in columns))
    kinds, ts, file, first, last = (np.concatenate([p[i] for p in parts]) for i in range(5))
    device = files["device_id"].astype(np.int64)
    # POSIX_FADV_SEQUENTIAL doubles the limit; large requests may be as large as the device takes.
    reach = np.maximum(2 * devices["ra_pages"].astype(np.int64), devices["io_pages"].astype(np.int64))[device]
    touched = kinds != _MET
    extent = np.zeros(len(history.used_files) + 1, np.int64)
    np.maximum.at(extent, file[touched] + 1, last[touched] + 1)
    np.maximum.at(extent, file + 1, first + 1)
    order = np.lexsort((kinds, ts))[::-1]
    return _missed_later(  # type: ignore[no-any-return]
        kinds[order], file[order], first[order], last[order], np.maximum(reach, 1), np.cumsum(extent)
    )


@njit(cache=True, nogil=True)
def _missed_later(kind, file, first, last, reach, base):  # type: ignore[no-untyped-def]
    """Rows backwards in time. ``reach`` (F,): how far, in pages, a read looks; ``base`` (F+1,): where the
    pages of each file begin in flat arrays. Files that lost a page which was added again, or read nearby,
    later.
    """
    added = np.zeros(base[-1], np.bool_)
    read = np.zeros(base[-1], np.bool_)  # by blocks of ``reach`` pages, of which there are no more than pages
    result = np.zeros(base.shape[0] - 1, np.bool_)
    for i in range(kind.shape[0]):
        f = file[i]
        begin, end = base[f], base[f + 1]
        if kind[i] == _ADDED:
            added[begin + first[i] : begin + last[i] + 1] = True
        elif kind[i] == _MET:
            read[begin + first[i] // reach[f] : min(begin + last[i] // reach[f] + 1, end)] = True
        elif not result[f]:
            for page in range(begin + first[i], begin + last[i] + 1):
                result[f] |= added[page]
            for block in range(
                max(begin + first[i] // reach[f] - 1, begin), min(begin + last[i] // reach[f] + 2, end)
            ):
                result[f] |= read[block]
    return result


def _other_means(history: History) -> Flags:
    def outside(rows: PageRows, which: Flags, besides: Flags | None = None) -> NDArray[np.int64]:
        inside = history.inside(rows, which)
        return history.file_id[rows.file[~(inside if besides is None else inside | besides)]]

    transfers = _transfers(history)
    at_unknown = transfers[(history.pos[transfers] < 0) | (history.count[transfers] < 0)]
    return (
        _mark(history, outside(history.met, _moves_pages(history)))
        | _mark(
            history,
            outside(
                history.added,
                _moves_pages(history) | history.is_advice | history.changes_file,
                history.in_fault(history.added),
            ),
        )
        | _mark(history, history.file_of_calls(at_unknown))
    )


def _transfers(history: History) -> NDArray[np.int64]:
    return np.flatnonzero(history.is_transfer | history.is_ring)


def _moves_pages(history: History) -> Flags:
    return history.is_read | history.is_transfer | history.is_ring


def _unverified(history: History) -> bool:
    """Whether the recorded kernel could not show some kind of decision: there is nothing to compare with."""
    losses = columns_of(history.tables, "losses")
    if losses is None:
        return False
    decisions = {f"readahead/{name}" for name in DECISION_TABLES}
    return any(
        cause == NOT_IN_KERNEL and event in decisions
        for cause, event in zip(losses["cause"], losses["event"], strict=True)
    )


def _lost(history: History, from_ns: NDArray[np.int64], to_ns: NDArray[np.int64], unverified: bool) -> Flags:
    """Streams in whose life events were lost that the replay needs. Where the recorded kernel does not show
    its decisions, that says more than what else it does not show.
    """
    flags = np.zeros(len(from_ns), np.bool_)
    losses = columns_of(history.tables, "losses")
    if losses is None:
        return flags
    needed = {*sc.CALL_TABLES, *PAGE_TABLES, *TASK_TABLES} - {"mm_filemap_map_pages"}
    most = integers(losses["count_upper"])
    columns = (losses["from_ns"].tolist(), losses["to_ns"].tolist(), most.tolist())
    for event, cause, begin, end, count in zip(losses["event"], losses["cause"], *columns, strict=True):
        if unverified and cause == NOT_IN_KERNEL:
            continue
        if count != 0 and (not isinstance(event, str) or not event or event.split("/")[-1] in needed):
            flags |= (from_ns <= end) & (to_ns >= begin)
    return flags
