"""Whether tracepoints fire in the idle threads of this host: on some virtual machines not all do.

What never fires is lost to every recorder, and no count of the kernel tells: idle states, switches from the
idle thread, completions in interrupts that find the processor idle. The kernel's count of context switches,
which is none of a tracepoint, shows it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from hindsight.capture.operation.check import OK, WARN, Check
from hindsight.capture.perf import event, tracepoints
from hindsight.capture.perf.rings import online_cpus
from hindsight.capture.profiles import Profile
from hindsight.errors import HindsightError

_SWITCH = "sched/sched_switch"
_CONTEXT_SWITCHES = 3  # PERF_COUNT_SW_CONTEXT_SWITCHES
_SLEEPS = 20
_SLEEP_S = 0.001
_MOST = 16
"""So many processors are looked at, spread over all of them."""
_WHAT = "tracepoints in idle threads"


def idle(profile: Profile) -> Iterator[Check]:
    """One check, where the profile records events that fire there."""
    if not any(e.startswith(("power/", "sched/sched_switch", "block/")) for e in profile.tracepoints):
        return
    cpus = online_cpus()
    cpus = cpus[:: -(-len(cpus) // _MOST)]
    before = os.sched_getaffinity(0)
    try:
        silent = [cpu for cpu in cpus if _is_silent(cpu)]
    except (OSError, HindsightError) as error:
        why = error.message if isinstance(error, HindsightError) else error.strerror
        yield Check("idle-threads", WARN, _WHAT, f"could not be looked at: {why}", "run it as root")
        return
    finally:
        os.sched_setaffinity(0, before)
    if silent:
        yield Check(
            "idle-threads", WARN, _WHAT, f"none fire on the processors {', '.join(map(str, silent))}",
            "idle states, switches from the idle thread and completions there are missing, uncounted "
            "(docs/profiles.md); compare with --counters cpuidle,stat,diskstats",
        )  # fmt: skip
    else:
        yield Check("idle-threads", OK, _WHAT, f"they fire ({len(cpus)} processors looked at)")


def _is_silent(cpu: int) -> bool:
    """Whether a tenth or more of a processor's switches fire no ``sched_switch``, while it is mostly idle."""
    number = tracepoints.number(tracepoints.locate(), _SWITCH)
    if number is None:
        return False
    opened = []
    try:
        for kind, config in ((event.TYPE_TRACEPOINT, number), (event.TYPE_SOFTWARE, _CONTEXT_SWITCHES)):
            attr = event.attribute(kind, config, sampled=False, read_format=0, flags=0)
            opened.append(event.open_event(attr, -1, cpu))
        os.sched_setaffinity(0, {cpu})
        first = [_count(descriptor) for descriptor in opened]
        for _ in range(_SLEEPS):
            time.sleep(_SLEEP_S)
        fired, switched = (_count(descriptor) - was for descriptor, was in zip(opened, first, strict=True))
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return fired < switched - max(switched // 10, 2)


def _count(descriptor: int) -> int:
    return int.from_bytes(os.read(descriptor, 8), "little")
