"""Whether tracepoints can be recorded through perf_event_open(2): ``--source perf``."""

from __future__ import annotations

import errno
import os
import resource

from hindsight.capture.operation.check import NO, OK, WARN, Check
from hindsight.capture.operation.check_host import effective_capabilities, read
from hindsight.capture.perf import event, tracepoints
from hindsight.capture.profiles import Profile
from hindsight.errors import HindsightError

_PROBED = "sched/sched_process_exit"


def perf(profile: Profile) -> list[Check]:
    """Open a tracepoint on one processor, as the source perf does, and close it."""
    return [_open(), _descriptors(profile)]


def _open() -> Check:
    level = read("/proc/sys/kernel/perf_event_paranoid")
    what = "tracepoints through perf"
    if level is None:
        return Check(
            "perf", NO, what, "this kernel has no perf events", "a kernel with CONFIG_PERF_EVENTS", ("perf",)
        )
    if not event.supported():
        return Check("perf", NO, what, "not supported on this machine", "use --source ftrace", ("perf",))
    try:
        number = tracepoints.number(tracepoints.locate(), _PROBED)
    except HindsightError as error:
        return Check("perf", NO, what, error.message, error.remedy or "", ("perf",))
    if number is None:
        return Check("perf", NO, what, f"no tracepoint {_PROBED}", "use --source ftrace", ("perf",))
    attr = event.attribute(
        event.TYPE_TRACEPOINT, number, sampled=True, read_format=event.FORMAT_LOST, flags=event.DISABLED
    )
    try:
        os.close(event.open_event(attr, -1, min(os.sched_getaffinity(0))))
    except OSError as error:
        why = f"{error.strerror} (kernel.perf_event_paranoid = {level})"
        if error.errno in (errno.EACCES, errno.EPERM) and "PERFMON" not in effective_capabilities():
            remedy = "give the recorder CAP_PERFMON (hindsight-capture-perf.service), or run it as root"
        elif error.errno == errno.EINVAL:
            remedy = "PERF_FORMAT_LOST needs Linux 6.0 or later: use --source ftrace"
        else:
            remedy = "see whether seccomp, an LSM or lockdown forbids perf_event_open"
        return Check("perf", NO, what, why, remedy, ("perf",))
    return Check("perf", OK, what, f"allowed (kernel.perf_event_paranoid = {level})")


def _descriptors(profile: Profile) -> Check:
    needed = (len(profile.tracepoints) + 1) * (os.cpu_count() or 1) + 64
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    what = "descriptors for perf"
    why = f"{needed} needed (one per event and CPU), the hard limit is {'none' if hard < 0 else hard}"
    if hard < 0 or hard >= needed or "SYS_RESOURCE" in effective_capabilities():
        return Check("descriptors", OK, what, why)
    return Check("descriptors", WARN, what, why, f"LimitNOFILE={needed}, or ulimit -Hn {needed}")
