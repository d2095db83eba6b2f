"""What a validation runs: devices, workloads, settings, rounds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from hindsight.errors import UsageError
from hindsight.lab.rearm import EXACT


class Scope(Enum):
    """What a setting acts on."""

    STOCK = "stock"
    DEVICE = "device"
    """``read_ahead_kb`` of the device, before the program opens its files."""
    FILE = "file"
    """Every open file of the running program, through a duplicate of its descriptor."""
    MODEL = "model"
    """Open files of the running program, each as the packaged model decides."""


@dataclass(frozen=True)
class Setting:
    """``kilobytes`` of readahead, or ``rearm.EXACT``; 0 where it does not apply."""

    scope: Scope
    kilobytes: int = 0

    @property
    def name(self) -> str:
        """As results name it: ``stock``, ``device:512``, ``file:exact``, ``model``."""
        if self.scope in (Scope.STOCK, Scope.MODEL):
            return self.scope.value
        exact = self.scope is Scope.FILE and self.kilobytes == EXACT
        return f"{self.scope.value}:{'exact' if exact else self.kilobytes}"


STOCK = Setting(Scope.STOCK)
MODEL = Setting(Scope.MODEL)


def device_wide(*kilobytes: int) -> tuple[Setting, ...]:
    """One setting per limit of the device."""
    return tuple(Setting(Scope.DEVICE, value) for value in kilobytes)


def per_file(*kilobytes: int) -> tuple[Setting, ...]:
    """One setting per limit of every open file."""
    return tuple(Setting(Scope.FILE, value) for value in kilobytes)


@dataclass(frozen=True)
class Part:
    """Workloads on one device (a profile's name). ``seconds``: roughly what a run takes under stock."""

    profile: str
    workloads: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Suite:
    """Every workload of every part under every setting, ``rounds`` times, each time beside stock."""

    name: str
    parts: tuple[Part, ...]
    settings: tuple[Setting, ...]
    rounds: int = 10


_PATTERNS = (
    "fio-sequential", "fio-random-4k", "fio-random-64k", "fio-stride", "fio-reverse", "fio-runs",
    "fio-several", "fio-readers", "fio-phases",
)  # fmt: skip
_PROGRAMS = (
    "db_bench-readrandom", "db_bench-readrandom-plain", "db_bench-readseq-plain", "db_bench-scans",
    "sqlite3-scan", "sqlite3-points", "sqlite3-ranges", "sqlite3-phases", "grep-logs", "tar-logs",
    "git-verify-pack",
)  # fmt: skip

_SETTINGS = (*device_wide(16, 64, 512, 1024, 4096), *per_file(64, 1024, 4096, EXACT), MODEL)

FULL = {
    suite.name: suite
    for suite in (
        Suite(
            "readahead",
            (Part("P1", _PATTERNS + _PROGRAMS, 0.6), Part("P2", _PATTERNS + _PROGRAMS, 0.5)),
            _SETTINGS,
        ),
        Suite("patterns", (Part("P1", _PATTERNS, 4.0), Part("P2", _PATTERNS, 3.0)), _SETTINGS),
        Suite("programs", (Part("P1", _PROGRAMS, 4.0), Part("P2", _PROGRAMS, 3.0)), _SETTINGS),
    )
}

_QUICK_SETTINGS = (*device_wide(64, 512, 4096), *per_file(1024, EXACT), MODEL)

QUICK = {
    "readahead": (
        Part("P1", ("fio-sequential", "fio-runs", "fio-several", "db_bench-scans", "sqlite3-phases"), 1.0),
        Part("P2", ("fio-sequential", "fio-runs", "fio-several", "sqlite3-ranges"), 0.5),
    ),
    "patterns": (
        Part("P1", ("fio-sequential", "fio-runs", "fio-several", "fio-readers", "fio-random-4k"), 1.0),
        Part("P2", ("fio-sequential", "fio-runs", "fio-several", "fio-readers"), 0.5),
    ),
    "programs": (
        Part("P1", ("db_bench-scans", "sqlite3-phases", "grep-logs", "sqlite3-points"), 1.0),
        Part("P2", ("db_bench-readseq-plain", "sqlite3-ranges", "sqlite3-phases"), 0.5),
    ),
}


def find_suite(name: str, quick: bool) -> Suite:
    """The suite of that name, or its part that takes 20 minutes; UsageError names those that exist."""
    if name not in FULL:
        raise UsageError(f"there is no suite {name!r}", f"Suites: {', '.join(FULL)}.")
    if not quick:
        return FULL[name]
    return replace(FULL[name], name=f"{name}-quick", parts=QUICK[name], settings=_QUICK_SETTINGS)
