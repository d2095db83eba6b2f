"""Versions on the same blocks, or the reason why there are no such blocks."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from hindsight.errors import ConfigurationError
from hindsight.pipeline import inputs
from hindsight.pipeline.block_costs import WHERE
from hindsight.pipeline.compare.version import Version
from hindsight.pipeline.evidence.panel import MODEL, STOCK, Panel, panels

_CAPTURE = ("evaluation", "host", "workload", "device", "capture", "program")


def arm(index: int) -> str:
    """The arm of a version by its place: the first one, the reference, is "model"."""
    return MODEL if index == 0 else f"{MODEL}:{index}"


def common_evaluations(versions: Sequence[Version]) -> list[str]:
    """Evaluations that all versions have; ConfigurationError if there is none."""
    common = sorted(set.intersection(*(set(v.evaluations) for v in versions)))
    if not common:
        raise ConfigurationError(
            "these versions have no evaluation in common: "
            + "; ".join(f"{v.label} has {', '.join(v.evaluations) or 'none'}" for v in versions),
            "compare versions that were tested in the same way",
        )
    return common


def why_not_the_same(versions: Sequence[Version]) -> str | None:
    """Why the versions were not measured on the same data; None if they were.

    The same data: the manifests give the same hash of it, the same captures were tested on, and stock costs
    the same in every block.
    """
    first = versions[0]
    for other in versions[1:]:
        pair = f"{first.label} and {other.label}"
        if first.manifest.inputs.get("data") != other.manifest.inputs.get("data"):
            return f"{pair} were measured on different data{_which(first, other)}"
        for evaluation in common_evaluations(versions):
            ours, theirs = (v.blocks.filter(pl.col("evaluation") == evaluation) for v in (first, other))
            if not _captures(ours).equals(_captures(theirs)):
                return f"{pair} were tested on different captures in the evaluation {evaluation}"
            costs = ours.join(theirs, on=WHERE, how="full", coalesce=True).fill_null(0)
            differ = costs.filter(pl.col(STOCK) != pl.col(f"{STOCK}_right"))
            if len(differ):
                return (
                    f"{pair} do not agree on what stock costs in {len(differ):,} of {len(costs):,} blocks of "
                    f"{evaluation}: blocks of another length, or another model of time"
                )
    return None


def _captures(blocks: pl.DataFrame) -> pl.DataFrame:
    return blocks.select(_CAPTURE).unique().sort(_CAPTURE)


def _which(first: Version, other: Version) -> str:
    given = [version.made_from.get("folders") for version in (first, other)]
    if not all(given):
        return ""
    differ = inputs.changed(*({"": folders} for folders in given if folders))
    shown = ", ".join(name.removeprefix(".") for name in differ[:2])
    return f" ({len(differ)} folders differ: {shown}{', …' if len(differ) > 2 else ''})" if differ else ""


def paired(versions: Sequence[Version]) -> list[Panel]:
    """One panel per common evaluation, with the arms "stock", "model" (the first version), "model:1", ….

    A block that a version does not list had no cost under any of its arms: it counts as zero. To be called
    where :func:`why_not_the_same` finds nothing.
    """
    common = common_evaluations(versions)
    kept = [v.blocks.filter(pl.col("evaluation").is_in(common)) for v in versions]
    where = pl.concat([blocks.select(WHERE) for blocks in kept]).unique().sort(WHERE)
    columns = [(STOCK, kept[0], STOCK), *((arm(i), blocks, MODEL) for i, blocks in enumerate(kept))]
    parts = [
        where.join(blocks.select(*WHERE, pl.col(name).alias("cost")), on=WHERE, how="left")
        .with_columns(pl.col("cost").fill_null(0), pl.lit(label).alias("arm"))
        .select(*WHERE, "arm", "cost")
        for label, blocks, name in columns
    ]
    return panels(pl.concat(parts), ["cost"])


def alone(version: Version, evaluations: Sequence[str]) -> list[Panel]:
    """One panel per evaluation, with the arms "stock" and "model" of one version."""
    own = version.blocks.filter(pl.col("evaluation").is_in(list(evaluations)))
    parts = [
        own.select(*WHERE, pl.lit(name).alias("arm"), pl.col(name).alias("cost")) for name in (STOCK, MODEL)
    ]
    return panels(pl.concat(parts), ["cost"])
