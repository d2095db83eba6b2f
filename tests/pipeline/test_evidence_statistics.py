from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hindsight.errors import VerificationError
from hindsight.pipeline.evidence import paired, synthetic
from hindsight.pipeline.evidence.arms import BEST_STATIC, BEST_STATIC_EACH, add_best_static
from hindsight.pipeline.evidence.comparisons import Finding, findings, holm, not_inferior
from hindsight.pipeline.evidence.harm import harm
from hindsight.pipeline.evidence.headroom import block_distribution, headroom
from hindsight.pipeline.evidence.paired import Effect, bootstrap, run_length
from hindsight.pipeline.evidence.panel import Panel, panels
from hindsight.pipeline.evidence.synthetic import Workload


def panel_of(costs: dict[str, list[int]], capture: str | list[str] = "c", program: str = "p") -> Panel:
    n = len(costs["stock"])
    frames = [
        pl.DataFrame(
            {
                "evaluation": ["tomorrow"] * n,
                "arm": [arm] * n,
                "capture": [capture] * n if isinstance(capture, str) else capture,
                "host": ["h"] * n,
                "workload": ["w"] * n,
                "program": [program] * n,
                "device": ["d"] * n,
                "block": np.arange(n, dtype=np.int32),
                "recorded_ns": np.arange(n, dtype=np.int64),
                "cost_ns": np.array(values, dtype=np.int64),
            }
        )
        for arm, values in costs.items()
    ]
    return panels(pl.concat(frames), ["cost_ns"])[0]


def planted(seed: int, gain: float, blocks: int, memory: float = 0.0) -> Effect:
    table = synthetic.blocks(
        [Workload("w", "p", blocks=blocks)], seed, {"model": gain}, evaluations=("tomorrow",), memory=memory
    )
    return bootstrap(panels(table, ["cost_ns"])[0], draws=500, seed=1).effect("model")


def at_least(rate: float, trials: int) -> int:
    """The least count that a true ``rate`` shows, but for one time in a thousand."""
    return int(stats.binom.ppf(0.001, trials, rate))


@pytest.mark.parametrize(("blocks", "memory", "stated"), [(40, 0.0, 0.95), (12, 0.0, 0.95), (40, 0.5, 0.93)])
def test_the_interval_covers_the_truth_at_about_the_stated_rate(
    blocks: int, memory: float, stated: float
) -> None:
    trials = 150
    effects = [planted(seed, 0.2, blocks, memory) for seed in range(trials)]
    assert all(e.low is not None and e.high is not None for e in effects)
    covered = sum(e.low <= 0.2 <= e.high for e in effects)  # type: ignore[operator]
    assert covered >= at_least(stated, trials)
    # An interval that is always right because it is endless would be worth nothing.
    spread = float(np.std([e.gain for e in effects]))
    assert np.median([e.high - e.low for e in effects]) < 9 * spread  # type: ignore[operator]


def test_without_an_effect_winners_are_declared_at_most_at_the_stated_rate() -> None:
    trials = 150
    found = [findings([planted(1000 + s, 0.0, 40)], 10, 0.95)[0] for s in range(trials)]
    assert found.count(Finding.UNKNOWN) == 0
    assert trials - found.count(Finding.SAME) <= stats.binom.ppf(0.999, trials, 0.05)


def test_a_planted_effect_of_the_detectable_size_is_found_with_the_promised_power() -> None:
    trials = 100
    detectable = float(np.median([planted(5000 + s, 0.0, 60).detectable for s in range(20)]))  # type: ignore[arg-type]
    for sign, wanted in ((1, Finding.BETTER), (-1, Finding.WORSE)):
        found = [findings([planted(s, sign * detectable, 60)], 10, 0.95)[0] for s in range(trials)]
        assert found.count(wanted) >= at_least(0.75, trials)


