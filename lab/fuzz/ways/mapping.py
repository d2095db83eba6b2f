"""Reads through a mapping: page faults in every order, advice, executable mappings, mixed with reads."""

from __future__ import annotations

from hindsight.lab.fuzz.plan import FILES, Op
from hindsight.lab.fuzz.sketch import Sketch
from hindsight.lab.fuzz.ways.way import Way

MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED = range(4)
"""include/uapi/asm-generic/mman-common.h."""

FILE = "big"
PAGES = FILES[FILE] >> 12


def _mapped(s: Sketch, ops: list[Op], executable: bool = False) -> tuple[int, int]:
    slot, _ = s.descriptor(ops, FILE)
    mapping = s.slot()
    ops.append(["map", mapping, slot, int(executable)])
    return mapping, slot


def _touches(s: Sketch, mapping: int, order: str) -> list[Op]:
    page, stride = s.rng.randrange(PAGES), s.rng.choice((1, 1, 2, 16, 40))
    ops: list[Op] = []
    for _ in range(s.steps(10, 120)):
        ops.append(["touch", mapping, page])
        if order == "forward":
            page = (page + stride) % PAGES
        elif order == "reverse":
            page = (page - stride) % PAGES
        else:
            page = s.rng.randrange(PAGES)
    return ops


def forward(s: Sketch) -> list[Op]:
    """Faults towards the end of the file."""
    ops: list[Op] = []
    mapping, _ = _mapped(s, ops)
    return ops + _touches(s, mapping, "forward")


def backwards(s: Sketch) -> list[Op]:
    """Faults towards the start of the file."""
    ops: list[Op] = []
    mapping, _ = _mapped(s, ops)
    return ops + _touches(s, mapping, "reverse")


def at_random(s: Sketch) -> list[Op]:
    """Faults anywhere; often enough of them for the kernel to give up reading around."""
    ops: list[Op] = []
    mapping, _ = _mapped(s, ops)
    for _ in range(s.rng.randrange(1, 4)):
        ops += _touches(s, mapping, "random")
    return ops


def advised(s: Sketch) -> list[Op]:
    """madvise() between faults."""
    ops: list[Op] = []
    mapping, _ = _mapped(s, ops)
    for _ in range(s.steps(2, 5)):
        what = s.rng.choice((MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED))
        first, pages = (
            (0, 0) if what < MADV_WILLNEED else (s.rng.randrange(PAGES), s.rng.choice((1, 64, 700)))
        )
        ops.append(["madvise", mapping, first, pages, what])
        ops += _touches(s, mapping, s.rng.choice(("forward", "reverse", "random")))
    return ops


def executable(s: Sketch) -> list[Op]:
    """Faults in an executable mapping."""
    ops: list[Op] = []
    mapping, _ = _mapped(s, ops, executable=True)
    return ops + _touches(s, mapping, s.rng.choice(("forward", "reverse", "random")))


def with_reads(s: Sketch) -> list[Op]:
    """Faults and pread() in turn on one open file."""
    ops: list[Op] = []
    mapping, slot = _mapped(s, ops)
    for _ in range(s.steps(2, 5)):
        ops += _touches(s, mapping, s.rng.choice(("forward", "random")))[:30]
        n, pos = s.length(300000), s.offset(FILES[FILE])
        for _ in range(s.steps(1, 10)):
            ops.append(["pread", slot, n, pos])
            pos = (pos + n) % FILES[FILE]
    return ops


WAYS = {
    "map-forward": Way(forward, 3),
    "map-reverse": Way(backwards, 2),
    "map-random": Way(at_random, 3),
    "map-advice": Way(advised, 3),
    "map-exec": Way(executable, 2),
    "map-reads": Way(with_reads, 2),
}
