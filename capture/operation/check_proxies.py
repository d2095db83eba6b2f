"""Which proxies are there, for ``--proxy``; a recording needs none."""

from __future__ import annotations

from collections.abc import Iterator

from hindsight.capture.operation.check import OK, WARN, Check
from hindsight.capture.proxy.look import look_around
from hindsight.capture.proxy.registry import is_built_in


def proxies() -> Iterator[Check]:
    """Ask each for a snapshot."""
    found = look_around()
    there = [look.name for look in found if look.error is None]
    absent = [
        f"{look.name} ({look.why})" for look in found if look.error is not None and is_built_in(look.name)
    ]
    why = ", ".join(there) or "none"
    if absent:
        why += f"; not possible here: {', '.join(absent)}"
    yield Check("proxies", OK, "proxies", why)
    for look in found:
        if look.error is not None and not is_built_in(look.name):
            remedy = look.error.remedy or "see docs/proxy.md"
            yield Check(f"proxy-{look.name}", WARN, f"proxy {look.name}", look.error.message, remedy)
