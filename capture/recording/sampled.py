"""What a recording samples beside the trace, by its options."""

from __future__ import annotations

from collections.abc import Callable

from hindsight.capture.options import RecordOptions
from hindsight.capture.recording.sampler import Source


def sources(options: RecordOptions, pid: int | None, say: Callable[[str], None]) -> list[Source]:
    """The sources that were asked for. ``pid``: the recorded command, None = the whole host.

    ``say`` is told what of it this host does not have. Raises HindsightError when one of them does not exist.
    """
    found: list[Source] = []
    if options.counters or options.cgroups:
        from hindsight.capture.counters import source as counters

        found += counters.sources(options.counters, options.cgroups, options.every_s, pid, say)
    if options.proxies:
        from hindsight.capture.proxy.source import sources as proxies

        found += proxies(options)
    return found
