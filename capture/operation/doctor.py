"""Find out what this host can record, what not, why, and what to do about it; change nothing."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hindsight import __version__
from hindsight.capture import profiles
from hindsight.capture.operation import (
    check_bpf,
    check_host,
    check_idle,
    check_perf,
    check_proxies,
    check_tracing,
)
from hindsight.capture.operation.check import NO, OK, WARN, Check
from hindsight.capture.options import Budgets, RecordOptions
from hindsight.errors import ExitCode

MODES = ("ftrace stream", "ftrace flight", "perf stream", "psi", "open files")


@dataclass(frozen=True)
class Diagnosis:
    """What was found. ``can`` says of each of :data:`MODES` whether this process could do it now."""

    profile: str
    checks: tuple[Check, ...]

    @property
    def can(self) -> dict[str, bool]:
        """What can be recorded."""
        blocked = {what for check in self.checks if check.state == NO for what in check.blocks}
        ftrace = "ftrace" not in blocked
        return {
            "ftrace stream": ftrace,
            "ftrace flight": ftrace and "flight" not in blocked,
            "perf stream": "perf" not in blocked,
            "psi": "psi" not in blocked and (ftrace or "perf" not in blocked),
            "open files": check_bpf.BLOCKS not in blocked and (ftrace or "perf" not in blocked),
        }

    @property
    def missing(self) -> list[str]:
        """Trace systems of the profile that are not there in full."""
        return [
            c.id.removeprefix("events-") for c in self.checks if c.id.startswith("events-") and c.state != OK
        ]

    @property
    def exit_code(self) -> ExitCode:
        """OK: all of the profile; FAILED: only a part of it; NOT_PERMITTED: nothing can be recorded."""
        can = self.can
        if not (can["ftrace stream"] or can["perf stream"]):
            return ExitCode.NOT_PERMITTED
        return ExitCode.FAILED if self.missing else ExitCode.OK

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "version": __version__,
            "kernel": os.uname().release,
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "profile": self.profile,
            "can": self.can,
            "missing": self.missing,
            "checks": [check.as_dict() for check in self.checks],
        }


def diagnose(profile: str, out: Path) -> Diagnosis:
    """Look at everything. Raises UsageError for an unknown profile.

    A check that itself fails becomes one of state NO: doctor reports on hosts that nobody has seen.
    """
    wanted = profiles.profile(profile)
    checks: list[Check] = []
    looks: dict[str, Callable[[], Iterable[Check]]] = {
        "privileges": check_host.privileges,
        "tracing": lambda: check_tracing.tracing(wanted),
        "perf": lambda: check_perf.perf(wanted),
        "idle": lambda: check_idle.idle(wanted),
        "memory": lambda: [check_host.memory(_ring_kb(wanted), os.cpu_count() or 1)],
        "disk": lambda: [check_host.disk(out, Budgets().min_free)],
        "psi": lambda: [check_host.pressure()],
        "machine": check_host.machine,
        "cgroups": lambda: [check_host.cgroups()],
        "host-key": lambda: [check_host.host_key()],
        "bpf": check_tracing.bpf,
        "bpf-files": check_bpf.told_apart,
        "proxies": check_proxies.proxies,
    }
    for name, look in looks.items():
        try:
            checks.extend(look())
        except (OSError, ValueError) as error:
            why = f"could not be looked at: {error}"
            checks.append(Check(name, WARN, name, why, "report this, with the output of doctor --json"))
    return Diagnosis(profile, tuple(checks))


def _ring_kb(profile: profiles.Profile) -> int:
    """Ring buffers of all instances per CPU, by default."""
    return sum(profiles.buffers_kb(profile, RecordOptions(Path()).buffer_kb).values())


def lines(found: Diagnosis) -> Iterator[str]:
    """The diagnosis for a terminal."""
    for check in found.checks:
        yield f"{check.state:4} {check.what}: {check.why}"
        if check.remedy:
            yield f"     → {check.remedy}"
    can = [mode for mode, possible in found.can.items() if possible]
    yield ""
    if found.exit_code == ExitCode.NOT_PERMITTED:
        yield f"The profile {found.profile} cannot be recorded here by this user."
        return
    parts = f"without {', '.join(found.missing)}" if found.missing else "in full"
    yield f"The profile {found.profile} can be recorded {parts}: {', '.join(can)}."
