"""From a seed to a plan: a weighted choice of ways and conditions. The same seed gives the same plan."""

from __future__ import annotations

import random
from dataclasses import dataclass

from hindsight.errors import UsageError
from hindsight.lab.fuzz.plan import FILES, Op, Plan
from hindsight.lab.fuzz.sketch import Sketch
from hindsight.lab.fuzz.ways import CONDITIONS, FAMILIES, NAMES, WAYS

READ_AHEAD_KB = (0, 4, 16, 64, 128, 1024, 8192)
FILESYSTEMS = {"ext4": 8, "ext4-1k": 1, "ext4-journal": 2, "ext2": 1, "xfs": 2}
"""Weights; ``ext4-journal`` is the one without large folios."""

MEMORY_KB = (20 << 10, 28 << 10, 48 << 10)
_READS = ("buffered", "descriptors")


@dataclass(frozen=True)
class Wishes:
    """What is not left to the seed. Empty or None: the seed decides."""

    ways: tuple[str, ...] = ()
    read_ahead_kb: int | None = None
    filesystem: str = ""
    tasks: int = 0
    evict: bool = False


def expand(names: list[str]) -> tuple[str, ...]:
    """Ways from names of ways and of families. UsageError for others."""
    ways: list[str] = []
    for name in names:
        if name in FAMILIES:
            ways += FAMILIES[name]
        elif name in NAMES:
            ways.append(name)
        else:
            raise UsageError(
                f"there is no way of reading named {name!r}",
                f"Families: {', '.join(FAMILIES)}.\n  Ways: {', '.join(NAMES)}.",
            )
    return tuple(ways)


def draw(seed: int, wishes: Wishes) -> Plan:
    """The plan of a seed."""
    rng = random.Random(f"fuzz-readahead/{seed}")
    read_ahead_kb = rng.choice(READ_AHEAD_KB)
    filesystem = rng.choices(list(FILESYSTEMS), list(FILESYSTEMS.values()))[0]
    tasks = rng.choices((1, 2, 3), (90, 7, 3))[0]
    ways = _choose(rng, wishes.ways)
    sketch = Sketch(rng)
    programs = [_task(sketch, ways) for _ in range(wishes.tasks or tasks)]
    warm, memory_kb = _warm(sketch), rng.choice(MEMORY_KB)
    return Plan(
        seed=seed,
        ways=ways,
        filesystem=wishes.filesystem or filesystem,
        read_ahead_kb=read_ahead_kb if wishes.read_ahead_kb is None else wishes.read_ahead_kb,
        tasks=programs,
        warm=warm if "warm" in ways else [],
        memory_kb=memory_kb if "evict" in ways or wishes.evict else 0,
    )


def _choose(rng: random.Random, wanted: tuple[str, ...]) -> list[str]:
    """One to four ways; conditions apply to the whole plan and come with some way of reading."""
    if not wanted:
        weights = [WAYS[name].weight if name in WAYS else 2 for name in NAMES]
        ways = rng.choices(NAMES, weights, k=rng.randrange(1, 5))
    else:
        ways = rng.choices(wanted, k=min(len(wanted), rng.randrange(1, 5)))
    if not any(name in WAYS for name in ways):
        usual = [name for family in _READS for name in FAMILIES[family]]
        ways += rng.choices(usual, k=rng.randrange(1, 3))
    return sorted(set(ways) & set(CONDITIONS)) + [name for name in ways if name in WAYS]


def _task(sketch: Sketch, ways: list[str]) -> list[Op]:
    sketch.slots = []
    ops: list[Op] = []
    for name in ways:
        if name in WAYS:
            ops += WAYS[name].draw(sketch)
    return ops


def _warm(sketch: Sketch) -> list[list[int | str]]:
    parts: list[list[int | str]] = []
    for _ in range(sketch.rng.randrange(1, 6)):
        file = sketch.file()
        parts.append([file, sketch.offset(FILES[file]), sketch.rng.choice((1, 4096, 100000, 2 << 20))])
    return parts
