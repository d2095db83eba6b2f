"""Margins, bit for bit those of XGBoost, and refusals of what would not be."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numba import njit
from numpy.typing import NDArray

from hindsight.errors import ConfigurationError, UsageError, VerificationError
from hindsight.models import trees
from hindsight.models.forest import sort_key

SPECIAL = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-45, 1.1754944e-38, 3.4028235e38, -3.4028235e38)
QUICK = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def bits(values: Any) -> NDArray[np.uint32]:
    return np.ascontiguousarray(values, np.float32).view(np.uint32)


def assert_same_bits(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> None:
    assert ours.dtype == np.float32 and ours.shape == theirs.shape
    different = np.flatnonzero(bits(ours) != bits(theirs))
    assert different.size == 0, (
        f"rows {different[:5]}: {ours[different[:5]]} instead of {theirs[different[:5]]}"
    )


# A leaf is its value; a node is (feature, threshold, missing goes left, left, right).
Node = float | tuple[int, float, bool, Any, Any]


def flatten(root: Node, n_features: int, position: int) -> dict[str, Any]:
    """A tree in XGBoost's JSON form."""
    left: list[int] = []
    right: list[int] = []
    features: list[int] = []
    values: list[float] = []
    default: list[int] = []
    parents: list[int] = []

    # XGBoost takes the right child to stand after the left one: number them in pairs.
    waiting: list[tuple[Node, int]] = [(root, 2147483647)]
    numbered = 1
    while waiting:
        node, parent = waiting.pop(0)
        inner = isinstance(node, tuple)
        feature, value, missing_left, *below = node if isinstance(node, tuple) else (0, node, False)
        parents.append(parent)
        features.append(feature)
        values.append(float(np.float32(value)))
        default.append(int(missing_left))
        left.append(numbered if inner else -1)
        right.append(numbered + 1 if inner else -1)
        waiting += [(child, len(left) - 1) for child in below]
        numbered += len(below)
    n = len(left)
    return {
        "base_weights": values,
        "categories": [],
        "categories_nodes": [],
        "categories_segments": [],
        "categories_sizes": [],
        "default_left": default,
        "id": position,
        "left_children": left,
        "loss_changes": [0.0] * n,
        "parents": parents,
        "right_children": right,
        "split_conditions": values,
        "split_indices": features,
        "split_type": [0] * n,
        "sum_hessian": [1.0] * n,
        "tree_param": {
            "num_deleted": "0",
            "num_feature": str(n_features),
            "num_nodes": str(n),
            "size_leaf_vector": "1",
        },
    }


@functools.cache
def skeleton(n_features: int, objective: str, base_score: float) -> str:
    rows = np.linspace(0, 1, 4 * n_features, dtype=np.float32).reshape(4, n_features)
    params = {"nthread": 1, "max_depth": 1, "base_score": base_score, "objective": objective}
    booster = xgboost.train(params, xgboost.DMatrix(rows, np.array([0, 1, 0, 1]), nthread=1), 1)
    return bytes(booster.save_raw("json")).decode()


def ensemble(
    roots: list[Node], n_features: int, objective: str = "reg:squarederror", base_score: float = 0.0
) -> xgboost.Booster:
    document = json.loads(skeleton(n_features, objective, base_score))
    model = document["learner"]["gradient_booster"]["model"]
    model["trees"] = [flatten(root, n_features, k) for k, root in enumerate(roots)]
    model["tree_info"] = [0] * len(roots)
    model["iteration_indptr"] = list(range(len(roots) + 1))
    model["gbtree_model_param"]["num_trees"] = str(len(roots))
    return read(document)


def read(document: dict[str, Any]) -> xgboost.Booster:
    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray(json.dumps(document).encode()))
    return booster


def trained(
    rounds: int = 10, n_features: int = 4, **params: Any
) -> tuple[xgboost.Booster, NDArray[np.float32]]:
    rng = np.random.default_rng(3)
    rows = np.round(rng.normal(size=(500, n_features)), 1).astype(np.float32)
    rows[rng.random(rows.shape) < 0.15] = np.nan
    target = (np.nan_to_num(rows).sum(axis=1) > 0).astype(np.float32)
    own = {"nthread": 1, "seed": 1, "max_depth": 4, "base_score": 0.5, **params}
    return xgboost.train(own, xgboost.DMatrix(rows, target, nthread=1), rounds), rows


