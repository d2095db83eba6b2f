"""What of a validation reaches the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hindsight.errors import ConfigurationError
from hindsight.lab.comparison import GOALS
from hindsight.lab.measured import summary
from hindsight.pipeline.live import METRIC, live_check

PREDICTIONS: dict[str, Any] = {
    "workloads": [
        {
            "profile": "P1", "workload": "w", "pages_demanded": 80, "bytes": 80 * 4096, "recorded_ns": 5,
            "settings": {
                name: {
                    "pages_fetched": pages, "pages_wasted": pages - 80, "requests": 10, "elapsed_ns": 1,
                    "throughput": rate, "labels": dict.fromkeys(GOALS, "modelled"),
                }
                for name, pages, rate in (("stock", 100, 1000), ("device:512", 150, 1400))
            },
        }
    ],
    "skipped": [],
}  # fmt: skip


def blocks(rounds: int) -> dict[tuple[str, str, int], list[dict[str, Any]]]:
    def run(setting: str, number: int, elapsed: int) -> dict[str, Any]:
        return {
            "kind": "run", "profile": "P1", "workload": "w", "round": number, "setting": setting,
            "elapsed_ns": elapsed, "requests": 10, "requests_completed": 9, "pages_fetched": 100,
            "cached": 98, "evicted": 2, "pressure": 30, "advised": 0, "late_ns": 0,
        }  # fmt: skip

    return {("P1", "w", n): [run("stock", n, 1500), run("device:512", n, 1000)] for n in range(1, rounds + 1)}


def write(root: Path, rounds: int) -> Path:
    path = root / "data" / "measured" / "readahead" / "summary.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(summary({"suite": "readahead"}, "", PREDICTIONS, blocks(rounds))))
    return path


def test_pairs_and_points_of_a_validation(tmp_path: Path) -> None:
    write(tmp_path, 10)
    got = live_check(tmp_path, "readahead", 10)
    assert got is not None
    assert got["pairs"] == 1 and got["sign_right"] == 1.0
    assert got["median_error"] == got["p90_error"] == pytest.approx(0.2, rel=1e-3)
    (point,) = got["points"]
    assert point["predicted"] == 0.4 and point["measured"] == pytest.approx(0.5, rel=1e-3)
    assert METRIC == "throughput"


def test_too_few_rounds_and_nothing_at_all_are_no_check(tmp_path: Path) -> None:
    assert live_check(tmp_path, "readahead", 10) is None
    write(tmp_path, 9)
    assert live_check(tmp_path, "readahead", 10) is None
    assert live_check(tmp_path, "another", 1) is None


def test_a_damaged_summary_is_a_clear_error(tmp_path: Path) -> None:
    path = write(tmp_path, 10)
    for text in ("{", "[]", "{}", '{"rounds": {"P1/w": 10}, "metrics": {}}'):
        path.write_text(text)
        with pytest.raises(ConfigurationError, match="summary"):
            live_check(tmp_path, "readahead", 10)
