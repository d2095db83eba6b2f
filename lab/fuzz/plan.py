"""A plan: what one seed makes its processes do, in full, so that it can be printed, run again and shortened.

An operation is a list: its name, then its arguments, as JSON has them (:mod:`hindsight.lab.fuzz.ways`). An
argument that is a list of operations is done by another task. Descriptors and mappings are *slots*, numbers
that a plan chooses; an operation on a slot that is not there is skipped, so that every part of a plan is a
plan.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hindsight.errors import ConfigurationError

Op = list[Any]

FILES = {
    "big": (64 << 20) + 12345,
    "exact": 8 << 20,
    "odd": 333_333,
    "tiny": 100,
    "scratch": (6 << 20) + 777,
}
"""Size in bytes of each file that a plan may name; ``scratch`` is the one that is written to."""


@dataclass(frozen=True)
class Plan:
    """What is done under which conditions."""

    seed: int
    ways: list[str]
    """Those of which it was drawn, in order."""
    filesystem: str
    read_ahead_kb: int
    tasks: list[list[Op]]
    """Operations of each task. The tasks run at once, as processes of their own."""
    warm: list[list[Any]] = field(default_factory=list)
    """(file, offset, bytes) that are read before the recording begins."""
    memory_kb: int = 0
    """Limit of the memory cgroup in which the tasks run, 0 = none."""

    def as_json(self) -> str:
        """The plan as text, one operation a line."""
        facts = asdict(self)
        tasks = [
            "  [\n" + ",\n".join(f"   {json.dumps(op)}" for op in task) + "\n  ]"
            for task in facts.pop("tasks")
        ]
        head = "".join(f" {json.dumps(name)}: {json.dumps(value)},\n" for name, value in facts.items())
        return "{\n" + head + ' "tasks": [\n' + ",\n".join(tasks) + "\n ]\n}"

    def size(self) -> int:
        """How many operations it has, at all depths."""
        return sum(count(task) for task in self.tasks)


def is_ops(value: Any) -> bool:
    """Whether an argument of an operation is a list of operations."""
    return isinstance(value, list) and bool(value) and all(
        isinstance(op, list) and op and isinstance(op[0], str) for op in value
    )  # fmt: skip


def count(ops: list[Op]) -> int:
    """Number of operations, at all depths."""
    return sum(1 + sum(count(argument) for argument in op if is_ops(argument)) for op in ops)


def load(path: Path) -> Plan:
    """Read a plan that was printed or saved. ConfigurationError if it is none."""
    try:
        plan = Plan(**json.loads(path.read_text()))
        for file, offset, size in plan.warm:
            if file not in FILES or offset < 0 or size < 0:
                raise ValueError(f"warm: {file}, {offset}, {size}")
        if not all(is_ops(task) for task in plan.tasks):
            raise ValueError("tasks are not lists of operations")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigurationError(
            f"{path} is not a plan: {error}", "`hindsight lab fuzz-readahead --seed N --plan` prints one."
        ) from error
    return plan
