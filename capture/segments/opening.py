"""What a segment says of the recording and of its host when it is opened, and when it is closed."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from hindsight import __version__
from hindsight.capture import host
from hindsight.capture.devices import whole_disk
from hindsight.capture.hiding import NameHash
from hindsight.capture.options import RecordOptions
from hindsight.capture.owner import Owner
from hindsight.capture.recording.footprint import peak_resident_bytes
from hindsight.capture.recording.tracer import Stats, Tracer
from hindsight.capture.schema import SCHEMA_VERSION
from hindsight.capture.segments.facts import HASHED_NAMES, KEPT_NAMES
from hindsight.capture.segments.segment import SEGMENT_VERSION

ROWS_PER_ENTRY = 500
"""Of a table that goes to the journal: so many rows to an entry."""


def stats_as_json(stats: Stats) -> dict[str, dict[str, dict[str, int]]]:
    """The same with CPUs as text."""
    return {name: {str(cpu): dict(s) for cpu, s in cpus.items()} for name, cpus in stats.items()}


class Description:
    """Facts that all segments of a recording share."""

    def __init__(
        self,
        options: RecordOptions,
        capture: str,
        owner: Owner,
        tracers: Iterable[Tracer],
        devices: list[Any],
    ) -> None:
        self.options = options
        self.capture = capture
        self.devices = devices
        self.formats: dict[str, str] = {}
        self._owner = owner
        self._tracers = {tracer.name: tracer for tracer in tracers}
        for tracer in self._tracers.values():
            self.formats |= tracer.formats()
        self._instances = {name: tracer.facts() for name, tracer in self._tracers.items()}
        self._key = host.host_key(options.out)
        self._comm_key = host.derived_key(self._key, "comm")
        self._names = NameHash(self._comm_key)
        self._container_key = None if options.paths else self._key
        status = os.stat(options.out)
        self.out_device = [os.major(status.st_dev), os.minor(status.st_dev)]
        self.out_disk = list(whole_disk((os.major(status.st_dev), os.minor(status.st_dev))))
        self._capture = self._capture_row()

    def _capture_row(self) -> dict[str, Any]:
        options = self.options
        config: dict[str, Any] = {
            name: {k: facts[k] for k in ("events", "filters", "buffer_kb", "overwrite")}
            for name, facts in self._instances.items()
        }
        config["options"] = {"profile": options.profile, "clock": "mono", "paths": options.paths}
        if options.comm:
            config["options"]["comm"] = True
        uname = os.uname()
        return {
            "capture": self.capture,
            "host": host.pseudonym(self._key, f"host:{host.machine_id()}"),
            "boot_id": host.pseudonym(self._key, f"boot:{host.boot_id()}"),
            "kernel_release": uname.release,
            "machine": uname.machine,
            "page_size": os.sysconf("SC_PAGE_SIZE"),
            "cpus": 0,
            "clock": "mono",
            "profile": options.profile,
            "label": options.label,
            "program": os.path.basename(options.command[0]) if options.command else "",
            "start_ns": 0,
            "end_ns": 0,
            "realtime_start_ns": 0,
            "buffer_kb": options.buffer_kb,
            "config_sha256": hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest(),
            "formats_sha256": _layouts_sha256(self._tracers.values(), self.formats),
            "tool_version": __version__,
        }

    def tasks(self, pids: Iterable[int], known: Collection[int] = ()) -> Iterator[dict[str, object]]:
        """Rows of the table ``tasks`` of these processes, with names as this recording keeps them.

        ``known`` threads are left out.
        """
        for row in host.tasks(pids, self._container_key, known):
            yield row if self.options.comm else {**row, "comm": self._names.text(str(row["comm"]))}

    def capture_row(self, anchor: host.ClockAnchor, stats: Stats) -> dict[str, Any]:
        """The row of ``captures`` of a segment that begins now."""
        return {
            **self._capture,
            "cpus": max((len(cpus) for cpus in stats.values()), default=0),
            "start_ns": anchor.ts,
            "end_ns": anchor.ts,
            "realtime_start_ns": anchor.realtime_ns,
        }

    def opening(
        self,
        number: int,
        anchor: host.ClockAnchor,
        stats: Stats,
        losses: list[dict[str, Any]],
        threads: list[int],
        tables: Mapping[str, list[Any]],
    ) -> dict[str, Any]:
        """What is written when segment ``number`` is opened (docs/segments.md)."""
        row = self.capture_row(anchor, stats)
        counters = stats_as_json(stats)
        return {
            "segment_version": SEGMENT_VERSION,
            "capture": self.capture,
            "segment": number,
            "owner": self._owner.as_dict(),
            "boot": row["boot_id"],
            "date": time.strftime("%Y-%m-%d", time.gmtime(anchor.realtime_ns // 10**9)),
            "schema_version": SCHEMA_VERSION,
            "byteorder": sys.byteorder,
            "comm": KEPT_NAMES if self.options.comm else HASHED_NAMES,
            # Names of threads are hashed with it, at the latest; it does not reveal the host's own key.
            "comm_key": self._comm_key,
            "paths": self.options.paths,
            "instances": {
                name: {**facts, "stats_before": counters.get(name, {})}
                for name, facts in self._instances.items()
            },
            "losses": losses,
            "tables": {
                "captures": [row],
                "clock_anchors": [asdict(anchor)],
                "devices": self.devices,
                "descriptors": [],
                "tasks": [],
                **tables,
            },
            "out_device": self.out_device,
            "out_disk": self.out_disk,
            "threads": threads,
        }


def _layouts_sha256(tracers: Iterable[Tracer], formats: Mapping[str, str]) -> str:
    digest = hashlib.sha256()
    for tracer in tracers:
        for event in sorted(tracer.events):
            # The id of an event changes from boot to boot; its layout is what identifies a kernel.
            layout = "".join(line for line in formats[event].splitlines(True) if not line.startswith("ID:"))
            digest.update(f"{event}\n{layout}".encode())
    return digest.hexdigest()


class Usage:
    """What the recorder used since a segment was opened."""

    def __init__(self, from_ns: int) -> None:
        self.from_ns = from_ns
        self.raw_bytes = 0
        self._cpu_ns = time.process_time_ns()

    def row(self, to_ns: int) -> dict[str, int]:
        """The ``recorder`` part of the facts."""
        return {
            "from_ns": self.from_ns,
            "to_ns": to_ns,
            "cpu_ns": time.process_time_ns() - self._cpu_ns,
            "raw_bytes": self.raw_bytes,
            "peak_rss_bytes": peak_resident_bytes(),
        }


def in_chunks(table: str, rows: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """Entries of the journal that hold these rows."""
    chunk: list[dict[str, Any]] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == ROWS_PER_ENTRY:
            yield {"kind": "rows", "table": table, "rows": chunk}
            chunk = []
    if chunk:
        yield {"kind": "rows", "table": table, "rows": chunk}
