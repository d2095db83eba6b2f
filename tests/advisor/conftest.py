"""A package as the pipeline makes it, golden predictions and all, and someone who signs it."""

from __future__ import annotations

import copy
import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xgboost

from hindsight.models import keys, package, signing, trees
from hindsight.models.manifest import DAY_NS, canonical_json

NAMES = ["reads", "streak", "gap", "action_0"]
DATA_NS = 1_700_000_000_000_000_000
NOW_NS = DATA_NS + 10 * DAY_NS
FIELDS: dict[str, Any] = {
    "name": "window",
    "version": "0.1.0",
    "subsystem": "example",
    "features": [
        {"name": name, "dtype": "float32", "unit": "reads", "low": -4, "high": 4} for name in NAMES[:3]
    ],
    "decision": {
        "actions": [{"name": "small", "encoding": [4]}, {"name": "large", "encoding": [512]}],
        "keep_encoding": [-1],
        "minimum_gain": 0.05,
    },
    "bounds": {"pages": [4, 2048]},
    "objective": {"metric": "stall", "unit": "ns", "loss": "reg:squarederror"},
    "inputs": {"data": "0" * 64},
    "mode": "learning",
    "expiry": {"newest_data_ns": DATA_NS, "valid_days": 30},
}


def parquet(columns: dict[str, np.ndarray[Any, Any]]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out, compression="zstd", store_schema=False)
    return out.getvalue()


@dataclass(frozen=True)
class Content:
    """What a package holds, before it is written."""

    fields: dict[str, Any]
    files: dict[str, bytes]
    columns: dict[str, np.ndarray[Any, Any]]
    """Of golden.parquet."""


@pytest.fixture(scope="session")
def made() -> Content:
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(300, 4)).astype(np.float32)
    matrix = xgboost.DMatrix(rows, rows.sum(axis=1), feature_names=NAMES, nthread=1)
    settings = {"nthread": 1, "seed": 1, "max_depth": 3, "base_score": 0}
    model = bytes(xgboost.train(settings, matrix, 6).save_raw("ubj"))
    inputs = rng.normal(size=(48, 4)).astype(np.float32)
    inputs[5, 1] = np.nan
    columns = {name: inputs[:, k].copy() for k, name in enumerate(NAMES)}
    columns["margin"] = trees.margins(trees.load(model), inputs)
    files = {
        "model.ubj": model,
        "report.json": b"{}\n",
        "golden.parquet": parquet(columns),
        "MODEL_CARD.md": "# Window\n\nWhat it is not for: …\n".encode(),
    }
    return Content(FIELDS, files, columns)


@pytest.fixture
def content(made: Content) -> Content:
    return Content(copy.deepcopy(made.fields), dict(made.files), dict(made.columns))


@dataclass(frozen=True)
class Shelf:
    """A signed package, the keys of its maker, who is trusted, and of a stranger, who is not."""

    package: Path
    maker: Path
    stranger: Path
    trust_directory: Path

    @property
    def signature(self) -> Path:
        return signing.signature_path(self.package)

    @property
    def trust(self) -> keys.Trust:
        return keys.read_trust(self.trust_directory)

    def write(self, content: Content) -> None:
        """Make the package anew, and sign it."""
        package.write_package(self.package, content.fields, content.files)
        self.sign(self.maker)

    def sign(self, key: Path) -> None:
        """Sign whatever manifest is there, be it good or not."""
        private = keys.read_private(key)
        value = private.sign((self.package / "manifest.json").read_bytes())
        self.signature.write_bytes(signing.Signature(keys.key_id(private.public_key()), value).encode())

    def restate(self, change: Callable[[dict[str, Any]], object]) -> None:
        """Change the manifest, and write it in due form."""
        path = self.package / "manifest.json"
        document = json.loads(path.read_bytes())
        change(document)
        path.write_bytes(canonical_json(document))

    def put(self, name: str, data: bytes) -> None:
        """Change a file and its entry in the manifest."""
        (self.package / name).write_bytes(data)
        entry = {"size": len(data), "sha256": sha256(data).hexdigest()}
        self.restate(lambda document: document["files"].update({name: entry}))


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory, made: Content) -> Path:
    directory = tmp_path_factory.mktemp("written") / "window-0.1.0"
    package.write_package(directory, made.fields, made.files)
    return directory


@pytest.fixture
def shelf(tmp_path: Path, written: Path) -> Shelf:
    for name in ("maker", "stranger"):
        keys.generate(tmp_path / f"{name}.key")
    trust = tmp_path / "trust.d"
    trust.mkdir(mode=0o755)
    shutil.copy(tmp_path / "maker.key.pub", trust / "maker.pub")
    where = tmp_path / "exported" / "window-0.1.0"
    shutil.copytree(written, where)
    shelf = Shelf(where, tmp_path / "maker.key", tmp_path / "stranger.key", trust)
    shelf.sign(shelf.maker)
    return shelf


class Started:
    """Processes that this one started while it was watched."""

    def __init__(self) -> None:
        self.hears = self.watching = False
        self.commands: list[str] = []

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.watching and event in ("subprocess.Popen", "os.fork", "os.posix_spawn", "os.exec"):
            self.commands.append(f"{event} {arguments[:2]}")


_STARTED = Started()


@pytest.fixture
def started() -> Iterator[Started]:
    """What would have loaded a model: refusals must come before any child process."""
    if not _STARTED.hears:
        # An audit hook stays for good: one is enough.
        sys.addaudithook(_STARTED.hear)
        _STARTED.hears = True
    _STARTED.commands.clear()
    _STARTED.watching = True
    yield _STARTED
    _STARTED.watching = False
