"""How a segment ended whose recorder cannot say it any more: out of its journal and the kernel's counters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hindsight.capture.segments import journal
from hindsight.capture.segments.facts import KEPT
from hindsight.capture.segments.salvage import Salvaged

RING_FULL = "ring full"
RING_OVERRUN = "ring overrun"
TRUNCATED = "truncated"
RECORDER_DIED = "recorder died"
_COUNTERS = {RING_FULL: ("dropped events",), RING_OVERRUN: ("overrun", "commit overrun")}

Key = tuple[str | None, int | None, str | None, int, str]
Stats = dict[str, dict[str, dict[str, int]]]


def loss_key(row: Mapping[str, Any]) -> Key:
    """What makes two rows of a journal the same interval; the later one says more."""
    return row["instance"], row["cpu"], row["event"], row["from_ns"], row["cause"]


@dataclass
class Known:
    """What the journal of a segment says.

    ``last_ns``: the latest moment that is known of. ``stats``: the latest counters by instance and CPU, of a
    look at ``looked_ns``, the one before it was at ``before_ns``. ``durable``: bytes by file. ``carried``:
    losses that the segment was opened with, ``noted``: those since; ``kept``: entries that facts are built
    from; ``opened`` if it was prepared and then used; ``closing`` if it was about to be sealed, and ``late``
    what a recovery found lost since.
    """

    last_ns: int = 0
    before_ns: int = 0
    looked_ns: int = 0
    cpu_ns: int = 0
    stats: Stats = field(default_factory=dict)
    durable: dict[str, int] = field(default_factory=dict)
    carried: dict[Key, dict[str, Any]] = field(default_factory=dict)
    noted: dict[Key, dict[str, Any]] = field(default_factory=dict)
    kept: list[dict[str, Any]] = field(default_factory=list)
    opened: bool = False
    closing: dict[str, Any] | None = None
    late: dict[Key, dict[str, Any]] = field(default_factory=dict)

    def take(self, entry: Mapping[str, Any]) -> None:
        """Take one entry of the journal. Raises KeyError, TypeError, … when it is none."""
        kind = entry["kind"]
        if kind == "look":
            self.before_ns, self.looked_ns = self.looked_ns, int(entry["ts"])
            self.cpu_ns = int(entry.get("cpu_ns", self.cpu_ns))
            for instance, cpus in entry["stats"].items():
                for cpu, counters in cpus.items():
                    self.stats.setdefault(instance, {})[str(int(cpu))] = {
                        k: int(v) for k, v in counters.items()
                    }
        elif kind == "loss":
            row = dict(entry["row"])
            key = loss_key(row)
            if self.closing is not None:
                self.late[key] = row
            (self.carried if key in self.carried else self.noted)[key] = row
            self._until(row["to_ns"] or row["from_ns"])
        elif kind == "synced":
            self.durable |= {str(name): int(size) for name, size in entry["bytes"].items()}
        elif kind == "opened":
            self.opened = True
            self.before_ns = self.looked_ns = int(entry["ts"])
            self.carried, self.noted = {loss_key(row): row for row in entry["losses"]}, {}
            self.stats = {name: dict(cpus) for name, cpus in entry["stats_before"].items()}
        elif kind == "closing":
            self.closing = dict(entry["closing"])
        if kind in KEPT:
            self.kept.append(dict(entry))
        if kind in ("look", "synced", "opened"):
            self._until(entry["ts"])
        elif kind == "anchor":
            self._until(entry["row"]["ts"])

    def _until(self, ts: int) -> None:
        self.last_ns = max(self.last_ns, int(ts))


def start_of(opening: Mapping[str, Any]) -> int:
    """When the segment was opened, CLOCK_MONOTONIC ns."""
    start = opening["tables"]["captures"][0]["start_ns"]
    if type(start) is not int:
        raise TypeError("start_ns")
    return start


def read_known(path: Path, opening: Mapping[str, Any]) -> Known:
    """What the opening and the journal at ``path`` say; lines that are torn or no entries are left out."""
    start = start_of(opening)
    known = Known(start, start, start)
    known.carried = {loss_key(row): row for row in opening["losses"]}
    for entry in journal.read(path):
        try:
            known.take(entry)
        except (KeyError, TypeError, ValueError, AttributeError):
            continue
    return known


@dataclass(frozen=True)
class Successor:
    """The segment that the same recorder opened next: when, the kernel's counters then, its first losses."""

    start_ns: int
    stats: Mapping[str, Mapping[str, Mapping[str, int]]]
    losses: Mapping[Key, Mapping[str, Any]]

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Successor:
        """Out of its opening, or its facts. Raises KeyError, TypeError, … when it is neither."""
        return cls(
            start_of(facts),
            {name: instance["stats_before"] for name, instance in facts["instances"].items()},
            {loss_key(row): row for row in facts["losses"]},
        )


