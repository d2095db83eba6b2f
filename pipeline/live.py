"""What ``hindsight lab validate`` measured, for the report: data/measured/SUBSYSTEM/summary.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hindsight.errors import ConfigurationError
from hindsight.pipeline.store import read_json

METRIC = "throughput"
"""The metric that shows the cost which policies are compared in: time."""


def live_check(root: Path, subsystem: str, least_rounds: int) -> dict[str, Any] | None:
    """The ``live_check`` of a report's context; None if nothing was run live, or less than ``least_rounds``
    rounds of some workload.

    ``points``: every pair, differences to stock in parts of stock. Raises ConfigurationError if the file is
    damaged.
    """
    path = root / "data" / "measured" / subsystem / "summary.json"
    if not path.exists():
        return None
    summary = read_json(path)
    try:
        rounds = min(summary["rounds"].values(), default=0)
        totals = summary["metrics"][METRIC]["all"]
        if rounds < least_rounds or not totals["changed"]:
            return None
        return {
            "pairs": totals["changed"],
            "sign_right": totals["right_sign_share"],
            "median_error": totals["error_median"],
            "p90_error": totals["error_p90"],
            "points": [
                {key: pair[key] for key in ("profile", "workload", "setting", "predicted", "measured")}
                for pair in summary["pairs"]
                if pair["metric"] == METRIC
            ],
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"{path} is not the summary of a validation: {error!r}",
            "Make it again: `hindsight lab validate`, or remove its directory.",
        ) from error