def test_unseen_programs_widen_the_interval_and_it_covers() -> None:
    rng = np.random.Generator(np.random.PCG64(3))
    trials, covered, wider = 60, 0, 0
    for seed in range(trials):
        workloads = [
            Workload(f"w{i}", f"p{i}", blocks=12, gains={"model": float(rng.normal(0.1, 0.15))})
            for i in range(8)
        ]
        panel = panels(synthetic.blocks(workloads, seed, {"model": 0.0}, ("new_workload",)), ["cost_ns"])[0]
        new = bootstrap(panel, 300, 1, "program").effect("model")
        same = bootstrap(panel, 300, 1).effect("model")
        assert new.gain == same.gain and new.units == 8
        covered += new.low <= 0.1 <= new.high  # type: ignore[operator]
        wider += (new.high - new.low) > (same.high - same.low)  # type: ignore[operator]
    assert covered >= at_least(0.95, trials)
    assert wider > 0.8 * trials


def test_every_draw_has_as_many_blocks_as_the_data() -> None:
    captures = ["a"] * 7 + ["b"] * 1 + ["c"] * 23
    drawn = bootstrap(panel_of({"stock": [1] * 31, "model": [2] * 31}, captures), 200, 5)
    assert (drawn.sums[:, 0, 0] == 31).all() and (drawn.sums[:, 1, 0] == 62).all()
    effect = drawn.effect("model")
    assert effect.gain == -1.0 and (effect.low, effect.high) == (-1.0, -1.0) and effect.p == 0.0


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    panel = panel_of({"stock": list(range(1, 41)), "model": list(range(40, 0, -1))})
    first, again, other = (bootstrap(panel, 100, seed).sums for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()


def test_equal_arms_do_not_differ() -> None:
    effect = bootstrap(panel_of({"stock": [5, 0, 7] * 10, "model": [5, 0, 7] * 10}), 200, 1).effect("model")
    assert (effect.gain, effect.low, effect.high, effect.p) == (0.0, 0.0, 0.0, 1.0)
    assert findings([effect], 10, 0.95) == [Finding.SAME]


def test_a_baseline_that_may_be_drawn_without_cost_gives_no_interval() -> None:
    effect = bootstrap(panel_of({"stock": [0] * 29 + [9], "model": [1] * 30}), 300, 1).effect("model")
    assert effect.low is None and findings([effect], 10, 0.95) == [Finding.UNKNOWN]


def test_sums_are_exact_beyond_the_precision_of_floats() -> None:
    stock, model = [2**53 + 1, 2**53 + 3] * 6, [2**53, 1] * 6
    effect = bootstrap(panel_of({"stock": stock, "model": model}), 100, 1).effect("model")
    assert effect.baseline == sum(stock) and effect.arm == sum(model)


def test_sums_that_could_overflow_are_refused() -> None:
    with pytest.raises(VerificationError, match="too large"):
        bootstrap(panel_of({"stock": [2**61] * 12, "model": [1] * 12}), 100, 1)


def test_runs_are_longer_where_blocks_depend_on_their_past() -> None:
    rng = np.random.Generator(np.random.PCG64(8))
    shocks = rng.standard_normal(400)
    slow = np.convolve(shocks, np.ones(25), mode="same")
    assert run_length(slow) > run_length(shocks) >= 2 * 400 ** (1 / 3) - 1
    assert run_length(np.zeros(1)) == 1 and run_length(np.zeros(30)) <= 10


def test_holm_on_a_worked_example() -> None:
    # Holm (1979) by hand: 4 × .01, 3 × .013, 2 × .03, 1 × .04, made monotone.
    assert holm([0.03, 0.01, 0.04, 0.013]) == pytest.approx([0.06, 0.04, 0.06, 0.04])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=12))
@settings(max_examples=100, deadline=None)
def test_holm_never_lowers_a_p_value_nor_changes_their_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(a >= p for a, p in zip(adjusted, p_values, strict=True))
    assert all(a <= 1.0 for a in adjusted)
    ranked = [adjusted[i] for i in sorted(range(len(p_values)), key=p_values.__getitem__)]
    assert ranked == sorted(ranked)


def test_no_worse_needs_data_and_the_lower_end_above_the_margin() -> None:
    def effect(low: float, blocks: int = 20) -> Effect:
        return Effect(blocks, 5, 100, 100, 0.0, low, 0.1, 0.02, 0.5, 0.05, 0.0)

    assert not_inferior(effect(-0.049), 10, 0.05)
    assert not not_inferior(effect(-0.05), 10, 0.05)
    assert not not_inferior(effect(0.0, blocks=9), 10, 0.05)


