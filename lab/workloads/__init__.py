"""Workloads of real programs, each a small declarative object; :data:`WORKLOADS` is all of them."""

from __future__ import annotations

from hindsight.errors import UsageError
from hindsight.lab.workloads import db_bench, files, fio, git, sqlite
from hindsight.lab.workloads.workload import Budget, FileSet, Workload

__all__ = ["SAMPLE", "WORKLOADS", "Budget", "FileSet", "Workload", "file_sets", "select"]

WORKLOADS: dict[str, Workload] = {
    workload.name: workload for module in (db_bench, sqlite, files, git, fio) for workload in module.WORKLOADS
}

SAMPLE: tuple[str, ...] = tuple(name for name, workload in WORKLOADS.items() if workload.in_sample)
"""Names of the workloads of the sample dataset."""


def select(names: list[str] | None) -> list[Workload]:
    """The workloads of those names, the sample's if None; UsageError names the ones that do not exist."""
    wanted = list(SAMPLE) if names is None else names
    unknown = [name for name in wanted if name not in WORKLOADS]
    if unknown:
        raise UsageError(
            f"there is no workload {', '.join(unknown)}", f"Workloads: {', '.join(sorted(WORKLOADS))}."
        )
    return [WORKLOADS[name] for name in wanted]


def file_sets(workloads: list[Workload]) -> list[FileSet]:
    """The file sets that these workloads read, each once, in the order of their first use."""
    return list({workload.files.name: workload.files for workload in workloads}.values())
