"""A report with every section, from made-up costs: good and bad workloads, long and hostile names."""

from __future__ import annotations

from typing import Any

from hindsight.pipeline import evidence
from hindsight.pipeline.evidence import synthetic
from hindsight.pipeline.evidence.synthetic import Workload

WORKLOADS = [
    Workload("sequential scan with a rather long name", "db", blocks=60, gains={"model": 0.4}),
    Workload("victim", "tar", "slow-disk", blocks=60, gains={"model": -0.5}),
    Workload("brief", "git", blocks=8),
    Workload("odd", "git", blocks=20),
    Workload("<script>alert(1)</script> & | pipe", "grep", "slow-disk", blocks=40),
]

MS = 1_000_000


def _stream(*rows: tuple[int, int, int, int]) -> dict[str, Any]:
    """Rows of time (ms), duration (ms), begin and end."""
    return {
        "ts": [ts * MS for ts, _, _, _ in rows],
        "until": [(ts + took) * MS for ts, took, _, _ in rows],
        "begin": [begin for _, _, begin, _ in rows],
        "end": [end for _, _, _, end in rows],
        "of": len(rows),
    }


def _example(
    program: str, costs: tuple[int, int], asked: dict[str, Any], stock: dict[str, Any], model: dict[str, Any]
) -> dict[str, Any]:
    return {
        "capture": "c1",
        "workload": "scan",
        "device": "7:0/iops=200/bps=104857600",
        "program": program,
        "costs": {"stock": costs[0] * MS, "model": costs[1] * MS},
        "asked": asked,
        "fetched": {"stock": stock, "model": model},
    }


def explanations() -> dict[str, Any]:
    """What ``evaluate`` says of a model: three streams, of which one is a single access."""
    asked = _stream((0, 1800, 0, 12_000), (2000, 3000, 15_000, 32_000), (5200, 0, 7, 8))
    whole = _stream((0, 1800, 0, 12_000), (2000, 3000, 15_000, 32_000)) | {"used": [12_000, 17_000]}
    wasted = _stream((0, 900, 0, 16_000), (2000, 2500, 15_000, 36_000)) | {"used": [12_000, 17_000]}
    single = _stream((0, 0, 0, 2))
    one = single | {"used": [2]}
    names = ["sequential", "a_feature_with_a_long_name", "<script>alert(2)</script>"]
    rows = [
        {"feature": name, "lost": lost, "outside": outside}
        for name, lost, outside in zip(names, (40 * MS, 3 * MS, -MS), (0, 5, 1), strict=True)
    ]
    return {
        "decisions": 4_321,
        "outside": 6,
        "stock_cost": 2_000 * MS,
        "features": rows,
        "unit": "pages",
        "examples": [
            _example("grep", (5_000, 600), asked, whole, wasted),
            _example("<script>alert(3)</script>", (200, 900), asked, wasted, whole),
            _example("git", (1, 95), single, one, one),
        ],
    }


def reported(**context: Any) -> dict[str, Any]:
    """The report; ``context``: sections in place of, or besides, the made-up ones."""
    blocks = synthetic.blocks(WORKLOADS, 5)
    whole = synthetic.context(blocks) | {"explanations": explanations()} | context
    name = next(name for name in whole["fidelity"]["captures"] if name.startswith("odd"))
    whole["fidelity"]["captures"][name] = {"recorded": 1000, "matched": 900}
    return evidence.assess(blocks, whole, {"draws": 200})
