"""Buffered reads: read, pread, readv, preadv and preadv2, of every size, alignment and order."""

from __future__ import annotations

from hindsight.lab.fuzz.plan import FILES, Op
from hindsight.lab.fuzz.sketch import STRIDES, Sketch
from hindsight.lab.fuzz.ways.way import Way

RWF_HIPRI, RWF_NOWAIT = 1, 8
"""Flags of preadv2 (include/uapi/linux/fs.h)."""


def sequential(s: Sketch) -> list[Op]:
    """read() from where the position is, in pieces of one size or of many."""
    ops: list[Op] = []
    slot, size = s.descriptor(ops)
    if s.rng.random() < 0.4:
        ops.append(["seek", slot, s.offset(size)])
    one = s.length() if s.rng.random() < 0.7 else 0
    return ops + [["read", slot, one or s.length()] for _ in range(s.steps(5, 60))]


def at_random(s: Sketch) -> list[Op]:
    """pread() anywhere."""
    ops: list[Op] = []
    slot, size = s.descriptor(ops)
    limit = min(size, s.rng.choice((size, 1 << 20, 4 << 20)))
    return ops + [["pread", slot, s.length(), s.offset(limit)] for _ in range(s.steps(5, 40))]


def strided(s: Sketch) -> list[Op]:
    """pread() with a gap after each."""
    ops: list[Op] = []
    slot, size = s.descriptor(ops)
    n, stride, pos = s.length(300000), s.rng.choice(STRIDES), s.offset(max(size // 2, 1))
    for _ in range(s.steps(5, 50)):
        ops.append(["pread", slot, n, pos])
        pos = (pos + n + stride) % size
    return ops


def backwards(s: Sketch) -> list[Op]:
    """pread() towards the start of the file."""
    ops: list[Op] = []
    slot, size = s.descriptor(ops)
    n, pos = s.length(300000), s.offset(size)
    for _ in range(s.steps(5, 50)):
        pos = max(0, pos - n)
        ops.append(["pread", slot, n, pos])
    return ops


def places(s: Sketch) -> list[Op]:
    """pread() at a few places in turn, forward in each."""
    ops: list[Op] = []
    slot, size = s.descriptor(ops)
    at = [s.offset(size) for _ in range(s.rng.randrange(2, 6))]
    for _ in range(s.steps(5, 60)):
        i, n = s.rng.randrange(len(at)), s.length(300000)
        ops.append(["pread", slot, n, at[i]])
        at[i] = (at[i] + n + s.rng.choice((0, 0, 0, 1, 4096, 20000))) % size
    return ops


def phases(s: Sketch) -> list[Op]:
    """One descriptor, read in one order after another."""
    ops: list[Op] = []
    slot, size = s.descriptor(ops, "big")
    for _ in range(s.rng.randrange(2, 5)):
        one = s.rng.choice((sequential, at_random, strided, backwards, places))(s)
        for op in one:
            if op[0] == "pread":
                ops.append(["pread", slot, op[2], op[3] % size])
            elif op[0] in ("read", "seek"):
                ops.append([op[0], slot, op[2] % size])
    return ops


def whole(s: Sketch) -> list[Op]:
    """A file from its start until read() returns nothing."""
    file = s.rng.choice(("exact", "odd", "tiny", "odd"))
    n = s.rng.choice((1000, 4096, 65536, 100001, 1 << 20, 16 << 20))
    n = max(n, FILES[file] // 200)
    ops: list[Op] = []
    slot = s.open(ops, file)
    return ops + [["read", slot, n] for _ in range(FILES[file] // n + 3)]


def end(s: Sketch) -> list[Op]:
    """At, across and beyond the end of the file."""
    ops: list[Op] = []
    slot, size = s.descriptor(ops)
    for _ in range(s.steps(4, 25)):
        near = max(0, size + s.rng.choice((-1 << 20, -70000, -8192, -4097, -4096, -1, 0, 1, 4096, 100000)))
        if s.rng.random() < 0.3:
            ops += [["seek", slot, near], ["read", slot, s.length()]]
        else:
            ops.append(["pread", slot, s.length(), near])
    return ops


def seeking(s: Sketch) -> list[Op]:
    """read() with lseek() in between, also to where the position is already."""
    ops: list[Op] = []
    slot, size = s.descriptor(ops)
    pos, n = s.offset(size), s.length(300000)
    for _ in range(s.steps(5, 40)):
        step = s.rng.choice((None, 0, n, -n, 4096, -4096, 100000))
        pos = s.offset(size) if step is None else min(max(0, pos + step), size)
        ops += [["seek", slot, pos], ["read", slot, n]]
        pos += n
    return ops


def vectors(s: Sketch) -> list[Op]:
    """readv() and preadv()."""
    ops: list[Op] = []
    slot, size = s.descriptor(ops)
    pos = s.offset(size)
    for _ in range(s.steps(4, 30)):
        parts = [s.length() for _ in range(s.rng.randrange(1, 4))]
        if s.rng.random() < 0.3:
            ops.append(["readv", slot, parts])
        else:
            ops.append(["preadv", slot, parts, pos])
        pos = (pos + sum(parts)) % size if s.rng.random() < 0.6 else s.offset(size)
    return ops


def flags(s: Sketch) -> list[Op]:
    """preadv2(): without flags, at the position, and with flags."""
    ops: list[Op] = []
    slot, size = s.descriptor(ops)
    pos = s.offset(size)
    for _ in range(s.steps(4, 30)):
        n = s.length()
        at = s.rng.choice((pos, pos, pos, -1))
        ops.append(["preadv2", slot, [n], at, s.rng.choice((0, 0, 0, RWF_HIPRI, RWF_NOWAIT))])
        pos = (pos + n) % size if s.rng.random() < 0.7 else s.offset(size)
    return ops


WAYS = {
    "sequential": Way(sequential, 6),
    "random": Way(at_random, 6),
    "strided": Way(strided, 5),
    "reverse": Way(backwards, 5),
    "places": Way(places, 5),
    "phases": Way(phases, 6),
    "whole": Way(whole, 3),
    "end": Way(end, 4),
    "seek": Way(seeking, 4),
    "vectors": Way(vectors, 4),
    "preadv2": Way(flags, 2),
}