def probes(values: list[float], n_features: int, seed: int, count: int = 64) -> NDArray[np.float32]:
    """Rows drawn from ``values``, their two neighbours, and everything special."""
    own = np.array(values, np.float32)
    with np.errstate(over="ignore"):
        near = [own, np.nextafter(own, np.float32(np.inf)), np.nextafter(own, np.float32(-np.inf))]
    pool = np.concatenate([*near, np.array(SPECIAL, np.float32)])
    return np.random.default_rng(seed).choice(pool, size=(count, n_features)).astype(np.float32)


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
thresholds = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, float("inf"), float("-inf")]), finite
)
leaf_values = st.one_of(
    st.sampled_from([0.0, -0.0, 1e-45, 1.0, 16777216.0]), st.floats(-(2.0**99), 2.0**99, width=32)
)


def nodes(n_features: int) -> st.SearchStrategy[Node]:
    return st.recursive(
        leaf_values,
        lambda below: st.tuples(st.integers(0, n_features - 1), thresholds, st.booleans(), below, below),
        max_leaves=24,
    )


def thresholds_of(root: Node) -> list[float]:
    return [root[1], *thresholds_of(root[3]), *thresholds_of(root[4])] if isinstance(root, tuple) else []


@QUICK
@given(data=st.data(), n_features=st.integers(1, 5), seed=st.integers(0, 2**32 - 1))
def test_any_ensemble_gives_the_margins_of_xgboost(data: st.DataObject, n_features: int, seed: int) -> None:
    roots = data.draw(st.lists(nodes(n_features), min_size=1, max_size=19))
    base_score = data.draw(st.sampled_from([0.0, 0.5, -3.25, 1e-3, 1e10]))
    booster = ensemble(roots, n_features, base_score=base_score)
    rows = probes([t for root in roots for t in thresholds_of(root)], n_features, seed)
    ours = trees.margins(trees.load(booster), rows)
    assert_same_bits(ours, booster.inplace_predict(rows, predict_type="margin"))
    # A DMatrix refuses infinities.
    rows = rows[~np.isinf(rows).any(axis=1)]
    if len(rows):
        matrix = xgboost.DMatrix(rows, nthread=1)
        assert_same_bits(
            trees.margins(trees.load(booster), rows), booster.predict(matrix, output_margin=True)
        )


@QUICK
@given(
    depth=st.integers(1, 8),
    rounds=st.integers(1, 30),
    n_features=st.integers(1, 13),
    seed=st.integers(0, 1000),
    objective=st.sampled_from(
        ["reg:squarederror", "binary:logistic", "count:poisson", "reg:pseudohubererror"]
    ),
    method=st.sampled_from(["hist", "exact", "approx"]),
    policy=st.sampled_from(["depthwise", "lossguide"]),
)
def test_trained_models_give_the_margins_of_xgboost(
    depth: int, rounds: int, n_features: int, seed: int, objective: str, method: str, policy: str
) -> None:
    rng = np.random.default_rng(seed)
    rows = np.round(rng.normal(size=(120, n_features)), 1).astype(np.float32)
    rows[rng.random(rows.shape) < 0.2] = np.nan
    target = (np.nan_to_num(rows).sum(axis=1) > 0).astype(np.float32)
    params = {
        "objective": objective,
        "max_depth": depth,
        "tree_method": method,
        "base_score": 0.5,
        "min_child_weight": 0,
        "nthread": 1,
        "seed": seed,
    }
    if method != "exact":
        params["grow_policy"] = policy
    matrix = xgboost.DMatrix(rows, target, nthread=1)
    booster = xgboost.train(params, matrix, rounds)
    assert_same_bits(trees.margins(trees.load(booster), rows), booster.predict(matrix, output_margin=True))


@pytest.mark.parametrize("missing_left", [True, False])
@pytest.mark.parametrize("threshold", [0.0, -0.0, 1.5, np.inf, -np.inf, 1e-45])
def test_a_single_split_at_its_threshold_and_around_it(threshold: float, missing_left: bool) -> None:
    forest = trees.load(ensemble([(0, threshold, missing_left, 1.0, 2.0)], 1))
    with np.errstate(over="ignore"):
        values = [
            threshold,
            *np.nextafter(np.float32(threshold), np.array([-np.inf, np.inf], np.float32)),
            *SPECIAL,
        ]
    rows = np.array(values, np.float32).reshape(-1, 1)
    # What the comparison of floats says, not what XGBoost says: the two must agree with each other as well.
    left = np.where(np.isnan(rows[:, 0]), missing_left, rows[:, 0] < np.float32(threshold))
    assert_same_bits(trees.margins(forest, rows), np.where(left, 1.0, 2.0).astype(np.float32))


def test_single_leaves_and_padding_keep_the_sign_of_zero() -> None:
    booster = ensemble([-0.0], 2, "binary:logistic", 0.5)
    row = np.zeros((1, 2), np.float32)
    assert_same_bits(trees.margins(trees.load(booster), row), np.array([-0.0], np.float32))
    assert_same_bits(booster.predict(xgboost.DMatrix(row), output_margin=True), np.array([-0.0], np.float32))


