"""A small trained model, and a package of it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import xgboost


@pytest.fixture(scope="session")
def model_bytes() -> bytes:
    """A model of three features and an encoding of one value, as UBJSON."""
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(300, 4)).astype(np.float32)
    names = ["reads", "streak", "gap", "action"]
    matrix = xgboost.DMatrix(rows, rows.sum(axis=1), feature_names=names, nthread=1)
    settings = {"nthread": 1, "seed": 1, "max_depth": 3, "base_score": 0}
    return bytes(xgboost.train(settings, matrix, 6).save_raw("ubj"))


FIELDS: dict[str, Any] = {
    "name": "window",
    "version": "0.1.0",
    "subsystem": "example",
    "features": [
        {"name": "reads", "dtype": "float32", "unit": "reads", "low": 0, "high": 1e6},
        {"name": "streak", "dtype": "float32", "unit": "", "low": 0.0, "high": 0.125},
        {"name": "gap", "dtype": "float32", "unit": "µs", "low": -1.5, "high": 4096},
    ],
    "decision": {
        "actions": [{"name": "small", "encoding": [4]}, {"name": "large", "encoding": [512.0]}],
        "keep_encoding": [-1],
        "minimum_gain": 0.05,
    },
    "bounds": {"pages": [4, 2048]},
    "objective": {"metric": "stall", "unit": "ns", "loss": "reg:squarederror"},
    "inputs": {"data": "0" * 64, "params": "a" * 64, "code": "f" * 64},
    "mode": "learning",
    "expiry": {"newest_data_ns": 1_700_000_000_000_000_000, "valid_days": 30},
}


@pytest.fixture
def fields() -> dict[str, Any]:
    return copy.deepcopy(FIELDS)


@pytest.fixture
def files(model_bytes: bytes) -> dict[str, bytes]:
    return {
        "model.ubj": model_bytes,
        "report.json": b"{}\n",
        "golden.parquet": b"PAR1 stands for a table here",
        "MODEL_CARD.md": "# Window\n\nWhat it is not for: …\n".encode(),
    }
