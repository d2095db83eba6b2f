"""The parts of a report that are not comparisons: fidelity, calibration, delay, data, model, provenance.

Each takes what the caller's ``context`` holds under a key, and says so where that is absent.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hindsight.errors import VerificationError
from hindsight.pipeline.evidence.evaluation import MetricInfo
from hindsight.pipeline.evidence.figures import Count, Figure, Quoted, percent
from hindsight.pipeline.evidence.thresholds import Thresholds
from hindsight.pipeline.evidence.verdict import LEAST_HOSTS
from hindsight.subsystems.contract import Label

Context = Mapping[str, Any]


def metrics(context: Context) -> list[MetricInfo]:
    """``context["metrics"]``; VerificationError if one lacks its unit or label, or more cost is better."""
    out = []
    for entry in context.get("metrics") or ():
        label = entry.get("label")
        try:
            kind = label if isinstance(label, Label) else Label(label)
        except ValueError:
            raise VerificationError(
                f"metric {entry.get('name')!r} has the label {label!r}",
                f"a figure is one of {', '.join(known.value for known in Label)}",
            ) from None
        if not entry.get("name") or not entry.get("unit"):
            raise VerificationError(f"a metric lacks its name or unit: {dict(entry)!r}")
        lower = bool(entry.get("lower_is_better", True))
        out.append(MetricInfo(entry["name"], entry["unit"], kind, entry.get("meaning", ""), lower))
    if not out or not out[0].lower_is_better:
        raise VerificationError("the first metric must be a cost: there is none, or more of it is better")
    return out


def per_capture(entries: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """``{capture: entry}`` or ``[{"capture": …}]``, sorted by capture; an entry may be a bare share."""
    if isinstance(entries, Mapping):
        pairs = [(str(name), entry) for name, entry in entries.items()]
    else:
        pairs = [(str(entry["capture"]), entry) for entry in entries or ()]
    return sorted(
        ((n, e if isinstance(e, Mapping) else {"exact_share": e}) for n, e in pairs), key=lambda p: p[0]
    )


def exact_share(entry: Any) -> float | None:
    """The share of an entry of ``context["fidelity"]``: given, or matched / recorded; None if unknown."""
    if isinstance(entry, int | float) and not isinstance(entry, bool):
        return float(entry)
    if not isinstance(entry, Mapping):
        return None
    if "recorded" in entry and "matched" in entry:
        recorded = int(entry["recorded"])
        if recorded:
            return int(entry["matched"]) / recorded
        # Neither decided anything: they agree. Decisions of the replay alone have nothing to be held against.
        return None if int(entry.get("extra", 0)) else 1.0
    given = entry.get("exact_share")
    return None if given is None else float(given)


def unfaithful(context: Context, captures: Iterable[str], limits: Thresholds) -> dict[str, str]:
    """Capture → why it carries no verdict."""
    given = context.get("fidelity") or {}
    known = dict(per_capture(given.get("captures")))
    out = {}
    for capture in sorted(captures) if known else ():
        share = exact_share(known.get(capture))
        if share is None:
            out[capture] = "how faithful its replay is was not measured"
        elif share < limits.fidelity:
            cut = int(share * 10_000) / 100
            out[capture] = (
                f"its replay reproduces {cut:.2f} % of the decisions ({limits.fidelity * 100:g} % needed)"
            )
    return out


def fidelity(context: Context, limits: Thresholds) -> dict[str, Any] | None:
    """Emitted against recorded decisions, in all and per capture."""
    given = context.get("fidelity")
    if not given:
        return None
    return {
        "total": _fidelity_row(given.get("total"), limits),
        "threshold": Quoted(limits.fidelity * 100.0),
        "captures": [
            {"capture": name, **_fidelity_row(entry, limits)}
            for name, entry in per_capture(given.get("captures"))
        ],
    }


def _fidelity_row(entry: Any, limits: Thresholds) -> dict[str, Any]:
    share = exact_share(entry)
    entry = entry if isinstance(entry, Mapping) else {}
    counts = {
        name: Count(int(entry[name]))
        for name in ("recorded", "compared", "matched", "missing", "extra", "unattributed")
        if entry.get(name) is not None
    }
    return {
        "exact": Figure(None if share is None else share * 100.0, "%", Label.EXACT),
        "faithful": None if share is None else share >= limits.fidelity,
        "first_divergence": Quoted(entry.get("first_divergence")),
        **counts,
    }


def held_out_error(context: Context) -> float | None:
    """Median of |modelled - recorded| / recorded over the held-out captures; None if there are none."""
    rows = per_capture((context.get("calibration") or {}).get("captures"))
    errors = [
        abs(int(row["modelled_ns"]) - int(row["recorded_ns"])) / int(row["recorded_ns"])
        for _, row in rows
        if row.get("held_out") and int(row["recorded_ns"]) > 0
    ]
    return statistics.median(errors) if errors else None


def calibration(context: Context, limits: Thresholds) -> dict[str, Any] | None:
    """Parameters per device, and modelled against recorded time per capture."""
    given = context.get("calibration")
    if not given:
        return None
    error = held_out_error(context)
    rows = []
    for name, row in per_capture(given.get("captures")):
        modelled, recorded = int(row["modelled_ns"]), int(row["recorded_ns"])
        off = Figure(None, "%", Label.MODELLED)
        if recorded:
            off = percent((modelled - recorded) / recorded, Label.MODELLED)
        rows.append(
            {
                "capture": name,
                "workload": str(row.get("workload", "")),
                "device": str(row.get("device", "")),
                "held_out": bool(row.get("held_out")),
                "modelled": Figure(modelled, "ns", Label.MODELLED),
                "recorded": Figure(recorded, "ns", Label.MEASURED),
                "off": off,
            }
        )
    return {
        "devices": [
            {"device": str(name), "parameters": Quoted(dict(sorted(values.items())))}
            for name, values in sorted((given.get("devices") or {}).items())
        ],
        "captures": rows,
        "held_out_error": Figure(
            None if error is None else error * 100.0,
            "%",
            Label.MODELLED,
            note="median of |modelled - recorded| / recorded over held-out captures",
        ),
        "limit": Quoted(limits.calibration_limit * 100.0),
    }


def delay(context: Context, cost: MetricInfo) -> list[dict[str, Any]]:
    """Gain over stock against the delay of the advice; stock, which takes no advice, is the reference."""
    rows = list(context.get("delay_curve") or ())
    stock = {int(row["delay_ns"]): int(row["cost"]) for row in rows if row["arm"] == "stock"}
    fallback = stock[min(stock)] if stock else None
    out = []
    for row in sorted(rows, key=lambda row: (str(row["arm"]), int(row["delay_ns"]))):
        if row["arm"] == "stock":
            continue
        base = stock.get(int(row["delay_ns"]), fallback)
        gain = None if not base else (base - int(row["cost"])) / base * 100.0
        out.append(
            {
                "arm": str(row["arm"]),
                "delay": Quoted(int(row["delay_ns"])),
                "gain": Figure(gain, "%", cost.label),
                "cost": Figure(int(row["cost"]), cost.unit, cost.label),
            }
        )
    return out


def live(context: Context, limits: Thresholds) -> tuple[bool | None, dict[str, Any] | None]:
    """``context["live_check"]`` = {pairs, sign_right, median_error, p90_error} (shares), ``points``, one a
    pair: passed?, section."""
    given = context.get("live_check")
    if not given:
        return None, None
    pairs = int(given["pairs"])
    sign, error = float(given["sign_right"]), float(given["median_error"])
    enough = pairs >= limits.min_blocks
    passed = (sign >= limits.live_sign_share and error <= limits.live_error_limit) if enough else None
    p90 = given.get("p90_error")
    return passed, {
        "pairs": Count(pairs),
        "passed": passed,
        "sign_right": percent(sign, Label.MEASURED),
        "median_error": percent(error, Label.MEASURED),
        "p90_error": Figure(None if p90 is None else float(p90) * 100.0, "%", Label.MEASURED),
        "points": [
            {
                "device": str(point["profile"]),
                "workload": str(point["workload"]),
                "setting": str(point["setting"]),
                "predicted": percent(float(point["predicted"]), Label.MODELLED),
                "measured": percent(float(point["measured"]), Label.MEASURED),
            }
            for point in given.get("points") or ()
        ],
    }


def model(context: Context) -> dict[str, Any] | None:
    """Version, size, features, and which of them drive the advice (by gain)."""
    given = context.get("model")
    if not given:
        return None
    importance = given.get("importance") or {}
    pairs = importance.items() if isinstance(importance, Mapping) else importance
    ranked = sorted(((str(n), float(v)) for n, v in pairs), key=lambda p: (-p[1], p[0]))
    total = sum(value for _, value in ranked)
    rest = {k: v for k, v in given.items() if k != "importance"}
    return {
        "facts": Quoted(rest),
        "importance": [
            {"feature": name, "share": percent(value / total, Label.EXACT)}
            for name, value in ranked
            if total > 0
        ],
    }


def limitations(
    context: Context,
    hosts: int,
    cost: MetricInfo,
    excluded: Mapping[str, str],
    units: Sequence[tuple[str, str, int]],
) -> list[str]:
    """What this page does not show. ``units``: (evaluation, what was drawn, how many)."""
    out = []
    if hosts <= 1:
        out.append("One host was recorded: nothing is claimed across hosts.")
    elif hosts < LEAST_HOSTS:
        out.append(f"{hosts} hosts were recorded, too few to claim anything of others.")
    if cost.label is Label.MODELLED:
        out.append(
            "The cost is modelled, not measured: it depends on a model of the device, whose error stands "
            "under Calibration."
        )
    if cost.label is Label.BOUNDED:
        out.append("The cost is known between a lower and an upper bound only.")
    if not context.get("live_check"):
        out.append("No prediction was run live: the gain is what the replay says.")
    for evaluation, drawn, count in units:
        if drawn == "time":
            out.append(
                f"{evaluation}: the interval covers the variation over time within these captures, not what "
                "another day or another workload would bring."
            )
        elif count < 10:
            out.append(f"{evaluation}: the interval rests on {count} {drawn}s; it is wide and approximate.")
    if excluded:
        out.append(f"{len(excluded)} captures carry no verdict, because their replay is not faithful enough.")
    streams = (context.get("dataset") or {}).get("excluded_streams") or {}
    if streams:
        out.append("Streams that the replay cannot identify are left out; Data says how many and why.")
    out.append("The best static settings were picked in hindsight, on the data on which they are compared.")
    out.append("Traces show what these programs asked for; a faster program might ask for something else.")
    return out
