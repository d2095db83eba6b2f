"""One thing that ``doctor`` looked at, and what it found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

OK = "ok"
WARN = "warn"
NO = "no"


@dataclass(frozen=True)
class Check:
    """``state``: OK, WARN (recording works, with less) or NO (something cannot be done on this host).

    ``why`` says what was seen; ``remedy`` what the operator can do, empty when there is nothing to do.
    ``blocks`` names what a NO makes impossible: ``ftrace``, ``perf``, ``flight``, ``psi``, ``open files``;
    empty: nothing.
    """

    id: str
    state: str
    what: str
    why: str
    remedy: str = ""
    blocks: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"blocks": list(self.blocks)}