def test_the_order_of_the_sum_is_that_of_the_trees() -> None:
    # In float32, 2^24 + 1 is 2^24: every other order of these gives another sum.
    roots: list[Node] = [16777216.0, 1.0, 1.0, -16777216.0, 1.0, *([0.25] * 7), 3.0]
    forest = trees.load(ensemble(roots, 1))
    expected = np.float32(0)
    for root in roots:
        expected += np.float32(root)  # type: ignore[arg-type]
    assert trees.margins(forest, np.zeros((1, 1), np.float32))[0] == expected == np.float32(5.75)


def test_random_forest_rounds_and_estimated_base_score() -> None:
    for params in (
        {"num_parallel_tree": 5, "subsample": 0.5},
        {"base_score": None, "objective": "binary:logistic"},
    ):
        booster, rows = trained(rounds=5, **params)
        matrix = xgboost.DMatrix(rows, nthread=1)
        assert_same_bits(
            trees.margins(trees.load(booster), rows), booster.predict(matrix, output_margin=True)
        )


@pytest.mark.parametrize("base_score", [0.0, 0.25, None])
def test_an_ensemble_without_trees_gives_its_base_margin(base_score: float | None) -> None:
    booster, rows = trained(rounds=0, base_score=base_score, objective="reg:squarederror")
    ours = trees.margins(trees.load(booster), rows)
    assert_same_bits(ours, booster.predict(xgboost.DMatrix(rows, nthread=1), output_margin=True))


def test_no_rows_and_rows_of_any_layout() -> None:
    booster, rows = trained()
    forest = trees.load(booster)
    assert trees.margins(forest, rows[:0]).shape == (0,)
    expected = trees.margins(forest, rows)
    assert_same_bits(trees.margins(forest, np.asfortranarray(rows)), expected)
    assert_same_bits(trees.margins(forest, rows[::-1])[::-1], expected)


