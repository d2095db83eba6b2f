"""XGBoost's tree ensembles as data that compiled code walks, with the very bits of XGBoost.

:func:`load` lets XGBoost itself read the model, takes the trees from its JSON form, lays them out
(:mod:`hindsight.models.forest`), and holds the result against XGBoost's own margins on rows made of the
model's thresholds: a model that is not reproduced exactly is refused, never approximated. Pickles are never
read.

The margin is the sum before the link function. Decide on it: the probability adds a rounding of its own.
Train with a fixed ``base_score``: one that XGBoost estimates passes through its logarithm, whose last bit
depends on the machine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hindsight.errors import ConfigurationError, VerificationError
from hindsight.models.forest import (
    LANES,
    Forest,
    margin_of_keys,
    margin_one,
    margins,
    set_keys,
    sort_key,
)

if TYPE_CHECKING:
    from xgboost import Booster

__all__ = ["Forest", "load", "margin_of_keys", "margin_one", "margins", "set_keys"]

MAX_DEPTH = 12
"""Trees are filled up to the depth of their group, so memory doubles with each level."""

MAX_FEATURES = 4096
MAX_SLOTS = 1 << 24
"""Nodes of all groups together, filled up: 128 MiB."""

_CHECK_ROWS = 4096

Source = str | os.PathLike[str] | bytes | bytearray


@dataclass(frozen=True)
class _Tree:
    """One tree of the JSON form: parallel arrays, indexed by node; -1 as child marks a leaf."""

    left: Sequence[int]
    right: Sequence[int]
    feature: Sequence[int]
    threshold: NDArray[np.float32]
    default_left: Sequence[int]

    def depth(self, position: int) -> int:
        """The depth; refuses children that do not exist, and what is deeper than MAX_DEPTH."""
        deepest = 0
        stack = [(0, 0)]
        while stack:
            node, depth = stack.pop()
            if not 0 <= node < len(self.left):
                raise VerificationError(f"tree {position} of the model names a node that it has not")
            if self.left[node] == -1:
                deepest = max(deepest, depth)
                continue
            if depth == MAX_DEPTH:
                raise ConfigurationError(
                    f"tree {position} of the model is deeper than {MAX_DEPTH}",
                    f"train with max_depth between 1 and {MAX_DEPTH}",
                )
            stack += [(self.left[node], depth + 1), (self.right[node], depth + 1)]
        return deepest


def load(source: Source | Booster) -> Forest:
    """The ensemble of an XGBoost model: a path, the bytes of a saved model (UBJSON or JSON), or a Booster.

    XGBoost reads the model; a corrupt file can crash the process, so check hashes and signature first
    (:func:`hindsight.models.package.verify` does, and loads in a child process).

    Raises ConfigurationError for a model of another kind (dart, gblinear, categorical splits, several
    outputs, too deep), VerificationError for what is not a model or is not reproduced bit for bit.
    """
    booster = open_booster(source)
    document = json.loads(bytes(booster.save_raw("json")))
    learner = document["learner"]
    n_features, trees = _read(learner)
    forest = _lay_out(trees, _base_margin(document, n_features), n_features)
    _check(forest, booster, trees)
    return forest


def open_booster(source: Source | Booster) -> Booster:
    """The model as XGBoost reads it, single-threaded; a Booster is returned as it is.

    Raises ConfigurationError if the file cannot be read, VerificationError if XGBoost refuses it.
    """
    import xgboost

    if isinstance(source, xgboost.Booster):
        return source
    if isinstance(source, (bytes, bytearray)):
        name, data = "the model", bytes(source)
    else:
        name = os.fspath(source)
        try:
            data = Path(source).read_bytes()
        except OSError as error:
            raise ConfigurationError(f"{name}: {error.strerror}", "give the path of a saved model") from None
    # Anything else could reach XGBoost's readers of abandoned formats.
    if data[:1] != b"{":
        raise VerificationError(f"{name} is not an XGBoost model in UBJSON or JSON", "save it as model.ubj")
    booster = xgboost.Booster({"nthread": 1})
    try:
        booster.load_model(bytearray(data))
    except (xgboost.core.XGBoostError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise VerificationError(f"{name}: XGBoost cannot read it: {reason}", "save the model again") from None
    return booster


def xgboost_version(booster: Booster) -> str:
    """The release of XGBoost that the model carries, as "3.2.0"."""
    document = json.loads(bytes(booster.save_raw("json")))
    return ".".join(str(part) for part in document["version"])


def _refuse(what: str, remedy: str) -> ConfigurationError:
    return ConfigurationError(f"the model {what}, which tree inference does not support", remedy)


def _read(learner: dict[str, Any]) -> tuple[int, list[_Tree]]:
    """Number of features and the trees in their order, or the reason why this kind of model is refused."""
    booster = learner["gradient_booster"]
    if booster["name"] != "gbtree":
        raise _refuse(f"is of the kind {booster['name']!r}", "train with booster=gbtree")
    sizes = learner["learner_model_param"]
    if int(sizes["num_class"]) > 1 or int(sizes["num_target"]) > 1:
        raise _refuse("has several outputs", "train one regressor with the action among its features")
    n_features = int(sizes["num_feature"])
    if not 1 <= n_features <= MAX_FEATURES:
        raise _refuse(f"has {n_features} features", f"train with 1 to {MAX_FEATURES} features")
    model = booster["model"]
    if any(group != 0 for group in model["tree_info"]):
        raise _refuse("has several output groups", "train one regressor with the action among its features")
    return n_features, [_tree(tree, k, n_features) for k, tree in enumerate(model["trees"])]


def _tree(tree: dict[str, Any], position: int, n_features: int) -> _Tree:
    if int(tree["tree_param"]["size_leaf_vector"]) > 1:
        raise _refuse("has vectors as leaves", "train with multi_strategy=one_output_per_tree")
    if any(tree["split_type"]) or tree["categories_nodes"]:
        raise _refuse(
            "splits on categories", "encode categories as numbers, and train without enable_categorical"
        )
    with np.errstate(over="ignore"):
        threshold = np.array(tree["split_conditions"], np.float64).astype(np.float32)
    columns = (tree["left_children"], tree["right_children"], tree["split_indices"], tree["default_left"])
    lengths = {len(column) for column in columns} | {len(threshold)}
    if len(lengths) != 1 or 0 in lengths:
        raise VerificationError(f"tree {position} of the model has arrays of different lengths, or none")
    left, right = np.array(columns[0]), np.array(columns[1])
    inner = left != -1
    # XGBoost finds the right child as the left one + 1, whatever the model says.
    if (right[inner] != left[inner] + 1).any():
        raise VerificationError(f"tree {position} of the model does not number its children in pairs")
    features = np.array(columns[2])[inner]
    if features.size and not 0 <= features.min() <= features.max() < n_features:
        raise VerificationError(f"tree {position} of the model splits on a feature that the model has not")
    if np.isnan(threshold[inner]).any():
        raise VerificationError(f"tree {position} of the model has NaN as a threshold")
    return _Tree(columns[0], columns[1], columns[2], threshold, columns[3])


def _base_margin(document: dict[str, Any], n_features: int) -> np.float32:
    """Where the sum starts, computed by XGBoost itself: the margin of the same model with one leaf, -0.0.

    (x + -0.0 is x for every x. XGBoost's link functions need not be repeated here; a model without any tree
    would not do, because then XGBoost takes an estimated base_score for a margin.)
    """
    leaf = {
        "base_weights": [-0.0],
        "categories": [],
        "categories_nodes": [],
        "categories_segments": [],
        "categories_sizes": [],
        "default_left": [0],
        "id": 0,
        "left_children": [-1],
        "loss_changes": [0.0],
        "parents": [2147483647],
        "right_children": [-1],
        "split_conditions": [-0.0],
        "split_indices": [0],
        "split_type": [0],
        "sum_hessian": [0.0],
        "tree_param": {
            "num_deleted": "0",
            "num_feature": str(n_features),
            "num_nodes": "1",
            "size_leaf_vector": "1",
        },
    }
    learner = document["learner"]
    booster = learner["gradient_booster"]
    model = booster["model"] | {"trees": [leaf], "tree_info": [0], "iteration_indptr": [0, 1]}
    model["gbtree_model_param"] = model["gbtree_model_param"] | {"num_trees": "1", "num_parallel_tree": "1"}
    bare = document | {"learner": learner | {"gradient_booster": booster | {"model": model}}}
    return np.float32(_xgboost_margins(open_booster(json.dumps(bare).encode()), _zeros(1, n_features))[0])


def _zeros(rows: int, n_features: int) -> NDArray[np.float32]:
    return np.zeros((rows, n_features), np.float32)


def _xgboost_margins(booster: Booster, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    # In place: a DMatrix refuses infinities.
    return np.asarray(booster.inplace_predict(rows, predict_type="margin"), np.float32).reshape(-1)


def _groups(trees: Sequence[_Tree]) -> Iterable[Sequence[_Tree]]:
    return (trees[k : k + LANES] for k in range(0, len(trees), LANES))


def _lay_out(trees: Sequence[_Tree], base_margin: np.float32, n_features: int) -> Forest:
    each = [tree.depth(position) for position, tree in enumerate(trees)]
    depths = np.array([max(each[k : k + LANES]) for k in range(0, len(each), LANES)], np.uint8)
    starts = np.concatenate([[0], np.cumsum(LANES << depths.astype(np.int64))])
    if starts[-1] > MAX_SLOTS:
        raise _refuse(
            f"has {len(trees)} trees that fill {starts[-1]} nodes", "train fewer or shallower trees"
        )
    # A node that is only there to fill a tree up may go either way: all the leaves below are the same.
    nodes = np.zeros(starts[-1], np.uint64)
    # Adding -0.0 changes no sum: so do the lanes that have no tree.
    leaves = np.full(starts[-1], -0.0, np.float32)
    for group, start, depth in zip(_groups(trees), starts, depths, strict=False):
        for lane, tree in enumerate(group):
            _place(tree, lane, int(depth), nodes[start:], leaves[start:])
    for array in (nodes, leaves, depths):
        array.setflags(write=False)
    return Forest(nodes, leaves, depths, base_margin, n_features, len(trees))


def _place(
    tree: _Tree, lane: int, depth: int, nodes: NDArray[np.uint64], leaves: NDArray[np.float32]
) -> None:
    """Write one tree into the heap of its group, whose arrays begin at ``nodes[0]`` and ``leaves[0]``."""
    width = LANES << depth
    stack = [(0, LANES + lane, depth)]
    while stack:
        node, heap, below = stack.pop()
        if tree.left[node] == -1:
            first = (heap << below) - width
            leaves[first : first + (1 << below)] = tree.threshold[node]
            continue
        slot = 2 * tree.feature[node] + (0 if tree.default_left[node] else 1)
        nodes[heap] = (int(sort_key(tree.threshold[node])) << 32) | slot
        stack += [(tree.left[node], 2 * heap + 1, below - 1), (tree.right[node], 2 * heap, below - 1)]


def _check(forest: Forest, booster: Booster, trees: Sequence[_Tree]) -> None:
    """Compare with XGBoost on rows of thresholds, their lower neighbours, zeros, infinities and NaN."""
    rows = _rows_of_thresholds(trees, forest.n_features)
    ours = margins(forest, rows)
    theirs = _xgboost_margins(booster, rows)
    if ours.shape != theirs.shape or (ours.view(np.uint32) != theirs.view(np.uint32)).any():
        raise VerificationError(
            "tree inference does not reproduce the margins of XGBoost for this model bit for bit",
            "train with base_score fixed and with the release of XGBoost in requirements.lock",
        )


def _rows_of_thresholds(trees: Sequence[_Tree], n_features: int) -> NDArray[np.float32]:
    """Rows in which each feature walks through all values around which the model changes."""
    special = np.array([np.nan, -np.inf, np.inf, -0.0, 0.0], np.float32)
    inner = [np.array(tree.left) != -1 for tree in trees]
    thresholds = np.concatenate(
        [tree.threshold[keep] for tree, keep in zip(trees, inner, strict=True)] + [special[:0]]
    )
    features = np.concatenate(
        [np.array(tree.feature)[keep] for tree, keep in zip(trees, inner, strict=True)] + [np.zeros(0, int)]
    )
    candidates = []
    for feature in range(n_features):
        own = np.unique(thresholds[features == feature])
        with np.errstate(over="ignore"):
            below = np.nextafter(own, np.float32(-np.inf))
        candidates.append(np.concatenate([own, below, special]))
    rows = np.empty((min(_CHECK_ROWS, max(map(len, candidates))), n_features), np.float32)
    for feature, values in enumerate(candidates):
        # A step that differs per feature, so that the rows are not the same quantile in every feature.
        steps = np.arange(len(rows)) * (2 * feature + 1) + feature
        rows[:, feature] = values[steps % len(values)]
    return rows
