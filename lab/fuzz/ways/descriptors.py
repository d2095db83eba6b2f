"""Descriptors: several on one file, duplicates, children that share them, reopening; one task at a time."""

from __future__ import annotations

from hindsight.lab.fuzz.plan import FILES, Op
from hindsight.lab.fuzz.sketch import Sketch
from hindsight.lab.fuzz.ways.way import Way


def _some_reads(s: Sketch, slot: int, size: int, most: int = 12) -> list[Op]:
    n, pos = s.length(300000), s.offset(size)
    order = s.rng.choice(("read", "forward", "random"))
    ops: list[Op] = []
    for _ in range(s.steps(1, most)):
        if order == "read":
            ops.append(["read", slot, n])
        else:
            ops.append(["pread", slot, n, pos])
            pos = (pos + n) % size if order == "forward" else s.offset(size)
    return ops


def several(s: Sketch) -> list[Op]:
    """Two to four descriptors on one file, in turn."""
    ops: list[Op] = []
    file = s.rng.choice(("big", "big", "exact", "odd"))
    slots = [s.open(ops, file) for _ in range(s.rng.randrange(2, 5))]
    for _ in range(s.steps(3, 10)):
        ops += _some_reads(s, s.rng.choice(slots), FILES[file])
    return ops


def duplicates(s: Sketch) -> list[Op]:
    """dup() and dup2() of descriptors that are read on under both names."""
    ops: list[Op] = []
    slot, size = s.descriptor(ops)
    for _ in range(s.steps(2, 6)):
        ops += _some_reads(s, slot, size)
        other = s.slot()
        if s.rng.random() < 0.3:
            ops.append(["open", other, s.file(), "r"])
            ops.append(["dup2", slot, other])
        else:
            ops.append(["dup", slot, other])
        ops += _some_reads(s, other, size)
        if s.rng.random() < 0.7:
            ops.append(["close", other])
    return ops


def forks(s: Sketch) -> list[Op]:
    """A child that shares the descriptor and reads while its parent waits, and so on in turn."""
    ops: list[Op] = []
    slot, size = s.descriptor(ops)
    for _ in range(s.steps(1, 4)):
        ops += _some_reads(s, slot, size)
        inside = _some_reads(s, slot, size)
        if s.rng.random() < 0.3:
            inside.append(["fork", _some_reads(s, slot, size)])
        ops.append(["fork", inside])
    return ops + _some_reads(s, slot, size)


def reopen(s: Sketch) -> list[Op]:
    """Close and open again, the pages still being cached."""
    ops: list[Op] = []
    file = s.rng.choice(("big", "exact", "odd"))
    for _ in range(s.steps(2, 6)):
        slot = s.open(ops, file)
        ops += _some_reads(s, slot, FILES[file], 20)
        ops.append(["close", slot])
        s.forget(slot)
    return ops


WAYS = {
    "several": Way(several, 5),
    "duplicates": Way(duplicates),
    "forks": Way(forks),
    "reopen": Way(reopen),
}
