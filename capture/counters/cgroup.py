"""The counters of one control group, of whichever version its host has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from hindsight.capture import cgroups
from hindsight.capture.counters import reading
from hindsight.capture.counters.reading import Count
from hindsight.errors import ConfigurationError, HindsightError

_Reader = Callable[[str, str], Iterator[Count]]


def _flat(prefix: str, unit: str, totals: bool) -> _Reader:
    return partial(reading.flat, prefix=prefix, unit=unit, totals=totals)


def _devices(prefix: str, unit: str) -> _Reader:
    return partial(reading.by_device, prefix=prefix, unit=unit)


_FILES: dict[str, tuple[str, _Reader]] = {
    # version 2
    "memory.current": ("memory", _flat("memory.current", "bytes", False)),
    "memory.swap.current": ("memory", _flat("memory.swap.current", "bytes", False)),
    "memory.events": ("memory", _flat("memory.events", "events", True)),
    "io.stat": ("io", _devices("io.stat", "requests")),
    # both
    "memory.stat": ("memory", reading.memory_stat),
    "cpu.stat": ("cpu", _flat("cpu.stat", "events", True)),
    "pids.current": ("pids", _flat("pids.current", "", False)),
    # version 1
    "memory.usage_in_bytes": ("memory", _flat("memory.usage_in_bytes", "bytes", False)),
    "memory.failcnt": ("memory", _flat("memory.failcnt", "events", True)),
    "blkio.throttle.io_service_bytes": ("io", _devices("blkio.throttle.io_service_bytes", "bytes")),
    "blkio.throttle.io_serviced": ("io", _devices("blkio.throttle.io_serviced", "requests")),
    "cpuacct.usage": ("cpu", _flat("cpuacct.usage", "ns", True)),
}
"""Files that are read where they exist: the counter's source is ``cgroup.`` and the first word here."""

_PRESSURE = {"cpu.pressure": "cpu", "memory.pressure": "memory", "io.pressure": "io"}


class Group:
    """A control group, given as /proc/PID/cgroup names it or as a directory; in every hierarchy that has it.

    Raises ConfigurationError when no hierarchy has it.
    """

    def __init__(self, wanted: str) -> None:
        self._wanted = wanted
        self._directories = sorted({d for d in _candidates(wanted) if (d / "cgroup.procs").exists()})
        if not self._directories:
            raise ConfigurationError(
                f"there is no control group {wanted!r}",
                "Name it as /proc/PID/cgroup does (/system.slice/postgresql.service), or by its directory.",
            )

    def read(self) -> Iterator[tuple[str, Count]]:
        """Its counters, each with its source. Raises HindsightError when it is gone."""
        there = False
        for directory in self._directories:
            number = cgroups.identity(directory)
            if number is None:
                continue
            there = True
            for name, (kind, reader) in _FILES.items():
                yield from ((f"cgroup.{kind}", c) for c in reader(_text(directory / name), str(number)))
            for name, resource in _PRESSURE.items():
                text = _text(directory / name)
                yield from (("cgroup.psi", c) for c in reading.pressure(text, str(number), resource))
        if not there:
            raise HindsightError("the control group is gone", "It is sampled again when it is there again.")


def _candidates(wanted: str) -> Iterator[Path]:
    mounted = cgroups.hierarchies()
    given = Path(wanted)
    for hierarchy in mounted.values():
        if given.is_absolute() and given.is_relative_to(hierarchy.where):
            yield given
        directory = hierarchy.directory(wanted)
        if directory is not None:
            yield directory


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not of this version, or not enabled (or it goes just now: the next sample says so)
        return ""
