"""One look at a proxy: what it says, or why it says nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from hindsight.capture.proxy import parsing
from hindsight.capture.proxy.client import Proxy, Quantity
from hindsight.capture.proxy.errors import Gone
from hindsight.capture.proxy.guard import Guarded
from hindsight.capture.proxy.records import Snapshot
from hindsight.capture.proxy.registry import candidates, is_built_in, proxies
from hindsight.errors import HindsightError


class Look(NamedTuple):
    """What was found: ``snapshot``, or the ``error``."""

    name: str
    transport: str
    place: str
    quantities: Mapping[str, Quantity]
    snapshot: Snapshot | None
    error: HindsightError | None
    read_ns: int

    @property
    def why(self) -> str:
        """What is wrong, empty: nothing."""
        return self.error.message if self.error is not None else ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "transport": self.transport,
            "place": self.place,
            "error": self.why or None,
            "read_ns": self.read_ns,
            "snapshot": parsing.as_json(self.snapshot) if self.snapshot is not None else None,
            "quantities": {name: quantity._asdict() for name, quantity in self.quantities.items()},
        }


def look_at(proxy: Proxy) -> Look:
    """Ask a proxy for a snapshot, within the budget."""
    guarded = Guarded(proxy)
    snapshot, wrong = None, None
    begun = time.monotonic_ns()
    try:
        snapshot = guarded.snapshot()
    except HindsightError as error:
        wrong = error
    took = time.monotonic_ns() - begun
    guarded.close()
    known = proxy.describe()
    return Look(proxy.name, known.transport, known.place, known.quantities, snapshot, wrong, took)


def look_around() -> list[Look]:
    """Ask every proxy that may be there; what turns out to be none is left out."""
    found = []
    for name in candidates():
        for proxy in proxies(name):
            look = look_at(proxy)
            # A file system in user space without the file of a proxy is none.
            if is_built_in(name) or not (name.startswith("fuse:") and isinstance(look.error, Gone)):
                found.append(look)
    return found
