"""What a fuzz target is: cases that follow from (seed, number) alone, and what a failure looks like."""

from __future__ import annotations

import random
import tarfile
from collections import Counter
from pathlib import Path
from typing import Protocol

FIXTURE = Path(__file__).resolve().parent.parent / "capture" / "fixtures" / "segment.tar.xz"


class Failed(Exception):
    """A case in which the program did something wrong; ``inputs`` are the files that reproduce it."""

    def __init__(self, case: int, why: str, inputs: dict[str, bytes]) -> None:
        super().__init__(why)
        self.case = case
        self.inputs = inputs


class Target(Protocol):
    """A parser under test. Cases are checked ``batch`` at a time; ``seconds`` is the longest that may take.

    ``seen`` counts what the cases were, so that a report shows that they were not all refused at the door.
    """

    name: str
    cases: int
    batch: int
    seconds: float
    seen: Counter[str]

    def check(self, seed: int, first: int, count: int) -> None:
        """Check the cases ``first`` … ``first + count - 1`` of ``seed``; raises :class:`Failed`."""


def source(target: str, seed: int, case: int) -> random.Random:
    """The randomness of one case: the same on every machine."""
    return random.Random(f"{target} {seed} {case}")


def fixture(directory: Path) -> Path:
    """The recorded segment of the tests, unpacked into ``directory``."""
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(directory, filter="data")
    (segment,) = (path for path in directory.iterdir() if path.is_dir())
    return segment
