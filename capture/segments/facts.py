"""The facts of a segment, what is known beyond the raw trace: built when it is sealed, checked when read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hindsight.capture.schema import TABLES
from hindsight.errors import VerificationError

HASHED_NAMES, KEPT_NAMES = "hashed", "kept"
"""What became of the names of threads in the raw trace and in the tables of the facts."""
CLOSED = ("rotation", "end", "trigger", "recovered")
"""Why a segment was closed."""
SOURCES = ("ftrace", "perf", "bpf")
INSTANCE_NAME = re.compile("[a-z][a-z0-9_]{0,31}")
_PAGE = 4096
"""The smallest page of any kernel: sub-buffers are whole pages."""
_CPU = re.compile("[0-9]{1,5}")
_EVENT = re.compile("[A-Za-z0-9_]+/[A-Za-z0-9_]+")
_INSTANCE = ("source", "events", "filters", "buffer_kb", "overwrite", "subbuffer_bytes", "stats_before")
_RECORDER = ("from_ns", "to_ns", "cpu_ns", "raw_bytes", "peak_rss_bytes")
_LISTS = ("clock_anchors", "devices", "descriptors", "tasks")


KEPT = ("anchor", "opened", "rows")
"""Kinds of entries of the journal that facts are built from."""


def as_opened(opening: Mapping[str, Any], entries: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The opening, completed by what the journal says of it.

    A segment that was made while the one before it was still written (``prepared``) begins with the entry
    ``opened``: its time, the counters, the losses carried over. Rows of ``tasks`` and ``descriptors`` that
    were looked up after the recording began are in entries ``rows``.
    """
    known = {**opening, "tables": {name: list(rows) for name, rows in opening["tables"].items()}}
    for entry in entries:
        if entry.get("kind") == "rows":
            known["tables"].setdefault(entry["table"], []).extend(entry["rows"])
        elif entry.get("kind") == "opened":
            known["tables"] |= {"captures": [entry["captures"]], "clock_anchors": [entry["anchor"]]}
            known |= {"losses": entry["losses"], "threads": entry["threads"]}
            known["instances"] = {
                name: {**instance, "stats_before": entry["stats_before"][name]}
                for name, instance in opening["instances"].items()
            }
    return known


def build_facts(
    opening: Mapping[str, Any], entries: Iterable[Mapping[str, Any]], closing: Mapping[str, Any]
) -> dict[str, Any]:
    """The facts of a segment, out of what was known when it was opened, its journal, and how it was closed.

    ``closing["losses"]`` is complete; of the journal's ``entries`` only those of :data:`KEPT` count.
    The table ``files`` is left empty.
    """
    entries = list(entries)
    opening = as_opened(opening, entries)
    instances = {}
    for name, known in opening["instances"].items():
        after = closing["stats_after"].get(name, {})
        cpus = known["stats_before"].keys() | after.keys()
        kept = [*_INSTANCE, *(["probed"] if "probed" in known else [])]
        instances[name] = {key: known[key] for key in kept} | {
            "stats_after": {str(cpu): after.get(cpu) for cpu in sorted(cpus, key=int)}
        }
    tables = {name: list(opening["tables"].get(name, [])) for name in _LISTS}
    given = closing.get("tables", {})
    anchors = tables["clock_anchors"] + [e["row"] for e in entries if e.get("kind") == "anchor"]
    anchors += given.get("clock_anchors", [])
    tables["clock_anchors"] = sorted({row["ts"]: row for row in anchors}.values(), key=lambda r: r["ts"])
    tables["tasks"] += given.get("tasks", [])
    if "devices" in given:
        tables["devices"] = given["devices"]
    tables["captures"] = [{**opening["tables"]["captures"][0], "end_ns": closing["end_ns"]}]
    tables["files"] = []
    return {
        "capture": opening["capture"],
        "segment": opening["segment"],
        "closed": closing["closed"],
        "date": opening["date"],
        "schema_version": opening["schema_version"],
        "byteorder": opening["byteorder"],
        "comm": opening["comm"],
        # Names that are hashed already need no key; without it nobody can test guesses.
        "comm_key": opening["comm_key"] if opening["comm"] == KEPT_NAMES else "",
        "instances": instances,
        "losses": sorted(closing["losses"], key=_order),
        "recorder": {name: closing["recorder"][name] for name in _RECORDER}
        | {
            "out_device": list(opening["out_device"]),
            "out_disk": list(opening.get("out_disk", opening["out_device"])),
            "threads": sorted({*opening.get("threads", ()), *closing.get("threads", ())}),
        },
        "tables": tables,
    }


