"""``hindsight pipeline calibrate``: the rules of evidence on real data of which the truth is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hindsight.errors import ConfigurationError, UsageError
from hindsight.pipeline.params import Layout, Params
from hindsight.subsystems.contract import Subsystem

if TYPE_CHECKING:
    from hindsight.pipeline.evidence.panel import Group, Panel

DRAWS = 2000
"""Draws of each case, unless told."""

LEAST_DRAWS = 20

TIME = "elapsed_ns"
"""The metric of a live run that shows the cost which policies are compared in."""


def calibrate(params: Params, subsystem: Subsystem, draws: int = DRAWS, arm: str = "model") -> dict[str, Any]:
    """Count what the rules declare on the blocks of the last `evaluate` with signs at random, and on the
    stock runs of the lab with labels at random; returns JSON values.

    Raises UsageError (too few draws, an unknown arm), ConfigurationError (nothing was evaluated yet, a file
    is damaged). Without live runs there is no case of the lab.
    """
    from hindsight.pipeline.evidence import calibration
    from hindsight.pipeline.evidence.thresholds import Thresholds

    if draws < LEAST_DRAWS:
        raise UsageError(f"{draws} draws say nothing", f"make it at least {LEAST_DRAWS}")
    limits = Thresholds.from_params(params["evaluate"])
    cases = [
        case
        for panel in evaluated(params, subsystem, arm)
        for case in calibration.of_evaluation(panel, arm, limits)
    ]
    cases += calibration.of_repeats(stock_runs(params.root, subsystem.name))
    return {"subsystem": subsystem.name, "arm": arm, **calibration.calibrate(cases, limits, draws)}


def evaluated(params: Params, subsystem: Subsystem, arm: str) -> list[Panel]:
    """The panels of the last `evaluate`, by the cost.

    Raises UsageError if they lack ``arm``, ConfigurationError if there are none.
    """
    import polars as pl

    from hindsight.pipeline.evidence.panel import STOCK, panels

    path = Layout(params.root, subsystem.name).evaluate / "blocks.parquet"
    try:
        blocks = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}", "run `dvc repro` first") from error
    found = panels(blocks, [subsystem.metrics[0].name])
    arms = [name for name in found[0].arms if name != STOCK] if found else []
    if arm not in arms:
        raise UsageError(f"no arm {arm!r} was evaluated", f"it is one of {', '.join(arms) or 'none'}")
    return found


def stock_runs(root: Path, subsystem: str) -> dict[Group, list[int]]:
    """(workload, profile) -> time in ns of the stock run of each round, in the order of the rounds; empty if
    nothing was run live. Raises ConfigurationError if the file is damaged."""
    import polars as pl

    from hindsight.pipeline.evidence.panel import STOCK

    path = root / "data" / "measured" / subsystem / "measured.parquet"
    if not path.exists():
        return {}
    try:
        runs = (
            pl.read_parquet(path)
            .filter((pl.col("setting") == STOCK) & (pl.col("metric") == TIME))
            .sort("workload", "profile", "round")
            .select("workload", "profile", "value")
        )
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ConfigurationError(
            f"{path} is not the result of a validation: {error}",
            "Make it again: `hindsight lab validate`, or remove its directory.",
        ) from error
    measured: dict[Group, list[int]] = {}
    for workload, profile, value in runs.iter_rows():
        measured.setdefault((workload, profile), []).append(int(value))
    return measured


NULL_HEADER = ("evaluation", "differences", "random", "compared", "declared", "fits (99 %)", "stated", "")
PLANTED_HEADER = ("evaluation", "differences", "planted", "found", "fits (99 %)", "promised", "")


def terminal(result: Mapping[str, Any]) -> str:
    """The result for people."""
    from hindsight.pipeline import table

    return _text(result, lambda header, rows: table.render(header, rows, 4 if "random" in header else 2))


def markdown(result: Mapping[str, Any]) -> str:
    """The result as the tables of docs/evidence.md."""

    def tables(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
        return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows))

    return _text(result, tables)


def _text(result: Mapping[str, Any], table: Callable[[Sequence[str], Sequence[Sequence[str]]], str]) -> str:
    lines = [
        f"{result['subsystem']}, {result['arm']} against stock: {result['draws']:,} draws of each case, "
        f"{result['bootstrap_draws']:,} of each bootstrap. Where there is no difference, one was "
        "declared in:",
        "",
        table(NULL_HEADER, [_null_cells(row) for row in result["null"]]),
        "",
        "Effects that were planted in the same data, and the share that was found:",
        "",
        table(PLANTED_HEADER, [_planted_cells(row) for row in result["planted"]]),
        "",
    ]
    if result["outside"]:
        lines += ["Outside their bounds:", "", *[f"- {line}" for line in result["outside"]]]
    else:
        lines += ["Nothing is outside its bounds."]
    return "\n".join(lines)


def _null_cells(row: Mapping[str, Any]) -> list[str]:
    reachable = row["reachable"]
    stated = _percent(row["stated"])
    if reachable and reachable[0] == 0.0:
        stated = f"≤ {_percent(reachable[1])}"
    elif reachable and reachable[1] - reachable[0] > 0.001:
        stated = f"{_percent(row['stated'])} ({_percent(reachable[0])} or {_percent(reachable[1])})"
    return [
        row["data"],
        row["differences"],
        row["drawn"],
        row["comparison"],
        *_share_cells(row["declared"]),
        stated,
        row["status"] or "not judged",
    ]


def _planted_cells(row: Mapping[str, Any]) -> list[str]:
    name = _percent(row["gain"])
    return [
        row["data"],
        row["differences"],
        f"{name}, the detectable" if row["detectable"] else name,
        *_share_cells(row["found"]),
        "–" if row["promised"] is None else _percent(row["promised"]),
        row["status"] or "",
    ]


def _share_cells(share: Mapping[str, Any]) -> list[str]:
    return [_percent(share["share"]), f"{100 * share['low']:.1f} to {100 * share['high']:.1f}"]


def _percent(value: float) -> str:
    """A share; without a decimal where there is none."""
    return f"{100 * value:.1f} %".replace(".0 %", " %")