@dataclass(frozen=True)
class Remains:
    """What was found of a segment.

    ``lasts``: time of the last event by instance and CPU. ``salvaged``: its ring buffers. ``successor``: the
    next segment. ``power_lost``: the kernel did not live on. ``cut``: losses where files were cut.
    """

    lasts: Mapping[tuple[str, str], int] = field(default_factory=dict)
    salvaged: Mapping[str, Salvaged] = field(default_factory=dict)
    successor: Successor | None = None
    power_lost: bool = False
    raw_bytes: int = 0


def closing_of(opening: Mapping[str, Any], known: Known, remains: Remains) -> dict[str, Any]:
    """What its recorder would have said at the end, as far as it can be known."""
    start = start_of(opening)
    successor = remains.successor
    if successor is not None:
        end = successor.start_ns
    elif remains.salvaged:
        end = max(salvaged.off_ns for salvaged in remains.salvaged.values())
    else:
        end = max(known.last_ns, start, *remains.lasts.values())
    rows = [dict(row) for row in (*known.carried.values(), *known.noted.values())]
    for row in rows:
        if row["to_ns"] is None:
            row["to_ns"] = max(end, row["from_ns"])
        if successor is not None and row["count_upper"] is not None and loss_key(row) in successor.losses:
            row["count_lower"] = 0  # the count is with the successor
    stats_after: dict[str, dict[str, Any]] = {}
    for name, instance in opening["instances"].items():
        after: Mapping[str, Mapping[str, int]] = {}
        if successor is not None:
            after = successor.stats.get(name, {})
        elif name in remains.salvaged:
            after = remains.salvaged[name].stats
        stats_after[name] = {}
        for cpu, before in instance["stats_before"].items():
            counters = after.get(cpu)
            stats_after[name][cpu] = dict(counters) if counters is not None else None
            seen = counters if counters is not None else known.stats.get(name, {}).get(cpu, before)
            rows += _uncounted(name, cpu, before, seen, known, remains, end)
            if counters is None:
                since = min(remains.lasts.get((name, cpu), start), end)
                cause = TRUNCATED if remains.power_lost else RECORDER_DIED
                rows.append(_row(name, cpu, since, end, 0, None, cause))
    return {
        # What a ring buffer held at a rotation is in the next segment.
        "closed": "recovered" if successor is None else "rotation",
        "end_ns": end,
        "stats_after": stats_after,
        "losses": rows,
        "tables": {},
        "recorder": {
            "from_ns": start,
            "to_ns": max(known.last_ns, start),
            "cpu_ns": known.cpu_ns,
            "raw_bytes": remains.raw_bytes,
            "peak_rss_bytes": 0,
        },
        "threads": [],
    }


def _uncounted(
    instance: str,
    cpu: str,
    before: Mapping[str, int],
    after: Mapping[str, int],
    known: Known,
    remains: Remains,
    end: int,
) -> Iterable[dict[str, Any]]:
    """What the kernel counted as lost and no row of the journal says, since the look before the last."""
    successor = remains.successor
    for cause, counters in _COUNTERS.items():
        count = sum(after.get(counter, 0) - before.get(counter, 0) for counter in counters)
        told = {key: row for key, row in known.noted.items() if row["count_upper"] is not None}
        if successor is not None:
            told |= {
                key: dict(row) for key, row in successor.losses.items() if row["count_upper"] is not None
            }
        for key, row in told.items():
            if key[:2] == (instance, int(cpu)) and row["cause"] == cause:
                count -= row["count_lower"]
        if count > 0:
            died = cause == RING_FULL and successor is None and instance in remains.salvaged
            since = min(known.before_ns, end)
            yield _row(instance, cpu, since, end, count, count, RECORDER_DIED if died else cause)


def _row(
    instance: str, cpu: str, since: int, until: int, lower: int, upper: int | None, cause: str
) -> dict[str, Any]:
    times = {"from_ns": since, "to_ns": until}
    counts = {"count_lower": lower, "count_upper": upper}
    return {"instance": instance, "cpu": int(cpu), "event": None, "cause": cause} | times | counts
