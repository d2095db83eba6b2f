from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_params
from datasets import write_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from journals import write

from hindsight.capture import schema
from hindsight.capture.proxy import records
from hindsight.errors import ConfigurationError
from hindsight.pipeline import journal
from hindsight.pipeline.dataset import find_captures
from hindsight.pipeline.journal import Journal, read_journal, realised_ppm, together
from hindsight.subsystems.contract import Subsystem

KEY = {"proxy": "p", "id": "r1"}
START = 5_000_000_000
RECOMMENDATION: dict[str, Any] = KEY | {
    "ts": START + 1000, "subsystem": "toy", "sequence": 1, "actuator": "window", "target": "t", "value": 16,
    "ttl_ns": 1, "confidence_ppm": 1, "model": "m", "action": "window=16", "predicted_gain_ppm": 125_000,
    "propensity_ppm": None, "applied": True, "answered_ns": START + 1001, "verdict": "accepted", "used": 16,
    "read_back": 16, "reason": None,
}  # fmt: skip
EFFICIENCY: dict[str, Any] = KEY | {
    "ts": START + 9000, "metric": "stall_ns", "unit": "ns", "noise_ppm": 20_000, "verdict": "better",
    "effective_from_ns": START + 2000, "baseline_from_ns": START, "baseline_to_ns": START + 1000,
    "baseline_n": 10, "baseline_total": 1000, "treated_from_ns": START + 2000, "treated_to_ns": START + 5000,
    "treated_n": 20, "treated_total": 1500,
}  # fmt: skip
SEEN = {"sequential": 0.5, "window": 8.0, "fetch": float("nan")}

Read = Callable[..., Journal]


def features(key: dict[str, str] = KEY, seen: dict[str, float] = SEEN) -> list[dict[str, Any]]:
    return [key | {"feature": n, "bits": int(np.float32(v).view(np.uint32))} for n, v in seen.items()]


@pytest.fixture
def read(tmp_path: Path, toy: Subsystem) -> Read:
    """The journal of a capture whose tables were written to disk; the rows of one good recommendation."""
    dataset = write_dataset(tmp_path / "data", passes=1, reads=20)

    def reading(
        recommendations: list[dict[str, Any]] | None = None,
        efficiency: list[dict[str, Any]] | None = None,
        seen: list[dict[str, Any]] | None = None,
    ) -> Journal:
        tables = {
            "recommendations": [RECOMMENDATION] if recommendations is None else recommendations,
            "efficiency": [EFFICIENCY] if efficiency is None else efficiency,
            "recommendation_features": features() if seen is None else seen,
        }
        write(dataset, "c00", tables)
        found = read_journal(toy, find_captures(dataset)[0])
        assert found is not None
        return found

    return reading


def test_the_tables_have_every_member_of_the_records() -> None:
    columns = {name: {c.name for c in schema.TABLES[name].columns} for name in journal.TABLES}
    assert set(records.Recommendation._fields) - {"schema"} <= columns["recommendations"]
    answer = set(records.Answer._fields) - {"schema", "mono_ns"}
    assert answer | {"answered_ns"} <= columns["recommendations"]
    windows = {f"{w}_{f}" for w in ("baseline", "treated") for f in records.Window._fields}
    assert (
        set(records.Efficiency._fields) - {"schema", "baseline", "treated"} | windows <= columns["efficiency"]
    )


def test_a_recommendation_is_joined_with_what_was_seen_and_what_it_brought(read: Read) -> None:
    found = read()
    row = {name: values[0] for name, values in found.columns.items()}
    assert (found.recommendations, found.left_out) == (1, {})
    assert (row["capture"], row["stream"], row["action"], row["measured"]) == ("c00", "t", 2, True)
    # 75 instead of 100 ns for an operation; gains are negative here.
    assert (row["realised_ppm"], row["predicted_ppm"]) == (-250_000, -125_000)
    assert (row["at_ns"], row["treated_ns"]) == (1_700_000_000_000_000_000 + 1000, 3000)
    assert [row["sequential"], row["window"]] == [0.5, 8.0] and np.isnan(row["fetch"])
    assert found.columns["window"].dtype == np.float32