def _order(row: Mapping[str, Any]) -> tuple[int, str, int, str, str, int]:
    cpu = -1 if row["cpu"] is None else row["cpu"]
    return row["from_ns"], row["instance"] or "", cpu, row["event"] or "", row["cause"], row["to_ns"]


def check_facts(path: Path, facts: Any) -> None:
    """Raise VerificationError unless the facts of the segment ``path`` have the shape that readers rely on.

    Columns of the tables are not checked here but by who converts them.
    """
    try:
        sound = _sound(facts)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise VerificationError(f"{path}: the recording's facts are damaged ({error!r:.200})") from None
    if not sound:
        raise VerificationError(f"{path}: the recording's facts are damaged")


def _time(value: Any) -> bool:
    return type(value) is int and -(1 << 63) <= value < 1 << 63


def _count(value: Any, bits: int = 64) -> bool:
    return type(value) is int and 0 <= value < 1 << bits


def _text(value: Any) -> bool:
    return type(value) is str


def _sound(facts: Any) -> bool:
    tables = facts["tables"]
    (capture,) = tables["captures"]
    return (
        tables.keys() <= {t.name for t in TABLES.values() if not t.tracepoint}
        and {"captures", "files", *_LISTS} <= tables.keys()
        and all(type(rows) is list and all(type(row) is dict for row in rows) for rows in tables.values())
        # Both become names of directories.
        and re.fullmatch("[0-9a-f]{12}", capture["host"]) is not None
        and re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", facts["date"]) is not None
        and _time(capture["start_ns"])
        and _time(capture["end_ns"])
        and _text(facts["capture"])
        and facts["capture"] == capture["capture"]
        and _count(facts["segment"], 32)
        and facts["closed"] in CLOSED
        and type(facts["schema_version"]) is int
        and _text(facts["byteorder"])
        and facts["comm"] in (HASHED_NAMES, KEPT_NAMES)
        and _text(facts["comm_key"])
        and facts["comm_key"].isascii()
        and type(facts["losses"]) is list
        and all(map(_sound_loss, facts["losses"]))
        and all(row["instance"] is None or row["instance"] in facts["instances"] for row in facts["losses"])
        and all(INSTANCE_NAME.fullmatch(name) is not None for name in facts["instances"])
        and all(map(_sound_instance, facts["instances"].values()))
        and _sound_recorder(facts["recorder"])
        and all(
            _count(row["s_dev_major"], 32) and _count(row["s_dev_minor"], 32) and _count(row["i_ino"])
            for row in tables["files"]
        )
    )


def _sound_loss(row: Any) -> bool:
    lower, upper = row["count_lower"], row["count_upper"]
    return (
        (row["instance"] is None or _text(row["instance"]))
        and (row["cpu"] is None or _count(row["cpu"], 16))
        and (row["event"] is None or _text(row["event"]))
        and _time(row["from_ns"])
        and _time(row["to_ns"])
        and _count(lower)
        and (upper is None or (_count(upper) and upper >= lower))
        and _text(row["cause"])
    )


def _sound_instance(instance: Any) -> bool:
    events = instance["events"]
    return (
        instance["source"] in SOURCES
        and type(events) is list
        and all(_text(event) and _EVENT.fullmatch(event) is not None for event in events)
        and len(set(events)) == len(events)
        and set(instance.get("probed", [])) <= set(events)
        and type(instance["filters"]) is dict
        and all(map(_text, instance["filters"].values()))
        and _count(instance["buffer_kb"], 32)
        and type(instance["overwrite"]) is bool
        and _count(instance["subbuffer_bytes"], 21)
        and instance["subbuffer_bytes"] > 0
        and (instance["source"] != "ftrace" or instance["subbuffer_bytes"] % _PAGE == 0)
        and _sound_stats(instance["stats_before"], True)
        and _sound_stats(instance["stats_after"], False)
    )


def _sound_stats(stats: Any, known: bool) -> bool:
    return all(
        _CPU.fullmatch(cpu) is not None
        and int(cpu) < 1 << 16
        and cpu == str(int(cpu))
        and (
            (counters is None and not known)
            or (all(map(_count, counters.values())) and "read events" in counters)
        )
        for cpu, counters in stats.items()
    )


def _sound_recorder(recorder: Any) -> bool:
    devices = recorder["out_device"], recorder.get("out_disk", [0, 0])
    return (
        _time(recorder["from_ns"])
        and _time(recorder["to_ns"])
        and all(_count(recorder[name]) for name in _RECORDER[2:])
        and all(type(device) is list and len(device) == 2 for device in devices)
        and all(_count(number, 32) for device in devices for number in device)
        and type(recorder["threads"]) is list
        and all(_count(thread, 31) for thread in recorder["threads"])
    )
