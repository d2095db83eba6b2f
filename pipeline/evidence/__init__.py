"""The rules of evidence: splits, paired statistics, labels, verdicts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hindsight.pipeline.evidence.assessment import assess
    from hindsight.pipeline.evidence.splits import check_new_host, check_new_workload, check_tomorrow

__all__ = ["assess", "check_new_host", "check_new_workload", "check_tomorrow"]


def __getattr__(name: str) -> object:
    # Imported when asked for: the split checkers need none of numpy, scipy and polars.
    if name == "assess":
        from hindsight.pipeline.evidence.assessment import assess

        return assess
    if name in __all__:
        from hindsight.pipeline.evidence import splits

        return getattr(splits, name)
    raise AttributeError(name)
