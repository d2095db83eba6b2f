"""MODEL_CARD.md: what a model is for, what it is not for, and its limits, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hindsight.subsystems.contract import Subsystem


def model_card(subsystem: Subsystem, report: Mapping[str, Any], fields: Mapping[str, Any]) -> str:
    """Markdown, made of the report and the fields of the manifest alone."""
    verdict, data = report["verdict"], report["dataset"]
    lines = [
        f"# {fields['name']} {fields['version']}",
        "",
        subsystem.summary,
        "",
        f"**{verdict['line']}**",
        "",
        f"Mode that the evidence allows: *{verdict['mode']}*: {verdict['mode_meaning']}",
        "",
        "## What it is for",
        f"It rates {len(subsystem.actions)} actions at each decision and recommends the one with the largest "
        f"expected relative saving of {subsystem.metrics[0].meaning}, if it expects at least "
        f"{100 * fields['decision']['minimum_gain']:g} %; otherwise it leaves the kernel alone. "
        "The kernel stays in control: a recommendation may be applied, tested or ignored.",
        "",
        "## What it is not for",
        "- Hosts, devices and programs unlike those below; *new_workload* in the report says how far it "
        "carries.",
        "- Streams that the report lists as excluded: no evidence was gathered on them.",
        "- Applying it beyond its mode, or after it has expired "
        f"({fields['expiry']['valid_days']} days after its newest training data).",
        "",
        "## What it learned from",
        f"- {data['captures']} captures, {data['events']} events, {data['eligible_streams']} of "
        f"{data['streams']} streams eligible",
        f"- programs: {', '.join(data['programs'])}",
        f"- devices: {', '.join(data['devices'])}",
        "",
        "## Reasons for the verdict",
        *[f"- {reason['text']}" for reason in verdict["reasons"]],
        "",
        "## Limits",
        *[f"- {limit}" for limit in report["limits"]],
        "",
        "## Inputs of the model",
        "| name | unit | low | high | meaning |",
        "|---|---|---|---|---|",
        *[f"| {f.name} | {f.unit} | {f.low:g} | {f.high:g} | {f.meaning} |" for f in subsystem.features],
        "",
    ]
    return "\n".join(lines)
