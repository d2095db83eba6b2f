"""What the rules of evidence may be told: the ``evaluate`` section of params.yaml, with defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from hindsight.errors import ConfigurationError


@dataclass(frozen=True)
class Thresholds:
    """Limits and sizes. All shares and margins are fractions (0.05 = 5 %)."""

    draws: int = 2000
    seed: int = 20240229
    confidence: float = 0.95
    power: float = 0.8
    min_blocks: int = 10
    fidelity: float = 0.99
    non_inferiority: float = 0.05
    min_headroom: float = 0.02
    calibration_limit: float = 0.15
    live_sign_share: float = 0.95
    live_error_limit: float = 0.15

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> Thresholds:
        """Read the known keys of ``params``; others belong to the caller. Raises ConfigurationError."""
        known = {field.name: field.type for field in fields(cls)}
        values: dict[str, Any] = {}
        for name, kind in known.items():
            if params.get(name) is None:
                continue
            given = params[name]
            if isinstance(given, bool) or not isinstance(given, int if kind == "int" else int | float):
                raise ConfigurationError(
                    f"params.yaml: evaluate.{name} is {given!r}",
                    f"it must be {'an integer' if kind == 'int' else 'a number'}",
                )
            values[name] = int(given) if kind == "int" else float(given)
        out = cls(**values)
        if out.draws < 50 or out.min_blocks < 2 or out.seed < 0:
            raise ConfigurationError(
                "params.yaml: evaluate has an impossible size",
                "draws must be at least 50, min_blocks at least 2, seed not negative",
            )
        for name in ("confidence", "power", "fidelity"):
            if not 0.5 < getattr(out, name) <= (1.0 if name == "fidelity" else 0.9999):
                raise ConfigurationError(
                    f"params.yaml: evaluate.{name} is {getattr(out, name)!r}",
                    "it is a share between 0.5 and 1, such as 0.95",
                )
        return out

    def as_dict(self) -> dict[str, Any]:
        """All values, for the report."""
        return asdict(self)
