"""Sources of counters for the sampler of a recording: one for each set, one for each control group.

A value that did not change is not repeated, but every minute all of them are written: what a table does not
say of a moment is what it last said.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hindsight.capture.counters import reading
from hindsight.capture.counters.cgroup import Group
from hindsight.capture.counters.processors import Processors
from hindsight.capture.counters.reading import Count
from hindsight.capture.perf.rings import online_cpus
from hindsight.capture.recording.sampler import Sampled, Source
from hindsight.errors import NotPermittedError, UsageError

TABLE = "counters"
SETS = ("cpuidle", "diskstats", "meminfo", "perf", "psi", "stat", "vmstat")
_ALL_EVERY_NS = 60_000_000_000
_PRESSURE = Path("/proc/pressure")
_PROCESSORS = Path("/sys/devices/system/cpu")
_IDLE_UNITS = {"usage": "events", "time": "us", "above": "events", "below": "events", "rejected": "events"}
_IDLE_FACTS = ("latency", "residency")

Look = Callable[[], Iterable[tuple[str, Count]]]
"""Reads counters, each with its source."""


class Counters:
    """Samples what ``look`` reads. See :class:`hindsight.capture.recording.sampler.Source`."""

    table = TABLE

    def __init__(
        self, name: str, look: Look, every_s: float, close: Callable[[], None] = lambda: None
    ) -> None:
        self.name = name
        self.every_s = every_s
        self._look = look
        self._close = close
        self._known: dict[tuple[str, str, str], int] = {}
        self._all_ns = 0

    def sample(self) -> Sampled:
        """Rows of the table ``counters``. A total that fell is marked: the kernel counts anew."""
        now = time.monotonic_ns()
        full = not self._all_ns or now - self._all_ns >= _ALL_EVERY_NS
        rows: list[dict[str, Any]] = []
        seen = {}
        for source, count in self._look():
            key = source, count.scope, count.name
            before = self._known.get(key)
            seen[key] = count.value
            if full or before != count.value:
                rows.append(
                    {
                        "ts": now,
                        "source": source,
                        "scope": count.scope,
                        "name": count.name,
                        "value": count.value,
                        "unit": count.unit,
                        "total": count.total,
                        "reset": count.total and before is not None and count.value < before,
                    }
                )
        self._known = seen  # what is gone (a device) begins anew
        if full:
            self._all_ns = now
        return Sampled({TABLE: rows})

    def close(self) -> None:
        """Release what is read from."""
        self._close()


def sources(
    sets: Sequence[str], groups: Sequence[str], every_s: float, pid: int | None, say: Callable[[str], None]
) -> list[Source]:
    """A source for each of the ``sets`` (:data:`SETS`) and each control group of ``groups``.

    ``pid``: the command that is recorded, None = the whole host. ``say`` is told what this host does not
    have. Raises UsageError for an unknown set, NotPermittedError for one that this kernel does not have,
    ConfigurationError for a group that does not exist.
    """
    found: list[Source] = []
    for name in dict.fromkeys(sets):
        if name not in SETS:
            raise UsageError(f"there is no set of counters {name!r}", f"Known sets: {', '.join(SETS)}.")
        if name == "perf":
            processors = Processors(pid, online_cpus())
            if processors.absent:
                say(f"this machine does not count: {', '.join(processors.absent)}")
            found.append(Counters(name, _labelled("perf", processors.read), every_s, processors.close))
            continue
        look = _LOOKS[name]
        if not any(True for _ in look()):
            raise NotPermittedError(f"this kernel has no {name}", f"Leave {name} out of --counters.")
        found.append(Counters(name, look, every_s))
    for wanted in dict.fromkeys(groups):
        found.append(Counters("cgroup", Group(wanted).read, every_s))
    return found


def _labelled(source: str, read: Callable[[], Iterable[Count]]) -> Look:
    return lambda: ((source, count) for count in read())


def _of(source: str, path: Path, parse: Callable[[str], Iterable[Count]]) -> Look:
    return _labelled(source, lambda: parse(path.read_text(encoding="utf-8", errors="replace")))


def _psi() -> Iterator[tuple[str, Count]]:
    if _PRESSURE.is_dir():
        for path in sorted(_PRESSURE.iterdir()):
            for count in reading.pressure(path.read_text(), "", path.name):
                yield "psi", count


def _cpuidle() -> Iterator[tuple[str, Count]]:
    """Of each processor's idle states: how often and how long; and what each promises (levels, in us)."""
    for state in sorted(_PROCESSORS.glob("cpu[0-9]*/cpuidle/state[0-9]*")):
        scope = f"{state.parent.parent.name}/{state.name}"
        for name, unit in (*_IDLE_UNITS.items(), *((fact, "us") for fact in _IDLE_FACTS)):
            try:
                value = reading.number((state / name).read_text().strip())
            except OSError:
                continue
            if value is not None:
                yield "cpuidle", Count(scope, name, value, unit, name not in _IDLE_FACTS)


_LOOKS: dict[str, Look] = {
    "cpuidle": _cpuidle,
    "diskstats": _of("diskstats", Path("/proc/diskstats"), reading.diskstats),
    "meminfo": _of("meminfo", Path("/proc/meminfo"), reading.meminfo),
    "psi": _psi,
    "stat": _of("stat", Path("/proc/stat"), reading.stat),
    "vmstat": _of("vmstat", Path("/proc/vmstat"), reading.vmstat),
}
