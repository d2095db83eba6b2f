"""Packages with planted costs: two versions of a model whose difference is known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from hindsight.models.package import read_package, write_package
from hindsight.pipeline import block_costs, evidence, inputs
from hindsight.pipeline.evidence import synthetic
from hindsight.pipeline.evidence.synthetic import Workload
from hindsight.pipeline.store import canonical_json, sha256

WORKLOADS = [
    Workload("scan", "db", blocks=60),
    Workload("lookup", "db", "slow", blocks=60),
    Workload("pack & <b>go</b> | pipe", "git", blocks=60),
    Workload("grep", "grep", "slow", blocks=60),
]


def planted(table: pl.DataFrame, change: Mapping[str, float], seed: int, noise: float = 0.1) -> pl.DataFrame:
    """``table`` with the model's cost changed by these shares per workload, and by noise of mean 1."""
    rng = np.random.Generator(np.random.PCG64(seed))
    blur = np.exp(rng.standard_normal(len(table)) * noise - noise * noise / 2.0)
    factor = np.array([1.0 + change.get(name, 0.0) for name in table["workload"].to_list()]) * blur
    cost = np.rint(table["cost_ns"].to_numpy() * factor).astype(np.int64)
    model = (table["arm"] == "model").to_numpy()
    return table.with_columns(cost_ns=pl.Series(np.where(model, cost, table["cost_ns"].to_numpy())))


def costs(table: pl.DataFrame) -> bytes:
    """The costs per block that travel with a package."""
    text = [name for name in table.columns if table[name].dtype == pl.String]
    columns = {
        name: np.array(table[name].to_list(), dtype=object) if name in text else table[name].to_numpy()
        for name in table.columns
    }
    return block_costs.block_costs(columns, "cost_ns")


def write_version(
    directory: Path,
    model_of: Path,
    table: pl.DataFrame,
    data: str = "0" * 64,
    params: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Path:
    """A package with the model of another one and evidence from ``table``."""
    like = read_package(model_of)
    document = like.manifest.document()
    report = evidence.assess(table, synthetic.context(table), {"draws": 400})
    made_from = {"params": {"train": params or {"depth": 4}}, "folders": {"host=a/date=d/captures": data}}
    files = dict(like.files) | {
        "report.json": canonical_json(report),
        block_costs.FILE: costs(table),
        inputs.FILE: canonical_json(made_from),
    }
    given = {k: v for k, v in document.items() if k not in ("files", "format_version", "xgboost_version")}
    given |= {"name": "synthetic", "mode": report["verdict"]["mode"], **fields}
    given["inputs"] = {"data": data, "params": sha256(canonical_json(made_from["params"]))}
    write_package(directory, given, files)
    return directory
