"""What a way of reading draws from: seeded numbers of the kinds that matter, and the slots of the plan."""

from __future__ import annotations

import random

from hindsight.lab.fuzz.plan import FILES, Op

SIZES = (
    1, 100, 1000, 4000, 4096, 4097, 5000, 8192, 10000, 16384, 40000, 65536, 131072, 200000, 300000, 1 << 20,
    3 << 20,
)  # fmt: skip
"""Bytes of a read: on and off every boundary, and larger than most windows."""

STRIDES = (3, 5000, 8192, 65536, 150000, 1 << 20)


class Sketch:
    """The state of a plan that is being drawn."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.slots: list[int] = []
        """Slots that hold a readable file, for ways that go on with one."""
        self.file_of: dict[int, str] = {}
        self._next = 0

    def steps(self, least: int = 4, most: int = 30) -> int:
        """How many operations of a kind."""
        return self.rng.randrange(least, most + 1)

    def length(self, largest: int = 4 << 20) -> int:
        """Bytes of a read."""
        return self.rng.choice([size for size in SIZES if size <= largest])

    def file(self) -> str:
        """A file to read; most often one that is larger than any window."""
        return self.rng.choices(("big", "exact", "odd", "tiny"), (12, 4, 3, 1))[0]

    def offset(self, size: int) -> int:
        """A byte before ``size``, often on a boundary."""
        unit = self.rng.choice((1, 512, 4096, 4096, 65536))
        return self.rng.randrange(max(size, 1)) // unit * unit

    def slot(self) -> int:
        """A number that no descriptor or mapping of the plan has."""
        self._next += 1
        return self._next

    def open(self, ops: list[Op], file: str | None = None, mode: str = "r") -> int:
        """Open a file; the slot."""
        slot = self.slot()
        name = file or self.file()
        ops.append(["open", slot, name, mode])
        self.file_of[slot] = name
        if mode == "r":
            self.slots.append(slot)
        return slot

    def descriptor(self, ops: list[Op], file: str | None = None) -> tuple[int, int]:
        """A descriptor to read, sometimes one that was used before, and the size of its file."""
        known = [s for s in self.slots if file is None or self.file_of[s] == file]
        slot = self.rng.choice(known) if known and self.rng.random() < 0.4 else self.open(ops, file)
        return slot, FILES[self.file_of[slot]]

    def forget(self, slot: int) -> None:
        """The slot is closed."""
        self.slots = [s for s in self.slots if s != slot]
