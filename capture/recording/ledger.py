"""The ledger of a recording: every interval in which events were or may have been lost, and how many.

It is told what the kernel's counters say and makes the rows of ``losses`` of each segment. Events lost
between two looks at a counter belong to that interval, exactly. When a segment is closed while the ring
buffers go on, what was lost between the last look before the buffers were drained and the look after that may
belong to either segment: the closed one says "none, or up to so many", the next one carries the interval with
its count. So the sum of ``count_lower`` over all segments is what the kernel counted, never more.

Ring buffers that overwrite lose events all the time; that counts only when they are read: what was
overwritten since the last time is one interval, up to the first event after the last gap.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

Counters = Mapping[str, Mapping[int, Mapping[str, int]]]
"""Instance, CPU, counter of the kernel: its value."""

_CAUSES = {"dropped events": "ring full", "overrun": "ring overrun", "commit overrun": "ring overrun"}
_OVERWRITTEN = ("overrun",)
"""Of ring buffers that overwrite: accounted for when they are read."""


@dataclass(frozen=True)
class Loss:
    """A row of ``losses``; ``to_ns`` None while it goes on; ``event`` as ``system/event``.

    ``count_upper`` None = unknown. ``instance``, ``cpu`` and ``event`` None = all.
    """

    instance: str | None
    cpu: int | None
    event: str | None
    from_ns: int
    to_ns: int | None
    count_lower: int
    count_upper: int | None
    cause: str

    def row(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Ledger:
    """Losses of one recording. ``overwriting``: instances whose ring buffers overwrite.

    Times are CLOCK_MONOTONIC in ns. ``lost`` is the number of events that the kernel counted as lost since
    the first look; ``causes`` are those of the intervals in which an unknown number was.
    """

    def __init__(self, overwriting: Iterable[str] = ()) -> None:
        self.lost = 0
        self.causes: set[str] = set()
        self._overwriting = frozenset(overwriting)
        self._seen: dict[tuple[str, int, str], int] = {}
        self._looked = 0
        self._begun = False
        self._read: dict[tuple[str, int], tuple[int, int]] = {}  # (time, overrun) when last read
        self._rows: list[Loss] = []
        self._ongoing: dict[tuple[str, str | None], Loss] = {}

    def look(self, before_ns: int, after_ns: int, counters: Counters) -> list[Loss]:
        """The counters were read between these times; returns what was lost since they were last.

        The first look (of a CPU) sets what later ones are compared with.
        """
        found = []
        for instance, cpu, counter, value in _relevant(counters):
            rise = value - self._seen.setdefault((instance, cpu, counter), value)
            self._seen[instance, cpu, counter] = value
            if counter in _OVERWRITTEN and instance in self._overwriting:
                self._read.setdefault((instance, cpu), (before_ns, value))
                self.lost += max(rise, 0)
            elif rise > 0:
                self.lost += rise
                cause = _CAUSES[counter]
                found.append(Loss(instance, cpu, None, self._looked, after_ns, rise, rise, cause))
        self._looked = before_ns
        self._rows += found
        return found

    def resume(self, now_ns: int) -> None:
        """Recording was off, the counters were looked at since; it goes on now."""
        self._looked = max(self._looked, now_ns)
        if not self._begun:
            self._read = {key: (max(since, now_ns), value) for key, (since, value) in self._read.items()}
        self._begun = True

    def read(self, counters: Counters, at_ns: int, gaps: Mapping[tuple[str, int], int]) -> list[Loss]:
        """Ring buffers that overwrite were read, the counters (already looked at) are of just after that.

        ``gaps`` is the time of the first event after the last gap, by instance and CPU. Returns what was lost
        to overwriting since they were last read.
        """
        found = []
        for instance, cpu, counter, value in _relevant(counters):
            if counter not in _OVERWRITTEN or instance not in self._overwriting:
                continue
            since, before = self._read.get((instance, cpu), (at_ns, value))
            self._read[instance, cpu] = (at_ns, value)
            if value > before:
                until = max(min(gaps.get((instance, cpu), at_ns), at_ns), since)
                count = value - before
                found.append(Loss(instance, cpu, None, since, until, count, count, _CAUSES[counter]))
        self._rows += found
        return found

    def begin(self, cause: str, now_ns: int, events: Iterable[str | None] = (None,)) -> list[Loss]:
        """From now on an unknown number of events (None = of all) is lost; returns the open intervals."""
        found = []
        for event in events:
            if (cause, event) not in self._ongoing:
                row = Loss(None, None, event, now_ns, None, 0, None, cause)
                self._ongoing[cause, event] = row
                self.causes.add(cause)
                found.append(row)
        return found

    def end(
        self, now_ns: int, cause: str | None = None, events: Iterable[str | None] = (None,)
    ) -> list[Loss]:
        """What :meth:`begin` began is over (``cause`` None = whatever the cause); returns the intervals."""
        wanted = set(events)
        over = [key for key in self._ongoing if key[1] in wanted and cause in (None, key[0])]
        found = [replace(self._ongoing.pop(key), to_ns=now_ns) for key in over]
        self._rows += found
        return found

    def add(self, loss: Loss) -> None:
        """A loss that somebody else found."""
        self._rows.append(loss)

    @property
    def ongoing(self) -> list[Loss]:
        """What was begun and did not end yet."""
        return list(self._ongoing.values())

    def cut(
        self, now_ns: int, uncertain: Iterable[Loss] = ()
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """A segment is closed now: its rows, and those that the next segment begins with.

        ``uncertain`` are losses that belong to either of the two. What goes on (:attr:`ongoing`) is in the
        closed segment up to now and goes on from now.
        """
        carried = list(uncertain)
        closed = [row for row in self._rows if row not in carried]
        closed += [replace(row, count_lower=0) for row in carried]
        closed += [replace(row, to_ns=now_ns) for row in self._ongoing.values()]
        self._ongoing = {key: replace(row, from_ns=now_ns) for key, row in self._ongoing.items()}
        self._rows = carried
        opening = [row.row() for row in (*carried, *self._ongoing.values())]
        return [row.row() for row in _merged(closed)], opening


def _relevant(counters: Counters) -> Iterable[tuple[str, int, str, int]]:
    for instance, cpus in counters.items():
        for cpu, values in cpus.items():
            for counter in _CAUSES:
                yield instance, cpu, counter, values.get(counter, 0)


def _merged(rows: list[Loss]) -> list[Loss]:
    """Intervals of the same ring buffer and cause that touch, as one: the buffer stayed full."""
    merged: list[Loss] = []
    last: dict[tuple[object, ...], int] = {}
    for row in rows:
        key = (row.instance, row.cpu, row.event, row.cause)
        at = last.get(key)
        before = merged[at] if at is not None else None
        certain = row.count_upper is not None and row.count_lower == row.count_upper
        if (
            at is not None and before is not None and certain and before.to_ns is not None
            and before.count_lower == before.count_upper and row.from_ns <= before.to_ns
        ):  # fmt: skip
            merged[at] = replace(
                before,
                to_ns=row.to_ns,
                count_lower=before.count_lower + row.count_lower,
                count_upper=before.count_lower + row.count_lower,
            )
        else:
            last[key] = len(merged)
            merged.append(row)
    return merged
