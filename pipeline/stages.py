"""The stages by name; each starts from empty outputs, as `dvc repro` would have it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hindsight.errors import UsageError
from hindsight.pipeline.params import Layout, Params
from hindsight.pipeline.store import read_json, writing
from hindsight.subsystems.contract import Subsystem


def run(name: str, params: Params, subsystem: Subsystem) -> list[str]:
    """Run one stage; returns lines for people. Heavy modules are imported by the stage that needs them."""
    layout = Layout(params.root, subsystem.name)
    if name == "ingest":
        from hindsight.pipeline.ingest import ingest

        _empty(layout.ingest)
        manifest = ingest(params, subsystem)
        total = read_json(layout.ingest / "fidelity.json")["total"]
        return [
            f"{len(manifest['captures'])} captures, {manifest['events']} events",
            f"replay: {total['matched']} of {total['recorded']} recorded decisions matched",
            *_journals(manifest),
            *[f"left out: {reason}" for reason in manifest["without_demand"].values()],
        ]
    if name == "featurize":
        from hindsight.pipeline.featurize import featurize

        _empty(layout.featurize)
        counts = featurize(params, subsystem)
        return [", ".join(f"{count} {what}" for what, count in counts.items())]
    if name == "train":
        from hindsight.pipeline.train import train

        _empty(layout.train)
        summary = train(params, subsystem)
        left_out = ", ".join(summary["without"]) or "none"
        return [f"{summary['model']['states']} labelled states; programs left out in turn: {left_out}"]
    if name == "evaluate":
        from hindsight.pipeline.evaluate import evaluate

        _empty(layout.evaluate)
        return [evaluate(params, subsystem)["verdict"]["line"]]
    if name == "package":
        from hindsight.pipeline.package import package

        return [f"package: {package(params, subsystem).relative_to(params.root)}"]
    if name == "report":
        from hindsight.pipeline.report import render

        report = read_json(layout.evaluate / "report.json")
        with writing(layout.report):
            layout.report.mkdir(parents=True, exist_ok=True)
            render(report, layout.report)
        return [f"report: {(layout.report / 'report.html').relative_to(params.root)}"]
    raise UsageError(f"there is no stage {name!r}")


def _journals(manifest: Mapping[str, Any]) -> list[str]:
    found = manifest.get("realised")
    if not found:
        return []
    left_out = "".join(f"; {count} {reason}" for reason, count in found["left_out"].items())
    return [f"journal: {found['recommendations']} recommendations, {found['measured']} measured{left_out}"]


def _empty(directory: Path) -> None:
    # What an earlier run left must not end up among the outputs of this one.
    with writing(directory):
        if directory.is_dir():
            shutil.rmtree(directory)
        directory.mkdir(parents=True, exist_ok=True)
