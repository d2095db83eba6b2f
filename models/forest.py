"""Margins of an ensemble of regression trees, compiled once for every model.

A forest is data: flat arrays that any compiled function can hold. Each float32 is mapped to an unsigned
integer of the same order, so that one comparison of integers decides a node, and NaN needs no branch: every
feature has two *slots*, and a NaN is the smallest key in the slot of the nodes that send it left and the
largest key in the slot of those that send it right.

Eight trees in a row form a group. A group is one implicit binary heap with eight roots, at 8 … 15: the
children of node ``h`` are ``2 h + 1`` (left) and ``2 h`` (right), and all its trees are filled up to the same
depth. So eight independent chains of loads are in flight at a time, and a step costs two loads, a comparison
and an addition. The leaves are added in the order of the trees, in float32, from the base margin on, as
XGBoost does.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hindsight.errors import UsageError

LANES = 8
"""Trees per group. Written out in :func:`margin_of_keys`; 8 was the fastest of 8, 12 and 16."""

_LOW_WORD = np.uint64(0xFFFFFFFF)
_SIGN = np.uint64(0x80000000)
_NAN_LEFT = np.uint64(0)
_NAN_RIGHT = np.uint64(0xFFFFFFFFFFFFFFFF)


class Forest(NamedTuple):
    """An ensemble as :func:`margin_one` walks it. Made by :func:`hindsight.models.trees.load`.

    The type is the same for every model: a new model compiles nothing.
    """

    nodes: NDArray[np.uint64]
    """Per group, ``8 << depth`` nodes in heap order (the first 8 unused): sortable threshold << 32 | slot."""
    leaves: NDArray[np.float32]
    """Per group, ``8 << depth`` leaves."""
    depths: NDArray[np.uint8]
    """Depth of each group."""
    base_margin: np.float32
    """Where the sum starts."""
    n_features: int
    n_trees: int


@njit(cache=True, nogil=True)
def sort_key(value: np.float32) -> np.uint64:
    """The sortable key (u32, zero-extended) of a float32 that is not NaN.

    Order of keys = order of values; -0.0 and 0.0 have one key. Every key is above 0 and below 0xFFFFFFFF.
    """
    # The addition turns -0.0 into 0.0. No branch: the signs of inputs are hard to predict.
    bits = np.uint64(np.float32(value + np.float32(0.0)).view(np.uint32))
    negative = np.uint64(0) - (bits >> np.uint64(31))
    return bits ^ ((negative & _LOW_WORD) | _SIGN)


@njit(cache=True, nogil=True)
def set_keys(x: NDArray[np.float32], first: np.uint64, count: np.uint64, keys: NDArray[np.uint64]) -> None:
    """Write the keys of ``x[:count]`` into ``keys`` as the features ``first`` … ``first + count - 1``.

    ``keys`` has shape (2 * n_features,), dtype uint64. Candidates of one decision that share their first
    features differ in few keys: set the shared ones once, then those of each candidate.
    Nothing is checked: the caller answers for the bounds.
    """
    for j in range(np.uint64(count)):
        value = x[j]
        slot = (np.uint64(first) + j) << np.uint64(1)
        if np.isnan(value):
            keys[slot] = _NAN_LEFT
            keys[slot + np.uint64(1)] = _NAN_RIGHT
        else:
            # A key is compared with threshold << 32 | slot: with its low word full, equal goes right.
            key = (sort_key(value) << np.uint64(32)) | _LOW_WORD
            keys[slot] = key
            keys[slot + np.uint64(1)] = key


@njit(cache=True, nogil=True)
def margin_of_keys(forest: Forest, keys: NDArray[np.uint64]) -> np.float32:
    """The margin of the row whose keys :func:`set_keys` has written (all of them: nothing is checked)."""
    nodes = forest.nodes
    leaves = forest.leaves
    depths = forest.depths
    low = _LOW_WORD
    total = forest.base_margin
    start = np.uint64(0)
    for group in range(np.uint64(depths.size)):
        depth = np.uint64(depths[group])
        a = np.uint64(8)
        b = np.uint64(9)
        c = np.uint64(10)
        d = np.uint64(11)
        e = np.uint64(12)
        f = np.uint64(13)
        g = np.uint64(14)
        h = np.uint64(15)
        for _ in range(depth):
            node = nodes[start + a]
            a = a + a + np.uint64(node > keys[node & low])
            node = nodes[start + b]
            b = b + b + np.uint64(node > keys[node & low])
            node = nodes[start + c]
            c = c + c + np.uint64(node > keys[node & low])
            node = nodes[start + d]
            d = d + d + np.uint64(node > keys[node & low])
            node = nodes[start + e]
            e = e + e + np.uint64(node > keys[node & low])
            node = nodes[start + f]
            f = f + f + np.uint64(node > keys[node & low])
            node = nodes[start + g]
            g = g + g + np.uint64(node > keys[node & low])
            node = nodes[start + h]
            h = h + h + np.uint64(node > keys[node & low])
        width = np.uint64(8) << depth
        first = start - width
        total += leaves[first + a]
        total += leaves[first + b]
        total += leaves[first + c]
        total += leaves[first + d]
        total += leaves[first + e]
        total += leaves[first + f]
        total += leaves[first + g]
        total += leaves[first + h]
        start += width
    return total


@njit(cache=True, nogil=True)
def margin_one(forest: Forest, x: NDArray[np.float32]) -> np.float32:
    """The margin of one row: ``x`` has shape (n_features,), dtype float32; NaN is "missing".

    For compiled callers. Raises ValueError if ``x`` has another length.
    """
    if x.size != forest.n_features:
        raise ValueError("the row has not as many values as the model has features")
    keys = np.empty(2 * forest.n_features, np.uint64)
    set_keys(x, np.uint64(0), np.uint64(forest.n_features), keys)
    return margin_of_keys(forest, keys)


@njit(cache=True, nogil=True)
def _margins(forest: Forest, rows: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    keys = np.empty(2 * forest.n_features, np.uint64)
    for row in range(np.uint64(rows.shape[0])):
        set_keys(rows[row], np.uint64(0), np.uint64(forest.n_features), keys)
        out[row] = margin_of_keys(forest, keys)


def margins(forest: Forest, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The margins of ``rows`` (shape (n, n_features), float32): shape (n,), float32.

    Bit for bit what ``Booster.predict(..., output_margin=True)`` returns for them. NaN is "missing".
    Raises UsageError for another shape or dtype: a silent conversion could cross a threshold.
    """
    if rows.dtype != np.float32:
        raise UsageError(
            f"inputs of a model are float32, not {rows.dtype}", "convert them where they are made"
        )
    if rows.ndim != 2 or rows.shape[1] != forest.n_features:
        raise UsageError(
            f"inputs of shape {rows.shape} for a model of {forest.n_features} features",
            "give a 2-D array with one column per feature, in the order of the manifest",
        )
    out = np.empty(rows.shape[0], np.float32)
    _margins(forest, np.ascontiguousarray(rows), out)
    return out
