"""Open file descriptions as the kernel itself told them (``record --open-files``), in place of what follows
from system calls.

The walk of descriptors (:mod:`descriptors`) stays what ties opens and closes together. Where it says of a
call what the kernel says, its description is kept; where the two disagree, or the walk knows nothing, the
kernel's word counts. So the position of every read, and the bytes that vectors and transfers ask for, are
known.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hindsight.subsystems.readahead import identity
from hindsight.subsystems.readahead.calls import Calls, Tables, integers
from hindsight.subsystems.readahead.descriptors import Descriptions

_NO_COUNT = -1  # 2^64 - 1: the call has no such argument


class Told(NamedTuple):
    """What is known of each call and each description with the kernel's help."""

    descriptions: Descriptions
    of: NDArray[np.int64]
    """(N,) description of each call, -1 = none."""
    pos: NDArray[np.int64]
    """(N,) byte where a call acts, -1 = not told."""
    asked: NDArray[np.int64]
    """(N,) bytes that it asks for, -1 = not told."""
    size: NDArray[np.int64]
    """(N,) bytes that its file had when it began, -1 = not told."""
    files: NDArray[np.int64]
    """(D, 3) major, minor and inode of the descriptions of which the kernel told, -1 of others."""


def merge(
    tables: Tables,
    calls: Calls,
    pids: NDArray[np.int64],
    first_name: NDArray[np.int64],
    descriptions: Descriptions,
    of: NDArray[np.int64],
) -> Told:
    """Put the rows of ``file_reads`` in; without such rows nothing changes.

    ``pids`` (T,) sorted thread ids, ``first_name`` (T,) the first known name of each; ``of`` (N,) the walk's
    description of each call.
    """
    row = identity.rows_of_calls(tables, calls, pids)
    none = np.full(len(of), -1, np.int64)
    count = len(descriptions.from_ns)
    if not (row >= 0).any():
        return Told(descriptions, of, none, none, none, np.full((count, 3), -1, np.int64))
    table = tables["file_reads"]
    at = np.maximum(row, 0)
    ordinal = np.where(row >= 0, integers(table["ordinal"])[at], identity.NOT_KNOWN)
    files = identity.open_files(tables)
    # (An open file of which the description was lost is not known.)
    told = np.flatnonzero((ordinal != identity.NOT_KNOWN) & np.isin(ordinal, files["ordinal"]))
    pos, asked, size = none.copy(), none.copy(), none.copy()
    pos[told] = integers(table["pos"])[at[told]]
    asked[told] = integers(table["count"])[at[told]]
    if "i_size" in table:
        size[told] = integers(table["i_size"], -1)[at[told]]

    if len(told) == 0:
        return Told(descriptions, of, pos, asked, size, np.full((count, 3), -1, np.int64))
    place = np.searchsorted(files["ordinal"], ordinal[told])
    kept = _same(of[told], count, place, len(files["ordinal"]))
    fresh = np.flatnonzero(np.bincount(place, minlength=len(kept)).astype(np.bool_) & (kept < 0))
    number = kept.copy()
    number[fresh] = count + np.arange(len(fresh))
    result = of.copy()
    result[told] = number[place]
    first = np.zeros(len(kept), np.int64)
    first[place[::-1]] = told[::-1]
    reader = calls.task[first[fresh]]
    pristine = _pristine(tables, files["ordinal"])
    unread = kept[(kept >= 0) & pristine]
    descriptions = descriptions._replace(found=descriptions.found.copy())
    descriptions.found[unread] = -1
    more = Descriptions(
        files["from_ns"][fresh],
        files["to_ns"][fresh],
        files["flags"][fresh],
        np.full(len(fresh), -1, np.int64),
        np.where(pristine[fresh], -1, -2),
        np.ones(len(fresh), np.int64),
        first_name[reader],
        reader,
    )
    joined = Descriptions(*(np.concatenate(pair) for pair in zip(descriptions, more, strict=True)))
    of_file = np.full((count + len(fresh), 3), -1, np.int64)
    known = number >= 0
    of_file[number[known]] = np.stack([files[c][known] for c in identity.FILE], axis=1)
    return Told(joined, result, pos, np.where(asked == _NO_COUNT, -1, asked), size, of_file)


def _same(
    walk: NDArray[np.int64], descriptions: int, place: NDArray[np.int64], files: int
) -> NDArray[np.int64]:
    """For each open file (K,) the walk's description that stands for it alone and has its calls alone, -1 if
    there is none; ``walk`` and ``place`` (M,): the two names of each call.
    """
    high, low = np.full(files, -2, np.int64), np.full(files, descriptions, np.int64)
    np.maximum.at(high, place, walk)
    np.minimum.at(low, place, walk)
    most, least = np.full(descriptions + 1, -1, np.int64), np.full(descriptions + 1, files, np.int64)
    np.maximum.at(most, walk, place)
    np.minimum.at(least, walk, place)
    candidate = np.maximum(high, -1)
    alone = (high == low) & (candidate >= 0) & (most[candidate] == least[candidate])
    return np.where(alone, candidate, -1)


def _pristine(tables: Tables, ordinals: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which open files (K,) had not been read when they were met first."""
    opens = tables["opens"]
    order = np.lexsort((integers(opens["ts"]), integers(opens["ordinal"])))
    _, first = np.unique(integers(opens["ordinal"])[order], return_index=True)
    row = order[first]
    read = integers(opens["prev_pos"])[row] >= 0
    window = integers(opens["size"])[row] > 0
    result: NDArray[np.bool_] = ~read & ~window
    assert len(result) == len(ordinals)
    return result