def test_harm_by_hand() -> None:
    stock = [100] * 98 + [0, 200]
    model = [100] * 90 + [104, 105, 106, 150, 50, 50, 50, 50] + [7, 600]
    found = harm(panel_of({"stock": stock, "model": model}), "model", 0.05)
    assert (found.blocks, found.worse, found.worse_by_margin, found.from_nothing) == (100, 6, 4, 1)
    assert found.relative == {"p99": None, "p99.9": None, "max": 3.0}
    assert found.extra == {"p99": 50, "p99.9": None, "max": 400}
    assert found.stock_tail["p99"] == 100 and found.arm_tail["p99"] == 150


def test_headroom_and_the_share_captured() -> None:
    panel = panel_of({"stock": [100] * 10, "model": [80] * 10, "best_known": [70] * 10})
    room = headroom(panel, "model", {"c": 600}, 0.02)
    assert (room.proven, room.known, room.share) == (0.4, 0.3, 0.5)
    assert room.share_of_known == pytest.approx(2 / 3)
    assert room.violations == () and room.without_bound == ()
    assert headroom(panel, "model", {"c": 990}, 0.02).share is None
    assert headroom(panel, "model", {}, 0.02).without_bound == ("c",)
    assert headroom(panel, "model", {"c": 701}, 0.02).violations == (("c", "best_known"),)


def test_the_distribution_goes_from_the_worst_to_the_best_block() -> None:
    panel = panel_of({"stock": [100, 100, 100, 0], "model": [150, 100, 20, 3]})
    curve = block_distribution(panel, "model", points=3)
    assert curve == [-0.5, 0.0, 0.8]


def test_the_best_static_setting_in_hindsight_may_be_to_leave_the_kernel_alone() -> None:
    rows = {"stock": [10] * 4, "model": [10] * 4, "static:a": [9, 9, 20, 20], "static:b": [30, 30, 6, 6]}
    panel = panel_of(rows, capture=["c1", "c1", "c2", "c2"])
    panel.workload[:] = ["w1", "w1", "w2", "w2"]
    chosen, static = add_best_static(panel)
    assert static is not None and static.overall == "stock"
    assert static.each == {("w1", "d"): "static:a", ("w2", "d"): "static:b"}
    assert chosen.cost(BEST_STATIC).tolist() == [10] * 4
    assert chosen.cost(BEST_STATIC_EACH).tolist() == [9, 9, 6, 6]
    assert add_best_static(panel_of({"stock": [1], "model": [1]}))[1] is None


TABLE = synthetic.blocks([Workload("w", "p", blocks=12)], 1, {"model": 0.1}, ("tomorrow",))


@pytest.mark.parametrize(
    ("table", "named"),
    [
        (TABLE.drop("host"), "lacks host"),
        (TABLE.drop("cost_ns"), "lacks cost_ns"),
        (TABLE.head(23), "do not cover the same blocks"),
        (pl.concat([TABLE, TABLE.head(1)]), "has a block twice"),
        (TABLE.with_columns(pl.col("cost_ns") - 10**12), "negative"),
        (TABLE.with_columns(pl.col("cost_ns").cast(pl.Float64)), "only integers add up exactly"),
        (TABLE.with_columns(pl.lit(None, pl.String).alias("device")), "nulls in device"),
        (TABLE.filter(pl.col("arm") == "model"), "no arm 'stock'"),
        (TABLE.filter(pl.col("arm") == "stock"), "no arm 'model'"),
    ],
    ids=["column", "metric", "unpaired", "twice", "negative", "float", "null", "no-stock", "no-model"],
)
def test_blocks_that_cannot_be_compared_are_refused(table: pl.DataFrame, named: str) -> None:
    with pytest.raises(VerificationError) as error:
        panels(table, ["cost_ns"])
    assert named in str(error.value)


def test_what_one_figure_draws_does_not_depend_on_the_others() -> None:
    one = paired.generator(1, "tomorrow", "a").integers(0, 1 << 60, 4)
    assert (one == paired.generator(1, "tomorrow", "a").integers(0, 1 << 60, 4)).all()
    assert (one != paired.generator(1, "tomorrow", "b").integers(0, 1 << 60, 4)).any()
