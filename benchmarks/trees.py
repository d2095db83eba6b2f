"""One decision by an ensemble of trees: ours against XGBoost's quickest call for one row.

    .venv/bin/python benchmarks/trees.py [--rounds N]

Prints nanoseconds of CPU time per decision (user + system of this thread, best round) for 12 features and
trees of depth 6. ``in a loop`` is a compiled caller, as in the simulators; ``from Python`` is one call of
``margins`` with one row; ``inplace_predict`` is XGBoost's with one row. All are measured in turns within one
run, on the same rows, and their margins are compared bit for bit first.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import xgboost
from numba import njit
from numpy.typing import NDArray

from hindsight.models import trees

FEATURES = 12
DEPTH = 6
LOOP_ROWS = 4000
SINGLE_ROWS = 200


@njit(nogil=True)
def decide_each(forest: trees.Forest, rows: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    keys = np.empty(2 * rows.shape[1], np.uint64)
    for row in range(np.uint64(rows.shape[0])):
        trees.set_keys(rows[row], np.uint64(0), np.uint64(rows.shape[1]), keys)
        out[row] = trees.margin_of_keys(forest, keys)


@njit(nogil=True)
def decide_alone(forest: trees.Forest, rows: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    for row in range(np.uint64(rows.shape[0])):
        out[row] = trees.margin_one(forest, rows[row])


def train(n_trees: int, rng: np.random.Generator) -> xgboost.Booster:
    rows = rng.normal(size=(20_000, FEATURES)).astype(np.float32)
    target = (
        rows @ rng.normal(size=FEATURES) + np.sin(4 * rows[:, 0]) * rows[:, 1] + rng.normal(size=len(rows))
    )
    settings = {"max_depth": DEPTH, "nthread": 1, "seed": 7, "base_score": 0, "eta": 0.1}
    return xgboost.train(settings, xgboost.DMatrix(rows, target, nthread=1), n_trees)


def each(call: Callable[[NDArray[np.float32]], object], rows: list[NDArray[np.float32]]) -> None:
    for row in rows:
        call(row)


def seconds(call: Callable[[], object]) -> float:
    before = time.thread_time_ns()
    call()
    return (time.thread_time_ns() - before) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="rounds; the best counts (15)")
    rounds = parser.parse_args().rounds
    rng = np.random.default_rng(7)
    rows = rng.normal(size=(LOOP_ROWS, FEATURES)).astype(np.float32)
    out = np.empty(LOOP_ROWS, np.float32)
    singles = [rows[k : k + 1] for k in range(SINGLE_ROWS)]

    print(f"{FEATURES} features, depth {DEPTH}, xgboost {xgboost.__version__}")
    print(f"ns per decision, best of {rounds} rounds")
    header = (
        "trees",
        "in a loop",
        "margin_one",
        "from Python",
        "inplace_predict",
        "ratio loop",
        "ratio Python",
    )
    print("  ".join(f"{name:>15}" for name in header))
    for n_trees in (50, 100, 200):
        booster = train(n_trees, rng)
        forest = trees.load(booster)
        expected = booster.predict(xgboost.DMatrix(rows, nthread=1), output_margin=True)
        for run in (decide_each, decide_alone):
            run(forest, rows, out)
            if not np.array_equal(out.view(np.uint32), expected.view(np.uint32)):
                raise SystemExit("the margins differ: the figures would mean nothing")
        calls: dict[str, tuple[int, Callable[[], object]]] = {
            "loop": (LOOP_ROWS, partial(decide_each, forest, rows, out)),
            "one": (LOOP_ROWS, partial(decide_alone, forest, rows, out)),
            "python": (SINGLE_ROWS, partial(each, partial(trees.margins, forest), singles)),
            "xgboost": (
                SINGLE_ROWS,
                partial(each, partial(booster.inplace_predict, predict_type="margin"), singles),
            ),
        }
        best = dict.fromkeys(calls, float("inf"))
        for _ in range(rounds):
            for name, (count, call) in calls.items():
                best[name] = min(best[name], seconds(call) / count * 1e9)
        values = [f"{n_trees}", *(f"{best[name]:.0f}" for name in calls)]
        values += [f"{best['xgboost'] / best['loop']:.0f} x", f"{best['xgboost'] / best['python']:.0f} x"]
        print("  ".join(f"{value:>15}" for value in values))


if __name__ == "__main__":
    main()
