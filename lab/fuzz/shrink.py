"""The smallest plan that still shows something: parts are left out as long as it does.

Delta debugging (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002): larger
pieces first, then smaller ones, down to single operations; inside of other tasks too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from hindsight.lab.fuzz.plan import Op, Plan, is_ops

Shows = Callable[[Plan], bool]
"""Whether a plan still shows what is looked for."""


def shrink(plan: Plan, shows: Shows, tries: int = 200) -> Plan:
    """A plan of which no part can be left out; or what there is after so many ``tries``.

    ``plan`` itself must show it.
    """
    left = [tries]

    def still(candidate: Plan) -> bool:
        if left[0] <= 0:
            return False
        left[0] -= 1
        return shows(candidate)

    while True:
        before = plan
        for simpler in _conditions(plan):
            if still(simpler):
                plan = simpler
        plan = _without_pieces(plan, still)
        plan = _smaller_numbers(plan, still)
        if plan == before or left[0] <= 0:
            return plan


def _conditions(plan: Plan) -> Iterator[Plan]:
    if plan.memory_kb:
        yield replace(plan, memory_kb=0)
    for i in range(len(plan.warm)):
        yield replace(plan, warm=plan.warm[:i] + plan.warm[i + 1 :])
    if len(plan.tasks) > 1:
        for i in range(len(plan.tasks)):
            yield replace(plan, tasks=plan.tasks[:i] + plan.tasks[i + 1 :])


def _paths(ops: list[Op], prefix: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Where the lists of operations of a task are: the task's own, and those inside operations."""
    yield prefix
    for i, op in enumerate(ops):
        for j, argument in enumerate(op):
            if is_ops(argument):
                yield from _paths(argument, (*prefix, i, j))


def _at(plan: Plan, path: tuple[int, ...]) -> list[Op]:
    found = plan.tasks
    for i in path:
        found = found[i]  # type: ignore[assignment]
    return found  # type: ignore[return-value]


def _with(plan: Plan, path: tuple[int, ...], ops: list[Op]) -> Plan:
    """The plan with another list of operations there; an operation or task that became empty goes."""

    def rebuild(value: list[Op], rest: tuple[int, ...]) -> list[Op]:
        if not rest:
            return ops
        changed = list(value)
        changed[rest[0]] = rebuild(value[rest[0]], rest[1:])
        return changed

    tasks = [task for task in (rebuild(plan.tasks, path)) if task]
    return replace(plan, tasks=[_tidy(task) for task in tasks])


def _tidy(ops: list[Op]) -> list[Op]:
    kept = []
    for op in ops:
        new = [_tidy(a) if is_ops(a) else a for a in op]
        if not (op[0] in ("fork", "process", "thread") and len(new) == 2 and not new[1]):
            kept.append(new)
    return kept


def _without_pieces(plan: Plan, still: Shows) -> Plan:
    longest = max((len(_at(plan, p)) for p in _all_paths(plan)), default=0)
    piece = 1
    while piece < longest:
        piece *= 2
    while piece >= 1:
        for number in range(len(_all_paths(plan))):
            paths = _all_paths(plan)
            if number >= len(paths):
                break
            start = 0
            while start < len(_at(plan, paths[number])):
                ops = _at(plan, paths[number])
                candidate = _with(plan, paths[number], ops[:start] + ops[start + piece :])
                if candidate.tasks and still(candidate):
                    plan = candidate
                    if paths != _all_paths(plan)[: len(paths)]:
                        break
                else:
                    start += piece
        piece //= 2
    return plan


def _all_paths(plan: Plan) -> list[tuple[int, ...]]:
    return [path for i, task in enumerate(plan.tasks) for path in _paths(task, (i,))]


def _smaller_numbers(plan: Plan, still: Shows) -> Plan:
    """Rounder offsets and lengths: to whole pages, then to fewer of them."""
    for path in _all_paths(plan):
        for i in range(len(_at(plan, path))):
            for position in range(2, len(_at(plan, path)[i])):
                for simpler in (lambda n: n // 4096 * 4096, lambda n: n // 8192 * 4096):
                    ops = _at(plan, path)
                    value = ops[i][position]
                    if not isinstance(value, int) or value < 4096 or simpler(value) == value:
                        continue
                    op = [*ops[i][:position], max(simpler(value), 4096), *ops[i][position + 1 :]]
                    candidate = _with(plan, path, [*ops[:i], op, *ops[i + 1 :]])
                    if still(candidate):
                        plan = candidate
    return plan
