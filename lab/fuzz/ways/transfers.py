"""Reads without a buffer of the reader: sendfile, splice, copy_file_range, io_uring."""

from __future__ import annotations

from hindsight.lab.fuzz.plan import Op
from hindsight.lab.fuzz.sketch import Sketch
from hindsight.lab.fuzz.ways.way import Way


def _transfers(s: Sketch, name: str, largest: int) -> list[Op]:
    """Forward or anywhere, at an offset or (-1) at the position; some ordinary reads in between."""
    ops: list[Op] = []
    slot, size = s.descriptor(ops)
    n, pos = s.length(largest), s.offset(size)
    by_position, forward = s.rng.random() < 0.4, s.rng.random() < 0.7
    for _ in range(s.steps(3, 25)):
        ops.append([name, slot, -1 if by_position else pos, n])
        if s.rng.random() < 0.1:
            ops.append(["pread", slot, n, pos])
        pos = (pos + n) % size if forward else s.offset(size)
    return ops


def sendfile(s: Sketch) -> list[Op]:
    """sendfile() to /dev/null, which goes through splice inside the kernel."""
    return _transfers(s, "sendfile", 1 << 20)


def splice(s: Sketch) -> list[Op]:
    """splice() to a pipe, which is emptied after each."""
    return _transfers(s, "splice", 65536)


def copying(s: Sketch) -> list[Op]:
    """copy_file_range() to another file of the same file system."""
    return _transfers(s, "copy", 1 << 20)


def ring(s: Sketch) -> list[Op]:
    """Reads submitted to an io_uring, one at a time."""
    return _submitted(s, (1,))


def ring_several(s: Sketch) -> list[Op]:
    """Reads submitted to an io_uring, one or several at a time."""
    return _submitted(s, (1, 1, 1, 2, 4))


def _submitted(s: Sketch, at_once: tuple[int, ...]) -> list[Op]:
    ops: list[Op] = []
    slot, size = s.descriptor(ops)
    n, pos, forward = s.length(1 << 20), s.offset(size), s.rng.random() < 0.7
    for _ in range(s.steps(3, 20)):
        batch = []
        for _ in range(s.rng.choice(at_once)):
            batch.append([pos, n])
            pos = (pos + n) % size if forward else s.offset(size)
        ops.append(["ring", slot, batch])
    return ops


WAYS = {
    "sendfile": Way(sendfile, 3),
    "splice": Way(splice, 3),
    "copy": Way(copying, 2),
    "ring": Way(ring, 3),
    "ring-several": Way(ring_several, 2),
}