@pytest.mark.parametrize(
    ("recommendation", "efficiency", "reason"),
    [
        ({"applied": False, "verdict": "tested", "used": None}, {}, journal.NOT_APPLIED),
        ({"verdict": "refused", "used": None, "read_back": None}, {}, journal.NOT_IN_FORCE),
        ({"verdict": None, "used": None, "read_back": None}, {}, journal.NOT_IN_FORCE),
        ({"verdict": "clamped", "used": 12, "read_back": 12}, {}, journal.NOT_IN_FORCE),
        ({"read_back": 8}, {}, journal.NOT_IN_FORCE),
        ({}, {"metric": "fetched", "unit": "blocks"}, journal.NOT_MEASURED),
        ({}, {"verdict": "unknown"}, journal.TOO_FEW),
        ({}, {"treated_n": 0}, journal.NO_COST),
        ({}, {"baseline_n": 0}, journal.NO_COST),
        ({}, {"baseline_total": 0}, journal.NO_COST),
        ({}, {"baseline_from_ns": START - 1}, journal.OUTSIDE),
        ({}, {"treated_to_ns": START + 12_000_000_001}, journal.OUTSIDE),
        ({}, {"treated_to_ns": START + 1999}, journal.OUTSIDE),
        ({}, {"treated_from_ns": START + 1999}, journal.TOO_EARLY),
    ],
)
def test_what_was_not_measured_is_counted_by_reason(
    read: Read, recommendation: dict[str, Any], efficiency: dict[str, Any], reason: str
) -> None:
    found = read([RECOMMENDATION | recommendation], [EFFICIENCY | efficiency])
    assert found.left_out[reason] == 1
    assert found.columns["measured"].tolist() == [False] and found.columns["realised_ppm"].tolist() == [0]
    assert found.columns["window"].tolist() == [8.0]  # its state still says where the host went


def test_a_value_that_could_not_be_read_back_counts_as_set(read: Read) -> None:
    assert read([RECOMMENDATION | {"read_back": None}]).columns["measured"].all()


@pytest.mark.parametrize(
    ("rows", "seen", "reason"),
    [
        ([RECOMMENDATION | {"action": "window=5"}], features(), journal.UNKNOWN_ACTION),
        ([RECOMMENDATION], features(seen=SEEN | {"colour": 1.0}), journal.OTHER_FEATURES),
        ([RECOMMENDATION], features(seen={"window": 8.0}), journal.OTHER_FEATURES),
        ([RECOMMENDATION], [], journal.OTHER_FEATURES),
    ],
)
def test_unknown_names_are_left_out_with_the_reason(
    read: Read, rows: list[dict[str, Any]], seen: list[dict[str, Any]], reason: str
) -> None:
    found = read(rows, seen=seen)
    assert found.left_out == {reason: 1} and len(found.columns["id"]) == 0


def test_efficiency_without_its_recommendation_is_counted(read: Read) -> None:
    found = read(efficiency=[EFFICIENCY, EFFICIENCY | {"id": "r2"}, EFFICIENCY | {"proxy": "q"}])
    assert found.left_out == {journal.WITHOUT_RECOMMENDATION: 2} and found.columns["measured"].all()


def test_another_subsystems_advice_is_none_of_ours(read: Read) -> None:
    other = {"proxy": "q", "id": "r1"}
    rows = [RECOMMENDATION, RECOMMENDATION | other | {"subsystem": "gc", "action": "greedy"}]
    theirs = EFFICIENCY | other | {"metric": "stall_ns", "unit": "blocks"}
    found = read(rows, [EFFICIENCY, theirs], features() + features(other, {"dirty": 1.0}))
    assert (found.recommendations, found.left_out) == (1, {})


@pytest.mark.parametrize(
    ("rows", "efficiency", "seen", "said"),
    [
        ([RECOMMENDATION] * 2, [EFFICIENCY], features(), "recommendations holds p r1 twice"),
        ([RECOMMENDATION], [EFFICIENCY] * 2, features(), "efficiency holds p r1 stall_ns twice"),
        ([RECOMMENDATION], [EFFICIENCY], features() * 2, "recommendation_features holds p r1 sequential"),
        ([RECOMMENDATION], [EFFICIENCY], features(KEY | {"id": "r9"}), "p r9 have no recommendation"),
        ([RECOMMENDATION], [EFFICIENCY | {"unit": "us"}], features(), "stall_ns of p r1 is in us, not in ns"),
    ],
)
def test_a_journal_that_contradicts_itself_is_refused(
    read: Read, rows: list[Any], efficiency: list[Any], seen: list[Any], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"capture c00.*{said}") as caught:
        read(rows, efficiency, seen)
    assert "out of the dataset" in str(caught.value.remedy)