def test_a_compiled_caller_gets_the_same_margins() -> None:
    @njit
    def best(
        forest: trees.Forest, row: NDArray[np.float32], encodings: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        keys = np.empty(2 * forest.n_features, np.uint64)
        trees.set_keys(row, np.uint64(0), np.uint64(row.size), keys)
        out = np.empty(encodings.shape[0], np.float32)
        for k in range(encodings.shape[0]):
            trees.set_keys(encodings[k], np.uint64(row.size), np.uint64(encodings.shape[1]), keys)
            out[k] = trees.margin_of_keys(forest, keys)
        return out

    booster, rows = trained()
    forest = trees.load(booster)
    shared, encodings = rows[0, :3].copy(), rows[:50, 3:].copy()
    whole = np.hstack([np.tile(shared, (50, 1)), encodings])
    expected = trees.margins(forest, whole)
    assert_same_bits(best(forest, shared, encodings), expected)
    assert_same_bits(np.array([trees.margin_one(forest, row) for row in whole], np.float32), expected)


def test_a_new_model_compiles_nothing() -> None:
    first, rows = trained()
    trees.margin_one(trees.load(first), rows[0])
    before = (len(trees.margin_one.signatures), len(trees.margin_of_keys.signatures))
    for depth, n_features, rounds in ((1, 2, 1), (8, 9, 40)):
        booster, rows = trained(rounds, n_features, max_depth=depth)
        trees.margin_one(trees.load(booster), rows[0])
    assert (len(trees.margin_one.signatures), len(trees.margin_of_keys.signatures)) == before


@QUICK
@given(st.floats(width=32, allow_nan=False), st.floats(width=32, allow_nan=False))
def test_keys_have_the_order_of_their_values(a: float, b: float) -> None:
    keys = int(sort_key(np.float32(a))), int(sort_key(np.float32(b)))
    assert (keys[0] < keys[1]) == (a < b) and (keys[0] == keys[1]) == (a == b)
    assert min(keys) > 0 and max(keys) < 0xFFFFFFFF


def test_a_model_loads_from_a_path_bytes_and_a_booster(tmp_path: Path) -> None:
    booster, rows = trained()
    expected = booster.predict(xgboost.DMatrix(rows, nthread=1), output_margin=True)
    for name in ("model.ubj", "model.json"):
        booster.save_model(tmp_path / name)
        assert_same_bits(trees.margins(trees.load(tmp_path / name), rows), expected)
    assert_same_bits(trees.margins(trees.load((tmp_path / "model.ubj").read_bytes()), rows), expected)
    assert_same_bits(trees.margins(trees.load(booster), rows), expected)


def test_inputs_of_another_dtype_or_width_are_refused() -> None:
    booster, rows = trained()
    forest = trees.load(booster)
    with pytest.raises(UsageError, match="float64"):
        trees.margins(forest, rows.astype(np.float64))
    with pytest.raises(UsageError, match="4 features"):
        trees.margins(forest, rows[:, :3])
    with pytest.raises(UsageError, match="shape"):
        trees.margins(forest, rows[0])
    with pytest.raises(ValueError, match="features"):
        trees.margin_one(forest, rows[0, :3])


def test_other_kinds_of_model_are_refused() -> None:
    for params, message in (
        ({"booster": "dart"}, "dart"),
        ({"booster": "gblinear", "verbosity": 0}, "gblinear"),
        ({"objective": "multi:softprob", "num_class": 2}, "several outputs"),
    ):
        booster, _ = trained(3, **params)
        with pytest.raises(ConfigurationError, match=message) as caught:
            trees.load(booster)
        assert caught.value.remedy


@pytest.mark.parametrize("depth", [trees.MAX_DEPTH, trees.MAX_DEPTH + 1])
def test_trees_are_as_deep_as_promised_and_no_deeper(depth: int) -> None:
    root: Node = 0.0
    for k in range(depth):
        root = (0, float(k), True, root, float(k + 1))
    booster = ensemble([root, 0.5], 1)
    if depth > trees.MAX_DEPTH:
        with pytest.raises(ConfigurationError, match="deeper"):
            trees.load(booster)
    else:
        rows = np.arange(-2, depth + 2, 0.5, dtype=np.float32).reshape(-1, 1)
        ours = trees.margins(trees.load(booster), rows)
        assert_same_bits(ours, booster.predict(xgboost.DMatrix(rows, nthread=1), output_margin=True))


def test_trees_that_xgboost_would_walk_otherwise_are_refused() -> None:
    document = json.loads(bytes(ensemble([(0, 0.0, True, 1.0, 2.0)], 1).save_raw("json")))
    tree = document["learner"]["gradient_booster"]["model"]["trees"][0]
    tree["left_children"][0], tree["right_children"][0] = 2, 1
    with pytest.raises(VerificationError, match="pairs"):
        trees.load(read(document))


def test_several_targets_are_refused() -> None:
    rows = np.random.default_rng(1).normal(size=(50, 3)).astype(np.float32)
    for strategy in ("one_output_per_tree", "multi_output_tree"):
        params = {"nthread": 1, "multi_strategy": strategy, "tree_method": "hist"}
        booster = xgboost.train(params, xgboost.DMatrix(rows, rows[:, :2], nthread=1), 2)
        with pytest.raises(ConfigurationError, match="several outputs"):
            trees.load(booster)


def test_splits_on_categories_are_refused() -> None:
    rng = np.random.default_rng(1)
    rows = rng.integers(0, 6, size=(200, 1)).astype(np.float32)
    target = np.isin(rows[:, 0], (1, 4)).astype(np.float32)
    matrix = xgboost.DMatrix(rows, target, feature_types=["c"], enable_categorical=True, nthread=1)
    booster = xgboost.train({"nthread": 1, "tree_method": "hist", "max_cat_to_onehot": 1}, matrix, 2)
    with pytest.raises(ConfigurationError, match="categories"):
        trees.load(booster)


def test_a_model_that_is_not_reproduced_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    booster, _ = trained()
    base_margin = trees._base_margin
    monkeypatch.setattr(trees, "_base_margin", lambda *a: np.nextafter(base_margin(*a), np.float32(1)))
    with pytest.raises(VerificationError, match="bit for bit"):
        trees.load(booster)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        trees.load(tmp_path / "absent.ubj")
    for data in (b"", b"not a model", b"\x80\x04N.", b"{}", b'{"learner": 1}'):
        with pytest.raises(VerificationError):
            trees.load(data)


def test_a_cached_compilation_serves_another_process(tmp_path: Path) -> None:
    booster, _ = trained()
    booster.save_model(tmp_path / "model.ubj")
    code = (
        "import sys, numpy as np; from hindsight.models import trees\n"
        "m = trees.margins(trees.load(sys.argv[1]), np.zeros((1, 4), np.float32))\n"
        "print(m.view(np.uint32)[0])"
    )
    run = [sys.executable, "-c", code, str(tmp_path / "model.ubj")]
    outputs = {subprocess.run(run, capture_output=True, text=True, check=True).stdout for _ in range(2)}
    expected = trees.margins(trees.load(booster), np.zeros((1, 4), np.float32))
    assert outputs == {f"{bits(expected)[0]}\n"}
