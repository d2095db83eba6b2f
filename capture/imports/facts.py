"""The facts of an imported recording, in the shape of those of a segment; hosts become pseudonyms."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hindsight import __version__
from hindsight.capture import host
from hindsight.capture.conversion.index import CpuCounts, RawIndex
from hindsight.capture.schema import SCHEMA_VERSION

INSTANCE = "events"
"""The name of the only instance of an imported recording."""
Counts = Sequence[RawIndex | CpuCounts]
"""What the trace of each processor holds."""
MONOTONIC = "mono"
UNKNOWN_DATE = "1970-01-01"
_TICKS = ("counter", "x86-tsc", "ppc-tb", "s390-tod")


@dataclass(frozen=True)
class Keys:
    """Keys for pseudonyms, from the key of the importing host."""

    host: bytes

    @classmethod
    def of(cls, out: Path) -> Keys:
        """Created on first use; kept in ``out`` when /etc cannot be written. Raises OSError."""
        out.mkdir(parents=True, exist_ok=True)
        return cls(host.host_key(out))


@dataclass
class Origin:
    """What a file says of where it was recorded; empty = it does not say.

    ``realtime_ns``: CLOCK_REALTIME minus the clock of the events.
    """

    format: str
    fingerprint: str
    clock: str = ""
    node: str = ""
    release: str = ""
    machine: str = ""
    tool: str = ""
    boot: str = ""
    page_bytes: int = 4096
    realtime_ns: int | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def ticks(self) -> bool:
        """Whether its times are no nanoseconds."""
        return self.clock in _TICKS

    def host(self, keys: Keys) -> str:
        """The pseudonym of the host: files that do not name one are hosts of their own."""
        return host.pseudonym(keys.host, f"host:{self.node}" if self.node else f"file:{self.fingerprint}")

    def told(self) -> dict[str, Any]:
        """What the table ``captures`` says in its metadata."""
        return {
            "format": self.format,
            "tool": self.tool,
            "clock": self.clock or "unknown",
            "monotonic": self.clock == MONOTONIC,
            **self.notes,
        }


def span_of(cpus: Counts) -> tuple[int, int]:
    """Time of the earliest and latest event, ns; (0, 0) when there is none."""
    low, high = [], []
    for index in cpus:
        some = index.counts.any(axis=1)
        if some.any():
            low.append(int(index.low[some].min()))
            high.append(int(index.high[some].max()))
    return (min(low), max(high)) if low else (0, 0)


def loss(
    cpu: int | None, event: str | None, span: tuple[int, int], lower: int, upper: int | None, cause: str
) -> dict[str, Any]:
    """A row of the facts' losses."""
    return {
        "instance": INSTANCE, "cpu": cpu, "event": event, "from_ns": span[0], "to_ns": span[1],
        "count_lower": lower, "count_upper": upper, "cause": cause,
    }  # fmt: skip


def build(
    origin: Origin,
    keys: Keys,
    capture: str,
    date: str,
    label: str,
    cpus: Counts,
    source: str,
    texts: Mapping[str, str],
    losses: Iterable[dict[str, Any]],
) -> dict[str, Any]:
    """The facts. ``texts``: the formats of the events that are expected, by ``system/event``."""
    start, end = span_of(cpus)
    told = origin.told()
    layouts = hashlib.sha256()
    for event in sorted(texts):
        layout = "".join(line for line in texts[event].splitlines(True) if not line.startswith("ID:"))
        layouts.update(f"{event}\n{layout}".encode())
    row = {
        "capture": capture,
        "host": origin.host(keys),
        "boot_id": host.pseudonym(keys.host, f"boot:{origin.boot or origin.fingerprint}"),
        "kernel_release": origin.release,
        "machine": origin.machine,
        "page_size": origin.page_bytes,
        "cpus": len(cpus),
        "clock": told["clock"],
        "profile": "import",
        "label": label,
        "program": "",
        "start_ns": start,
        "end_ns": end,
        "realtime_start_ns": 0 if origin.realtime_ns is None else start + origin.realtime_ns,
        "buffer_kb": 0,
        "config_sha256": hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest(),
        "formats_sha256": layouts.hexdigest(),
        "tool_version": __version__,
    }
    return {
        "capture": capture,
        "segment": 0,
        "closed": "end",
        "date": date,
        "schema_version": SCHEMA_VERSION,
        "byteorder": "little",
        "comm_key": host.derived_key(keys.host, "comm"),
        "instances": {
            INSTANCE: {
                "source": source, "events": sorted(texts), "filters": {}, "buffer_kb": 0, "overwrite": True,
                "subbuffer_bytes": origin.page_bytes, "stats_before": {}, "stats_after": {},
            }
        },
        "losses": list(losses),
        "recorder": {
            "from_ns": start, "to_ns": end, "cpu_ns": 0, "raw_bytes": 0, "peak_rss_bytes": 0,
            "out_device": [0, 0], "threads": [],
        },
        "tables": {
            "captures": [row], "clock_anchors": [], "devices": [], "descriptors": [], "tasks": [], "files":
            [],
        },
        "imported": told,
    }  # fmt: skip
