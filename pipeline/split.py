"""Which captures to learn from and which to test on: one cut in time per host, for all its workloads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Split:
    """Ids of captures: ``earlier`` to learn from, ``later`` to test on, ``dropped`` for lying in the gap."""

    earlier: tuple[str, ...]
    later: tuple[str, ...]
    dropped: tuple[str, ...]

    def as_json(self) -> dict[str, list[str]]:
        """For split.json."""
        return {"earlier": list(self.earlier), "later": list(self.later), "dropped": list(self.dropped)}

    @classmethod
    def from_json(cls, value: Mapping[str, Sequence[str]]) -> Split:
        """What :meth:`as_json` made."""
        return cls(tuple(value["earlier"]), tuple(value["later"]), tuple(value["dropped"]))


def _group(facts: Facts) -> tuple[str, str]:
    return str(facts["workload"]), str(facts["device"])


def split(captures: Iterable[Facts], purge_ns: int) -> Split:
    """Cut each host's captures in time, with a gap of at least ``purge_ns`` between training and test.

    The cut is the one that leaves the most (workload, device) pairs on both sides; among these the one that
    divides the captures most evenly, then the earliest. A host without such a cut (every workload recorded
    once, say) has no later captures: all of them can be learned from, and *tomorrow* says that it lacks data.
    """
    hosts: dict[str, list[Facts]] = {}
    for facts in captures:
        hosts.setdefault(str(facts["host"]), []).append(facts)
    parts = [_split_host(sorted(hosts[host], key=_order), purge_ns) for host in sorted(hosts)]
    return Split(*(tuple(str(f["capture"]) for part in parts for f in part[side]) for side in range(3)))


def _order(facts: Facts) -> tuple[int, str]:
    return int(facts["start_ns"]), str(facts["capture"])


def _split_host(captures: list[Facts], purge_ns: int) -> tuple[list[Facts], list[Facts], list[Facts]]:
    best: tuple[tuple[int, int], tuple[list[Facts], list[Facts], list[Facts]]] | None = None
    for cut in sorted({int(f["start_ns"]) for f in captures}):
        later = [f for f in captures if f["start_ns"] >= cut]
        earlier = [f for f in captures if f["end_ns"] <= cut - purge_ns]
        dropped = [f for f in captures if f["start_ns"] < cut and f["end_ns"] > cut - purge_ns]
        both = {_group(f) for f in earlier} & {_group(f) for f in later}
        score = (len(both), -abs(len(earlier) - len(later)) - 2 * len(dropped))
        if both and (best is None or score > best[0]):
            best = (score, (earlier, later, dropped))
    return best[1] if best else (captures, [], [])


def tomorrow(captures: Sequence[Facts], division: Split) -> tuple[list[Facts], list[Facts]]:
    """(training, test): earlier captures; later ones whose workload and device the training has as well."""
    train = [f for f in captures if f["capture"] in division.earlier]
    seen = {(f["host"], *_group(f)) for f in train}
    test = [f for f in captures if f["capture"] in division.later and (f["host"], *_group(f)) in seen]
    return train, test


def without_program(
    captures: Sequence[Facts], division: Split, program: str
) -> tuple[list[Facts], list[Facts]]:
    """(training, test) of one left-out program.

    Test: its later captures, or all of them if there are none. Training: earlier captures that share neither
    program nor workload with the test.
    """
    own = [f for f in captures if f["program"] == program and f["capture"] not in division.dropped]
    test = [f for f in own if f["capture"] in division.later] or own
    hidden = {f["workload"] for f in captures if f["program"] == program}
    train = [
        f
        for f in captures
        if f["capture"] in division.earlier and f["program"] != program and f["workload"] not in hidden
    ]
    return train, test


def without_host(captures: Sequence[Facts], division: Split, host: str) -> tuple[list[Facts], list[Facts]]:
    """(training, test) of one left-out host.

    Test: its later captures, or all of them if there are none. Training: earlier captures of other hosts.
    """
    own = [f for f in captures if f["host"] == host and f["capture"] not in division.dropped]
    test = [f for f in own if f["capture"] in division.later] or own
    return [f for f in captures if f["capture"] in division.earlier and f["host"] != host], test


def programs(captures: Iterable[Facts]) -> list[str]:
    """Names of the programs, sorted."""
    return sorted({str(f["program"]) for f in captures})


def hosts(captures: Iterable[Facts]) -> list[str]:
    """Names of the hosts, sorted."""
    return sorted({str(f["host"]) for f in captures})
