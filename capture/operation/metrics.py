"""Metrics of a recorder in the Prometheus text format, for the textfile collector of node_exporter.

The format: prometheus.io/docs/instrumenting/exposition_formats. Names follow its conventions: base units,
``_total`` for counters. The label ``recorder`` (the name of the file) keeps several recorders of one host
apart and stays the same over restarts; the id of the capture, which does not, is in the ``_info`` metric.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from hindsight import __version__
from hindsight.capture.options import Budgets
from hindsight.capture.recording.vitals import Vitals

if TYPE_CHECKING:
    from hindsight.capture.operation.publish import Activity

PREFIX = "hindsight_capture_"
STATES = ("recording", "paused", "resting", "ended")

_Sample = tuple[Mapping[str, str], float | int]


def render(
    recorder: str,
    info: Mapping[str, str],
    vitals: Vitals,
    activity: Activity,
    budgets: Budgets,
    started: float,
    now: float,
) -> str:
    """The whole textfile. ``started`` and ``now`` are seconds since 1970."""
    lines = []
    for name, kind, meaning, samples in _families(info, vitals, activity, budgets, started, now):
        lines += [f"# HELP {PREFIX}{name} {meaning}", f"# TYPE {PREFIX}{name} {kind}"]
        for labels, value in samples:
            every = {"recorder": recorder, **labels}
            inside = ",".join(f'{label}="{_escape(text)}"' for label, text in every.items())
            lines.append(f"{PREFIX}{name}{{{inside}}} {value!r}")
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _families(
    info: Mapping[str, str],
    vitals: Vitals,
    activity: Activity,
    budgets: Budgets,
    started: float,
    now: float,
) -> Iterator[tuple[str, str, str, list[_Sample]]]:
    state, _, reason = activity.state.partition(": ")

    def one(name: str, kind: str, meaning: str, value: float | int) -> tuple[str, str, str, list[_Sample]]:
        return name, kind, meaning, [({}, value)]

    yield "info", "gauge", "What is recorded, as labels.", [({**info, "version": __version__}, 1)]
    states = [*STATES, *({state} - set(STATES))]
    yield (
        "state",
        "gauge",
        "1 for the state that the recorder is in.",
        [({"state": known}, int(known == state)) for known in states],
    )
    if reason:
        yield "paused", "gauge", "1 for the budget that recording waits for.", [({"reason": reason}, 1)]
    yield one("events_total", "counter", "Events recorded, as the kernel counted them.", vitals.recorded)
    yield one("lost_events_total", "counter", "Events lost, as the kernel counted them.", vitals.lost)
    yield one("raw_bytes_total", "counter", "Bytes moved out of the ring buffers.", vitals.raw_bytes)
    yield one("cpu_seconds_total", "counter", "Processor time of the recorder.", vitals.cpu_ns / 1e9)
    yield one("segments_sealed_total", "counter", "Segments sealed.", activity.segments)
    yield one("lag_bytes", "gauge", "Bytes that wait in the ring buffers.", vitals.lag_bytes)
    yield one("resident_memory_bytes", "gauge", "Resident memory of the recorder.", vitals.rss_bytes)
    yield one("ring_buffer_bytes", "gauge", "Ring buffers that the kernel holds for it.", vitals.ring_bytes)
    yield one("disk_bytes", "gauge", "Bytes of the recordings in the output directory.", vitals.disk_bytes)
    yield one(
        "disk_free_bytes", "gauge", "Bytes free on the disk of the output directory.", vitals.free_bytes
    )
    yield one("shed_tracepoints", "gauge", "Tracepoints off to keep a budget.", len(activity.shed))
    if activity.shed:
        shed: list[_Sample] = [({"event": event}, 1) for event in sorted(activity.shed)]
        yield "shed", "gauge", "1 for each tracepoint that is off to keep a budget.", shed
    if budgets.max_cpu is not None:
        yield one("budget_cpu_ratio", "gauge", "Most processor time per second.", budgets.max_cpu / 100)
    if budgets.max_disk is not None:
        yield one("budget_disk_bytes", "gauge", "Most bytes of recordings.", budgets.max_disk)
    if budgets.max_memory is not None:
        yield one("budget_memory_bytes", "gauge", "Most memory, ring buffers included.", budgets.max_memory)
    if budgets.max_rate is not None:
        yield one("budget_events_per_second", "gauge", "Most events per second.", budgets.max_rate)
    yield one("budget_disk_free_bytes", "gauge", "Least bytes free on the disk.", budgets.min_free)
    yield one("start_time_seconds", "gauge", "When the recorder started, since 1970.", started)
    yield one("last_update_timestamp_seconds", "gauge", "When this was written, since 1970.", now)
