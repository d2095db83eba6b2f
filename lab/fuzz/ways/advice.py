"""posix_fadvise() of every kind in mid-stream, and readahead()."""

from __future__ import annotations

from hindsight.lab.fuzz.plan import Op
from hindsight.lab.fuzz.sketch import Sketch
from hindsight.lab.fuzz.ways.way import Way

NORMAL, RANDOM, SEQUENTIAL, WILLNEED, DONTNEED = range(5)
"""POSIX_FADV_* (include/uapi/linux/fadvise.h)."""


def _reads(s: Sketch, slot: int, size: int, most: int = 15) -> list[Op]:
    n, pos, forward = s.length(), s.offset(size), s.rng.random() < 0.6
    ops: list[Op] = []
    for _ in range(s.steps(1, most)):
        ops.append(["pread", slot, n, pos])
        pos = (pos + n) % size if forward else s.offset(size)
    return ops


def modes(s: Sketch) -> list[Op]:
    """RANDOM, SEQUENTIAL and NORMAL between reads."""
    ops: list[Op] = []
    slot, size = s.descriptor(ops)
    for _ in range(s.steps(2, 6)):
        ops.append(["advise", slot, 0, 0, s.rng.choice((NORMAL, RANDOM, SEQUENTIAL))])
        ops += _reads(s, slot, size)
    return ops


def willneed(s: Sketch) -> list[Op]:
    """WILLNEED somewhere, then reads there or elsewhere."""
    ops: list[Op] = []
    slot, size = s.descriptor(ops)
    for _ in range(s.steps(2, 6)):
        pos = s.offset(size + 10000)
        ops.append(["advise", slot, pos, s.rng.choice((0, 1, 4096, 100000, 3000000)), WILLNEED])
        if s.rng.random() < 0.5:
            ops += [["pread", slot, s.length(), pos] for _ in range(2)]
        ops += _reads(s, slot, size, 8)
    return ops


def dontneed(s: Sketch) -> list[Op]:
    """DONTNEED of the whole file or a part, then reads."""
    ops: list[Op] = []
    slot, size = s.descriptor(ops)
    ops += _reads(s, slot, size)
    for _ in range(s.steps(2, 6)):
        part = s.rng.random() < 0.6
        pos = s.offset(size) if part else 0
        ops.append(["advise", slot, pos, s.rng.choice((4096, 100000, 3000000)) if part else 0, DONTNEED])
        ops += _reads(s, slot, size)
    return ops


def ahead(s: Sketch) -> list[Op]:
    """readahead() between reads."""
    ops: list[Op] = []
    slot, size = s.descriptor(ops)
    for _ in range(s.steps(2, 6)):
        pos = s.offset(size + 10000)
        ops.append(["readahead", slot, pos, s.rng.choice((1, 4096, 65536, 300000, 3000000))])
        if s.rng.random() < 0.5:
            ops.append(["pread", slot, s.length(), pos])
        ops += _reads(s, slot, size, 8)
    return ops


def everything(s: Sketch) -> list[Op]:
    """Advice of every kind in turn on one descriptor."""
    ops: list[Op] = []
    slot, size = s.descriptor(ops)
    for _ in range(s.steps(3, 8)):
        what = s.rng.choice((NORMAL, RANDOM, SEQUENTIAL, WILLNEED, DONTNEED))
        pos = s.offset(size) if what >= WILLNEED else 0
        ops.append(["advise", slot, pos, s.rng.choice((0, 4096, 100000, 3000000)), what])
        ops += _reads(s, slot, size)
    return ops


WAYS = {
    "modes": Way(modes),
    "willneed": Way(willneed),
    "dontneed": Way(dontneed),
    "readahead": Way(ahead),
    "advice": Way(everything),
}
