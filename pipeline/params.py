"""Parameters of the stages: ``params.yaml``, checked, and where the outputs of each stage are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hindsight.errors import ConfigurationError
from hindsight.pipeline.store import canonical_json, sha256

_INT, _FLOAT, _TEXT, _INTS = "an integer >= 0", "a number >= 0", "a text", "a list of integers >= 0"

REQUIRED: dict[str, dict[str, str]] = {
    "data": {"source": _TEXT},
    "decision": {
        "epoch_ns": _INT,
        "epoch_reads": _INT,
        "min_gain": _FLOAT,
        "block_ns": _INT,
    },
    "advice": {"delay_us": _INTS, "event_ns": _INT, "decision_ns": _INT, "action_ns": _INT},
    "labels": {"horizon_ns": _INT, "scale": _INT, "clip": _FLOAT, "rounds": _INT, "explore": _INT},
    "split": {"purge_ns": _INT},
    "train": {
        "seed": _INT,
        "trees": _INT,
        "depth": _INT,
        "learning_rate": _FLOAT,
        "min_child_weight": _FLOAT,
        "reg_lambda": _FLOAT,
        "subsample": _FLOAT,
        "max_bin": _INT,
        "realised_weight": _FLOAT,
    },
    "evaluate": {"seed": _INT, "draws": _INT, "fidelity": _FLOAT, "delays_ns": _INTS},
    "package": {"version": _TEXT, "validity_days": _INT},
}
"""Section -> key -> what its value must be. Other keys pass through unchecked."""

EVALUATED = ("data", "decision", "advice", "labels", "split", "train", "evaluate")
"""The sections that an evaluation depends on; their hash is in its report."""


def _fits(value: Any, kind: str) -> bool:
    if kind == _TEXT:
        return isinstance(value, str) and bool(value)
    if kind == _INTS:
        return isinstance(value, list) and all(_fits(v, _INT) for v in value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        return False
    return kind == _FLOAT or isinstance(value, int)


@dataclass(frozen=True)
class Params:
    """The parameters, and the directory that relative paths start from (the one of the file)."""

    root: Path
    sections: Mapping[str, Mapping[str, Any]]

    def __getitem__(self, section: str) -> Mapping[str, Any]:
        return self.sections[section]

    @property
    def decision(self) -> dict[str, Any]:
        """When who may be advised, and how late advice is: what a simulation takes (ns)."""
        delays = [1000 * delay for delay in self["advice"]["delay_us"]]
        return {**self["decision"], "advice_delay_ns": delays}

    @property
    def dataset(self) -> Path:
        """The dataset that ``data.source`` names."""
        return self.root / "data" / str(self["data"]["source"])

    def sha256(self, sections: tuple[str, ...] = EVALUATED) -> str:
        """Hash of the canonical form of these sections."""
        return sha256(canonical_json({name: self.sections[name] for name in sections}))


def load(path: Path) -> Params:
    """Read and check a parameter file.

    Raises ConfigurationError if it cannot be read, or a value is missing or out of its range.
    """
    import yaml

    try:
        sections = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"the parameter file {path} cannot be read: {error}",
            "run from the repository's root, or name the file with --params",
        ) from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(sections, dict):
        raise ConfigurationError(f"{path} must be a mapping of sections")
    for section, keys in REQUIRED.items():
        values = sections.get(section)
        if not isinstance(values, dict):
            raise ConfigurationError(f"{path}: the section {section!r} is missing")
        for key, kind in keys.items():
            if key not in values or not _fits(values[key], kind):
                raise ConfigurationError(
                    f"{path}: {section}.{key} must be {kind}, not {values.get(key)!r}",
                    f"correct it in {path}",
                )
    for section, key in (("decision", "block_ns"), ("labels", "horizon_ns"), ("train", "trees")):
        if sections[section][key] < 1:
            raise ConfigurationError(f"{path}: {section}.{key} must be at least 1")
    if not sections["advice"]["delay_us"]:
        raise ConfigurationError(
            f"{path}: advice.delay_us is empty", "name at least one delay; 0 is one, too"
        )
    if sections["split"]["purge_ns"] < sections["labels"]["horizon_ns"]:
        raise ConfigurationError(
            f"{path}: split.purge_ns is shorter than labels.horizon_ns",
            "labels look ahead by the horizon: a shorter gap would let the test leak into the training",
        )
    return Params(path.resolve().parent, sections)


@dataclass(frozen=True)
class Layout:
    """Where the stages of one subsystem write, below the directory of the parameter file."""

    root: Path
    subsystem: str

    @property
    def ingest(self) -> Path:
        """manifest.json, emitted.parquet, fidelity.json, realised.parquet, demand/CAPTURE/TABLE.parquet."""
        return self.root / "build" / self.subsystem / "ingest"

    @property
    def realised(self) -> Path:
        """Recommendations with what they brought, of all captures; written by ingest."""
        return self.ingest / "realised.parquet"

    @property
    def featurize(self) -> Path:
        """split.json, calibration.json, decisions.parquet."""
        return self.root / "build" / self.subsystem / "featurize"

    @property
    def train(self) -> Path:
        """model.ubj, null.ubj, without/PROGRAM.ubj, training.json."""
        return self.root / "build" / self.subsystem / "train"

    @property
    def evaluate(self) -> Path:
        """blocks.parquet, report.json."""
        return self.root / "build" / self.subsystem / "evaluate"

    @property
    def report(self) -> Path:
        """report.html, report.md, report.json; metrics.json and plots/ (written by evaluate)."""
        return self.root / "reports" / self.subsystem

    def package(self, version: str) -> Path:
        """The exported package of this version."""
        return self.root / "models" / "exported" / f"{self.subsystem}-{version}"


DEFAULT_DECISION = {
    "epoch_ns": 250_000_000,
    "epoch_reads": 64,
    "advice_delay_ns": [1_000_000],
    "block_ns": 100_000_000,
}
DEFAULT_HORIZON_NS = 1_000_000_000


def headroom_params(path: Path) -> tuple[Mapping[str, Any], int]:
    """(decision, horizon in ns) for a look at the headroom: of the file if it is there, else the defaults."""
    if not path.exists():
        return DEFAULT_DECISION, DEFAULT_HORIZON_NS
    params = load(path)
    return params.decision, int(params["labels"]["horizon_ns"])
