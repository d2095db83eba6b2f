from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hindsight.lab import measured as results
from hindsight.lab.measured import METRICS, pairs, summary, terminal, values, write_result

PLAN = {"suite": "s", "machine": "m", "seed": 1}


def predicted(pages: int, requests: int, rate: int) -> dict[str, Any]:
    labels = {name: "exact" for name in ("pages_fetched", "pages_wasted")}
    labels |= {"requests": "modelled", "throughput": "modelled"}
    return {
        "pages_fetched": pages, "pages_wasted": pages - 80, "requests": requests, "elapsed_ns": 1,
        "throughput": rate, "labels": labels,
    }  # fmt: skip


PREDICTIONS: dict[str, Any] = {
    "workloads": [
        {
            "profile": "P1", "workload": "w", "pages_demanded": 80, "bytes": 80 * 4096, "recorded_ns": 5,
            "settings": {
                "stock": predicted(100, 10, 1000),
                "device:512": predicted(150, 5, 1500),
                "model": predicted(100, 10, 1000),
            },
        }
    ],
    "skipped": [{"profile": "P1", "workload": "x", "setting": "*", "reason": "mapped"}],
}  # fmt: skip


def run(setting: str, number: int, pages: int, requests: int, elapsed: int) -> dict[str, Any]:
    return {
        "kind": "run", "profile": "P1", "workload": "w", "round": number, "setting": setting,
        "elapsed_ns": elapsed, "requests": requests, "requests_completed": requests - 1,
        "pages_fetched": pages, "cached": pages - 2, "evicted": 2, "pressure": 30, "advised": 0, "late_ns": 0,
    }  # fmt: skip


def blocks() -> dict[tuple[str, str, int], list[dict[str, Any]]]:
    # The second round is twice as slow altogether: only pairs within a round show what the setting does.
    return {
        ("P1", "w", 1): [run("device:512", 1, 150, 5, 1000), run("stock", 1, 100, 10, 1500)],
        ("P1", "w", 2): [run("stock", 2, 100, 10, 3000), run("device:512", 2, 150, 5, 2000)],
    }


def test_values_of_a_run() -> None:
    got = values(run("stock", 1, 100, 10, 2_000_000_000), 80, 80 * 4096)
    assert tuple(got) == METRICS
    assert got["pages_wasted"] == 20 and got["pages_cached"] == 98 and got["pages_evicted"] == 2
    assert got["read_amplification"] == 1250
    assert got["throughput"] == 80 * 4096 // 2


def test_a_setting_is_compared_with_the_stock_run_of_its_round() -> None:
    found = {(p.setting, p.metric): p for p in pairs(PREDICTIONS, blocks())}
    assert {setting for setting, _ in found} == {"device:512"}, "what was not run is not compared"
    speed = found["device:512", "throughput"]
    assert speed.measured == pytest.approx(0.5, rel=1e-6) and speed.noise == pytest.approx(0, abs=1e-6)
    assert speed.predicted == 0.5 and speed.rounds == 2
    assert found["device:512", "pages_fetched"].measured == 0.5
    assert found["device:512", "pages_wasted"].measured == 0.5
    assert found["device:512", "requests"].measured == -0.5
    assert found["device:512", "requests_completed"].predicted == -0.5


def test_the_files_of_a_result(tmp_path: Path) -> None:
    result = write_result(tmp_path, PLAN, "ab" * 32, PREDICTIONS, blocks())
    table = pq.read_table(tmp_path / results.MEASURED)
    assert table.schema.field("value").type == pa.int64()
    assert table.num_rows == 4 * len(METRICS)
    rows = table.to_pylist()
    assert {row["machine"] for row in rows} == {"m"} and {row["predictions"] for row in rows} == {"ab" * 32}
    stock = [r["value"] for r in rows if r["setting"] == "stock" and r["metric"] == "elapsed_ns"]
    assert stock == [1500, 3000]
    assert json.loads((tmp_path / results.SUMMARY).read_text()) == json.loads(json.dumps(result))
    svg = (tmp_path / results.PLOT).read_text()
    assert svg.startswith("<svg") and "xmlns" in svg and "pages fetched" in svg
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_result(tmp_path, PLAN, "ab" * 32, PREDICTIONS, blocks())
    assert first == {path.name: path.read_bytes() for path in tmp_path.iterdir()}, "the same bytes again"


def test_the_summary_says_what_is_off_and_what_was_left_out() -> None:
    wrong = json.loads(json.dumps(PREDICTIONS))
    wrong["workloads"][0]["settings"]["device:512"]["requests"] = 20
    result = summary(PLAN, "", wrong, blocks())
    requests = result["metrics"]["requests"]["all"]
    assert requests["right_sign_share"] == 0.0 and requests["outliers"] == 1
    assert requests == result["metrics"]["requests"]["device"]
    assert [o["metric"] for o in result["outliers"]] == ["requests", "requests_completed"]
    assert result["rounds"] == {"P1/w": 2} and result["runs"] == 4
    assert result["disturbance"]["runs_with_evictions"] == 4
    (time,) = result["stock_time"]
    assert time["measured_ns"] == 2250
    text = terminal(result)
    assert "outlier: P1 w device:512 requests: predicted +100.0 %, measured -50.0 %" in text
    assert "skipped: P1 x *: mapped" in text
