"""How a dataset of the lab came about: PROVENANCE.json for machines, README.md for people."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hindsight import __version__
from hindsight.lab.device import READ_AHEAD_KB, LabDevice
from hindsight.lab.programs import version_of
from hindsight.lab.recording import NICE, Run
from hindsight.lab.throttle_check import ThrottleCheck
from hindsight.lab.workloads import Workload, file_sets

PROVENANCE = "PROVENANCE.json"
FORMAT = 1


def provenance(
    workloads: Sequence[Workload],
    devices: Sequence[LabDevice],
    checks: Sequence[ThrottleCheck],
    runs: Sequence[Run],
    seconds: float,
) -> dict[str, Any]:
    """Kernel, devices, programs, files, and every run with its command and seed; one capture per run."""
    uname = os.uname()
    sets = file_sets(list(workloads))
    programs = sorted(
        {workload.program for workload in workloads} | {p for files in sets for p in files.programs}
    )
    return {
        "format": FORMAT,
        "tool_version": __version__,
        "recorded": datetime.now(UTC).isoformat(timespec="seconds"),
        "kernel": {"release": uname.release, "machine": uname.machine, "processors": os.cpu_count()},
        "nice": NICE,
        "caches": "dropped before every run, by unmounting and mounting the file system",
        "names_of_programs": "kept",
        "seconds_wanted": seconds,
        "devices": [
            {
                "profile": device.profile.name,
                "meaning": device.profile.meaning,
                "number": device.number,
                "kind": "ext4 on a loop device with direct I/O on a fallocated image, noatime",
                "bytes": device.size,
                "read_ahead_kb": READ_AHEAD_KB,
                "read_iops_limit": device.profile.read_iops,
                "read_bytes_per_second_limit": device.profile.read_bps,
                "random_4k_direct_reads_per_second": round(check.iops),
            }
            for device, check in zip(devices, checks, strict=True)
        ],
        "programs": {program: version_of(program) for program in programs},
        "files": {files.name: files.meaning for files in sets},
        "workloads": {
            w.name: {"program": w.program, "files": w.files.name, "meaning": w.meaning} for w in workloads
        },
        "runs": [
            {
                "capture": run.segment.name.rsplit("-", 1)[0],
                "label": run.workload,
                "profile": run.profile,
                "pass": run.number,
                "seed": run.seed,
                "command": list(run.argv),
                "events": run.events,
                "events_lost": run.lost,
                "device_read_requests": run.device_reads,
                "milliseconds": run.elapsed_ns // 1_000_000,
                "processor_pressure_permille": run.processor_pressure,
                "attempts": run.attempts,
            }
            for run in runs
        ],
    }  # fmt: skip


def write_provenance(
    directory: Path,
    workloads: Sequence[Workload],
    devices: Sequence[LabDevice],
    checks: Sequence[ThrottleCheck],
    runs: Sequence[Run],
    seconds: float,
) -> None:
    """Write both files into the dataset's directory."""
    facts = provenance(workloads, devices, checks, runs, seconds)
    (directory / PROVENANCE).write_text(json.dumps(facts, indent=1) + "\n")
    (directory / "README.md").write_text(_readme(facts))


def _readme(facts: dict[str, Any]) -> str:
    lines = [
        "# Recorded readahead traces",
        "",
        f"{len(facts['runs'])} captures of real programs, "
        f"{sum(run['events'] for run in facts['runs']):,} events, "
        f"recorded on Linux {facts['kernel']['release']} ({facts['kernel']['machine']}, "
        f"{facts['kernel']['processors']} processors) from cold caches with `hindsight lab record-sample`.",
        "Columns are described in the data dictionary; commands, seeds and versions stand in "
        f"`{PROVENANCE}`.",
        "",
        "| device | reads/s | MiB/s | readahead |",
        "|---|---|---|---|",
    ]
    for device in facts["devices"]:
        lines.append(
            f"| {device['profile']} ({device['number']}): {device['meaning']} | "
            f"{device['read_iops_limit']:,} | {device['read_bytes_per_second_limit'] >> 20} | "
            f"{device['read_ahead_kb']} KiB |"
        )
    lines += ["", "| workload | what it does | events per run |", "|---|---|---|"]
    for name, workload in facts["workloads"].items():
        events = [run["events"] for run in facts["runs"] if run["label"] == name]
        lines.append(f"| {name} | {workload['meaning']} | {min(events):,} … {max(events):,} |")
    return "\n".join(lines) + "\n"
