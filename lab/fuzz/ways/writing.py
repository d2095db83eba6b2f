"""Files that change while they are read: truncation, rewriting, appending. All of it on ``scratch``."""

from __future__ import annotations

from hindsight.lab.fuzz.plan import FILES, Op
from hindsight.lab.fuzz.sketch import Sketch
from hindsight.lab.fuzz.ways.way import Way

FILE = "scratch"
SIZE = FILES[FILE]


def _reads(s: Sketch, slot: int) -> list[Op]:
    n, pos, forward = s.length(300000), s.offset(SIZE), s.rng.random() < 0.6
    ops: list[Op] = []
    for _ in range(s.steps(2, 12)):
        ops.append(["pread", slot, n, pos])
        pos = (pos + n) % SIZE if forward else s.offset(SIZE)
    return ops


def _with(s: Sketch, change: str) -> list[Op]:
    ops: list[Op] = []
    reader, writer = s.open(ops, FILE), s.open(ops, FILE, "w")
    ops += _reads(s, reader)
    for _ in range(s.steps(1, 5)):
        if change == "truncate":
            ops.append(["truncate", writer, s.rng.choice((0, 4096, s.offset(SIZE), s.offset(SIZE), SIZE))])
        elif change == "rewrite":
            ops.append(["write", writer, s.offset(SIZE), s.length(300000)])
        else:
            ops.append(["write", writer, SIZE, s.length(300000)])
        ops += _reads(s, reader)
    return ops


def replace(s: Sketch) -> list[Op]:
    """Opened with O_TRUNC and written anew, from the start, between reads through another descriptor."""
    ops: list[Op] = []
    reader = s.open(ops, FILE)
    ops += _reads(s, reader)
    for _ in range(s.steps(1, 3)):
        writer, at = s.open(ops, FILE, "t"), 0
        for _ in range(s.steps(1, 12)):
            size = s.length(600000)
            ops.append(["write", writer, at, size])
            at += size
        ops += _reads(s, s.rng.choice((reader, writer)))
        ops.append(["close", writer])
    return ops


def log(s: Sketch) -> list[Op]:
    """Written at its end through O_APPEND, and read there."""
    ops: list[Op] = []
    reader, writer = s.open(ops, FILE), s.open(ops, FILE, "a")
    for _ in range(s.steps(1, 5)):
        for _ in range(s.steps(1, 5)):
            ops.append(["write", writer, 0, s.length(100000)])
        for _ in range(s.steps(1, 8)):
            ops.append(["pread", reader, s.length(200000), SIZE + s.offset(1 << 20) - (1 << 19)])
    return ops


def truncate(s: Sketch) -> list[Op]:
    """ftruncate() to less and to more between reads."""
    return _with(s, "truncate")


def rewrite(s: Sketch) -> list[Op]:
    """pwrite() inside the file between reads."""
    return _with(s, "rewrite")


def append(s: Sketch) -> list[Op]:
    """pwrite() at the end of the file between reads."""
    return _with(s, "append")


WAYS = {
    "truncate": Way(truncate, 2),
    "rewrite": Way(rewrite, 2),
    "append": Way(append, 2),
    "replace": Way(replace, 2),
    "log": Way(log, 2),
}