def test_a_journal_beside_no_demand_is_counted_and_not_used(tmp_path: Path, toy: Subsystem) -> None:
    from hindsight.pipeline import params
    from hindsight.pipeline.ingest import ingest
    from hindsight.pipeline.realised import load

    dataset = write_dataset(tmp_path / "data" / "toy", passes=1, reads=20)
    for capture in ("c00", "c01"):
        rows = {"recommendations": [RECOMMENDATION], "recommendation_features": features()}
        write(dataset, capture, rows | {"efficiency": [EFFICIENCY]})
    for path in dataset.rglob("sys_enter_pread64/c01-0.parquet"):
        path.unlink()
    loaded = params.load(make_params(tmp_path))
    manifest = ingest(loaded, toy)
    assert list(manifest["without_demand"]) == ["c01"]
    assert manifest["realised"] == {
        "captures": 2, "recommendations": 2, "measured": 1, "left_out": {journal.WITHOUT_DEMAND: 1},
    }  # fmt: skip
    assert load(params.Layout(loaded.root, "toy")).captures() == ["c00"]
    # A journal of another subsystem's advice is as good as none.
    for capture in ("c00", "c01"):
        write(dataset, capture, {"recommendations": [RECOMMENDATION | {"subsystem": "gc"}]})
    assert "realised" not in ingest(loaded, toy)


def test_without_a_journal_there_is_nothing(tmp_path: Path, toy: Subsystem) -> None:
    capture = find_captures(write_dataset(tmp_path / "data", passes=1, reads=20))[0]
    assert read_journal(toy, capture) is None
    nothing = together(toy, [])
    assert len(nothing.columns["id"]) == 0 and nothing.columns["fetch"].dtype == np.float32


COUNT = st.integers(1, 1 << 40)


@given(COUNT, COUNT, COUNT, st.integers(0, 1 << 40))
def test_the_realised_change_is_the_exact_ratio_rounded(b_n: int, b: int, t_n: int, t: int) -> None:
    row = {"baseline_n": b_n, "baseline_total": b, "treated_n": t_n, "treated_total": t}
    exact_times_den = 1_000_000 * (t * b_n - b * t_n)
    assert abs(2 * (realised_ppm(row) * b * t_n - exact_times_den)) <= b * t_n
    assert (realised_ppm(row) < 0) <= (t * b_n < b * t_n)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_row_is_lost_and_the_order_of_rows_does_not_matter(toy: Subsystem, data: st.DataObject) -> None:
    from hindsight.pipeline.dataset import Capture

    n = data.draw(st.integers(1, 8))
    capture = Capture("c", "h", "w", "p", 0, 12_000_000_000, START, {})
    rows, seen, measured = [], [], []
    for i in range(n):
        key = {"proxy": "p", "id": f"r{i}"}
        action = data.draw(st.sampled_from(["window=1", "window=64", "window=2"]))
        applied, known = data.draw(st.booleans()), data.draw(st.booleans())
        rows.append(RECOMMENDATION | key | {"action": action, "applied": applied})
        seen += features(key) if known else []
        if data.draw(st.booleans()):
            measured.append(EFFICIENCY | key | {"treated_total": data.draw(st.integers(0, 4000))})
    shuffle = data.draw(st.randoms(use_true_random=False))

    def tables(mix: bool) -> dict[str, Any]:
        parts = {"recommendations": rows, "recommendation_features": seen, "efficiency": measured}
        mixed = {name: shuffle.sample(part, len(part)) if mix else part for name, part in parts.items()}
        return {
            name: {column: np.array([row[column] for row in part], object) for column in part[0]}
            for name, part in mixed.items()
            if part
        }

    found, again = journal.join(toy, capture, tables(False)), journal.join(toy, capture, tables(True))
    assert all(a.tolist() == b.tolist() for a, b in _same(found, again)) and found.left_out == again.left_out
    dropped = sum(found.left_out.get(r, 0) for r in (journal.UNKNOWN_ACTION, journal.OTHER_FEATURES))
    assert len(found.columns["id"]) + dropped == found.recommendations == n
    measured_rows = int(found.columns["measured"].sum())
    assert measured_rows + sum(found.left_out.values()) == n


def _same(a: Journal, b: Journal) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(a.columns[n].astype(str), b.columns[n].astype(str)) for n in a.columns]
