"""Several tasks at once: threads and children on one descriptor, and on descriptors of their own."""

from __future__ import annotations

from hindsight.lab.fuzz.plan import FILES, Op
from hindsight.lab.fuzz.sketch import Sketch
from hindsight.lab.fuzz.ways.way import Way


def _run(s: Sketch, slot: int, size: int) -> list[Op]:
    n, pos = s.length(131072), s.offset(size)
    forward = s.rng.random() < 0.7
    ops: list[Op] = []
    for _ in range(s.steps(5, 25)):
        ops.append(["pread", slot, n, pos])
        pos = (pos + n) % size if forward else s.offset(size)
    return ops


def threads(s: Sketch) -> list[Op]:
    """Threads on one descriptor at the same time."""
    ops: list[Op] = []
    slot, size = s.descriptor(ops, "big")
    for _ in range(s.rng.randrange(2, 4)):
        ops.append(["thread", [["cpu", s.rng.randrange(64)], *_run(s, slot, size)]])
    return [*ops, ["join"], *_run(s, slot, size)]


def siblings(s: Sketch) -> list[Op]:
    """Processes on one file at the same time, each with a descriptor of its own."""
    ops: list[Op] = []
    file = s.rng.choice(("big", "exact"))
    for _ in range(s.rng.randrange(2, 4)):
        slot = s.slot()
        inside: list[Op] = [["cpu", s.rng.randrange(64)], ["open", slot, file, "r"]]
        ops.append(["process", inside + _run(s, slot, FILES[file])])
    return [*ops, ["join"]]


def heirs(s: Sketch) -> list[Op]:
    """Children that share one descriptor and read from it at the same time."""
    ops: list[Op] = []
    slot, size = s.descriptor(ops, "big")
    for _ in range(2):
        ops.append(["process", [["cpu", s.rng.randrange(64)], *_run(s, slot, size)]])
    return [*ops, ["join"]]


def processors(s: Sketch) -> list[Op]:
    """One task that moves from processor to processor."""
    ops: list[Op] = []
    slot, size = s.descriptor(ops)
    for op in _run(s, slot, size):
        ops += [["cpu", s.rng.randrange(64)], op]
    return ops


WAYS = {
    "threads": Way(threads, 3),
    "siblings": Way(siblings, 3),
    "heirs": Way(heirs, 2),
    "processors": Way(processors, 3),
}
