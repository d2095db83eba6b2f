"""The events of one processor: opened as a group, switched together, counted together.

A dummy event leads the group, so that one ioctl switches all of it and any tracepoint can be shed. All write
to one ring buffer.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from hindsight.capture.perf import event as perf
from hindsight.capture.perf.ring import Ring


class Group:
    """Tracepoints (``ids``: ``system/event`` to id) on processor ``cpu``, of all threads or of ``pids``.

    Off until :meth:`switch`. With ``pids``, threads that these create are included. Raises OSError when the
    kernel refuses an event (``filename`` names it) and HindsightError when it refuses the ring buffer.
    """

    def __init__(self, cpu: int, ids: Mapping[str, int], pids: Iterable[int] | None, buffer_kb: int) -> None:
        self.cpu = cpu
        self._leaders: list[int] = []
        self._members: dict[str, list[int]] = {event: [] for event in ids}
        self._by_group = pids is None
        self._ring: Ring | None = None
        try:
            for pid in [-1] if pids is None else list(pids):
                self._open(pid, ids, buffer_kb)
        except BaseException:
            self.close()
            raise

    def _open(self, pid: int, ids: Mapping[str, int], buffer_kb: int) -> None:
        inherit = 0 if self._by_group else perf.INHERIT
        # Children's counts are only summed up event by event: reading a group overwrites what was lost.
        leader_format = perf.FORMAT_GROUP | perf.FORMAT_LOST if self._by_group else 0
        wakeup = (buffer_kb << 10) // 2
        attr = perf.attribute(
            perf.TYPE_SOFTWARE, perf.COUNT_SW_DUMMY, sampled=False, read_format=leader_format,
            flags=perf.DISABLED | inherit,
        )  # fmt: skip
        leader = perf.open_event(attr, pid, self.cpu)
        self._leaders.append(leader)
        for name, number in ids.items():
            attr = perf.attribute(
                perf.TYPE_TRACEPOINT, number, sampled=True, read_format=perf.FORMAT_LOST,
                flags=inherit, wakeup_bytes=wakeup,
            )  # fmt: skip
            try:
                descriptor = perf.open_event(attr, pid, self.cpu, leader)
            except OSError as error:
                error.filename = name
                raise
            self._members[name].append(descriptor)
            if self._ring is None:
                try:
                    self._ring = Ring(descriptor, buffer_kb)
                except OSError as error:
                    raise perf.refused(error, name, buffer_kb) from error
                self.descriptor = descriptor
            else:
                perf.set_output(descriptor, self.descriptor)

    @property
    def ring(self) -> Ring:
        """The ring buffer."""
        assert self._ring is not None, "the group is closed"
        return self._ring

    def filter(self, event: str, text: str) -> None:
        """Filter an event, once. Raises OSError when the kernel refuses the text."""
        for descriptor in self._members[event]:
            perf.set_filter(descriptor, text)

    def switch(self, on: bool) -> None:
        """Begin, or stop; when this returns on stopping, nothing is written any more."""
        for leader in self._leaders:
            perf.enable(leader, on)

    def switch_event(self, event: str, on: bool) -> None:
        """The same for one event alone."""
        for descriptor in self._members[event]:
            perf.enable(descriptor, on)

    def count(self) -> tuple[int, int]:
        """How many events occurred, and how many of them found the ring buffer full."""
        if self._by_group:
            return perf.read_group(self._leaders[0], len(self._members))
        counts = [perf.read_count(d) for members in self._members.values() for d in members]
        return sum(count for count, _ in counts), sum(lost for _, lost in counts)

    def settled(self) -> tuple[int, int, int] | None:
        """Position, occurrences and losses that belong together, while events may go on; None if unlucky.

        Call it from a thread that runs on this processor: no other thread's event is then half-way between
        being counted and being written, and an interrupt's shows in one of the values that are read twice.
        """
        for _ in range(16):
            head, counts = self.ring.head, self.count()
            if self.count() == counts and self.ring.head == head:
                return head, *counts
        return None

    def close(self) -> None:
        """Release the ring buffer and the events."""
        if self._ring is not None:
            self._ring.close()
            self._ring = None
        for descriptor in [d for members in self._members.values() for d in members] + self._leaders:
            os.close(descriptor)
        self._members, self._leaders = {}, []
