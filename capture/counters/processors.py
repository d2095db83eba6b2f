"""What perf_event_open(2) counts: software events always, those of the processor's PMU where there is one.

A recorded command is counted with all that it creates, a whole host processor by processor.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator, Sequence

from hindsight.capture.counters.reading import Count
from hindsight.capture.perf import event as perf

_HARDWARE = 0  # PERF_TYPE_HARDWARE
_TIMES = 1 << 0 | 1 << 1  # PERF_FORMAT_TOTAL_TIME_ENABLED, …_RUNNING
_ABSENT = (errno.ENOENT, errno.EOPNOTSUPP, errno.ENODEV, errno.ENOSYS, errno.EINVAL)

EVENTS: dict[str, tuple[int, int, str]] = {
    "task-clock": (perf.TYPE_SOFTWARE, 1, "ns"),
    "page-faults": (perf.TYPE_SOFTWARE, 2, "events"),
    "context-switches": (perf.TYPE_SOFTWARE, 3, "events"),
    "cpu-migrations": (perf.TYPE_SOFTWARE, 4, "events"),
    "minor-faults": (perf.TYPE_SOFTWARE, 5, "events"),
    "major-faults": (perf.TYPE_SOFTWARE, 6, "events"),
    "cycles": (_HARDWARE, 0, "events"),
    "instructions": (_HARDWARE, 1, "events"),
    "cache-references": (_HARDWARE, 2, "events"),
    "cache-misses": (_HARDWARE, 3, "events"),
    "branch-instructions": (_HARDWARE, 4, "events"),
    "branch-misses": (_HARDWARE, 5, "events"),
    "stalled-cycles-backend": (_HARDWARE, 8, "events"),
}
"""Type and config of each event (include/uapi/linux/perf_event.h), and its unit."""


class Processors:
    """Counts from when it is made. ``pid`` None: all threads, by processor.

    ``absent`` are events that this machine does not have. Raises HindsightError when none can be counted.
    """

    def __init__(self, pid: int | None, processors: Sequence[int]) -> None:
        self.absent: list[str] = []
        self._open: list[tuple[str, str, str, int]] = []
        targets = [("command", pid, -1)] if pid is not None else [(f"cpu{n}", -1, n) for n in processors]
        perf.raise_descriptor_limit(len(targets) * len(EVENTS))
        refusal: OSError | None = None
        try:
            for name, (kind, config, unit) in EVENTS.items():
                flags = perf.INHERIT if pid is not None else 0
                attr = perf.attribute(kind, config, sampled=False, read_format=_TIMES, flags=flags)
                try:
                    for scope, thread, processor in targets:
                        descriptor = perf.open_event(attr, thread, processor)
                        self._open.append((scope, name, unit, descriptor))
                except OSError as error:
                    refusal = error
                    if error.errno not in _ABSENT:
                        raise perf.refused(error, name) from error
                    self.absent.append(name)
            if not self._open and refusal is not None:
                raise perf.refused(refusal, "counters")
        except BaseException:
            self.close()
            raise

    def read(self) -> Iterator[Count]:
        """The counts. An event of the PMU that had to share it says for how long it was counted.

        Raises OSError.
        """
        for scope, name, unit, descriptor in self._open:
            value, enabled, running = struct.unpack("<QQQ", os.read(descriptor, 24))
            yield Count(scope, name, value, unit, True)
            if enabled != running and EVENTS[name][0] == _HARDWARE:
                yield Count(scope, f"{name}.enabled", enabled, "ns", True)
                yield Count(scope, f"{name}.running", running, "ns", True)

    def close(self) -> None:
        """Release the events."""
        while self._open:
            os.close(self._open.pop()[3])
