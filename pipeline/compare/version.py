"""One version of a model as it is compared: its manifest, its report, and what its blocks cost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from hindsight.errors import ConfigurationError, VerificationError
from hindsight.models.manifest import Manifest
from hindsight.models.package import read_package
from hindsight.pipeline import block_costs, inputs
from hindsight.pipeline.evidence.panel import MODEL, STOCK
from hindsight.pipeline.store import canonical_json, sha256

_FETCH = "fetch or make the package again"


@dataclass(frozen=True)
class Version:
    """``blocks``: :data:`hindsight.pipeline.block_costs.COLUMNS`, without captures that carry no verdict.
    ``made_from``: parameters and folders of the data (:func:`hindsight.pipeline.inputs.inputs`), or {}."""

    label: str
    manifest: Manifest
    report: Mapping[str, Any]
    blocks: pl.DataFrame
    made_from: Mapping[str, Any]

    @property
    def evaluations(self) -> list[str]:
        """Names of the evaluations that have blocks, sorted."""
        return sorted(self.blocks["evaluation"].unique().to_list())


def read_version(directory: Path, label: str, blocks: pl.DataFrame | None = None) -> Version:
    """Read a package, its files checked against its manifest; the model is not loaded.

    ``blocks``: costs per block from elsewhere, for a package that has none. Raises ConfigurationError if
    there is no such directory or it lacks the costs; VerificationError if the package is damaged or its parts
    do not belong together.
    """
    package = read_package(directory)
    if block_costs.FILE in package.files:
        blocks = block_costs.read_block_costs(package.files[block_costs.FILE])
    if blocks is None:
        raise ConfigurationError(
            f"{label} does not say what each block cost: it has no {block_costs.FILE}",
            "make the package again, with this release of hindsight: `dvc repro`",
        )
    try:
        report = json.loads(package.files["report.json"])
        made_from = json.loads(package.files.get(inputs.FILE, b"{}"))
        if made_from and sha256(canonical_json(made_from["params"])) != package.manifest.inputs["params"]:
            raise VerificationError(
                f"{label}: {inputs.FILE} holds other parameters than the manifest", _FETCH
            )
        kept = _with_a_verdict(label, report, blocks)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise VerificationError(
            f"{label}: its report or {inputs.FILE} is malformed: {error!r}", _FETCH
        ) from error
    return Version(label, package.manifest, report, kept, made_from)


def _with_a_verdict(label: str, report: Mapping[str, Any], blocks: pl.DataFrame) -> pl.DataFrame:
    """The blocks that the report rests on; VerificationError if they do not add up to its totals."""
    excluded = [entry["capture"] for entry in report["excluded_captures"]]
    kept = blocks.filter(~pl.col("capture").is_in(excluded))
    cost = report["cost"]["name"]
    stated = {
        (section["name"], row["arm"]): row["totals"][cost]["value"]
        for section in report["evaluations"]
        for row in section["arms"]
        if row["arm"] in (STOCK, MODEL)
    }
    sums = kept.group_by("evaluation").agg(pl.col(STOCK).sum(), pl.col(MODEL).sum())
    found = {(row["evaluation"], arm): row[arm] for row in sums.to_dicts() for arm in (STOCK, MODEL)}
    if found != stated:
        raise VerificationError(f"{label}: {block_costs.FILE} does not add up to report.json", _FETCH)
    return kept


def same_captures(versions: Sequence[Version]) -> tuple[list[Version], list[str]]:
    """The versions without any capture that one of them gives no verdict on; names of what that took away."""
    excluded = {entry["capture"] for version in versions for entry in version.report["excluded_captures"]}
    taken = {name for v in versions for name in v.blocks["capture"].unique().to_list() if name in excluded}
    kept = [replace(v, blocks=v.blocks.filter(~pl.col("capture").is_in(sorted(excluded)))) for v in versions]
    return kept, sorted(taken)


def told_apart(versions: Sequence[Version]) -> list[Version]:
    """The same, with labels of which no two are equal."""
    seen: dict[str, int] = {}
    out = []
    for version in versions:
        seen[version.label] = count = seen.get(version.label, 0) + 1
        out.append(replace(version, label=f"{version.label} ({count})") if count > 1 else version)
    return out
